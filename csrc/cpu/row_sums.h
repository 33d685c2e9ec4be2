#pragma once
// What the mean of the rows' losses divides by, and sums over rows.

#include <ATen/core/Tensor.h>

#include "../policies/device.h"
#include "deterministic_sum.h"
#include "memory.h"

namespace torchsoftmax::cpu {

template <typename acc_t>
at::Tensor number(const at::TensorOptions& options, double value) {
  at::Tensor result = empty_contiguous({}, options);
  *result.mutable_data_ptr<acc_t>() = static_cast<acc_t>(value);
  return result;
}

/// Of contiguous values.
template <typename acc_t>
at::Tensor sum_of(const at::Tensor& values) {
  return number<acc_t>(values.options(),
                       deterministic_sum(values.const_data_ptr<acc_t>(), values.numel()));
}

/// term(0) + ... + term(count - 1), times a factor.
template <typename acc_t, typename Term>
at::Tensor sum_of_terms(const at::TensorOptions& accumulated, int64_t count, const Term& term,
                        double factor) {
  return number<acc_t>(accumulated, factor * deterministic_sum_of(count, term));
}

/// Each of them, times a factor.
template <typename acc_t, typename Term>
void write_terms(acc_t* to, int64_t count, const Term& term, double factor) {
  for (int64_t i = 0; i < count; ++i) {
    to[i] = static_cast<acc_t>(factor * term(i));
  }
}

template <typename acc_t>
class Normalizer {
 public:
  Normalizer(const at::TensorOptions& accumulated, double total)
      : accumulated_(accumulated),
        total_(total),
        gradients_{1, over(acc_t(1), static_cast<acc_t>(total))} {}
  Normalizer(const at::TensorOptions& accumulated, const at::Tensor& given)
      : Normalizer(accumulated, given.item<double>()) {}

  /// Of term(0) + ... + term(count - 1).
  template <typename Term>
  static Normalizer sum(const at::TensorOptions& accumulated, int64_t count, const Term& term) {
    return Normalizer(accumulated, deterministic_sum_of(count, term));
  }

  at::Tensor tensor() const { return number<acc_t>(accumulated_, total_); }
  /// d reduced / d loss of each row.
  const acc_t* gradient(bool mean) const { return &gradients_[mean ? 1 : 0]; }
  /// The sum or the mean of the losses. It may be left in their dtype.
  at::Tensor reduced(const at::Tensor& losses, bool mean, at::ScalarType /*wanted*/) const {
    const double sum = deterministic_sum(losses.const_data_ptr<acc_t>(), losses.numel());
    return number<acc_t>(accumulated_, mean ? over(sum, total_) : sum);
  }

 private:
  at::TensorOptions accumulated_;
  double total_;
  acc_t gradients_[2];
};

}  // namespace torchsoftmax::cpu
