#pragma once
// Every check of an operator's inputs, once: used by the CPU kernels, Meta and the composites.
// They read shapes and dtypes only, never data. Each message names the function, what was expected
// and what came; the exception type is the one that PyTorch's own function raises.

#include <ATen/ExpandUtils.h>
#include <ATen/OpMathType.h>
#include <ATen/WrapDimUtils.h>
#include <ATen/core/Tensor.h>
#include <c10/util/Exception.h>

#include <cmath>
#include <sstream>
#include <string>

#include "ops.h"

namespace torchsoftmax::checks {

/// Values of `reduction`: those of at::Reduction, and the sum over the first dimension's size.
enum Reduction : int64_t { kNone = 0, kMean = 1, kSum = 2, kBatchMean = 3 };

/// Whether they are equal. Of sizes that torch.export does not know: they are, or the program
/// raises where it runs.
inline bool equal(const c10::SymInt& a, const c10::SymInt& b) {
  return a.sym_eq(b).expect_true(__FILE__, __LINE__);
}
inline bool equal(c10::SymIntArrayRef a, c10::SymIntArrayRef b) {
  bool result = a.size() == b.size();
  for (size_t d = 0; result && d < a.size(); ++d) {
    result = equal(a[d], b[d]);
  }
  return result;
}

/// Whether it is known to be 0.
inline bool is_empty_size(const c10::SymInt& size) { return TORCH_GUARD_OR_FALSE(size.sym_eq(0)); }
inline bool is_empty(const Tensor& tensor) { return is_empty_size(tensor.sym_numel()); }

inline void strided(const char* name, const char* argument, const Tensor& tensor) {
  TORCH_CHECK_NOT_IMPLEMENTED(tensor.layout() == at::kStrided, name, ": expected ", argument,
                              " of layout strided, got ", tensor.layout());
}

inline void floating(const char* name, const char* argument, const Tensor& tensor) {
  strided(name, argument, tensor);
  const auto dtype = tensor.scalar_type();
  TORCH_CHECK_NOT_IMPLEMENTED(at::isFloatingType(dtype) && c10::elementSize(dtype) >= 2, name,
                              ": expected ", argument,
                              " of dtype float16, bfloat16, float32 or float64, got ", dtype);
}

inline void same_device(const char* name, const char* argument, const Tensor& tensor,
                        const Tensor& input) {
  TORCH_CHECK(tensor.device() == input.device(), name, ": expected ", argument, " on device ",
              input.device(), " like input, got ", tensor.device());
}

inline void positive(const char* name, const char* argument, double value) {
  TORCH_CHECK_VALUE(value > 0 && std::isfinite(value), name, ": expected ", argument,
                    " to be positive and finite, got ", value);
}

inline void mask(const char* name, const OptionalTensor& mask, const Tensor& input) {
  if (!mask.has_value() || !mask->defined()) {
    return;
  }
  TORCH_CHECK(mask->scalar_type() == at::kBool, name,
              ": expected mask of dtype bool, True where an entry takes part, got ",
              mask->scalar_type());
  same_device(name, "mask", *mask, input);
  const auto sizes = input.sym_sizes(), given = mask->sym_sizes();
  bool fits = given.size() <= sizes.size();
  for (size_t d = 1; fits && d <= given.size(); ++d) {
    const c10::SymInt &size = sizes[sizes.size() - d], &of_mask = given[given.size() - d];
    fits = TORCH_GUARD_OR_FALSE(of_mask.sym_eq(1)) || equal(of_mask, size);
  }
  TORCH_CHECK(fits, name, ": expected mask of a shape that broadcasts to that of input, ", sizes,
              ", got ", given);
}

/// The message of an IndexError for a class index that is out of range.
inline std::string out_of_range(std::string_view name, int64_t index, int64_t classes,
                                std::optional<int64_t> ignore_index) {
  std::ostringstream message;
  message << name << ": Target " << index << " is out of bounds: expected 0 <= target < "
          << classes;
  if (ignore_index.has_value()) {
    message << " or ignore_index (" << *ignore_index << ")";
  }
  return message.str();
}

/// `input` is already of the dtype to compute in.
inline void softmax(const char* name, const Tensor& input, double temperature,
                    const OptionalTensor& given_mask) {
  strided(name, "input", input);
  const auto dtype = input.scalar_type();
  TORCH_CHECK_NOT_IMPLEMENTED(
      at::isFloatingType(dtype) && c10::elementSize(dtype) >= 2, name,
      ": expected input of dtype float16, bfloat16, float32 or float64 (or the argument dtype), "
      "got ",
      dtype);
  positive(name, "temperature", temperature);
  mask(name, given_mask, input);
}

inline void softmax_backward(const char* name, const Tensor& grad_output, const Tensor& output,
                             double temperature, const OptionalTensor& given_mask) {
  softmax(name, output, temperature, given_mask);
  TORCH_CHECK(equal(grad_output.sym_sizes(), output.sym_sizes()), name,
              ": expected grad_output of shape ", output.sym_sizes(), " to match output, got ",
              grad_output.sym_sizes());
  TORCH_CHECK(grad_output.device() == output.device(), name, ": expected grad_output on device ",
              output.device(), " like output, got ", grad_output.device());
  TORCH_CHECK(grad_output.scalar_type() == output.scalar_type(), name,
              ": expected grad_output of dtype ", output.scalar_type(), " to match output, got ",
              grad_output.scalar_type());
}

inline int64_t class_dim(const Tensor& input) { return input.dim() == 1 ? 0 : 1; }

/// Targets of the input's own shape are class probabilities, all others class indices.
inline bool has_class_probabilities(const Tensor& input, const Tensor& target) {
  if (input.dim() != target.dim()) {
    return false;
  }
  if (at::isFloatingType(target.scalar_type())) {
    return equal(input.sym_sizes(), target.sym_sizes());
  }
  bool same = true;
  for (int64_t d = 0; same && d < input.dim(); ++d) {
    same = TORCH_GUARD_OR_FALSE(input.sym_size(d).sym_eq(target.sym_size(d)));
  }
  return same;
}

/// The shape of one value for each row: the input's without its classes.
inline c10::SymDimVector row_shape(const Tensor& input, int64_t dim) {
  const auto sizes = input.sym_sizes();
  c10::SymDimVector shape(sizes.begin(), sizes.end());
  if (!shape.empty()) {
    shape.erase(shape.begin() + dim);
  }
  return shape;
}

/// Returns `dim` from 0 on.
inline int64_t derivatives(const char* name, const Tensor& output, int64_t dim,
                           double temperature) {
  floating(name, "output", output);
  positive(name, "temperature", temperature);
  return at::maybe_wrap_dim(dim, output.dim());
}

inline int64_t softmax_jacobian(const Tensor& output, int64_t dim, double temperature) {
  return derivatives("softmax_jacobian", output, dim, temperature);
}

inline int64_t softmax_hessian(const Tensor& output, int64_t dim, double temperature) {
  return derivatives("softmax_hessian", output, dim, temperature);
}

/// The shape of the derivatives of each row: that of the rows, and the number of classes by each
/// index of them.
inline c10::SymDimVector derivatives_shape(const Tensor& output, int64_t dim, int64_t indices) {
  auto shape = row_shape(output, dim);
  shape.append(indices, output.dim() == 0 ? c10::SymInt(1) : output.sym_size(dim));
  return shape;
}

inline c10::SymDimVector row_shape(const Tensor& input) {
  return row_shape(input, class_dim(input));
}

inline void index_dtype(const char* name, const char* argument, const Tensor& index) {
  const auto dtype = index.scalar_type();
  TORCH_CHECK(dtype == at::kLong || dtype == at::kInt || dtype == at::kByte, name, ": expected ",
              argument, " of dtype int64, int32 or uint8, as class indices, got ", dtype);
}

inline void index_target_shape(const CrossEntropyArgs& args) {
  const Tensor &input = args.input, &target = args.target;
  const auto sizes = input.sym_sizes();
  if (input.dim() == 1) {
    const bool one = target.dim() == 0 || (target.dim() == 1 && equal(target.sym_size(0), 1));
    TORCH_CHECK_VALUE(one || target.dim() != 1, args.function,
                      ": expected target of shape () to match ", args.logits, " ", sizes, ", got ",
                      target.sym_sizes());
    TORCH_CHECK(one, args.function, ": expected target of shape () to match ", args.logits, " ",
                sizes, ", got ", target.sym_sizes());
    return;
  }
  TORCH_CHECK_VALUE(target.dim() > 0 && equal(target.sym_size(0), sizes[0]), args.function,
                    ": expected target of batch size ", sizes[0], " to match ", args.logits, " ",
                    sizes, ", got target of shape ", target.sym_sizes());
  const c10::SymDimVector expected = row_shape(input);
  TORCH_CHECK(equal(target.sym_sizes(), c10::SymIntArrayRef(expected)), args.function,
              ": expected target of shape ", c10::SymIntArrayRef(expected), " to match ",
              args.logits, " ", sizes, ", got ", target.sym_sizes());
}

inline void cross_entropy_options(const CrossEntropyArgs& args) {
  TORCH_CHECK(args.label_smoothing >= 0.0 && args.label_smoothing <= 1.0, args.function,
              ": expected label_smoothing between 0.0 and 1.0, got ", args.label_smoothing);
  TORCH_CHECK_VALUE(args.reduction >= kNone && args.reduction <= kSum, args.function,
                    ": expected reduction 0 (none), 1 (mean) or 2 (sum), got ", args.reduction);
  positive(args.function, "temperature", args.temperature);
  if (args.softcap != 0) {
    positive(args.function, "softcap", args.softcap);
  }
  TORCH_CHECK_VALUE(args.z_loss >= 0 && std::isfinite(args.z_loss), args.function,
                    ": expected z_loss to be 0 or positive, and finite, got ", args.z_loss);
}

inline void class_weight(const CrossEntropyArgs& args, Dtype dtype, bool probabilities) {
  const Tensor& weight = args.weight;
  if (!weight.defined()) {
    return;
  }
  const c10::SymInt classes = args.input.sym_size(class_dim(args.input));
  TORCH_CHECK(weight.dim() == 1 && equal(weight.sym_size(0), classes), args.function,
              ": expected weight of shape [", classes, "], one for each class, got ",
              weight.sym_sizes());
  TORCH_CHECK(at::isFloatingType(weight.scalar_type()), args.function,
              ": expected weight of a floating point dtype, got ", weight.scalar_type());
  same_device(args.function, "weight", weight, args.input);
  // A loss dtype of its own comes from autocast, which native casts the weight under too.
  const auto given = weight.scalar_type();
  TORCH_CHECK(probabilities || given == args.input.scalar_type() || given == dtype, args.function,
              ": expected weight of dtype ", args.input.scalar_type(), " to match ", args.logits,
              ", got ", weight.scalar_type());
}

inline void sample_weight(const CrossEntropyArgs& args) {
  const Tensor& weight = args.sample_weight;
  if (!weight.defined()) {
    return;
  }
  const c10::SymDimVector rows = row_shape(args.input);
  TORCH_CHECK_VALUE(equal(weight.sym_sizes(), c10::SymIntArrayRef(rows)), args.function,
                    ": expected sample_weight of shape ", c10::SymIntArrayRef(rows),
                    ", one for each row of ", args.logits, " ", args.input.sym_sizes(), ", got ",
                    weight.sym_sizes());
  TORCH_CHECK_VALUE(at::isFloatingType(weight.scalar_type()), args.function,
                    ": expected sample_weight of a floating point dtype, got ",
                    weight.scalar_type());
  same_device(args.function, "sample_weight", weight, args.input);
}

inline void cross_entropy(const CrossEntropyArgs& args, const OptionalTensor& normalizer,
                          Dtype dtype) {
  const Tensor& input = args.input;
  const Tensor& target = args.target;
  cross_entropy_options(args);
  floating(args.function, args.logits, input);
  same_device(args.function, "target", target, input);
  const bool probabilities = has_class_probabilities(input, target);
  TORCH_CHECK(!probabilities || at::isFloatingType(target.scalar_type()), args.function,
              ": expected target of a floating point dtype, as it has the shape of ", args.logits,
              " and so holds class probabilities, got ", target.scalar_type());
  TORCH_CHECK_INDEX(input.dim() >= 1, args.function,
                    ": expected input of 1 or more dimensions, got a 0-d tensor");
  class_weight(args, dtype, probabilities);
  sample_weight(args);
  if (normalizer.has_value() && normalizer->defined()) {
    TORCH_CHECK_VALUE(args.reduction == kMean, args.function,
                      ": expected no normalizer with a reduction that is not 'mean', "
                      "for it replaces what the mean divides by");
    TORCH_CHECK_VALUE(normalizer->dim() == 0 && !normalizer->is_complex(), args.function,
                      ": expected normalizer to be a number or a real 0-d tensor, got "
                      "a tensor of dtype ",
                      normalizer->scalar_type(), " and shape ", normalizer->sym_sizes());
    if (!normalizer->is_cpu()) {  // a number may be there for all devices
      same_device(args.function, "normalizer", *normalizer, input);
    }
  }
  if (probabilities) {
    TORCH_CHECK(args.ignore_index < 0, args.function,
                ": expected no ignore_index with class probabilities, got ", args.ignore_index);
    return;
  }
  index_target_shape(args);
  index_dtype(args.function, "target", target);
}

inline void gradient_in_forward(const CrossEntropyArgs& args) {
  TORCH_CHECK_VALUE(args.reduction != kNone,
                    "cross_entropy_forward: expected with_gradient with reduction mean or sum, got "
                    "none, whose upstream gradient differs from row to row");
}

/// Of the operator that writes the gradient over the input.
inline void cross_entropy_with_gradient(const CrossEntropyArgs& args, const Tensor& grad_output) {
  const char* name = "cross_entropy_with_gradient_";
  TORCH_CHECK_VALUE(args.reduction == kNone, name, ": expected reduction 0 (none), got ",
                    args.reduction);
  cross_entropy(args, std::nullopt, at::toOpMathType(args.input.scalar_type()));
  same_device(name, "grad_output", grad_output, args.input);
  const auto shape = row_shape(args.input);
  TORCH_CHECK(equal(grad_output.sym_sizes(), c10::SymIntArrayRef(shape)), name,
              ": expected grad_output of the shape of the loss, ", c10::SymIntArrayRef(shape),
              ", got ", grad_output.sym_sizes());
}

inline void scale(const Tensor& values, const Tensor& factor) {
  floating("scale_", "values", values);
  floating("scale_", "factor", factor);
  same_device("scale_", "factor", factor, values);
  TORCH_CHECK(factor.dim() == 0, "scale_: expected factor of shape [], got ", factor.sym_sizes());
}

/// Whether `stacked` holds `count` values for each row, in the accumulation type of `input`.
inline void row_statistics(const char* name, const char* forward, const Tensor& stacked,
                           int64_t count, const Tensor& input, c10::SymDimVector rows) {
  const auto accumulated = at::toOpMathType(input.scalar_type());
  rows.insert(rows.begin(), count);
  TORCH_CHECK(
      stacked.scalar_type() == accumulated && equal(stacked.sym_sizes(), c10::SymIntArrayRef(rows)),
      name, ": expected statistics of ", forward, ", of dtype ", accumulated, " and shape ",
      c10::SymIntArrayRef(rows), ", got ", stacked.scalar_type(), " of shape ",
      stacked.sym_sizes());
  same_device(name, "statistics", stacked, input);
}

/// What a caller of a backward operator could get wrong.
inline void cross_entropy_backward(const CrossEntropyArgs& args, const Tensor& grad_output,
                                   const Tensor& statistics, const Tensor& normalizer) {
  const char* name = "cross_entropy_backward";
  cross_entropy(args, std::nullopt, grad_output.scalar_type());
  same_device(name, "grad_output", grad_output, args.input);
  same_device(name, "normalizer", normalizer, args.input);
  const auto shape = row_shape(args.input);
  TORCH_CHECK(args.reduction == kNone ? equal(grad_output.sym_sizes(), c10::SymIntArrayRef(shape))
                                      : grad_output.dim() == 0,
              name, ": expected grad_output of the shape of the loss, got ",
              grad_output.sym_sizes());
  row_statistics(name, "cross_entropy_forward", statistics, 2, args.input, shape);
  const auto accumulated = at::toOpMathType(args.input.scalar_type());
  TORCH_CHECK(normalizer.scalar_type() == accumulated && normalizer.dim() == 0, name,
              ": expected normalizer of cross_entropy_forward, of dtype ", accumulated,
              " and shape [], got ", normalizer.scalar_type(), " of shape ",
              normalizer.sym_sizes());
}

inline void cross_entropy_target_backward(const CrossEntropyArgs& args, const Tensor& grad_output,
                                          const Tensor& statistics, const Tensor& normalizer) {
  cross_entropy_backward(args, grad_output, statistics, normalizer);
  TORCH_CHECK(has_class_probabilities(args.input, args.target),
              "cross_entropy_target_backward: expected class probabilities as target, got class "
              "indices");
}

/// The name that users know the call by.
inline const char* statistics_name(const OptionalTensor& index, bool with_argmax) {
  return with_argmax ? "softmax_statistics"
                     : (index.has_value() ? "selective_log_softmax" : "entropy_with_logits");
}

/// Returns `dim` from 0 on.
inline int64_t softmax_statistics(const char* name, const Tensor& input,
                                  const OptionalTensor& index, const OptionalTensor& given_mask,
                                  int64_t dim, double temperature, bool with_argmax) {
  floating(name, "input", input);
  positive(name, "temperature", temperature);
  mask(name, given_mask, input);
  TORCH_CHECK(!given_mask.has_value() || (!index.has_value() && !with_argmax), name,
              ": expected a mask for the entropy alone, got indices or argmax with it");
  dim = at::maybe_wrap_dim(dim, input.dim());
  const bool picks = with_argmax || (index.has_value() && !is_empty(*index));
  TORCH_CHECK_INDEX(!picks || input.dim() == 0 || !is_empty_size(input.sym_size(dim)), name,
                    ": expected 1 or more classes along dim ", dim, ", got input of shape ",
                    input.sym_sizes());
  if (index.has_value()) {
    index_dtype(name, "indices", *index);
    same_device(name, "indices", *index, input);
    bool fits = index->dim() == input.dim();
    for (int64_t d = 0; fits && d < input.dim(); ++d) {
      fits = d == dim || equal(index->sym_size(d), input.sym_size(d));
    }
    TORCH_CHECK(fits, name, ": expected indices of the shape of input, ", input.sym_sizes(),
                ", except along dim ", dim, ", got ", index->sym_sizes());
  }
  return dim;
}

inline int64_t softmax_statistics_backward(const Tensor& grad_log_prob, const Tensor& grad_lse,
                                           const Tensor& grad_entropy, const Tensor& input,
                                           const OptionalTensor& index,
                                           const OptionalTensor& given_mask,
                                           const Tensor& statistics, int64_t dim,
                                           double temperature) {
  const char* name = "softmax_statistics_backward";
  dim = softmax_statistics(name, input, index, given_mask, dim, temperature, false);
  const auto rows = row_shape(input, dim);
  row_statistics(name, "softmax_statistics", statistics, 3, input, rows);
  const auto gradient = [&](const char* argument, const Tensor& grad, c10::SymIntArrayRef shape) {
    TORCH_CHECK(equal(grad.sym_sizes(), shape), name, ": expected ", argument, " of shape ", shape,
                ", got ", grad.sym_sizes());
    floating(name, argument, grad);
    same_device(name, argument, grad, input);
  };
  gradient("grad_lse", grad_lse, rows);
  gradient("grad_entropy", grad_entropy, rows);
  if (index.has_value()) {
    gradient("grad_log_prob", grad_log_prob, index->sym_sizes());
  }
  return dim;
}

inline void kl_div_with_logits(const Tensor& input, const Tensor& target, int64_t reduction,
                               double temperature) {
  const char* name = "kl_div_with_logits";
  floating(name, "input", input);
  floating(name, "target", target);
  positive(name, "temperature", temperature);
  TORCH_CHECK_VALUE(reduction >= kNone && reduction <= kBatchMean, name,
                    ": expected reduction 0 (none), 1 (mean), 2 (sum) or 3 (batchmean), got ",
                    reduction);
  TORCH_CHECK_VALUE(input.dim() >= 1, name,
                    ": expected input of 1 or more dimensions, got a 0-d tensor");
  TORCH_CHECK_VALUE(equal(input.sym_sizes(), target.sym_sizes()), name,
                    ": expected target of the shape of input, ", input.sym_sizes(), ", got ",
                    target.sym_sizes());
  TORCH_CHECK(input.scalar_type() == target.scalar_type(), name, ": expected target of dtype ",
              input.scalar_type(), " to match input, got ", target.scalar_type());
  same_device(name, "target", target, input);
}

inline void kl_div_with_logits_backward(const Tensor& grad_output, const Tensor& input,
                                        const Tensor& target, const Tensor& statistics,
                                        int64_t reduction, double temperature) {
  const char* name = "kl_div_with_logits_backward";
  kl_div_with_logits(input, target, reduction, temperature);
  const auto rows = row_shape(input, input.dim() - 1);
  row_statistics(name, "kl_div_with_logits_forward", statistics, 5, input, rows);
  same_device(name, "grad_output", grad_output, input);
  TORCH_CHECK(reduction == kNone ? equal(grad_output.sym_sizes(), c10::SymIntArrayRef(rows))
                                 : grad_output.dim() == 0,
              name, ": expected grad_output of the shape of the loss, got ",
              grad_output.sym_sizes());
}

/// What the sum over the rows is divided by.
inline c10::SymInt kl_div_divisor(const Tensor& input, int64_t reduction) {
  if (reduction == kMean) {
    return c10::multiply_integers(row_shape(input, input.dim() - 1));
  }
  return reduction == kBatchMean && input.dim() > 1 ? input.sym_size(0) : c10::SymInt(1);
}

}  // namespace torchsoftmax::checks
