// Derivatives of linear_cross_entropy.
//
// Where the loss is reduced, forward computes the gradients with it while the logits of a chunk are
// there: three products, the least there is. Backward computes the logits again, a fourth, where
// each row has an upstream gradient of its own, and for float16, whose gradients may underflow
// before the loss scale is applied.

#include <torch/csrc/autograd/VariableTypeUtils.h>
#include <torch/library.h>

#include "../checks.h"
#include "../composite/composite.h"
#include "cross_entropy_options.h"
#include "gate.h"
#include "saved_gradient.h"

namespace torchsoftmax {
namespace {

LinearGradients backward_gate(const CrossEntropyArgs& args, const Tensor& linear_weight,
                              const OptionalTensor& linear_bias, const Tensor& grad_output,
                              const Tensor& normalizer, std::optional<int64_t> chunk_size,
                              GradientMask wanted, int64_t accumulator_bytes) {
  if (differentiated(grad_output, args.input, linear_weight, linear_bias, args.target, args.weight,
                     args.sample_weight, normalizer)) {
    return composite::linear_cross_entropy_backward(args, linear_weight, linear_bias, grad_output,
                                                    normalizer, chunk_size, wanted,
                                                    accumulator_bytes);
  }
  const at::AutoDispatchBelowADInplaceOrView below;
  return ops::linear_cross_entropy_backward(args, linear_weight, linear_bias, grad_output,
                                            normalizer, chunk_size, wanted, accumulator_bytes);
}

// The last two: chunk_size, and whether forward computed the gradients.
using Options = std::tuple<CrossEntropyOptions, std::optional<int64_t>, bool>;

struct LinearCrossEntropyFunction : Function<LinearCrossEntropyFunction, Options> {
  static constexpr const char* kName = "torchsoftmax::LinearCrossEntropyBackward";
  static constexpr Options kUsual{kUsualCrossEntropy, std::nullopt, true};

