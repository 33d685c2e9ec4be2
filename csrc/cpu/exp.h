#pragma once
// exp(x) for the one range that softmax needs: x <= 0 (it holds up to x = 88).
//
// x / ln2 is rounded to n, a multiple of 1/16 (AVX-512) or 1/8 (AVX2), and exp(x) = 2^n exp(r) with
// r = x - n ln2. The fraction's power of 2 comes from a table that one register holds, the whole
// part goes into the exponent's bits, and exp(r) is a polynomial: of degree 3 on |r| <= ln2 / 32
// (relative error 1.6e-9; AVX2: of degree 4 on twice the range it needs, 5.5e-9), far below one
// rounding to float. exp(0) is exactly 1, exp(nan) is nan, exp(-inf) is 0; what would be below the
// smallest normal number is between 0 and the right one. Tested over every float in range in
// tests/test_exp.py, which states the bound.
//
// at::vec's own exp_u20 is not used: it returns exp(88) for a nan, and rounds ln2 to one float.

#include <ATen/cpu/vec/vec.h>

#include <type_traits>

#if defined(CPU_CAPABILITY_AVX512) || defined(CPU_CAPABILITY_AVX2)
#define TORCHSOFTMAX_FAST_EXP
#endif

namespace torchsoftmax::cpu {

#if defined(TORCHSOFTMAX_FAST_EXP)

inline constexpr float kLog2E = 1.44269504088896341f;
// n kLn2 is a multiple of 2^-28, so a fused x - n kLn2 is exact where |x| <= 2^18.
inline constexpr float kLn2 = 0.693147180559945309f;
inline constexpr float kLn2Rest = -1.90465429995776804525e-9f;

#if defined(CPU_CAPABILITY_AVX512)
inline constexpr int kFractionBits = 4;
#else
inline constexpr int kFractionBits = 3;
#endif

/// With this added, the low bits of a float are n and an exponent's bias: the last place of such
/// numbers is 2^-kFractionBits.
inline constexpr float kShift = 1.5f * (1 << (23 - kFractionBits)) + 127;
/// The exponent of 0 and of the subnormal numbers, without its bias.
inline constexpr float kLowest = -127;

/// The mantissas of 2^(j / 2^kFractionBits), less what j adds where n's bits are moved to the
/// exponent's place.
struct MantissasOfPowers {
  int32_t bits[1 << kFractionBits];

