// Shapes and dtypes without data, for torch.compile, torch.export and the meta device.

#include <ATen/OpMathType.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <torch/library.h>

#include "checks.h"

namespace torchsoftmax {
namespace {

using Dtype = std::optional<at::ScalarType>;

Tensor softmax(const Tensor& input, int64_t dim, Dtype dtype) {
  const Tensor converted = dtype.has_value() ? input.to(*dtype) : input;
  checks::softmax("softmax", converted);
  at::maybe_wrap_dim(dim, input.dim());
  return at::empty_symint(input.sym_sizes(), converted.options());
}

Tensor softmax_backward(const Tensor& grad_output, const Tensor& output, int64_t dim) {
  checks::softmax_backward("softmax_backward", grad_output, output);
  at::maybe_wrap_dim(dim, output.dim());
  return at::empty_symint(output.sym_sizes(), output.options());
}

std::tuple<Tensor, Tensor, Tensor> cross_entropy_forward(const CrossEntropyOptions& options,
                                                         const Tensor& input, const Tensor& target,
                                                         const std::optional<Tensor>& weight,
                                                         Dtype dtype) {
  checks::cross_entropy(options, input, target, weight, dtype);
  const auto accumulated = input.options().dtype(at::toOpMathType(input.scalar_type()));
  auto rows = checks::row_shape(input);
  const Tensor loss =
      options.reduction == checks::kNone
          ? at::empty_symint(rows, input.options().dtype(dtype.value_or(input.scalar_type())))
          : at::empty({}, input.options().dtype(dtype.value_or(input.scalar_type())));
  rows.insert(rows.begin(), 2);
  return {loss, at::empty_symint(rows, accumulated), at::empty({}, accumulated)};
}

Tensor cross_entropy_backward(const CrossEntropyOptions& options, const Tensor& grad_output,
                              const Tensor& input, const Tensor& target,
                              const std::optional<Tensor>& weight, const Tensor& statistics,
                              const Tensor& normalizer) {
  checks::cross_entropy_backward(options, grad_output, input, target, weight, statistics,
                                 normalizer);
  return at::empty_like(input, input.options(), at::MemoryFormat::Preserve);
}

Tensor cross_entropy_target_backward(const CrossEntropyOptions& options, const Tensor& grad_output,
                                     const Tensor& input, const Tensor& target,
                                     const std::optional<Tensor>& weight, const Tensor& statistics,
                                     const Tensor& normalizer) {
  checks::cross_entropy_backward(options, grad_output, input, target, weight, statistics,
                                 normalizer);
  return at::empty_like(target, target.options(), at::MemoryFormat::Preserve);
}

Tensor gather_index(const Tensor& target, const c10::SymInt&, int64_t) {
  return at::empty_like(target, target.options().dtype(at::kLong));
}

}  // namespace

TORCH_LIBRARY_IMPL(torchsoftmax, Meta, m) {
  m.impl("softmax", &softmax);
  m.impl("softmax_backward", &softmax_backward);
  m.impl("log_softmax", &softmax);
  m.impl("log_softmax_backward", &softmax_backward);
  m.impl("cross_entropy_forward", &WithOptions<&cross_entropy_forward>::call);
  m.impl("cross_entropy_backward", &WithOptions<&cross_entropy_backward>::call);
  m.impl("cross_entropy_target_backward", &WithOptions<&cross_entropy_target_backward>::call);
  m.impl("gather_index", [](const Tensor& target, c10::SymInt classes, int64_t ignore_index) {
    return gather_index(target, classes, ignore_index);
  });
}

}  // namespace torchsoftmax
