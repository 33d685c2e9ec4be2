// The composites' one check that reads data, of indices: an operator of its own, so that it raises
// under every transform as well.

#include <ATen/ATen.h>
#include <ATen/functorch/BatchedTensorImpl.h>
#include <torch/library.h>

#include "../checks.h"

namespace torchsoftmax::composite {
namespace {

Tensor gather_index(const Tensor& given, c10::SymInt num_classes,
                    std::optional<int64_t> ignore_index, std::string_view function) {
  const Tensor target = given.to(at::kLong);  // ATen compares in the tensor's dtype
  const Tensor valid = ignore_index.has_value()
                           ? target.ne(*ignore_index)
                           : at::ones_like(target, target.options().dtype(at::kBool));
  if (target.device().is_cpu()) {  // elsewhere it would stall the device, whose gather asserts
    const Tensor wrong = valid.logical_and(target.lt(0).logical_or(target.ge(num_classes)));
    const Tensor values = target.masked_select(wrong);
    TORCH_CHECK_INDEX(
        values.numel() == 0,
        checks::out_of_range(function, values[0].item<int64_t>(),
                             num_classes.guard_int(__FILE__, __LINE__), ignore_index));
  }
  return at::where(valid, target, 0);
}

/// Elementwise, so the batch dimension stays where it is.
Tensor gather_index_batched(const Tensor& target, c10::SymInt num_classes,
                            std::optional<int64_t> ignore_index, std::string_view function) {
  const auto* batched = at::functorch::maybeGetBatchedImpl(target);
  const c10::impl::ExcludeDispatchKeyGuard below(c10::DispatchKey::FuncTorchBatched);
  if (batched == nullptr) {
    return ops::gather_index(target, std::move(num_classes), ignore_index, function);
  }
  return at::functorch::makeBatched(
      ops::gather_index(batched->value(), std::move(num_classes), ignore_index, function),
      batched->bdim(), batched->level());
}

}  // namespace

TORCH_LIBRARY_IMPL(torchsoftmax, CompositeExplicitAutograd, m) {
  m.impl("gather_index", &gather_index);
}

TORCH_LIBRARY_IMPL(torchsoftmax, FuncTorchBatched, m) {
  m.impl("gather_index", &gather_index_batched);
}

}  // namespace torchsoftmax::composite
