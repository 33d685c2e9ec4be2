// Derivatives of the operators: a torch::autograd::Function per operator, behind one gate.
//
// A C++ Function knows nothing of forward-mode AD or of the transforms of torch.func. Where one of
// them is at work, and where a gradient is to be differentiated again, the gate takes the composite
// definition, which PyTorch differentiates by itself.

#include <ATen/core/LegacyTypeDispatch.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include "checks.h"
#include "composite.h"

namespace torchsoftmax {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;
using Weight = std::optional<Tensor>;
using Dtype = std::optional<at::ScalarType>;

bool in_torch_func() {
  return c10::impl::tls_is_dispatch_key_included(
             c10::DispatchKey::FuncTorchDynamicLayerFrontMode) ||
         c10::impl::tls_is_dispatch_key_included(c10::DispatchKey::FuncTorchDynamicLayerBackMode);
}

bool has_tangent(const Tensor& tensor) {
  return tensor.defined() && tensor._fw_grad(/*level=*/0).defined();
}

template <typename... Tensors>
bool needs_composite(const Tensors&... tensors) {
  return in_torch_func() || (has_tangent(tensors) || ...);
}

template <typename... Tensors>
bool needs_gradient(const Tensors&... tensors) {
  return at::GradMode::is_enabled() && ((tensors.defined() && tensors.requires_grad()) || ...);
}

Tensor defined_or_empty(const Weight& weight) { return weight.value_or(Tensor()); }

using SoftmaxForward = Tensor(const Tensor&, int64_t, Dtype);
using SoftmaxBackward = Tensor(const Tensor&, const Tensor&, int64_t);
using CrossEntropyBackward = Tensor(const CrossEntropyOptions&, const Tensor&, const Tensor&,
                                    const Tensor&, const Weight&, const Tensor&, const Tensor&);

// The gates of the backward operators. Functions call them directly, not through the dispatcher:
// it saves a hop, and the keys above Autograd are those that the gate looks at.

template <SoftmaxBackward* kKernel, SoftmaxBackward* kComposite>
Tensor softmax_backward(const Tensor& grad_output, const Tensor& output, int64_t dim) {
  if (needs_composite(grad_output, output) || needs_gradient(grad_output, output)) {
    return kComposite(grad_output, output, dim);
  }
  const at::AutoDispatchBelowADInplaceOrView below;
  return kKernel(grad_output, output, dim);
}

template <CrossEntropyBackward* kKernel, CrossEntropyBackward* kComposite>
Tensor cross_entropy_backward(const CrossEntropyOptions& options, const Tensor& grad_output,
                              const Tensor& input, const Tensor& target, const Weight& weight,
                              const Tensor& statistics, const Tensor& normalizer) {
  const Tensor weights = defined_or_empty(weight);
  if (needs_composite(grad_output, input, target, weights) ||
      needs_gradient(grad_output, input, target, weights)) {
    return kComposite(options, grad_output, input, target, weight, statistics, normalizer);
  }
  const at::AutoDispatchBelowADInplaceOrView below;
  return kKernel(options, grad_output, input, target, weight, statistics, normalizer);
}

constexpr SoftmaxBackward* kSoftmaxBackward =
    &softmax_backward<&ops::softmax_backward, &composite::softmax_backward>;
constexpr SoftmaxBackward* kLogSoftmaxBackward =
    &softmax_backward<&ops::log_softmax_backward, &composite::log_softmax_backward>;
constexpr CrossEntropyBackward* kCrossEntropyBackward =
    &cross_entropy_backward<&ops::cross_entropy_backward, &composite::cross_entropy_backward>;
constexpr CrossEntropyBackward* kCrossEntropyTargetBackward =
    &cross_entropy_backward<&ops::cross_entropy_target_backward,
                            &composite::cross_entropy_target_backward>;

/// softmax and log_softmax: both derivatives are functions of the output.
template <SoftmaxForward* kForward, SoftmaxBackward* kBackward>
struct SoftmaxFunction : Function<SoftmaxFunction<kForward, kBackward>> {
  static constexpr bool is_traceable = true;

  static Tensor forward(AutogradContext* ctx, const Tensor& input, int64_t dim) {
    const at::AutoDispatchBelowADInplaceOrView below;
    Tensor output = kForward(input, dim, std::nullopt);
    ctx->save_for_backward({output});
    ctx->saved_data["dim"] = dim;
    return output;
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const auto saved = ctx->get_saved_variables();
    return {kBackward(grads[0], saved[0], ctx->saved_data["dim"].toInt()), Tensor()};
  }
};

template <SoftmaxForward* kForward, SoftmaxBackward* kBackward, SoftmaxForward* kComposite>
Tensor softmax_forward(const Tensor& input, int64_t dim, Dtype dtype) {
  if (needs_composite(input)) {
    return kComposite(input, dim, dtype);
  }
  if (needs_gradient(input)) {
    return SoftmaxFunction<kForward, kBackward>::apply(dtype.has_value() ? input.to(*dtype) : input,
                                                       dim);
  }
  const at::AutoDispatchBelowADInplaceOrView below;
  return kForward(input, dim, dtype);
}

struct CrossEntropyFunction : Function<CrossEntropyFunction> {
  static constexpr bool is_traceable = true;

