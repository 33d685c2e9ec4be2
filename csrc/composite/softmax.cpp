// softmax and log_softmax in plain ATen.

#include <ATen/ATen.h>
#include <torch/library.h>

#include "../checks.h"
#include "composite.h"

namespace torchsoftmax::composite {

Tensor where_part(const Tensor& values, const OptionalTensor& mask, double otherwise) {
  return mask.has_value() ? at::where(*mask, values, otherwise) : values;
}

MaskedLogits::MaskedLogits(const Tensor& input, int64_t dim, double temperature,
                           const OptionalTensor& mask)
    : logits(temperature == 1 ? input : input / temperature) {
  if (mask.has_value()) {
    some = mask->expand_symint(input.sym_sizes()).any(dim, /*keepdim=*/true);
    logits =
        where_part(where_part(logits, mask, -std::numeric_limits<double>::infinity()), some, 0);
  }
}

namespace {

/// `nothing`: the value of an entry that takes no part.
template <typename Native>
Tensor forward(const char* name, Native&& native, double nothing, const Tensor& input, int64_t dim,
               Dtype dtype, double temperature, const OptionalTensor& mask) {
  const Tensor converted = dtype.has_value() ? input.to(*dtype) : input;
  checks::softmax(name, converted, temperature, mask);
  if (temperature == 1 && !mask.has_value()) {
    return native(input, dim, dtype);
  }
  const MaskedLogits masked(converted.to(accumulation_type(converted)), dim, temperature, mask);
  return where_part(native(masked.logits, dim, std::nullopt), mask, nothing)
      .to(converted.scalar_type());
}

}  // namespace

Tensor softmax(const Tensor& input, int64_t dim, Dtype dtype, double temperature,
               const OptionalTensor& mask) {
  const auto native = [](const Tensor& x, int64_t d, Dtype t) { return at::softmax(x, d, t); };
  return forward("softmax", native, 0, input, dim, dtype, temperature, mask);
}

Tensor log_softmax(const Tensor& input, int64_t dim, Dtype dtype, double temperature,
                   const OptionalTensor& mask) {
  const auto native = [](const Tensor& x, int64_t d, Dtype t) { return at::log_softmax(x, d, t); };
  return forward("log_softmax", native, -std::numeric_limits<double>::infinity(), input, dim, dtype,
                 temperature, mask);
}

Tensor softmax_backward(const Tensor& grad_output, const Tensor& output, int64_t dim,
                        double temperature, const OptionalTensor& mask) {
  checks::softmax_backward("softmax_backward", grad_output, output, temperature, mask);
  const Tensor grad = where_part(grad_output, mask, 0);
  const Tensor dot = (grad * output).sum(dim, /*keepdim=*/true);
  const Tensor result = output * (grad - dot);
  return temperature == 1 ? result : result / temperature;
}

Tensor log_softmax_backward(const Tensor& grad_output, const Tensor& output, int64_t dim,
                            double temperature, const OptionalTensor& mask) {
  checks::softmax_backward("log_softmax_backward", grad_output, output, temperature, mask);
  const Tensor grad = where_part(grad_output, mask, 0);
  const Tensor sum = grad.sum(dim, /*keepdim=*/true);
  const Tensor result = where_part(grad - where_part(output, mask, 0).exp() * sum, mask, 0);
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
