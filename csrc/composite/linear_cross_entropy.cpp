// linear_cross_entropy in plain ATen, with its logits in memory.

#include <ATen/ATen.h>
#include <torch/library.h>

#include "../linear_layer.h"
#include "composite.h"

namespace torchsoftmax::composite {
namespace {

/// The layer, with 0 in the place of the rows that are ignored, which may hold nan.
LinearLayer without_ignored(const LinearCrossEntropyArgs& args) {
  LinearLayer layer = args.layer;
  if (!args.probabilities()) {
    layer.input = at::where(args.has_target().unsqueeze(1), layer.input, 0);
  }
  return layer;
}

/// The arguments of the cross-entropy of the layer's logits.
CrossEntropyArgs of_logits(const LinearCrossEntropyArgs& args, const LinearLayer& layer) {
  CrossEntropyArgs rows = args.rows;
  const Tensor logits = at::linear(layer.input, layer.weight, optional(layer.bias));
  rows.input = logits.reshape_symint(args.rows.input.sym_sizes());
  return rows;
}

}  // namespace

LinearGradients linear_gradients(const Tensor& of_logits, const LinearLayer& layer,
                                 const Tensor& input, const Tensor& linear_weight,
                                 const OptionalTensor& linear_bias, GradientMask wanted) {
  const Tensor none = at::empty({0}, input.options());
  if (!(wanted[0] || wanted[1] || wanted[2])) {
    return {none, none, none};
  }
  const Tensor grad = of_logits.reshape_symint({layer.input.sym_size(0), layer.weight.sym_size(0)});
  return {wanted[0] ? grad.mm(layer.weight).reshape_symint(input.sym_sizes()) : none,
          wanted[1] ? grad.t().mm(layer.input).reshape_symint(linear_weight.sym_sizes()) : none,
          wanted[2] ? grad.sum(0).reshape_symint(linear_bias->sym_sizes()) : none};
}

Tensor linear_cross_entropy(const CrossEntropyArgs& given, const Tensor& linear_weight,
                            const OptionalTensor& linear_bias, const OptionalTensor& normalizer,
                            Dtype dtype, std::optional<int64_t> chunk_size) {
  const LinearCrossEntropyArgs args(given, linear_weight, linear_bias, normalizer, dtype,
                                    chunk_size);
  const CrossEntropyArgs rows = of_logits(args, without_ignored(args));
  const Tensor loss = cross_entropy(rows, normalizer, dtype, false);
  return given.reduction == checks::kNone ? loss.reshape_symint(args.loss_shape) : loss;
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> linear_cross_entropy_forward(
    const CrossEntropyArgs& given, const Tensor& linear_weight, const OptionalTensor& linear_bias,
    const OptionalTensor& given_normalizer, Dtype dtype, std::optional<int64_t> chunk_size,
    GradientMask wanted, int64_t /*accumulator_bytes*/) {
  const LinearCrossEntropyArgs args(given, linear_weight, linear_bias, given_normalizer, dtype,
                                    chunk_size);
  checks::linear_cross_entropy_forward(given, linear_bias, wanted);
  const bool with_gradient = given.reduction != checks::kNone;
  const LinearLayer layer = without_ignored(args);
  auto [loss, statistics, normalizer, gradient] =
      cross_entropy_forward(of_logits(args, layer), given_normalizer, dtype, with_gradient);
  if (!with_gradient) {
    loss = loss.reshape_symint(args.loss_shape);
  }
  auto [of_input, of_weight, of_bias] =
      linear_gradients(gradient, layer, given.input, linear_weight, linear_bias, wanted);
  return {loss, normalizer, of_input, of_weight, of_bias};
}

LinearGradients linear_cross_entropy_backward(const CrossEntropyArgs& given,
                                              const Tensor& linear_weight,
                                              const OptionalTensor& linear_bias,
                                              const Tensor& grad_output, const Tensor& normalizer,
                                              std::optional<int64_t> chunk_size,
                                              GradientMask wanted, int64_t /*accumulator_bytes*/) {
  const LinearCrossEntropyArgs args(given, linear_weight, linear_bias, std::nullopt,
                                    grad_output.scalar_type(), chunk_size);
  checks::linear_cross_entropy_backward(given, linear_bias, grad_output, normalizer,
                                        args.loss_shape, wanted);
  const LinearLayer layer = without_ignored(args);
  const CrossEntropyArgs rows = of_logits(args, layer);
  auto shape = checks::row_shape(rows.input);
  const Tensor upstream =
      given.reduction == checks::kNone ? grad_output.reshape_symint(shape) : grad_output;
  shape.insert(shape.begin(), 2);
  const Tensor statistics =  // which the definition does not use
      at::zeros_symint(shape, given.input.options().dtype(accumulation_type(given.input)));
  return linear_gradients(cross_entropy_backward(rows, upstream, statistics, normalizer), layer,
                          given.input, linear_weight, linear_bias, wanted);
}

bool promote_target(CrossEntropyArgs& args, const Tensor& linear_weight, Dtype& dtype) {
  if (!at::isFloatingType(args.target.scalar_type())) {
    return true;
  }
  const LinearCrossEntropyArgs checked(args, linear_weight, std::nullopt, std::nullopt, dtype,
                                       std::nullopt);
  const Dtype common = promoted_dtype(checked.rows);
  if (!common.has_value()) {
    return true;
  }
  const auto wide = at::toOpMathType(*common);
  if (wide != accumulation_type(args.input)) {
    return false;
  }
  dtype = dtype.has_value() ? dtype : common;
  if (args.target.scalar_type() != args.input.scalar_type()) {
    args.target = args.target.to(wide);
  }
  return true;
}

TORCH_LIBRARY_IMPL(torchsoftmax, FuncTorchBatched, m) {
  m.impl("linear_cross_entropy", &OfCrossEntropy<&linear_cross_entropy>::call);
  m.impl("linear_cross_entropy_forward", &OfCrossEntropy<&linear_cross_entropy_forward>::call);
  m.impl("linear_cross_entropy_backward", &OfCrossEntropy<&linear_cross_entropy_backward>::call);
}

}  // namespace torchsoftmax::composite