  static Tensor forward(AutogradContext* ctx, const Tensor& input, const Tensor& target,
                        const Weight& weight, Dtype dtype, int64_t reduction, int64_t ignore_index,
                        double label_smoothing) {
    const at::AutoDispatchBelowADInplaceOrView below;
    auto [loss, statistics, normalizer] = ops::cross_entropy_forward(
        {reduction, ignore_index, label_smoothing}, input, target, weight, dtype);
    ctx->save_for_backward({input, target, defined_or_empty(weight), statistics, normalizer});
    ctx->saved_data["reduction"] = reduction;
    ctx->saved_data["ignore_index"] = ignore_index;
    ctx->saved_data["label_smoothing"] = label_smoothing;
    return loss;
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const auto saved = ctx->get_saved_variables();
    const CrossEntropyOptions options{ctx->saved_data["reduction"].toInt(),
                                      ctx->saved_data["ignore_index"].toInt(),
                                      ctx->saved_data["label_smoothing"].toDouble()};
    const Weight weight = saved[2].defined() ? Weight(saved[2]) : std::nullopt;
    variable_list result(7);
    if (ctx->needs_input_grad(0)) {
      result[0] =
          kCrossEntropyBackward(options, grads[0], saved[0], saved[1], weight, saved[3], saved[4]);
    }
    if (ctx->needs_input_grad(1)) {
      result[1] = kCrossEntropyTargetBackward(options, grads[0], saved[0], saved[1], weight,
                                              saved[3], saved[4]);
    }
    return result;
  }
};

Tensor cross_entropy(const CrossEntropyOptions& options, const Tensor& input, const Tensor& target,
                     const Weight& weight, Dtype dtype) {
  const Tensor weights = defined_or_empty(weight);
  if (needs_gradient(weights)) {
    TORCH_CHECK(checks::has_class_probabilities(input, target),
                "cross_entropy: expected a weight that needs no gradient with class-index targets, "
                "got one that requires grad");
    return composite::cross_entropy(options, input, target, weight, dtype);
  }
  if (needs_composite(input, target, weights)) {
    return composite::cross_entropy(options, input, target, weight, dtype);
  }
  if (needs_gradient(input, target)) {
    const auto inputs = composite::promote(input, target, weight, dtype);
    return CrossEntropyFunction::apply(inputs.input, inputs.target, weight, inputs.dtype,
                                       options.reduction, options.ignore_index,
                                       options.label_smoothing);
  }
  const at::AutoDispatchBelowADInplaceOrView below;
  return ops::cross_entropy(options, input, target, weight, dtype);
}

std::tuple<Tensor, Tensor, Tensor> cross_entropy_forward(const CrossEntropyOptions& options,
                                                         const Tensor& input, const Tensor& target,
                                                         const Weight& weight, Dtype dtype) {
  const Tensor weights = defined_or_empty(weight);
  if (needs_composite(input, target, weights) || needs_gradient(input, target, weights)) {
    return composite::cross_entropy_forward(options, input, target, weight, dtype);
  }
  const at::AutoDispatchBelowADInplaceOrView below;
  return ops::cross_entropy_forward(options, input, target, weight, dtype);
}

}  // namespace

TORCH_LIBRARY_IMPL(torchsoftmax, Autograd, m) {
  m.impl("softmax", &softmax_forward<&ops::softmax, kSoftmaxBackward, &composite::softmax>);
  m.impl("log_softmax",
         &softmax_forward<&ops::log_softmax, kLogSoftmaxBackward, &composite::log_softmax>);
  m.impl("softmax_backward", kSoftmaxBackward);
  m.impl("log_softmax_backward", kLogSoftmaxBackward);
  m.impl("cross_entropy", &WithOptions<&cross_entropy>::call);
  m.impl("cross_entropy_forward", &WithOptions<&cross_entropy_forward>::call);
  m.impl("cross_entropy_backward", &WithOptions<kCrossEntropyBackward>::call);
  m.impl("cross_entropy_target_backward", &WithOptions<kCrossEntropyTargetBackward>::call);
}

}  // namespace torchsoftmax
