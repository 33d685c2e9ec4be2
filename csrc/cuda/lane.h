#pragma once
// The value that policies compute with on CUDA: one number of one thread, with the vocabulary that
// they use of at::vec.

#include <ATen/OpMathType.h>

#include <cmath>
#include <cstdint>
#include <type_traits>

namespace torchsoftmax::cuda {

/// float for float, bfloat16 and half; double for double.
template <typename scalar_t>
using acc_type = at::opmath_type<scalar_t>;

/// The result of a comparison.
struct Flag {
  bool set;

  friend __device__ Flag operator&(Flag a, Flag b) { return {a.set && b.set}; }
};

inline constexpr float kLog2E = 1.44269504088896341f, kLn2 = 0.693147180559945309f;

/// By the unit for them.
inline __device__ float power_of_2(float x) {
#if defined(TORCHSOFTMAX_EMULATED_CUDA)
  return emulated::power_of_2(x);
#else
  float result;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
#endif
}

/// Rounded: not part of a multiply-add, which a compiler otherwise makes of a product and a sum.
inline __device__ float rounded_product(float a, float b) {
#if defined(TORCHSOFTMAX_EMULATED_CUDA)
  return a * b;
#else
  return __fmul_rn(a, b);
#endif
}
inline __device__ float larger_or_nan(float a, float b) {
#if defined(TORCHSOFTMAX_EMULATED_CUDA)
  return std::isnan(a) ? a : std::fmax(a, b);
#else
  float result;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(result) : "f"(a), "f"(b));
  return result;
#endif
}

/// kIsNarrow: of data in 16 bits.
template <typename acc_t, bool kIsNarrow = false>
struct Lane {
  using value_type = acc_t;
  static constexpr bool kNarrow = kIsNarrow;

  acc_t number;

  Lane() = default;
  __device__ Lane(acc_t value) : number(value) {}  // NOLINT: implicit, as a vector's

  __device__ Lane tanh() const { return std::tanh(number); }
  __device__ Lane log() const { return std::log(number); }
  __device__ Lane abs() const { return std::abs(number); }
  static __device__ Lane blendv(const Lane& a, const Lane& b, Flag mask) {
    return mask.set ? b : a;
  }

  friend __device__ Lane operator+(const Lane& a, const Lane& b) { return a.number + b.number; }
  friend __device__ Lane operator-(const Lane& a, const Lane& b) { return a.number - b.number; }
  friend __device__ Lane operator*(const Lane& a, const Lane& b) { return a.number * b.number; }
  friend __device__ Lane operator/(const Lane& a, const Lane& b) { return a.number / b.number; }
  friend __device__ Flag operator==(const Lane& a, const Lane& b) { return {a.number == b.number}; }
  friend __device__ Flag operator!=(const Lane& a, const Lane& b) { return {a.number != b.number}; }

  friend __device__ Lane fmadd(const Lane& a, const Lane& b, const Lane& c) {
    return std::fma(a.number, b.number, c.number);
  }
  friend __device__ Lane fmsub(const Lane& a, const Lane& b, const Lane& c) {
    return std::fma(a.number, b.number, -c.number);
  }
  /// For quotients with the same divisor: see cpu/reciprocal.h, which rounds them once.
  friend __device__ Lane reciprocal_of(const Lane& sum) { return 1 / sum.number; }
  friend __device__ Lane times(const Lane& reciprocal, const Lane& value) {
    return value * reciprocal;
  }
  /// The maximum, which drops a nan: exp(nan - maximum) brings it back.
  friend __device__ Lane maximum_dropping_nan(const Lane& value, const Lane& bound) {
    return std::fmax(value.number, bound.number);
  }
  /// exp(x), which policies ask of x <= 0 only. Of narrow data by the unit for powers of 2, with a
  /// relative error of at most (2 + |x|) 2^-23: far below a rounding to 16 bits where the result is
  /// not negligible. It takes 2 operations where the exact one takes 8, which would be what a
  /// kernel for narrow data waits for.
  friend __device__ Lane exp_nonpositive(const Lane& x) {
    if constexpr (kNarrow) {
      return power_of_2(x.number * kLog2E);
    } else {
      return std::exp(x.number);
    }
  }
  /// The same for a sum: 0 where it is below the smallest normal number. What the power of 2 leaves
  /// of x is a factor near 1.
  friend __device__ Lane exp_term(const Lane& x) {
    if constexpr (kNarrow || !std::is_same_v<acc_t, float>) {
      return exp_nonpositive(x);
    } else {
      constexpr float kLeast = -128, kLn2Rest = -1.90465429995776804525e-9f;
      const float finite = larger_or_nan(x.number, kLeast);
      const float power = finite * kLog2E;
      const float rest = std::fma(power, -kLn2Rest, std::fma(power, -kLn2, finite));
      const float e = power_of_2(power);
      return std::fma(e, rest, e);
    }
  }
};

}  // namespace torchsoftmax::cuda
