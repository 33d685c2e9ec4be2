// Derivatives of softmax_jacobian and softmax_hessian, which are functions of the softmax.

#include <torch/library.h>

#include "../checks.h"
#include "../composite/composite.h"
#include "gate.h"

namespace torchsoftmax {
namespace {

struct JacobianFunction : Function<JacobianFunction> {
  static constexpr bool is_traceable = true;

  static Tensor forward(AutogradContext* ctx, const Tensor& output, int64_t dim, double temperature,
                        bool log) {
    const at::AutoDispatchBelowADInplaceOrView below;
    ctx->save_for_backward({output});
    ctx->saved_data["dim"] = dim;
    ctx->saved_data["temperature"] = temperature;
    ctx->saved_data["log"] = log;
    return ops::softmax_jacobian(output, dim, temperature, log);
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const auto saved = ctx->get_saved_variables();
    return {composite::softmax_jacobian_backward(grads[0], saved[0], ctx->saved_data["dim"].toInt(),
                                                 ctx->saved_data["temperature"].toDouble(),
                                                 ctx->saved_data["log"].toBool()),
            Tensor(), Tensor(), Tensor()};
  }
};

Tensor softmax_jacobian(const Tensor& output, int64_t dim, double temperature, bool log) {
  if (needs_composite(output)) {
    return composite::softmax_jacobian(output, dim, temperature, log);
  }
  if (needs_gradient(output)) {
    dim = checks::softmax_jacobian(output, dim, temperature);
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
