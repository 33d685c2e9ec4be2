#pragma once
// The checks of operators that begin with a linear layer; see checks.h.

#include <array>

#include "checks.h"

namespace torchsoftmax::checks {

/// The shape of the logits of a linear layer: the leading dimensions of the input, the classes, and
/// the other dimensions of the weight.
inline c10::SymDimVector logits_shape(const Tensor& input, const Tensor& linear_weight) {
  const auto sizes = input.sym_sizes(), weight = linear_weight.sym_sizes();
  c10::SymDimVector shape(sizes.begin(), sizes.end() - 1);
  shape.insert(shape.end(), weight.begin(), weight.end() - 1);
  return shape;
}

/// The linear layer in front of a loss.
inline void linear(const char* name, const Tensor& input, const Tensor& linear_weight,
                   const OptionalTensor& linear_bias, std::optional<int64_t> chunk_size) {
  floating(name, "input", input);
  TORCH_CHECK(input.dim() >= 1, name, ": expected input of 1 or more dimensions, got a 0-d tensor");
  TORCH_CHECK(linear_weight.dim() >= 2, name,
              ": expected linear_weight of 2 or more dimensions, classes first and in_features "
              "last, got shape ",
              linear_weight.sym_sizes());
  TORCH_CHECK(equal(input.sym_size(-1), linear_weight.sym_size(-1)), name,
              ": expected input and linear_weight of equal last dimensions (in_features), got ",
              input.sym_size(-1), " and ", linear_weight.sym_size(-1));
  TORCH_CHECK(linear_weight.dim() == 2 || input.dim() > 1, name,
              ": expected input of shape (N, in_features) for a K-dimensional loss, defined by "
              "linear_weight of shape ",
              linear_weight.sym_sizes(), ", got ", input.sym_sizes());
  const auto like_input = [&](const char* argument, const Tensor& tensor) {
    TORCH_CHECK(tensor.scalar_type() == input.scalar_type(), name, ": expected ", argument,
                " of dtype ", input.scalar_type(), " to match input, got ", tensor.scalar_type());
    same_device(name, argument, tensor, input);
  };
  like_input("linear_weight", linear_weight);
  if (linear_bias.has_value() && linear_bias->defined()) {
    const auto expected = linear_weight.sym_sizes().slice(0, linear_weight.dim() - 1);
    TORCH_CHECK(equal(linear_bias->sym_sizes(), expected), name, ": expected linear_bias of shape ",
                expected, " to match linear_weight, got ", linear_bias->sym_sizes());
    like_input("linear_bias", *linear_bias);
  }
  TORCH_CHECK_VALUE(chunk_size.value_or(1) > 0, name, ": expected chunk_size to be positive, got ",
                    chunk_size.value_or(1));
}

inline void wanted_gradients(const char* name, const OptionalTensor& linear_bias,
                             GradientMask wanted) {
  TORCH_CHECK_VALUE(!wanted[2] || (linear_bias.has_value() && linear_bias->defined()), name,
                    ": expected linear_bias, whose gradient is wanted");
}

inline void linear_cross_entropy_forward(const CrossEntropyArgs& args,
                                         const OptionalTensor& linear_bias, GradientMask wanted) {
  const char* name = "linear_cross_entropy_forward";
  wanted_gradients(name, linear_bias, wanted);
  TORCH_CHECK_VALUE(args.reduction != kNone || !(wanted[0] || wanted[1] || wanted[2]), name,
                    ": expected gradients to be wanted with reduction mean or sum, got none, whose "
                    "upstream gradient differs from row to row");
}

inline void linear_cross_entropy_backward(const CrossEntropyArgs& args,
                                          const OptionalTensor& linear_bias,
                                          const Tensor& grad_output, const Tensor& normalizer,
                                          c10::SymIntArrayRef loss_shape, GradientMask wanted) {
  const char* name = "linear_cross_entropy_backward";
  wanted_gradients(name, linear_bias, wanted);
  same_device(name, "grad_output", grad_output, args.input);
  same_device(name, "normalizer", normalizer, args.input);
  TORCH_CHECK(
      args.reduction == kNone ? equal(grad_output.sym_sizes(), loss_shape) : grad_output.dim() == 0,
      name, ": expected grad_output of the shape of the loss, got ", grad_output.sym_sizes());
  const auto accumulated = at::toOpMathType(args.input.scalar_type());
  TORCH_CHECK(normalizer.scalar_type() == accumulated && normalizer.dim() == 0, name,
              ": expected normalizer of linear_cross_entropy_forward, of dtype ", accumulated,
              " and shape [], got ", normalizer.scalar_type(), " of shape ",
              normalizer.sym_sizes());
}

inline void gemm(const Tensor& out, const Tensor& a, const Tensor& b) {
  const char* name = "gemm_";
  TORCH_CHECK(a.dim() == 2 && b.dim() == 2 && out.dim() == 2 &&
                  equal(a.sym_size(1), b.sym_size(0)) && equal(out.sym_size(0), a.sym_size(0)) &&
                  equal(out.sym_size(1), b.sym_size(1)),
              name, ": expected out, a and b of shapes (M, N), (M, K) and (K, N), got ",
              out.sym_sizes(), ", ", a.sym_sizes(), " and ", b.sym_sizes());
  floating(name, "a", a);
  TORCH_CHECK(a.scalar_type() == b.scalar_type() &&
                  (out.scalar_type() == a.scalar_type() ||
                   out.scalar_type() == at::toOpMathType(a.scalar_type())),
              name,
              ": expected a and b of one dtype and out of the same or its accumulation type, ",
              "got ", out.scalar_type(), ", ", a.scalar_type(), " and ", b.scalar_type());
  same_device(name, "a", a, out);
  same_device(name, "b", b, out);
}

inline void linear_softmax_statistics(const Tensor& input, const Tensor& linear_weight,
                                      const OptionalTensor& linear_bias, const Tensor& target,
                                      double temperature, double softcap,
                                      std::optional<int64_t> chunk_size) {
  const char* name = "linear_softmax_statistics";
  linear(name, input, linear_weight, linear_bias, chunk_size);
  TORCH_CHECK(linear_weight.dim() == 2, name,
              ": expected linear_weight of shape (C, in_features), ", "got ",
              linear_weight.sym_sizes());
  TORCH_CHECK_INDEX(!is_empty_size(linear_weight.sym_size(0)), name,
                    ": expected 1 or more classes, got ", "linear_weight of shape ",
                    linear_weight.sym_sizes());
  index_dtype(name, "target", target);
  same_device(name, "target", target, input);
  const auto expected = input.sym_sizes().slice(0, input.dim() - 1);
  TORCH_CHECK(equal(target.sym_sizes(), expected), name, ": expected target of shape ", expected,
              " to match input ", input.sym_sizes(), ", got ", target.sym_sizes());
  positive(name, "temperature", temperature);
  if (softcap != 0) {
    positive(name, "softcap", softcap);
  }
}

inline void linear_softmax_statistics_backward(std::array<Tensor, 3> gradients, const Tensor& input,
                                               const OptionalTensor& linear_bias,
                                               const Tensor& target, const Tensor& statistics,
                                               GradientMask wanted) {
  const char* name = "linear_softmax_statistics_backward";
  for (const Tensor& gradient : gradients) {
    TORCH_CHECK(equal(gradient.sym_sizes(), target.sym_sizes()), name,
                ": expected gradients of the shape of target, ", target.sym_sizes(), ", got ",
                gradient.sym_sizes());
    floating(name, "gradients", gradient);
    same_device(name, "gradients", gradient, input);
  }
  row_statistics(name, "linear_softmax_statistics", statistics, 3, input, {target.sym_numel()});
  wanted_gradients(name, linear_bias, wanted);
}

}  // namespace torchsoftmax::checks
