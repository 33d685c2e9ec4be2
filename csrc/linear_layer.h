#pragma once
// A linear layer in front of a loss, in the form that the definition and the chunk loop take: the
// leading dimensions of the input as one, and the weight as a matrix.

#include <ATen/ops/empty.h>

#include "linear_checks.h"

namespace torchsoftmax {

struct LinearLayer {
  Tensor input;   // (N, in_features)
  Tensor weight;  // (C * d1 * … * dK, in_features)
  Tensor bias;    // (C * d1 * … * dK), or undefined

  LinearLayer(const Tensor& given_input, const Tensor& given_weight,
              const OptionalTensor& given_bias)
      : input(as_matrix(given_input)),
        weight(as_matrix(given_weight)),
        bias(defined_or_empty(given_bias)) {
    bias = bias.defined() ? bias.reshape({-1}) : bias;
  }

 private:
  /// All dimensions but the last as one. Of 0 features, -1 could be any number of rows.
  static Tensor as_matrix(const Tensor& values) {
    c10::SymInt rows = 1;
    for (const c10::SymInt& size : values.sym_sizes().slice(0, values.dim() - 1)) {
      rows *= size;
    }
    return values.reshape_symint({rows, values.sym_size(-1)});
  }
};

/// linear_cross_entropy's arguments after their checks.
struct LinearCrossEntropyArgs {
  LinearLayer layer;
  // Of the logits, (N, C, d1, …, dK). `input` is of their shape, and one element in memory.
  CrossEntropyArgs rows;         // class indices as int64
  c10::SymDimVector loss_shape;  // with reduction none

  LinearCrossEntropyArgs(const CrossEntropyArgs& args, const Tensor& linear_weight,
                         const OptionalTensor& linear_bias, const OptionalTensor& normalizer,
                         Dtype dtype, std::optional<int64_t> chunk_size)
      : layer(checked(args.input, linear_weight, linear_bias, chunk_size)), rows(args) {
    const auto logits = checks::logits_shape(args.input, linear_weight);
    const auto lead = static_cast<size_t>(args.input.dim() - 1);
    rows.function = kName;
    rows.logits = "logits";
    rows.input = at::empty({1}, args.input.options()).expand_symint(logits);
    loss_shape = checks::row_shape(args.input, args.input.dim() - 1);
    loss_shape.insert(loss_shape.end(), logits.begin() + lead + 1, logits.end());
    if (lead <= 1) {  // shapes that cross_entropy knows
      checks::cross_entropy(rows, normalizer, dtype);
    } else {
      leading_dimensions(logits);
    }
    flatten(logits, lead);
    if (lead > 1) {
      checks::cross_entropy(rows, normalizer, dtype);
    }
  }

  bool probabilities() const { return checks::has_class_probabilities(rows.input, rows.target); }

  /// Whether each row of the layer has a class index that is not ignored.
  Tensor has_target() const {
    const Tensor valid = rows.target.ne(rows.ignore_index);
    return valid.dim() > 1 ? valid.flatten(1).any(1) : valid;
  }

 private:
  static constexpr const char* kName = "linear_cross_entropy";

  static LinearLayer checked(const Tensor& input, const Tensor& weight, const OptionalTensor& bias,
                             std::optional<int64_t> chunk_size) {
    checks::linear(kName, input, weight, bias, chunk_size);
    return {input, weight, bias};
  }

  /// Of target and sample_weight, before they are lost.
  void leading_dimensions(c10::SymIntArrayRef logits) const {
    const c10::SymIntArrayRef expected(loss_shape);
    const Tensor &target = rows.target, &weight = rows.sample_weight;
    const bool indices = target.dim() == static_cast<int64_t>(expected.size());
    TORCH_CHECK(checks::equal(target.sym_sizes(), indices ? expected : logits), kName,
                ": expected target of shape ", expected, " (class indices) or ", logits,
                " (class probabilities), got ", target.sym_sizes());
    TORCH_CHECK_VALUE(!weight.defined() || checks::equal(weight.sym_sizes(), expected), kName,
                      ": expected sample_weight of shape ", expected, ", one for each row, got ",
                      weight.sym_sizes());
  }

  void flatten(c10::SymIntArrayRef logits, size_t lead) {
    const auto batched = [&](c10::SymIntArrayRef rest) {
      c10::SymDimVector shape(rest.begin(), rest.end());
      shape.insert(shape.begin(), layer.input.sym_size(0));
      return shape;
    };
    const auto classes_on = logits.slice(lead);
    const auto shape = batched(classes_on), row_shape = batched(classes_on.slice(1));
    const bool probabilities = checks::has_class_probabilities(rows.input, rows.target);
    rows.input = at::empty({1}, rows.input.options()).expand_symint(shape);
    rows.target = rows.target.reshape_symint(probabilities ? shape : row_shape);
    if (!probabilities) {
      rows.target = rows.target.to(at::kLong);
    }
    if (rows.sample_weight.defined()) {
      rows.sample_weight = rows.sample_weight.reshape_symint(row_shape);
    }
  }
};

}  // namespace torchsoftmax
