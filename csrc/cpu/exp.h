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

/// For which r the polynomial is: |r| <= ln2 / 2^(kFractionBits + 1), or twice that. Then, of
/// AVX-512, with a relative error of 2.6e-8, or, for an operation more, 1.7e-10.
enum class Fit { kNarrow, kWide, kWideAndClose };

/// power exp(r). With two short chains of dependent operations instead of a long one: power + power
/// r (1 + r q).
template <Fit kFit>
Floats times_exp(const Floats& power, const Floats& r) {
  using at::vec::fmadd;
#if defined(CPU_CAPABILITY_AVX512)
  Floats q;
  if constexpr (kFit == Fit::kNarrow) {
    q = fmadd(Floats(0.166667178f), r, Floats(0.500016153f));
  } else if constexpr (kFit == Fit::kWide) {
    q = fmadd(Floats(0.166668579f), r, Floats(0.500064492f));
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

/// 2^kRaised exp(x).
template <int kRaised>
Floats raised_exp(const Floats& x) {
  using at::vec::fmadd;
  constexpr float kRaisedShift = kShift + kRaised, kRaisedLowest = kLowest - kRaised;
  const Floats clamped = at::vec::clamp_min(x, Floats(kRaisedLowest * kLn2));  // keeps a nan
  const Floats shifted = fmadd(clamped, Floats(kLog2E), Floats(kRaisedShift));
  const Floats n = Floats(kRaisedShift) - shifted;
  const Floats r = fmadd(n, Floats(kLn2Rest), fmadd(n, Floats(kLn2), clamped));
  return times_exp<Fit::kNarrow>(power_of_2(shifted), r);
}

inline constexpr int kRaised = 24;

/// Where only the ratio of exponentials matters, 2^kRaised times that, so that a quotient of them
/// may be subnormal where they themselves would be 0.
template <bool kForRatio = false>
Floats exp_nonpositive(const Floats& x) {
  return raised_exp<kForRatio ? kRaised : 0>(x);
}

#else

template <bool kForRatio = false>
at::vec::Vectorized<float> exp_nonpositive(const at::vec::Vectorized<float>& x) {
  return x.exp();
}

#endif

template <bool kForRatio = false>
at::vec::Vectorized<double> exp_nonpositive(const at::vec::Vectorized<double>& x) {
  return x.exp();
}

/// exp_nonpositive(x - max), of x <= max.
template <typename V, bool kForRatio>
class ExpLess {
 public:
  ExpLess() = default;
  explicit ExpLess(const V& max) : max_(max) {}

  template <typename Map>
  ExpLess each(Map&& map) const {
    return ExpLess(map(max_));
  }
  V operator()(const V& x) const { return exp_nonpositive<kForRatio>(x - max_); }

 private:
  V max_;
};

#if defined(TORCHSOFTMAX_FAST_EXP)

/// Without the rounding of x - max, which would be the largest error of a softmax by far: n counts
/// from the n of max, and what n leaves of max is taken off what it leaves of x. The relative error
/// is |x - max| 2.7e-9 more than that of exp_nonpositive, for kLn2Rest is left out, and one
/// operation with it. Exact for x = max. Ratios have many roundings beside it, a logarithm of a sum
/// hardly one: only there a close polynomial is worth its operation.
template <bool kForRatio>
class ExpLess<Floats, kForRatio> {
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
    constexpr float kBy = kForRatio ? kRaised : 0;
    shift_ = Floats(kShift + kBy) - n;
    lowest_ = fmadd(n, Floats(kLn2), Floats((kLowest - kBy) * kLn2));
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
      return of_rest(rest(x));
    }
    return of_rest(x);
  }

  // Its parts, for several of them with one condition: ExpLess of a Pack.
  bool large() const { return large_; }
  Floats rest(const Floats& x) const { return x - subtracted_; }
  Floats of_rest(const Floats& x) const {
    using at::vec::fmadd;
    const Floats clamped = at::vec::clamp_min(x, lowest_);
    const Floats shifted = fmadd(clamped, Floats(kLog2E), shift_);
    const Floats r = fmadd(shift_ - shifted, Floats(kLn2), clamped) - rest_;
    return times_exp<kForRatio ? Fit::kWide : Fit::kWideAndClose>(power_of_2(shifted), r);
  }

 private:
  // In a row of numbers as large as this x - max is exact wherever its exponential is not 0.
  static constexpr float kLarge = 32768;

  Floats subtracted_, lowest_, shift_, rest_;
  bool large_;  // one lane at least
};

#endif

}  // namespace torchsoftmax::cpu
