#pragma once
// Sums and differences with one rounding, by what the rounding of each step leaves (Knuth, The Art
// of Computer Programming, vol. 2, 4.2.2, theorem B).

#include "device.h"

namespace torchsoftmax::TORCHSOFTMAX_DEVICE {

/// (a + b) - sum, where `sum` is a + b rounded: exact, of finite numbers.
template <typename V>
TORCHSOFTMAX_FN V rest_of_sum(const V& a, const V& b, const V& sum) {
  const V of_b = sum - a;
  return (a - (sum - of_b)) + (b - of_b);
}

/// A number in two parts, of which the second is small.
template <typename V>
struct TwoParts {
  V high, low;

  TORCHSOFTMAX_FN static TwoParts sum(const V& a, const V& b) {
    const V high = a + b;
    return {high, rest_of_sum(a, b, high)};
  }
  TORCHSOFTMAX_FN friend TwoParts operator+(const TwoParts& a, const TwoParts& b) {
    const TwoParts high = sum(a.high, b.high);
    return {high.high, (a.low + b.low) + high.low};
  }
  /// Infinite where the first part is: then the other is nan.
  TORCHSOFTMAX_FN V rounded() const {
    const V sum = high + low;
    return V::blendv(sum, high, sum != sum);
  }
};

/// a - b: rounded once, where kTwoParts.
template <typename V>
TORCHSOFTMAX_FN V difference(const V& a, const TwoParts<V>& b) {
  if constexpr (!kTwoParts) {
    return a - b.high;
  }
  const TwoParts<V> high = TwoParts<V>::sum(a, V(0) - b.high);
  return TwoParts<V>{high.high, high.low - b.low}.rounded();
}

}  // namespace torchsoftmax::TORCHSOFTMAX_DEVICE