  constexpr MantissasOfPowers() : bits() {
    constexpr double kSixteenths[16] = {1.0,
                                        1.0442737824274138,
                                        1.0905077326652577,
                                        1.1387886347566916,
                                        1.1892071150027211,
                                        1.241857812073484,
                                        1.2968395546510097,
                                        1.3542555469368927,
                                        1.4142135623730950,
                                        1.4768261459394993,
                                        1.5422108254079408,
                                        1.6104903319492543,
                                        1.6817928305074291,
                                        1.7562521603732995,
                                        1.8340080864093425,
                                        1.9152065613971474};
    for (int j = 0; j < 1 << kFractionBits; ++j) {
      const double mantissa = (kSixteenths[j << (4 - kFractionBits)] - 1) * (1 << 23);
      bits[j] = static_cast<int32_t>(mantissa + 0.5) - (j << (23 - kFractionBits));
    }
  }
};
alignas(64) inline constexpr MantissasOfPowers kMantissas;

using Floats = at::vec::Vectorized<float>;

/// 2^n of n + kShift; 0 of kLowest + kShift.
inline Floats power_of_2(const Floats& shifted) {
#if defined(CPU_CAPABILITY_AVX512)
  const __m512i n = _mm512_castps_si512(shifted);
  const __m512i mantissa = _mm512_permutexvar_epi32(n, _mm512_load_si512(kMantissas.bits));
  return _mm512_castsi512_ps(_mm512_add_epi32(mantissa, _mm512_slli_epi32(n, 23 - kFractionBits)));
#else
  const __m256i n = _mm256_castps_si256(shifted);
  const __m256i table = _mm256_load_si256(reinterpret_cast<const __m256i*>(kMantissas.bits));
  const __m256i mantissa = _mm256_permutevar8x32_epi32(table, n);
  return _mm256_castsi256_ps(_mm256_add_epi32(mantissa, _mm256_slli_epi32(n, 23 - kFractionBits)));
#endif
}

/// kUsual: for |r| <= ln2 / 2^(kFractionBits + 1). kWideAndClose: for twice that, and of AVX-512
/// with a relative error of 1.7e-10 for an operation more.
enum class Fit { kUsual, kWideAndClose };

/// power exp(r). With two short chains of dependent operations instead of a long one: power + power
/// r (1 + r q).
template <Fit kFit>
Floats times_exp(const Floats& power, const Floats& r) {
  using at::vec::fmadd;
#if defined(CPU_CAPABILITY_AVX512)
  Floats q;
  if constexpr (kFit == Fit::kUsual) {
    q = fmadd(Floats(0.166667178f), r, Floats(0.500016153f));
  } else {
    q = fmadd(Floats(0.0416604320f), r, Floats(0.166680259f));
    q = fmadd(q, r, Floats(0.500000013f));
  }
#else
  Floats q = fmadd(Floats(0.0416417606f), r, Floats(0.166721031f));
  q = fmadd(q, r, Floats(0.500000179f));
#endif
  return fmadd(power * r, fmadd(q, r, Floats(1.f)), power);
}

#endif

/// exp(x) of x <= 0. Where only the ratio of exponentials matters it may be 2^24 times that, so
/// that a quotient of them may be subnormal where they themselves would be 0.
template <bool kForRatio = false, typename acc_t>
at::vec::Vectorized<acc_t> exp_nonpositive(const at::vec::Vectorized<acc_t>& x) {
#if defined(TORCHSOFTMAX_FAST_EXP)
  if constexpr (std::is_same_v<acc_t, float>) {
    using at::vec::fmadd;
    constexpr int kRaised = kForRatio ? 24 : 0;
    constexpr float kRaisedShift = kShift + kRaised, kRaisedLowest = kLowest - kRaised;
    const Floats clamped = at::vec::clamp_min(x, Floats(kRaisedLowest * kLn2));  // keeps a nan
    const Floats shifted = fmadd(clamped, Floats(kLog2E), Floats(kRaisedShift));
    const Floats n = Floats(kRaisedShift) - shifted;
    const Floats r = fmadd(n, Floats(kLn2Rest), fmadd(n, Floats(kLn2), clamped));
    return times_exp<Fit::kUsual>(power_of_2(shifted), r);
  }
#endif
  return x.exp();
}

/// exp_nonpositive(x - max), of x <= max.
template <typename V>
class ExpLess {
 public:
  ExpLess() = default;
  explicit ExpLess(const V& max) : max_(max) {}

  template <typename Map>
  ExpLess each(Map&& map) const {
    return ExpLess(map(max_));
  }
  V operator()(const V& x) const { return exp_nonpositive(x - max_); }

 private:
  V max_;
};

/// The same but for a factor that all of a row have in common, where only their ratio matters.
template <typename V>
class RatioExp {
 public:
  RatioExp() = default;
  explicit RatioExp(const V& max) : max_(max) {}

  template <typename Map>
  RatioExp each(Map&& map) const {
    return RatioExp(map(max_));
  }
  V operator()(const V& x) const { return exp_nonpositive<true>(x - max_); }

 private:
  V max_;
};

/// Whether the largest of such terms may be any number, and not 2^24.
template <typename acc_t>
inline constexpr bool kScaledTerms =
#if defined(TORCHSOFTMAX_FAST_EXP)
    std::is_same_v<acc_t, float>;
#else
    false;
#endif

#if defined(TORCHSOFTMAX_FAST_EXP)

// In a row of numbers as large as this x - max is exact wherever its exponential is not 0.
inline constexpr float kLarge = 32768;

/// Without the rounding of x - max, which would be the largest error of a sum by far: n counts from
/// the n of max, and what n leaves of max is taken off what it leaves of x. The relative error is
/// |x - max| 2.7e-9 more than that of exp_nonpositive, for kLn2Rest is left out, and one operation
/// with it. Exact for x = max.
template <>
class ExpLess<Floats> {
 public:
  ExpLess() = default;
  explicit ExpLess(const Floats& max) {
    using at::vec::fmadd;
    const Floats is_small = max.abs() < Floats(kLarge), zero(0.f);
    large_ = is_small.zero_mask() != 0;
    Floats n = fmadd(max, Floats(kLog2E), Floats(kShift)) - Floats(kShift);
    rest_ = fmadd(n, Floats(-kLn2), max);
    subtracted_ = zero;
    if (large_) [[unlikely]] {
      n = Floats::blendv(zero, n, is_small);
      rest_ = Floats::blendv(zero, rest_, is_small);
      subtracted_ = Floats::blendv(max, zero, is_small);
    }
    shift_ = Floats(kShift) - n;
    lowest_ = fmadd(n, Floats(kLn2), Floats(kLowest * kLn2));
  }

