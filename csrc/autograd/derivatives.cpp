// Derivatives of softmax_jacobian and softmax_hessian, which are functions of the softmax.

#include <torch/library.h>

#include "../checks.h"
#include "../composite/composite.h"
#include "gate.h"

namespace torchsoftmax {
namespace {

using Options = std::tuple<int64_t, double, bool>;  // dim, temperature, log

struct JacobianFunction : Function<JacobianFunction, Options> {
  static constexpr const char* kName = "torchsoftmax::SoftmaxJacobianBackward";
  static constexpr Options kUsual{-1, 1, false};

  static Tensor forward(AutogradContext* ctx, const Tensor& output, int64_t dim, double temperature,
                        bool log) {
    const at::AutoDispatchBelowADInplaceOrView below;
    ctx->save_for_backward({output});
    save_options(ctx, {dim, temperature, log});
    return ops::softmax_jacobian(output, dim, temperature, log);
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const auto saved = ctx->get_saved_variables();
    const auto [dim, temperature, log] = saved_options(ctx);
    return {
        composite::softmax_jacobian_backward(strided(grads[0]), saved[0], dim, temperature, log),
        Tensor(), Tensor(), Tensor()};
  }
};

Tensor softmax_jacobian(const Tensor& output, int64_t dim, double temperature, bool log) {
  if (needs_composite(output)) {
    return composite::softmax_jacobian(output, dim, temperature, log);
  }
  if (needs_gradient(output)) {
    return JacobianFunction::apply(output, dim, temperature, log);
  }
  const at::AutoDispatchBelowADInplaceOrView below;
  return ops::softmax_jacobian(output, dim, temperature, log);
}

Tensor softmax_hessian(const Tensor& output, int64_t dim, double temperature) {
  if (differentiated(output)) {
    return composite::softmax_hessian(output, dim, temperature);
  }
  const at::AutoDispatchBelowADInplaceOrView below;
  return ops::softmax_hessian(output, dim, temperature);
}

}  // namespace

TORCH_LIBRARY_IMPL(torchsoftmax, Autograd, m) {
  m.impl("softmax_jacobian", &softmax_jacobian);
  m.impl("softmax_hessian", &softmax_hessian);
}

}  // namespace torchsoftmax
