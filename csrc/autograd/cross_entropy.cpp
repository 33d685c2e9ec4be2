// Derivatives of cross_entropy.
//
// Where the loss is reduced, the upstream gradient is one number for all rows: forward computes the
// gradient of the input with the loss, in one pass over the logits, and backward scales it. Where
// it is not reduced, where the input is float16 (a gradient before the loss scale is applied may
// underflow), and where the gradient is to overwrite the input, backward computes it from the
// statistics of the rows.

#include <torch/csrc/autograd/VariableTypeUtils.h>
#include <torch/library.h>

#include "../checks.h"
#include "../composite/composite.h"
#include "cross_entropy_options.h"
#include "gate.h"
#include "own_memory.h"

namespace torchsoftmax {
namespace {

using Backward = Tensor(const CrossEntropyArgs&, const Tensor&, const Tensor&, const Tensor&);

template <Backward* kKernel, Backward* kComposite>
Tensor backward_gate(const CrossEntropyArgs& args, const Tensor& grad_output,
                     const Tensor& statistics, const Tensor& normalizer) {
  if (differentiated(grad_output, args.input, args.target, args.weight, args.sample_weight,
                     normalizer)) {
    return kComposite(args, grad_output, statistics, normalizer);
  }
  const at::AutoDispatchBelowADInplaceOrView below;
  return kKernel(args, grad_output, statistics, normalizer);
}

constexpr Backward* kBackward =
    &backward_gate<&ops::cross_entropy_backward, &composite::cross_entropy_backward>;
constexpr Backward* kTargetBackward =
    &backward_gate<&ops::cross_entropy_target_backward, &composite::cross_entropy_target_backward>;

/// Bumps the version of the input: PyTorch then refuses another use of the old values.
void cross_entropy_backward_(const CrossEntropyArgs& args, const Tensor& grad_output,
                             const Tensor& statistics, const Tensor& normalizer) {
  TORCH_CHECK(
      !needs_gradient(args.input, args.target, args.weight, args.sample_weight, grad_output),
      "cross_entropy_backward_: expected arguments that need no gradient: what it overwrites "
      "cannot be differentiated");
  const at::AutoDispatchBelowADInplaceOrView below;
  ops::cross_entropy_backward_(args, grad_output, statistics, normalizer);
  torch::autograd::impl::bump_version(args.input);
}

/// Bumps the version of the input likewise.
std::tuple<Tensor, Tensor> cross_entropy_with_gradient_(const CrossEntropyArgs& args,
                                                        const Tensor& grad_output) {
  TORCH_CHECK(
      !needs_gradient(args.input, args.target, args.weight, args.sample_weight, grad_output),
      "cross_entropy_with_gradient_: expected arguments that need no gradient: what it overwrites "
      "cannot be differentiated");
  const at::AutoDispatchBelowADInplaceOrView below;
  auto results = ops::cross_entropy_with_gradient_(args, grad_output);
  torch::autograd::impl::bump_version(args.input);
  return results;
}

/// Bumps the version of what it writes to.
void scale_(const Tensor& values, const Tensor& factor) {
  TORCH_CHECK(!needs_gradient(values, factor),
              "scale_: expected arguments that need no gradient: it has no derivative");
  const at::AutoDispatchBelowADInplaceOrView below;
  ops::scale_(values, factor);
  torch::autograd::impl::bump_version(values);
}

/// Whether the gradient may be written over the input.
bool may_overwrite(const Tensor& input, const Tensor& grad_output) {
  return is_last(grad_output) && is_plain(input) && is_plain(grad_output) &&
         !grad_output.is_alias_of(input);
}

using Options = std::tuple<CrossEntropyOptions, bool>;  // the latter: inplace

struct CrossEntropyFunction : Function<CrossEntropyFunction, Options> {
  static constexpr const char* kName = "torchsoftmax::CrossEntropyBackward";
  static constexpr Options kUsual{kUsualCrossEntropy, false};

