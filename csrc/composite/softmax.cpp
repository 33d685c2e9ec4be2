// softmax and log_softmax in plain ATen.

#include <ATen/ATen.h>
#include <torch/library.h>

#include "../checks.h"
#include "composite.h"

namespace torchsoftmax::composite {

MaskedLogits::MaskedLogits(const Tensor& input, int64_t dim, double temperature,
                           const OptionalTensor& mask) {
  logits = temperature == 1 ? input : input / temperature;
  if (!mask.has_value() || !mask->defined()) {
    return;
  }
  takes_part = mask->expand_symint(input.sym_sizes());
  const double infinity = std::numeric_limits<double>::infinity();
  const Tensor some = takes_part.any(dim, /*keepdim=*/true);
  logits = at::where(some, at::where(takes_part, logits, -infinity), 0);
}

Tensor MaskedLogits::where_part(const Tensor& values, double otherwise) const {
  return takes_part.defined() ? at::where(takes_part, values, otherwise) : values;
}

Tensor softmax(const Tensor& input, int64_t dim, Dtype dtype, double temperature,
               const OptionalTensor& mask) {
  const Tensor converted = dtype.has_value() ? input.to(*dtype) : input;
  checks::softmax("softmax", converted, temperature, mask);
  if (temperature == 1 && !mask.has_value()) {
    return at::softmax(input, dim, dtype);
  }
  const MaskedLogits masked(converted.to(accumulation_type(converted)), dim, temperature, mask);
  return masked.where_part(at::softmax(masked.logits, dim), 0).to(converted.scalar_type());
}

Tensor log_softmax(const Tensor& input, int64_t dim, Dtype dtype, double temperature,
                   const OptionalTensor& mask) {
  const Tensor converted = dtype.has_value() ? input.to(*dtype) : input;
  checks::softmax("log_softmax", converted, temperature, mask);
  if (temperature == 1 && !mask.has_value()) {
    return at::log_softmax(input, dim, dtype);
  }
  const MaskedLogits masked(converted.to(accumulation_type(converted)), dim, temperature, mask);
  return masked
      .where_part(at::log_softmax(masked.logits, dim), -std::numeric_limits<double>::infinity())
      .to(converted.scalar_type());
}

namespace {

/// `values`, 0 where the mask is false.
Tensor masked(const Tensor& values, const OptionalTensor& mask) {
  return mask.has_value() ? at::where(*mask, values, 0) : values;
}

}  // namespace

Tensor softmax_backward(const Tensor& grad_output, const Tensor& output, int64_t dim,
                        double temperature, const OptionalTensor& mask) {
  checks::softmax_backward("softmax_backward", grad_output, output, temperature, mask);
  const Tensor grad = masked(grad_output, mask);
  const Tensor dot = (grad * output).sum(dim, /*keepdim=*/true);
  const Tensor result = output * (grad - dot);
  return temperature == 1 ? result : result / temperature;
}

Tensor log_softmax_backward(const Tensor& grad_output, const Tensor& output, int64_t dim,
                            double temperature, const OptionalTensor& mask) {
  checks::softmax_backward("log_softmax_backward", grad_output, output, temperature, mask);
  const Tensor grad = masked(grad_output, mask);
  const Tensor sum = grad.sum(dim, /*keepdim=*/true);
  const Tensor result = masked(grad - masked(output, mask).exp() * sum, mask);
  return temperature == 1 ? result : result / temperature;
}

namespace {

void register_softmax(torch::Library& m) {
  m.impl("softmax", &softmax);
  m.impl("softmax_backward", &softmax_backward);
  m.impl("log_softmax", &log_softmax);
  m.impl("log_softmax_backward", &log_softmax_backward);
}

}  // namespace

TORCH_LIBRARY_IMPL(torchsoftmax, CompositeExplicitAutograd, m) { register_softmax(m); }
TORCH_LIBRARY_IMPL(torchsoftmax, FuncTorchBatched, m) { register_softmax(m); }

}  // namespace torchsoftmax::composite
