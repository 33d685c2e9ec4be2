// Derivatives of kl_div_with_logits, from the statistics of the rows.

#include <torch/library.h>

#include "../checks.h"
#include "../composite/composite.h"
#include "gate.h"

namespace torchsoftmax {
namespace {

using Backward = Tensor(const Tensor&, const Tensor&, const Tensor&, const Tensor&, int64_t,
                        double);

template <Backward* kKernel, Backward* kComposite>
Tensor backward_gate(const Tensor& grad_output, const Tensor& input, const Tensor& target,
                     const Tensor& statistics, int64_t reduction, double temperature) {
  if (differentiated(grad_output, input, target)) {
    return kComposite(grad_output, input, target, statistics, reduction, temperature);
  }
  const at::AutoDispatchBelowADInplaceOrView below;
  return kKernel(grad_output, input, target, statistics, reduction, temperature);
}

constexpr Backward* kBackward =
    &backward_gate<&ops::kl_div_with_logits_backward, &composite::kl_div_with_logits_backward>;
constexpr Backward* kTargetBackward =
    &backward_gate<&ops::kl_div_with_logits_target_backward,
                   &composite::kl_div_with_logits_target_backward>;

using Options = std::tuple<int64_t, double>;  // reduction, temperature

struct KlDivFunction : Function<KlDivFunction, Options> {
  static constexpr const char* kName = "torchsoftmax::KLDivWithLogitsBackward";
  static constexpr Options kUsual{checks::kMean, 1};

  static Tensor forward(AutogradContext* ctx, const Tensor& input, const Tensor& target,
                        Dtype dtype, int64_t reduction, double temperature) {
    const at::AutoDispatchBelowADInplaceOrView below;
    auto [loss, statistics] =
        ops::kl_div_with_logits_forward(input, target, dtype, reduction, temperature);
    ctx->save_for_backward({input, target, statistics});
    save_options(ctx, {reduction, temperature});
    return loss;
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const auto saved = ctx->get_saved_variables();
    const auto [reduction, temperature] = saved_options(ctx);
    const Tensor grad_output = strided(grads[0]);
    variable_list result(5);
    if (ctx->needs_input_grad(0)) {
      result[0] = kBackward(grad_output, saved[0], saved[1], saved[2], reduction, temperature);
    }
    if (ctx->needs_input_grad(1)) {
      result[1] =
          kTargetBackward(grad_output, saved[0], saved[1], saved[2], reduction, temperature);
    }
    return result;
  }
};

Tensor kl_div_with_logits(const Tensor& input, const Tensor& target, Dtype dtype, int64_t reduction,
                          double temperature) {
  if (needs_composite(input, target)) {
    return composite::kl_div_with_logits(input, target, dtype, reduction, temperature);
  }
  if (needs_gradient(input, target)) {
    return KlDivFunction::apply(input, target, dtype, reduction, temperature);
  }
  const at::AutoDispatchBelowADInplaceOrView below;
  return ops::kl_div_with_logits(input, target, dtype, reduction, temperature);
}

std::tuple<Tensor, Tensor> kl_div_with_logits_forward(const Tensor& input, const Tensor& target,
                                                      Dtype dtype, int64_t reduction,
                                                      double temperature) {
  if (differentiated(input, target)) {
    return composite::kl_div_with_logits_forward(input, target, dtype, reduction, temperature);
  }
  const at::AutoDispatchBelowADInplaceOrView below;
  return ops::kl_div_with_logits_forward(input, target, dtype, reduction, temperature);
}

}  // namespace

TORCH_LIBRARY_IMPL(torchsoftmax, Autograd, m) {
  m.impl("kl_div_with_logits", &kl_div_with_logits);
  m.impl("kl_div_with_logits_forward", &kl_div_with_logits_forward);
  m.impl("kl_div_with_logits_backward", kBackward);
  m.impl("kl_div_with_logits_target_backward", kTargetBackward);
}

}  // namespace torchsoftmax