  template <typename Map>
  ExpLess each(Map&& map) const {
    ExpLess result;
    result.subtracted_ = map(subtracted_);
    result.lowest_ = map(lowest_);
    result.shift_ = map(shift_);
    result.rest_ = map(rest_);
    result.large_ = large_;
    return result;
  }
  Floats operator()(const Floats& x) const {
    if (large_) [[unlikely]] {
      return of_rest(x - subtracted_);
    }
    return of_rest(x);
  }

 private:
  Floats of_rest(const Floats& x) const {
    using at::vec::fmadd;
    const Floats clamped = at::vec::clamp_min(x, lowest_);
    const Floats shifted = fmadd(clamped, Floats(kLog2E), shift_);
    const Floats r = fmadd(shift_ - shifted, Floats(kLn2), clamped) - rest_;
    return times_exp<Fit::kWideAndClose>(power_of_2(shifted), r);
  }

  Floats subtracted_, lowest_, shift_, rest_;
  bool large_;  // one lane at least
};

/// exp(x) times a power of 2, which makes it about 2^kHeight for x = max. So x is rounded nowhere,
/// not even in x - max: what n ln2 leaves of it is exact, and kLn2Rest, left out, adds 2.7e-9 of x
/// - max to the relative error beside what it adds to all.
///
/// `max` need not be the maximum. The quotients of such terms and their sum are the same, bit for
/// bit, whatever it is, as long as the sum `fits`: then what is 0 of the terms, for it would be
/// below the smallest normal number, is less than half of the smallest number of the sum.
template <>
class RatioExp<Floats> {
  static constexpr int kHeight = 54, kLeast = 25, kMost = 83;

 public:
  RatioExp() = default;
  explicit RatioExp(const Floats& max) {
    using at::vec::fmadd;
    constexpr float kWhole = 1.5f * (1 << 23);
    const Floats is_small = max.abs() < Floats(kLarge), zero(0.f);
    large_ = is_small.zero_mask() != 0;
    Floats n = fmadd(max, Floats(kLog2E), Floats(kWhole)) - Floats(kWhole);
    subtracted_ = zero;
    if (large_) [[unlikely]] {
      n = Floats::blendv(zero, n, is_small);
      subtracted_ = Floats::blendv(max, zero, is_small);
    }
    shift_ = Floats(kShift + kHeight) - n;
    lowest_ = fmadd(n, Floats(kLn2), Floats((kLowest - kHeight) * kLn2));
  }

  /// Of a number near the maximum of rows, if they have one.
  static RatioExp guess(const Floats& max) {
    return RatioExp(Floats::blendv(Floats(0.f), max, max.abs() < Floats(kLarge)));
  }

  template <typename Map>
  RatioExp each(Map&& map) const {
    RatioExp result;
    result.subtracted_ = map(subtracted_);
    result.lowest_ = map(lowest_);
    result.shift_ = map(shift_);
    result.large_ = large_;
    return result;
  }
  Floats operator()(const Floats& x) const {
    if (large_) [[unlikely]] {
      return of_rest(rest(x));
    }
    return of_rest(x);
  }

  /// Of rows with that maximum and that sum of their terms, those that do not fit: a bit for each
  /// lane. Nor do those with a nan. Each term is at most 2^kMost, so 2^17 of them have a
  /// reciprocal.
  int misfits(const Floats& max, const Floats& sum) const {
    constexpr float kLeastSum = 1 << kLeast, kHighest = (kMost - kLowest) * kLn2;
    return not_at_least(lowest_ + Floats(kHighest), max) | not_at_least(sum, Floats(kLeastSum));
  }

  // Its parts, for several of them with one condition: RatioExp of a Pack.
  bool large() const { return large_; }
  Floats rest(const Floats& x) const { return x - subtracted_; }
  Floats of_rest(const Floats& x) const {
    using at::vec::fmadd;
    const Floats clamped = at::vec::clamp_min(x, lowest_);
    const Floats shifted = fmadd(clamped, Floats(kLog2E), shift_);
    const Floats r = fmadd(shift_ - shifted, Floats(kLn2), clamped);
    return times_exp<Fit::kUsual>(power_of_2(shifted), r);
  }

 private:
  static int not_at_least(const Floats& value, const Floats& least) {
#if defined(CPU_CAPABILITY_AVX512)
    return _mm512_cmp_ps_mask(value, least, _CMP_NGE_UQ);
#else
    return (value >= least).zero_mask();
#endif
  }

  Floats subtracted_, lowest_, shift_;
  bool large_;  // one lane at least
};

#endif

}  // namespace torchsoftmax::cpu
