#pragma once
// What vectors of a row are reduced with, and in which order parts of a row are.

#include <array>
#include <cmath>
#include <cstdint>
#include <limits>
#include <type_traits>

#include "../policies/exact.h"
#include "log.h"

namespace torchsoftmax::cpu {

// kRun: how many are put together one by one, before that is an operand of a reduction in pairs; 0:
// all of them.

struct Larger {
  static constexpr int64_t kRun = 0;

  template <typename V>
  static V neutral() {
    return V(-std::numeric_limits<float>::infinity());
  }
  template <typename V>
  V operator()(const V& a, const V& b) const {
    return maximum_dropping_nan(a, b);
  }
};

struct Plus {
  static constexpr int64_t kRun = 0;

  template <typename V>
  static V neutral() {
    return V(0);
  }
  template <typename V>
  V operator()(const V& a, const V& b) const {
    return a + b;
  }
};

/// Exact for 2^n equal terms: four of them have an exact sum whatever they are, eight have not.
struct PlusInPairs : Plus {
  static constexpr int64_t kRun = 4;
};

/// Sums, rounded, and in double, as they were before: of one row in every lane, or of as many rows
/// as there are lanes.
template <typename acc_t>
struct RoundedSum : Vec<acc_t> {
  static constexpr size_t kParts = kLanes<acc_t> / kLanes<double>;
  std::array<Vec<double>, kParts> sum;

  RoundedSum() = default;
  explicit RoundedSum(double number)
      : RoundedSum(of_each_part([&](auto) { return Vec<double>(number); })) {}
  explicit RoundedSum(const std::array<Vec<double>, kParts>& sum)
      : Vec<acc_t>(narrowed(sum)), sum(sum) {}
  explicit RoundedSum(const std::array<double, kLanes<acc_t>>& of_rows)
      : RoundedSum(of_each_part(
            [&](auto k) { return Vec<double>::loadu(of_rows.data() + k * kLanes<double>); })) {}

  std::array<double, kLanes<acc_t>> of_rows() const {
    std::array<double, kLanes<acc_t>> result;
    unrolled<kParts>([&](auto k) { sum[k].store(result.data() + k * kLanes<double>); });
    return result;
  }
  /// That of the first row.
  double number() const { return first_lane(sum[0]); }

 private:
  template <typename Part>
  static std::array<Vec<double>, kParts> of_each_part(const Part& part) {
    std::array<Vec<double>, kParts> result;
    unrolled<kParts>([&](auto k) { result[k] = part(k); });
    return result;
  }
};

/// Of a long row, without errors that grow with its length where terms are equal.
struct PlusInChunks : Plus {
  static constexpr int64_t kRun = 32;
};

/// Next to the largest term of a softmax, which is 1, every addition rounds the others. So the
/// lanes of a vector are added in double, and where partial sums are all there is to reduce, they
/// are in two parts.
struct PlusForLog : PlusInChunks {};

/// What terms of such a sum are added with.
template <typename acc_t, SumFor kFor>
using SumOf = std::conditional_t<
    kFor == SumFor::kLog, PlusForLog,
    std::conditional_t<kFor == SumFor::kItself, Plus,
                       std::conditional_t<kScaledTerms<acc_t>, PlusInPairs, PlusInChunks>>>;

template <int kCount, typename V>
TwoParts<V> swapped(const TwoParts<V>& value) {
  return {swapped<kCount>(value.high), swapped<kCount>(value.low)};
}

/// The reduction of all lanes, in every lane.
template <typename acc_t, typename Op>
Vec<acc_t> of_lanes(const Vec<acc_t>& part, const Op& op) {
  return of_all_lanes<acc_t>(part, op);
}
inline RoundedSum<float> of_lanes(const Vec<float>& part, const PlusForLog& op) {
  const auto [low, high] = widened(part);
  const Vec<double> sum = of_all_lanes<double>(low + high, op);
  return RoundedSum<float>({sum, sum});
}
inline RoundedSum<double> of_lanes(const Vec<double>& part, const PlusForLog&) {
  const TwoParts<Vec<double>> sum =
      of_all_lanes<double>(TwoParts<Vec<double>>{part, Vec<double>(0)},
                           [](const auto& a, const auto& b) { return a + b; });
  return RoundedSum<double>({sum.rounded()});
}

/// The logarithms of the sums of kRows rows, of one in every lane.
template <int kRows, typename acc_t>
Vec<acc_t> log_of_rows(const RoundedSum<acc_t>& sums) {
  const auto log = [](double sum) {
    if constexpr (std::is_same_v<acc_t, float>) {
      return static_cast<float>(log_of_sum(sum));
    } else {
      return std::log(sum);
    }
  };
  if constexpr (kRows == 1) {
    return Vec<acc_t>(log(sums.number()));
  } else {
    const auto values = sums.of_rows();
    std::array<acc_t, kLanes<acc_t>> logs;
    for (int64_t row = 0; row < kLanes<acc_t>; ++row) {
      logs[row] = log(values[row]);
    }
    return Vec<acc_t>::loadu(logs.data());
  }
}

/// Reduces what comes one after the other in pairs, these in pairs, and so on: the error of a sum
/// grows with the logarithm of their number.
template <typename V>
class InPairs {
 public:
  InPairs() {}

  template <typename Op>
  void add(V value, const Op& op) {
    for (uint64_t pairs = count_++; (pairs & 1) != 0; pairs >>= 1) {
      value = op(value, waiting_[--depth_]);
    }
    waiting_[depth_++] = value;
  }
  template <typename Op>
  V all(V last, const Op& op) const {
    for (int64_t k = depth_; k > 0; --k) {
      last = op(last, waiting_[k - 1]);
    }
    return last;
  }

 private:
  uint64_t count_ = 0;
  int64_t depth_ = 0;
  union {  // without a constructor, which would write all of it
    std::array<V, 48> waiting_;
  };
};

}  // namespace torchsoftmax::cpu
