#pragma once
// exp(x) for the one range that softmax needs: x <= 0 (it holds up to x = 88).
//
// Cody-Waite reduction with ln2 in two parts, then 2^n p(r). AVX-512 rounds x / ln2 to sixteenths:
// 2^(j/16) comes from a table that one register holds, and p is of degree 3 on |r| <= ln2 / 32
// (relative error 1.6e-9). AVX2 rounds to whole numbers and p is of degree 6 on |r| <= ln2 / 2
// (2.0e-9). Both errors are far below one rounding to float. exp(0) is exactly 1, exp(nan) is nan,
// exp(-inf) is 0. Tested over every float in range in tests/test_exp.py, which states the bound.
//
// at::vec's own exp_u20 is not used: it returns exp(88) for a nan, and rounds ln2 to one float.

#include <ATen/cpu/vec/vec.h>

namespace torchsoftmax::cpu {

inline constexpr float kLog2E = 1.44269504088896341f;
inline constexpr float kLn2High = 0.693145751953125f;  // 15 bits: x - n kLn2High is exact
inline constexpr float kLn2Low = 1.42860682030941723e-6f;

#if defined(CPU_CAPABILITY_AVX512)

/// 2^(j / 16).
alignas(64) inline constexpr float kSixteenthPowers[16] = {
    1.0f,        1.04427373f, 1.09050775f, 1.13878858f, 1.18920708f, 1.24185777f,
    1.29683959f, 1.35425556f, 1.41421354f, 1.47682619f, 1.54221082f, 1.61049032f,
    1.68179286f, 1.75625217f, 1.8340081f,  1.91520655f};

inline at::vec::Vectorized<float> exp_nonpositive(const at::vec::Vectorized<float>& x) {
  // Lanes that are exactly 0, such as those of a mask, do not reach the last operation: Intel's
  // processors take 130 cycles for a vector in which it underflows. A nan is not below.
  const __mmask16 not_zero = _mm512_cmp_ps_mask(x, _mm512_set1_ps(-104.f), _CMP_NLT_UQ);
  // The sum has its last place at 1/16: the low four bits of the mantissa are j.
  const __m512 shift = _mm512_set1_ps(1.5f * (1 << 19));
  const __m512 shifted = _mm512_fmadd_ps(x, _mm512_set1_ps(kLog2E), shift);
  const __m512 n = _mm512_sub_ps(shifted, shift);
  const __m512 power =
      _mm512_permutexvar_ps(_mm512_castps_si512(shifted), _mm512_load_ps(kSixteenthPowers));
  __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(kLn2High), x);
  r = _mm512_fnmadd_ps(n, _mm512_set1_ps(kLn2Low), r);
  // power (1 + r (1 + r q)), with two short chains of dependent operations instead of a long one.
  const __m512 q = _mm512_fmadd_ps(_mm512_set1_ps(0.166668358f), r, _mm512_set1_ps(0.500016196f));
  const __m512 slope = _mm512_fmadd_ps(q, r, _mm512_set1_ps(1.f));
  const __m512 p = _mm512_fmadd_ps(_mm512_mul_ps(power, r), slope, power);
  return _mm512_maskz_scalef_ps(not_zero, p, n);  // by 2^floor(n)
}

#elif defined(CPU_CAPABILITY_AVX2)

inline constexpr float kExpCoefficients[] = {1.384360682e-3f,
                                             8.374195709e-3f,
                                             4.1668004729e-2f,
                                             0.16666430799f,
                                             0.49999994192f,
                                             1.0000000323f,
                                             1.0f};

inline at::vec::Vectorized<float> exp_nonpositive(const at::vec::Vectorized<float>& x) {
  // Below -87.7 n is -127, whose exponent field is 0: such results, all of them subnormal, are 0.
  const __m256 clamped = _mm256_max_ps(_mm256_set1_ps(-88.f), x);  // keeps a nan of x
  // The sum has its last place at 1: the low bits of the mantissa are n, here with the bias of an
  // exponent.
  const __m256 shift = _mm256_set1_ps(1.5f * (1 << 23) + 127);
  const __m256 shifted = _mm256_fmadd_ps(clamped, _mm256_set1_ps(kLog2E), shift);
  const __m256 n = _mm256_sub_ps(shifted, shift);
  __m256 r = _mm256_fnmadd_ps(n, _mm256_set1_ps(kLn2High), clamped);
  r = _mm256_fnmadd_ps(n, _mm256_set1_ps(kLn2Low), r);
  __m256 p = _mm256_set1_ps(kExpCoefficients[0]);
  for (int i = 1; i < 7; ++i) {
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(kExpCoefficients[i]));
  }
  const __m256 scale = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_castps_si256(shifted), 23));
  return _mm256_mul_ps(p, scale);
}

#else

inline at::vec::Vectorized<float> exp_nonpositive(const at::vec::Vectorized<float>& x) {
  return x.exp();
}

#endif

inline at::vec::Vectorized<double> exp_nonpositive(const at::vec::Vectorized<double>& x) {
  return x.exp();
}

}  // namespace torchsoftmax::cpu
