#pragma once
// Division of many numbers by the same one.

#include "pack.h"

namespace torchsoftmax::cpu {

template <typename V, bool kTwoParts = kScaledTerms<typename V::value_type>>
struct Reciprocal {
  V high;

  Reciprocal() = default;
  explicit Reciprocal(const V& sum) : high(V(1) / sum) {}

  template <typename Map>
  Reciprocal each(Map&& map) const {
    Reciprocal result;
    result.high = map(high);
    return result;
  }
  V times(const V& e) const { return e * high; }
};

/// 1 / sum in two parts, high - low. With a fused operation more than a product with 1 / sum takes,
/// quotients are rounded once, but for a 2^-27th; so where a quotient is a number of V, that is
/// what one gets: 1 for e = sum.
template <typename V>
struct Reciprocal<V, true> {
  V high, low;

  Reciprocal() = default;
  explicit Reciprocal(const V& sum) : high(V(1) / sum) {
    const V excess = fmsub(high, sum, V(1));
    // To a multiple of a quarter of the last place of 1: so that low does not depend on how small
    // the numbers are that it is computed with.
    const V shift(0.1875);
    low = high * ((excess + shift) - shift);
  }

  template <typename Map>
  Reciprocal each(Map&& map) const {
    Reciprocal result;
    result.high = map(high);
    result.low = map(low);
    return result;
  }
  V times(const V& e) const { return fmsub(e, high, e * low); }
};

template <typename V>
Reciprocal<V> reciprocal_of(const V& sum) {
  return Reciprocal<V>(sum);
}
template <typename V>
V times(const Reciprocal<V>& reciprocal, const V& e) {
  return reciprocal.times(e);
}

}  // namespace torchsoftmax::cpu
