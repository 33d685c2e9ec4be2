// Derivatives of softmax_statistics, from the statistics of the rows.

#include <torch/library.h>

#include "../composite/composite.h"
#include "gate.h"

namespace torchsoftmax {
namespace {

Tensor backward_gate(const Tensor& grad_log_prob, const Tensor& grad_lse,
                     const Tensor& grad_entropy, const Tensor& input, const OptionalTensor& index,
                     const OptionalTensor& mask, const Tensor& statistics, int64_t dim,
                     double temperature) {
  if (differentiated(grad_log_prob, grad_lse, grad_entropy, input)) {
    return composite::softmax_statistics_backward(grad_log_prob, grad_lse, grad_entropy, input,
                                                  index, mask, statistics, dim, temperature);
  }
  const at::AutoDispatchBelowADInplaceOrView below;
  return ops::softmax_statistics_backward(grad_log_prob, grad_lse, grad_entropy, input, index, mask,
                                          statistics, dim, temperature);
}

using Options = std::tuple<int64_t, double>;  // dim, temperature

/// Gives the results of the kernel, which has run, their derivative. Results without one are not
/// outputs of the Function: a traceable one cannot mark them.
struct StatisticsFunction : Function<StatisticsFunction, Options> {
  static constexpr const char* kName = "torchsoftmax::SoftmaxStatisticsBackward";
  static constexpr Options kUsual{-1, 1};

  static variable_list forward(AutogradContext* ctx, const Tensor& input,
                               const OptionalTensor& index, const OptionalTensor& mask,
                               const ops::Statistics& results, int64_t dim, double temperature) {
    const auto& [log_prob, lse, entropy, argmax, statistics] = results;
    ctx->save_for_backward({input, defined_or_empty(index), defined_or_empty(mask), statistics});
    save_options(ctx, {dim, temperature});
    return {log_prob, lse, entropy};
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const auto saved = ctx->get_saved_variables();
    const auto [dim, temperature] = saved_options(ctx);
    variable_list result(6);
    result[0] = backward_gate(strided(grads[0]), strided(grads[1]), strided(grads[2]), saved[0],
                              optional(saved[1]), optional(saved[2]), saved[3], dim, temperature);
    return result;
  }
};

ops::Statistics forward_gate(const Tensor& input, const OptionalTensor& index,
                             const OptionalTensor& mask, int64_t dim, double temperature,
                             bool with_argmax) {
  if (needs_composite(input)) {
    return composite::softmax_statistics(input, index, mask, dim, temperature, with_argmax);
  }
  ops::Statistics results;
  {
    const at::AutoDispatchBelowADInplaceOrView below;
    results = ops::softmax_statistics(input, index, mask, dim, temperature, with_argmax);
  }
  if (needs_gradient(input)) {
    const auto differentiable =
        StatisticsFunction::apply(input, index, mask, results, dim, temperature);
    std::get<0>(results) = differentiable[0];
    std::get<1>(results) = differentiable[1];
    std::get<2>(results) = differentiable[2];
  }
  return results;
}

}  // namespace

TORCH_LIBRARY_IMPL(torchsoftmax, Autograd, m) {
  m.impl("softmax_statistics", &forward_gate);
  m.impl("softmax_statistics_backward", &backward_gate);
}

}  // namespace torchsoftmax
