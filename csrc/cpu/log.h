#pragma once
// The logarithm of a row's sum, for a result in float. Inlined, for around a call the loops over
// rows would keep their constants in memory; and without a branch, so that the logarithms of
// several rows are vectors.

#include <cstdint>
#include <cstring>
#include <limits>

namespace torchsoftmax::cpu {

inline uint64_t bits_of(double value) {
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(bits));
  return bits;
}
inline double of_bits(uint64_t bits) {
  double value = 0;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

/// Of a positive normal number, 0 or nan, with a relative error of 2^-35.
///
/// The sum is 2^k m with m from sqrt(1/2) to sqrt(2), and log m = 2 atanh(s), s = (m - 1) / (m +
/// 1): an odd polynomial, fitted to that range, whose first term 2s is all that matters near m = 1.
inline double log_of_sum(double sum) {
  constexpr double kLn2 = 0.693147180559945309;
  constexpr uint64_t kSqrtOfHalf = 0x3FE6A09E667F3BCD;
  constexpr int kMantissaBits = 52;
  constexpr uint64_t kBias = 1024;
  // The low bits of a double of this size are an integer: before AVX-512, vectors of 64-bit
  // integers are not converted otherwise.
  constexpr double kShift = 1.5 * (uint64_t{1} << kMantissaBits);
  const uint64_t biased_k =
      (bits_of(sum) - kSqrtOfHalf + (kBias << kMantissaBits)) >> kMantissaBits;
  const double k = of_bits(bits_of(kShift) + biased_k) - (kShift + kBias);
  const double m = of_bits(bits_of(sum) - ((biased_k - kBias) << kMantissaBits));
  const double s = (m - 1) / (m + 1), t = s * s;
  const double q = (0.333333332772481716 + 0.200000609202090553 * t) +
                   (0.142754103732656506 + 0.116652345527666625 * t) * (t * t);
  const double twice = s + s;  // no sum of two products: a compiler may fuse either with it
  const double result = k * kLn2 + (twice + twice * t * q);
  return sum == 0 ? -std::numeric_limits<double>::infinity() : result + 0 * sum;  // keeps a nan
}

}  // namespace torchsoftmax::cpu
