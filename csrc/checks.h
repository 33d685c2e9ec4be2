#pragma once
// Every check of an operator's inputs, once: used by the CPU kernels, Meta and the composites.
// They read shapes and dtypes only, never data. Each message names the function, what was expected
// and what came; the exception type is the one that PyTorch's own function raises.

#include <ATen/WrapDimUtils.h>
#include <ATen/core/Tensor.h>
#include <c10/util/Exception.h>

#include "ops.h"

namespace torchsoftmax::checks {

/// Values of `reduction`, those of at::Reduction.
enum Reduction : int64_t { kNone = 0, kMean = 1, kSum = 2 };

inline void softmax(const char* name, const at::Tensor& input) {
  TORCH_CHECK_NOT_IMPLEMENTED(
      at::isFloatingType(input.scalar_type()) && c10::elementSize(input.scalar_type()) >= 2, name,
      ": expected input of dtype float16, bfloat16, float32 or float64 (or the argument dtype), "
      "got ",
      input.scalar_type());
}

inline void softmax_backward(const char* name, const at::Tensor& grad_output,
                             const at::Tensor& output) {
  softmax(name, output);
  TORCH_CHECK(grad_output.sym_sizes() == output.sym_sizes(), name,
              ": expected grad_output of shape ", output.sym_sizes(), " to match output, got ",
              grad_output.sym_sizes());
  TORCH_CHECK(grad_output.device() == output.device(), name, ": expected grad_output on device ",
              output.device(), " like output, got ", grad_output.device());
  TORCH_CHECK(grad_output.scalar_type() == output.scalar_type(), name,
              ": expected grad_output of dtype ", output.scalar_type(), " to match output, got ",
              grad_output.scalar_type());
}

inline int64_t class_dim(const at::Tensor& input) { return input.dim() == 1 ? 0 : 1; }

/// Targets of the input's own shape are class probabilities, all others class indices.
inline bool has_class_probabilities(const at::Tensor& input, const at::Tensor& target) {
  return input.dim() == target.dim() && input.sym_sizes() == target.sym_sizes();
}

/// The shape of a loss that is not reduced: the input's without its classes.
inline c10::SymDimVector row_shape(const at::Tensor& input) {
  const auto sizes = input.sym_sizes();
  c10::SymDimVector shape(sizes.begin(), sizes.end());
  shape.erase(shape.begin() + class_dim(input));
  return shape;
}

inline void index_target_shape(const at::Tensor& input, const at::Tensor& target) {
  const auto sizes = input.sym_sizes();
  if (input.dim() == 1) {
    const bool one = target.dim() == 0 || (target.dim() == 1 && target.sym_size(0) == 1);
    TORCH_CHECK_VALUE(one || target.dim() != 1, "cross_entropy: expected target of shape () to ",
                      "match input ", sizes, ", got ", target.sym_sizes());
    TORCH_CHECK(one, "cross_entropy: expected target of shape () to match input ", sizes, ", got ",
                target.sym_sizes());
    return;
  }
  TORCH_CHECK_VALUE(target.dim() > 0 && target.sym_size(0) == sizes[0],
                    "cross_entropy: expected target of batch size ", sizes[0], " to match input ",
                    sizes, ", got target of shape ", target.sym_sizes());
  const c10::SymDimVector expected = row_shape(input);
  TORCH_CHECK(target.sym_sizes() == c10::SymIntArrayRef(expected),
              "cross_entropy: expected target of shape ", c10::SymIntArrayRef(expected),
              " to match input ", sizes, ", got ", target.sym_sizes());
}

inline void cross_entropy(const CrossEntropyOptions& options, const at::Tensor& input,
                          const at::Tensor& target, const std::optional<at::Tensor>& weight,
                          std::optional<at::ScalarType> dtype) {
  const auto [reduction, ignore_index, label_smoothing] = options;
  TORCH_CHECK(label_smoothing >= 0.0 && label_smoothing <= 1.0,
              "cross_entropy: expected label_smoothing between 0.0 and 1.0, got ", label_smoothing);
  TORCH_CHECK_VALUE(reduction >= kNone && reduction <= kSum,
                    "cross_entropy: expected reduction 0 (none), 1 (mean) or 2 (sum), got ",
                    reduction);
  TORCH_CHECK_VALUE(input.dim() >= 1,
                    "cross_entropy: expected input of 1 or more dimensions, got a 0-d tensor");
  softmax("cross_entropy", input);
  const c10::SymInt classes = input.sym_size(class_dim(input));
  if (weight.has_value() && weight->defined()) {
    TORCH_CHECK(weight->dim() == 1 && weight->sym_size(0) == classes,
                "cross_entropy: expected weight of shape [", classes, "], one for each class, got ",
                weight->sym_sizes());
    TORCH_CHECK(at::isFloatingType(weight->scalar_type()),
                "cross_entropy: expected weight of a floating point dtype, got ",
                weight->scalar_type());
    TORCH_CHECK(weight->device() == input.device(), "cross_entropy: expected weight on device ",
                input.device(), " like input, got ", weight->device());
  }
  TORCH_CHECK(target.device() == input.device(), "cross_entropy: expected target on device ",
              input.device(), " like input, got ", target.device());
  if (has_class_probabilities(input, target)) {
    TORCH_CHECK(at::isFloatingType(target.scalar_type()),
                "cross_entropy: expected target of a floating point dtype, as it has the shape of "
                "input and so holds class probabilities, got ",
                target.scalar_type());
    TORCH_CHECK(ignore_index < 0,
                "cross_entropy: expected no ignore_index with class probabilities, got ",
                ignore_index);
    return;
  }
  const auto index = target.scalar_type();
  TORCH_CHECK(index == at::kLong || index == at::kInt || index == at::kByte,
              "cross_entropy: expected target of dtype int64, int32 or uint8, as class indices, "
              "got ",
              index);
  // A loss dtype of its own comes from autocast, which native casts the weight under too.
  TORCH_CHECK(!weight.has_value() || !weight->defined() || dtype.has_value() ||
                  weight->scalar_type() == input.scalar_type(),
              "cross_entropy: expected weight of dtype ", input.scalar_type(),
              " to match input, got ", weight->scalar_type());
  index_target_shape(input, target);
}

/// The arguments of a backward operator that its forward does not have.
inline void cross_entropy_backward(const CrossEntropyOptions& options,
                                   const at::Tensor& grad_output, const at::Tensor& input,
                                   const at::Tensor& target,
                                   const std::optional<at::Tensor>& weight,
                                   const at::Tensor& statistics, const at::Tensor& normalizer) {
  cross_entropy(options, input, target, weight, grad_output.scalar_type());
  for (const at::Tensor& tensor : {grad_output, statistics, normalizer}) {
    TORCH_CHECK(
        tensor.device() == input.device(),
        "cross_entropy_backward: expected grad_output, statistics and normalizer on device ",
        input.device(), " like input, got ", tensor.device());
  }
}

}  // namespace torchsoftmax::checks
