#pragma once
// What vectors of a row are reduced with, and in which order parts of a row are.

#include <array>
#include <cstdint>
#include <limits>
#include <type_traits>

#include "pack.h"

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
/// `kOfRatios`: of RatioExp's terms.
template <typename acc_t, bool kOfRatios>
using Sum = std::conditional_t<kOfRatios && kScaledTerms<acc_t>, PlusInPairs, Plus>;

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
