// Derivatives of softmax and log_softmax: both are functions of the output.

#include <torch/library.h>

#include "../composite/composite.h"
#include "gate.h"

namespace torchsoftmax {
namespace {

using Forward = Tensor(const Tensor&, int64_t, Dtype, double, const OptionalTensor&);
using Backward = Tensor(const Tensor&, const Tensor&, int64_t, double, const OptionalTensor&);

// Functions call the gate of their backward operator directly, not through the dispatcher: it saves
// a hop, and the keys above Autograd are those that the gate looks at.
template <Backward* kKernel, Backward* kComposite>
Tensor backward_gate(const Tensor& grad_output, const Tensor& output, int64_t dim,
                     double temperature, const OptionalTensor& mask) {
  if (differentiated(grad_output, output)) {
    return kComposite(grad_output, output, dim, temperature, mask);
  }
  const at::AutoDispatchBelowADInplaceOrView below;
  return kKernel(grad_output, output, dim, temperature, mask);
}

using Options = std::tuple<int64_t, double>;  // dim, temperature

template <Forward* kForward, Backward* kBackward>
struct SoftmaxFunction : Function<SoftmaxFunction<kForward, kBackward>, Options> {
  static constexpr const char* kName = kForward == &ops::softmax
                                           ? "torchsoftmax::SoftmaxBackward"
                                           : "torchsoftmax::LogSoftmaxBackward";
  static constexpr Options kUsual{-1, 1};

  static Tensor forward(AutogradContext* ctx, const Tensor& input, int64_t dim, double temperature,
                        const OptionalTensor& mask) {
    const at::AutoDispatchBelowADInplaceOrView below;
    Tensor output = kForward(input, dim, std::nullopt, temperature, mask);
    ctx->save_for_backward({output, defined_or_empty(mask)});
    SoftmaxFunction::save_options(ctx, {dim, temperature});
    return output;
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const auto saved = ctx->get_saved_variables();
    const auto [dim, temperature] = SoftmaxFunction::saved_options(ctx);
    return {kBackward(strided(grads[0]), saved[0], dim, temperature, optional(saved[1])), Tensor(),
            Tensor(), Tensor()};
  }
};

template <Forward* kForward, Backward* kBackward, Forward* kComposite>
Tensor forward_gate(const Tensor& input, int64_t dim, Dtype dtype, double temperature,
                    const OptionalTensor& mask) {
  if (needs_composite(input)) {
    return kComposite(input, dim, dtype, temperature, mask);
  }
  if (needs_gradient(input)) {
    return SoftmaxFunction<kForward, kBackward>::apply(dtype.has_value() ? input.to(*dtype) : input,
                                                       dim, temperature, mask);
  }
  const at::AutoDispatchBelowADInplaceOrView below;
  return kForward(input, dim, dtype, temperature, mask);
}

constexpr Backward* kSoftmaxBackward =
    &backward_gate<&ops::softmax_backward, &composite::softmax_backward>;
constexpr Backward* kLogSoftmaxBackward =
    &backward_gate<&ops::log_softmax_backward, &composite::log_softmax_backward>;

}  // namespace

TORCH_LIBRARY_IMPL(torchsoftmax, Autograd, m) {
  m.impl("softmax", &forward_gate<&ops::softmax, kSoftmaxBackward, &composite::softmax>);
  m.impl("log_softmax",
         &forward_gate<&ops::log_softmax, kLogSoftmaxBackward, &composite::log_softmax>);
  m.impl("softmax_backward", kSoftmaxBackward);
  m.impl("log_softmax_backward", kLogSoftmaxBackward);
}

}  // namespace torchsoftmax
