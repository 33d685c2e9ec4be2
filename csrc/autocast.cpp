// torch.autocast, as native does it: on a CPU softmax and log_softmax keep their input's dtype, on
// a GPU they return float32; a cross-entropy of a lower precision is returned in float32. Where
// native casts the logits first, only the loss is: the kernels accumulate in float32 anyway.

#include <ATen/autocast_mode.h>
#include <torch/library.h>

#include "ops.h"

namespace torchsoftmax {
namespace {

using Dtype = std::optional<at::ScalarType>;

/// float32 where nothing was asked for and `tensor` is of a lower precision.
Dtype widened(const Tensor& tensor, Dtype dtype) {
  const bool low = tensor.scalar_type() == at::kHalf || tensor.scalar_type() == at::kBFloat16;
  return low && !dtype.has_value() ? Dtype(at::kFloat) : dtype;
}

template <c10::DeviceType kDevice>
Tensor cross_entropy(const CrossEntropyOptions& options, const Tensor& input, const Tensor& target,
                     const std::optional<Tensor>& weight, Dtype dtype) {
  const c10::impl::ExcludeDispatchKeyGuard below(
      at::autocast::get_autocast_dispatch_key_from_device_type(kDevice));
  return ops::cross_entropy(options, input, target, weight, widened(input, dtype));
}

template <Tensor (*kForward)(const Tensor&, int64_t, Dtype)>
Tensor in_float32(const Tensor& input, int64_t dim, Dtype dtype) {
  const c10::impl::ExcludeDispatchKeyGuard below(c10::DispatchKey::AutocastCUDA);
  return kForward(input, dim, widened(input, dtype));
}

}  // namespace

TORCH_LIBRARY_IMPL(torchsoftmax, AutocastCPU, m) {
  m.impl("cross_entropy", &WithOptions<&cross_entropy<c10::DeviceType::CPU>>::call);
}

TORCH_LIBRARY_IMPL(torchsoftmax, AutocastCUDA, m) {
  m.impl("softmax", &in_float32<&ops::softmax>);
  m.impl("log_softmax", &in_float32<&ops::log_softmax>);
  m.impl("cross_entropy", &WithOptions<&cross_entropy<c10::DeviceType::CUDA>>::call);
}

}  // namespace torchsoftmax