  static Tensor forward(AutogradContext* ctx, const Tensor& input, const Tensor& linear_weight,
                        const OptionalTensor& linear_bias, const CrossEntropyArgs& args,
                        const OptionalTensor& given_normalizer, Dtype dtype,
                        std::optional<int64_t> chunk_size) {
    const bool in_forward = args.reduction != checks::kNone && input.scalar_type() != at::kHalf;
    const auto wanted = [&](const Tensor& tensor) {
      return in_forward && tensor.defined() && tensor.requires_grad();
    };
    const GradientMask mask{wanted(input), wanted(linear_weight), wanted(tensor_of(linear_bias))};
    const at::AutoDispatchBelowADInplaceOrView below;
    auto [loss, normalizer, gradients] =
        ops::linear_cross_entropy_forward(args, linear_weight, linear_bias, given_normalizer, dtype,
                                          chunk_size, mask, ops::kAccumulatorBytes);
    const auto& [of_input, of_weight, of_bias] = gradients;
    ctx->save_for_backward({input, args.target, args.weight, args.sample_weight, linear_weight,
                            tensor_of(linear_bias), normalizer, mask[0] ? of_input : Tensor(),
                            mask[1] ? of_weight : Tensor(), mask[2] ? of_bias : Tensor()});
    save_options(ctx, {options_of(args), chunk_size, in_forward});
    return loss;
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    auto saved = ctx->get_saved_variables();
    const auto [options, chunk_size, in_forward] = saved_options(ctx);
    const bool has_bias = saved[5].defined();
    const GradientMask wanted{ctx->needs_input_grad(0), ctx->needs_input_grad(1),
                              has_bias && ctx->needs_input_grad(2)};
    variable_list result(7);
    const Tensor grad_output = strided(grads[0]);
    if (in_forward && only_scales(grad_output)) {
      for (size_t i = 0; i < wanted.size(); ++i) {
        if (wanted[i]) {
          result[i] = scaled(std::move(saved[7 + i]), grad_output);
        }
      }
      return result;
    }
    auto [of_input, of_weight, of_bias] =
        backward_gate(args_of(saved, options), saved[4], optional(saved[5]), grad_output, saved[6],
                      chunk_size, wanted, ops::kAccumulatorBytes);
    result[0] = wanted[0] ? of_input : Tensor();
    result[1] = wanted[1] ? of_weight : Tensor();
    result[2] = wanted[2] ? of_bias : Tensor();
    return result;
  }
};

Tensor linear_cross_entropy(const CrossEntropyArgs& given, const Tensor& linear_weight,
                            const OptionalTensor& linear_bias, const OptionalTensor& normalizer,
                            Dtype dtype, std::optional<int64_t> chunk_size) {
  const auto definition = [&] {
    return composite::linear_cross_entropy(given, linear_weight, linear_bias, normalizer, dtype,
                                           chunk_size);
  };
  if (needs_composite(given.input, linear_weight, linear_bias, given.target, given.weight,
                      given.sample_weight, normalizer) ||
      needs_gradient(given.target, given.weight, given.sample_weight, normalizer)) {
    TORCH_CHECK(!needs_gradient(given.weight) || at::isFloatingType(given.target.scalar_type()),
                "linear_cross_entropy: expected a weight that needs no gradient with class-index "
                "targets, got one that requires grad");
    return definition();
  }
  if (!needs_gradient(given.input, linear_weight, linear_bias)) {
    const at::AutoDispatchBelowADInplaceOrView below;
    return ops::linear_cross_entropy(given, linear_weight, linear_bias, normalizer, dtype,
                                     chunk_size);
  }
  CrossEntropyArgs args = given;
  if (!composite::promote_target(args, linear_weight, dtype)) {
    return definition();
  }
  return LinearCrossEntropyFunction::apply(args.input, linear_weight, linear_bias, args, normalizer,
                                           dtype, chunk_size);
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> linear_cross_entropy_forward(
    const CrossEntropyArgs& args, const Tensor& linear_weight, const OptionalTensor& linear_bias,
    const OptionalTensor& normalizer, Dtype dtype, std::optional<int64_t> chunk_size,
    GradientMask wanted, int64_t accumulator_bytes) {
  if (differentiated(args.input, linear_weight, linear_bias, args.target, args.weight,
                     args.sample_weight, normalizer)) {
    return composite::linear_cross_entropy_forward(args, linear_weight, linear_bias, normalizer,
                                                   dtype, chunk_size, wanted, accumulator_bytes);
  }
  const at::AutoDispatchBelowADInplaceOrView below;
  auto [loss, used, gradients] = ops::linear_cross_entropy_forward(
      args, linear_weight, linear_bias, normalizer, dtype, chunk_size, wanted, accumulator_bytes);
  auto [of_input, of_weight, of_bias] = gradients;
  return {loss, used, of_input, of_weight, of_bias};
}

/// Bumps the version of what it writes to.
void gemm_(const Tensor& out, const Tensor& a, const Tensor& b, bool accumulate) {
  TORCH_CHECK(!needs_gradient(out, a, b),
              "gemm_: expected arguments that need no gradient: it has no derivative");
  const at::AutoDispatchBelowADInplaceOrView below;
  ops::gemm_(out, a, b, accumulate);
  torch::autograd::impl::bump_version(out);
}

}  // namespace

TORCH_LIBRARY_IMPL(torchsoftmax, Autograd, m) {
  m.impl("linear_cross_entropy", &OfCrossEntropy<&linear_cross_entropy>::call);
  m.impl("linear_cross_entropy_forward", &OfCrossEntropy<&linear_cross_entropy_forward>::call);
  m.impl("linear_cross_entropy_backward", &OfCrossEntropy<&backward_gate>::call);
  m.impl("gemm_", &gemm_);
}

}  // namespace torchsoftmax
