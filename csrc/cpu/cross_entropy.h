#pragma once
// cross_entropy on the loop of rows.h.
//
// With per-class weights w, smoothing e and C classes, a row's loss and gradient are
//   loss = -sum_c q_c log p_c        grad_c = Q p_c - q_c        p = softmax(z), Q = sum_c q_c
// where q_c = (1 - e) w_c [c = target] + e w_c / C for a class index, and
//       q_c = w_c ((1 - e) target_c + e / C)       for class probabilities.
// Forward keeps two statistics of a row, its maximum m and s = log(sum exp(z - m)), so that
// log p_c = (z_c - m) - s without loss of digits; backward recomputes p from them.

#include <ATen/Dispatch.h>
#include <ATen/ops/ones.h>

#include "../checks.h"
#include "deterministic_sum.h"
#include "row_target.h"
#include "rows.h"
#include "tensors.h"

namespace torchsoftmax::cpu {

using Weight = const std::optional<at::Tensor>&;

/// How the classes that are not the target share in the loss.
template <typename acc_t>
struct Smoothing {
  acc_t target;      // 1 - e
  acc_t each_class;  // e / C
  const acc_t* weight;
  acc_t weight_sum;
};

/// The inputs of every cross-entropy kernel in the form that the policies take.
template <typename acc_t>
struct Prepared {
  at::Tensor target;  // int64 and contiguous, or class probabilities
  at::Tensor weight;  // acc_t and contiguous, or undefined
  RowTarget<acc_t> rows;
  Smoothing<acc_t> smoothing;
  bool smooth;
  bool probabilities;

  Prepared(const CrossEntropyOptions& options, const at::Tensor& input, const at::Tensor& given,
           Weight given_weight, BadTarget& bad) {
    probabilities = checks::has_class_probabilities(input, given);
    smooth = options.label_smoothing > 0;
    const int64_t classes = input.size(checks::class_dim(input));
    const auto accumulated = input.options().dtype(c10::CppTypeToScalarType<acc_t>::value);
    if (given_weight.has_value() && given_weight->defined()) {
      weight = given_weight->to(accumulated.dtype()).contiguous();
    } else if (smooth || probabilities) {
      weight = at::ones({classes}, accumulated);
    }
    const acc_t* weights = weight.defined() ? weight.const_data_ptr<acc_t>() : nullptr;
    const auto share = static_cast<acc_t>(options.label_smoothing / std::max<int64_t>(1, classes));
    smoothing = {static_cast<acc_t>(1 - options.label_smoothing), share, weights,
                 smooth ? static_cast<acc_t>(deterministic_sum(weights, classes)) : acc_t(0)};
    if (probabilities) {
      target = given;
      return;
    }
    target = given.to(at::kLong).contiguous();
    rows = {target.const_data_ptr<int64_t>(), weights, options.ignore_index, classes, &bad};
  }
};

template <typename Body>
void dispatch(const at::Tensor& input, Body&& body) {
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, input.scalar_type(), "cross_entropy",
                                  [&] { body(scalar_t{}); });
}

/// Calls `run` with the class probabilities as rows, in the input's dtype or the accumulation type.
template <typename scalar_t, typename Run>
void with_probabilities(const at::Tensor& layout, const at::Tensor& target, int64_t dim,
                        Run&& run) {
  using acc_t = acc_type<scalar_t>;
  const at::Tensor operand = like_rows_of(layout, target, dim);
  if (operand.scalar_type() == c10::CppTypeToScalarType<scalar_t>::value) {
    run(rows_of<const scalar_t>(operand, dim));
  } else {
    const at::Tensor wide = operand.to(c10::CppTypeToScalarType<acc_t>::value);
    run(rows_of<const acc_t>(wide, dim));
  }
}

}  // namespace torchsoftmax::cpu
