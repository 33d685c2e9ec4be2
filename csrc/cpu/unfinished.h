#pragma once
// Rows along which a walk has gone, and of which something is left to do that takes a few values of
// each: done for as many at once as a vector has lanes, it takes a fraction of the time, and
// nothing waits for the end of a row.

#include "reduction.h"

namespace torchsoftmax::cpu {

/// Values and a sum of each of some neighbouring rows.
template <typename acc_t>
class UnfinishedRows {
 public:
  static constexpr size_t kMostValues = 5;
  using V = Vec<acc_t>;

  int64_t count() const { return count_; }
  bool full() const { return count_ == kMost; }
  void clear() { count_ = 0; }

  /// Those of the next row, in every lane.
  template <typename... Values>
  void add(const RoundedSum<acc_t>& sum, const Values&... values) {
    static_assert(sizeof...(values) <= kMostValues);
    size_t k = 0;
    ((values_[k++][count_] = first_lane(values)), ...);
    sums_[count_] = sum.number();
    ++count_;
  }

  /// Those of all rows, each in its lane.
  template <size_t kValues>
  std::array<V, kValues> values() const {
    std::array<V, kValues> result;
    unrolled<kValues>([&](auto k) { result[k] = V::loadu(values_[k].data()); });
    return result;
  }
  RoundedSum<acc_t> sums() const { return RoundedSum<acc_t>(sums_); }

 private:
  static constexpr int64_t kMost = kLanes<acc_t>;

  int64_t count_ = 0;
  std::array<std::array<acc_t, kMost>, kMostValues> values_{};
  std::array<double, kMost> sums_{};
};

}  // namespace torchsoftmax::cpu
