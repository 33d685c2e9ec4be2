// linear_softmax_statistics in plain ATen, with its logits in memory.

#include <ATen/ATen.h>
#include <torch/library.h>

#include "../linear_layer.h"
#include "composite.h"

namespace torchsoftmax::composite {
namespace {

Capped capped_logits(const LinearLayer& layer, double softcap) {
  return {at::linear(layer.input, layer.weight, optional(layer.bias)), softcap};
}

}  // namespace

ops::Statistics linear_softmax_statistics(const Tensor& input, const Tensor& linear_weight,
                                          const OptionalTensor& linear_bias, const Tensor& target,
                                          double temperature, double softcap,
                                          std::optional<int64_t> chunk_size, bool wide) {
  checks::linear_softmax_statistics(input, linear_weight, linear_bias, target, temperature, softcap,
                                    chunk_size);
  const Capped logits = capped_logits({input, linear_weight, linear_bias}, softcap);
  const auto dtype = wide ? accumulation_type(input) : input.scalar_type();
  const auto [log_prob, lse, entropy, argmax, statistics] =
      softmax_statistics(wide ? logits.value.to(dtype) : logits.value, target.reshape({-1, 1}),
                         std::nullopt, 1, temperature, /*with_argmax=*/true);
  const auto shaped = [&](const Tensor& values) {
    return values.reshape_symint(target.sym_sizes());
  };
  return {shaped(log_prob).to(dtype), shaped(lse).to(dtype), shaped(entropy).to(dtype),
          shaped(argmax), statistics};
}

LinearGradients linear_softmax_statistics_backward(
    const Tensor& grad_log_prob, const Tensor& grad_lse, const Tensor& grad_entropy,
    const Tensor& input, const Tensor& linear_weight, const OptionalTensor& linear_bias,
    const Tensor& target, const Tensor& statistics, double temperature, double softcap,
    std::optional<int64_t> chunk_size, GradientMask wanted) {
  checks::linear_softmax_statistics(input, linear_weight, linear_bias, target, temperature, softcap,
                                    chunk_size);
  checks::linear_softmax_statistics_backward({grad_log_prob, grad_lse, grad_entropy}, input,
                                             linear_bias, target, statistics, wanted);
  const LinearLayer layer(input, linear_weight, linear_bias);
  const Capped logits = capped_logits(layer, softcap);
  Tensor gradient = softmax_statistics_backward(
      grad_log_prob.reshape({-1, 1}), grad_lse.reshape({-1}), grad_entropy.reshape({-1}),
      logits.value, target.reshape({-1, 1}), std::nullopt, statistics, 1, temperature);
  if (const Tensor slope = logits.slope(); slope.defined()) {
    gradient = (gradient * slope).to(input.scalar_type());
  }
  return linear_gradients(gradient, layer, input, linear_weight, linear_bias, wanted);
}

TORCH_LIBRARY_IMPL(torchsoftmax, FuncTorchBatched, m) {
  m.impl("linear_softmax_statistics", &linear_softmax_statistics);
  m.impl("linear_softmax_statistics_backward", &linear_softmax_statistics_backward);
}

}  // namespace torchsoftmax::composite