  static Tensor forward(AutogradContext* ctx, const Tensor& input, const Tensor& target,
                        const CrossEntropyArgs& args, const OptionalTensor& given_normalizer,
                        Dtype dtype, bool inplace) {
    const bool with_gradient = input.requires_grad() && args.reduction != checks::kNone &&
                               !inplace && input.scalar_type() != at::kHalf;
    const at::AutoDispatchBelowADInplaceOrView below;
    auto [loss, statistics, normalizer, gradient] =
        ops::cross_entropy_forward(args, given_normalizer, dtype, with_gradient);
    ctx->save_for_backward({input, target, args.weight, args.sample_weight, statistics, normalizer,
                            with_gradient ? gradient : Tensor()});
    save_options(ctx, {options_of(args), inplace});
    return loss;
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    auto saved = ctx->get_saved_variables();
    const auto [options, inplace] = saved_options(ctx);
    const CrossEntropyArgs args = args_of(saved, options);
    const Tensor &statistics = saved[4], &normalizer = saved[5];
    const Tensor grad_output = strided(grads[0]);
    variable_list result(6);
    if (ctx->needs_input_grad(1)) {  // first, for it reads the input
      result[1] = kTargetBackward(args, grad_output, statistics, normalizer);
    }
    if (ctx->needs_input_grad(0)) {
      if (saved[6].defined() && only_scales(grad_output)) {
        result[0] = scaled(std::move(saved[6]), grad_output);
      } else if (inplace && may_overwrite(args.input, grad_output)) {
        cross_entropy_backward_(args, grad_output, statistics, normalizer);
        result[0] = args.input.detach();
      } else {
        result[0] = kBackward(args, grad_output, statistics, normalizer);
      }
    }
    return result;
  }
};

Tensor cross_entropy(const CrossEntropyArgs& given, const OptionalTensor& normalizer, Dtype dtype,
                     bool inplace_backward) {
  const auto composite = [&] {
    return composite::cross_entropy(given, normalizer, dtype, inplace_backward);
  };
  if (needs_gradient(given.weight)) {
    TORCH_CHECK(checks::has_class_probabilities(given.input, given.target),
                "cross_entropy: expected a weight that needs no gradient with class-index targets, "
                "got one that requires grad");
    return composite();
  }
  if (needs_gradient(given.sample_weight, normalizer) ||
      needs_composite(given.input, given.target, given.weight, given.sample_weight, normalizer)) {
    return composite();
  }
  if (needs_gradient(given.input, given.target)) {
    const CrossEntropyArgs args = composite::promote(given, dtype);
    const bool inplace = inplace_backward && needs_gradient(args.input);
    if (inplace) {  // what PyTorch asks of every operator that writes to its input
      torch::autograd::check_inplace(args.input, /*requires_grad=*/true);
      check_own_memory(args);
    }
    return CrossEntropyFunction::apply(args.input, args.target, args, normalizer, dtype, inplace);
  }
  const at::AutoDispatchBelowADInplaceOrView below;
  return ops::cross_entropy(given, normalizer, dtype, inplace_backward);
}

std::tuple<Tensor, Tensor, Tensor, Tensor> cross_entropy_forward(const CrossEntropyArgs& args,
                                                                 const OptionalTensor& normalizer,
                                                                 Dtype dtype, bool with_gradient) {
  if (differentiated(args.input, args.target, args.weight, args.sample_weight, normalizer)) {
    return composite::cross_entropy_forward(args, normalizer, dtype, with_gradient);
  }
  const at::AutoDispatchBelowADInplaceOrView below;
  auto result = ops::cross_entropy_forward(args, normalizer, dtype, with_gradient);
  return {result.loss, result.statistics, result.normalizer, result.gradient};
}

}  // namespace

TORCH_LIBRARY_IMPL(torchsoftmax, Autograd, m) {
  m.impl("cross_entropy", &OfCrossEntropy<&cross_entropy>::call);
  m.impl("cross_entropy_forward", &OfCrossEntropy<&cross_entropy_forward>::call);
  m.impl("cross_entropy_backward", &OfCrossEntropy<kBackward>::call);
  m.impl("cross_entropy_backward_", &OfCrossEntropy<&cross_entropy_backward_>::call);
  m.impl("cross_entropy_target_backward", &OfCrossEntropy<kTargetBackward>::call);
  m.impl("cross_entropy_with_gradient_", &OfCrossEntropy<&cross_entropy_with_gradient_>::call);
  m.impl("scale_", &scale_);
}

}  // namespace torchsoftmax
