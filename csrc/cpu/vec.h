#pragma once
// The SIMD vocabulary of the kernels: an accumulation type per dtype, loads and stores that convert
// to and from it, and the exponential. Everything else is at::vec, which comes with PyTorch.

#include <ATen/OpMathType.h>
#include <ATen/cpu/vec/functional.h>
#include <ATen/cpu/vec/vec.h>

#include <array>
#include <cstring>
#include <type_traits>

#include "exp.h"

namespace torchsoftmax::cpu {

/// float for float, bfloat16 and half; double for double.
template <typename scalar_t>
using acc_type = at::opmath_type<scalar_t>;

template <typename acc_t>
using Vec = at::vec::Vectorized<acc_t>;

template <typename acc_t>
inline constexpr int64_t kLanes = Vec<acc_t>::size();

/// The number of lanes in use, known at compile time: a whole vector.
template <typename acc_t>
using AllLanes = std::integral_constant<int64_t, kLanes<acc_t>>;

/// Loads `lanes` consecutive elements; the lanes beyond them are unspecified but defined.
template <typename acc_t, typename scalar_t, typename Lanes>
inline Vec<acc_t> load(const scalar_t* data, Lanes lanes) {
  if constexpr (std::is_same_v<scalar_t, acc_t>) {
    return Vec<acc_t>::loadu(data, lanes);
  } else if constexpr (std::is_same_v<scalar_t, bool>) {  // 1 or 0
    alignas(64) std::array<acc_t, kLanes<acc_t>> values{};
    for (int64_t lane = 0; lane < static_cast<int64_t>(lanes); ++lane) {
      values[lane] = static_cast<acc_t>(data[lane]);
    }
    return Vec<acc_t>::loadu(values.data());
  } else {
    if constexpr (std::is_same_v<Lanes, AllLanes<acc_t>>) {
      Vec<acc_t> value;
      at::vec::load_to_float(data, value);
      return value;
    } else {
      alignas(64) std::array<scalar_t, kLanes<acc_t>> buffer{};
      std::copy_n(data, static_cast<int64_t>(lanes), buffer.data());
      return load<acc_t>(buffer.data(), AllLanes<acc_t>{});
    }
  }
}

/// `values` in the lanes where the mask is true (of bool, or not 0), `otherwise` in the others.
template <typename acc_t, typename mask_t, typename Lanes>
inline Vec<acc_t> select(const mask_t* mask, Lanes lanes, const Vec<acc_t>& values,
                         const Vec<acc_t>& otherwise) {
  [[maybe_unused]] constexpr bool kFloat =
      std::is_same_v<mask_t, bool> && std::is_same_v<acc_t, float>;
#if defined(CPU_CAPABILITY_AVX512)
  if constexpr (kFloat) {
    __m128i bytes;
    if constexpr (std::is_same_v<Lanes, AllLanes<acc_t>>) {
      bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(mask));
    } else {
      bytes = _mm_maskz_loadu_epi8(static_cast<__mmask16>((1u << lanes) - 1), mask);
    }
    // Kept apart from the selection: as one masked load, the compiler's choice, a softmax of
    // (8, 12, 512, 512) takes 1.5 times as long on AMD's Zen 5, for its data is not prefetched.
    __m512 loaded = values;
    asm("" : "+v"(loaded));
    return _mm512_mask_blend_ps(_mm_test_epi8_mask(bytes, bytes), otherwise, loaded);
  }
#elif defined(CPU_CAPABILITY_AVX2)
  if constexpr (kFloat) {
    int64_t bytes = 0;
    std::memcpy(&bytes, mask, static_cast<size_t>(lanes));
    const __m256i wide = _mm256_cvtepu8_epi32(_mm_cvtsi64_si128(bytes));
    const __m256i taken = _mm256_cmpgt_epi32(wide, _mm256_setzero_si256());
    return _mm256_blendv_ps(otherwise, values, _mm256_castsi256_ps(taken));
  }
#endif
  return Vec<acc_t>::blendv(otherwise, values, load<acc_t>(mask, lanes) != Vec<acc_t>(0));
}

/// Stores the first `lanes` elements of `value`, rounded to nearest even where the type is
/// narrower.
template <typename acc_t, typename scalar_t, typename Lanes>
inline void store(scalar_t* data, const Vec<acc_t>& value, Lanes lanes) {
  if constexpr (std::is_same_v<scalar_t, acc_t>) {
    value.store(data, lanes);
  } else {
    at::vec::convert_from_float<scalar_t>(value, value).store(data, lanes);
  }
}

/// Lane-wise maximum of `value` and `bound` that may drop a nan: exp(nan - maximum) brings it back.
template <typename acc_t>
inline Vec<acc_t> maximum_dropping_nan(const Vec<acc_t>& value, const Vec<acc_t>& bound) {
  return at::vec::clamp_min(value, bound);
}

}  // namespace torchsoftmax::cpu
