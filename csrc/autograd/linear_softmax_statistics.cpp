// Derivatives of linear_softmax_statistics, from the statistics of the rows.

#include <torch/library.h>

#include "../composite/composite.h"
#include "gate.h"

namespace torchsoftmax {
namespace {

LinearGradients backward_gate(const Tensor& grad_log_prob, const Tensor& grad_lse,
                              const Tensor& grad_entropy, const Tensor& input,
                              const Tensor& linear_weight, const OptionalTensor& linear_bias,
                              const Tensor& target, const Tensor& statistics, double temperature,
                              double softcap, std::optional<int64_t> chunk_size,
                              GradientMask wanted) {
  if (differentiated(grad_log_prob, grad_lse, grad_entropy, input, linear_weight, linear_bias)) {
    return composite::linear_softmax_statistics_backward(
        grad_log_prob, grad_lse, grad_entropy, input, linear_weight, linear_bias, target,
        statistics, temperature, softcap, chunk_size, wanted);
  }
  const at::AutoDispatchBelowADInplaceOrView below;
  return ops::linear_softmax_statistics_backward(grad_log_prob, grad_lse, grad_entropy, input,
                                                 linear_weight, linear_bias, target, statistics,
                                                 temperature, softcap, chunk_size, wanted);
}

// temperature, softcap, chunk_size
using Options = std::tuple<double, double, std::optional<int64_t>>;

/// Gives the results, which have been computed, their derivative, as StatisticsFunction does.
struct LinearStatisticsFunction : Function<LinearStatisticsFunction, Options> {
  static constexpr const char* kName = "torchsoftmax::LinearSoftmaxStatisticsBackward";
  static constexpr Options kUsual{1, 0, std::nullopt};

  static variable_list forward(AutogradContext* ctx, const Tensor& input,
                               const Tensor& linear_weight, const OptionalTensor& linear_bias,
                               const Tensor& target, const ops::Statistics& results,
                               double temperature, double softcap,
                               std::optional<int64_t> chunk_size) {
    const auto& [log_prob, lse, entropy, argmax, statistics] = results;
    ctx->save_for_backward({input, linear_weight, tensor_of(linear_bias), target, statistics});
    save_options(ctx, {temperature, softcap, chunk_size});
    return {log_prob, lse, entropy};
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const auto saved = ctx->get_saved_variables();
    const auto [temperature, softcap, chunk_size] = saved_options(ctx);
    const GradientMask wanted{ctx->needs_input_grad(0), ctx->needs_input_grad(1),
                              saved[2].defined() && ctx->needs_input_grad(2)};
    auto [of_input, of_weight, of_bias] = backward_gate(
        strided(grads[0]), strided(grads[1]), strided(grads[2]), saved[0], saved[1],
        optional(saved[2]), saved[3], saved[4], temperature, softcap, chunk_size, wanted);
    variable_list result(8);
    result[0] = wanted[0] ? of_input : Tensor();
    result[1] = wanted[1] ? of_weight : Tensor();
    result[2] = wanted[2] ? of_bias : Tensor();
    return result;
  }
};

ops::Statistics forward_gate(const Tensor& input, const Tensor& linear_weight,
                             const OptionalTensor& linear_bias, const Tensor& target,
                             double temperature, double softcap, std::optional<int64_t> chunk_size,
                             bool wide) {
  if (needs_composite(input, linear_weight, linear_bias)) {
    return composite::linear_softmax_statistics(input, linear_weight, linear_bias, target,
                                                temperature, softcap, chunk_size, wide);
  }
  ops::Statistics results;
  {
    const at::AutoDispatchBelowADInplaceOrView below;
    results = ops::linear_softmax_statistics(input, linear_weight, linear_bias, target, temperature,
                                             softcap, chunk_size, wide);
  }
  if (needs_gradient(input, linear_weight, linear_bias)) {
    const auto differentiable = LinearStatisticsFunction::apply(
        input, linear_weight, linear_bias, target, results, temperature, softcap, chunk_size);
    std::get<0>(results) = differentiable[0];
    std::get<1>(results) = differentiable[1];
    std::get<2>(results) = differentiable[2];
  }
  return results;
}

}  // namespace

TORCH_LIBRARY_IMPL(torchsoftmax, Autograd, m) {
  m.impl("linear_softmax_statistics", &forward_gate);
  m.impl("linear_softmax_statistics_backward", &backward_gate);
}

}  // namespace torchsoftmax
