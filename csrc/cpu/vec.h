#pragma once
// The SIMD vocabulary of the kernels: an accumulation type per dtype, loads and stores that convert
// to and from it, and the exponential. Everything else is at::vec, which comes with PyTorch.

#include <ATen/OpMathType.h>
#include <ATen/cpu/vec/functional.h>
#include <ATen/cpu/vec/vec.h>

#include <array>
#include <cstring>
#include <type_traits>
#include <utility>

#include "exp.h"

namespace torchsoftmax::cpu {

/// float for float, bfloat16 and half; double for double.
template <typename scalar_t>
using acc_type = at::opmath_type<scalar_t>;

/// body(0) to body(kCount - 1) with constants, so that arrays indexed by them stay in registers: a
/// loop is unrolled by the compiler only after it has decided that.
template <size_t... kIndex, typename Body>
inline void unrolled(std::index_sequence<kIndex...>, Body&& body) {
  (body(std::integral_constant<size_t, kIndex>{}), ...);
}
template <size_t kCount, typename Body>
inline void unrolled(Body&& body) {
  unrolled(std::make_index_sequence<kCount>{}, body);
}

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

/// A vector rounded to nearest even in a type of half its width: the lower half of what is
/// returned.
template <typename scalar_t>
inline auto narrowed(const Vec<float>& value) {
  return at::vec::convert_from_float<scalar_t>(value, value);
}

/// Stores the first `lanes` elements of `value`, rounded to nearest even where the type is
/// narrower.
template <typename acc_t, typename scalar_t, typename Lanes>
inline void store(scalar_t* data, const Vec<acc_t>& value, Lanes lanes) {
  if constexpr (std::is_same_v<scalar_t, acc_t>) {
    value.store(data, lanes);
  } else if constexpr (!std::is_same_v<Lanes, AllLanes<acc_t>>) {
    narrowed<scalar_t>(value).store(data, lanes);
  } else {
    // Not at::vec's masked store: it is as wide as a whole vector, and a load from behind what it
    // writes (the next vector, where input and output are one) waits until it has left the core.
#if defined(CPU_CAPABILITY_AVX512)
    const __m512i narrow = narrowed<scalar_t>(value);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(data), _mm512_castsi512_si256(narrow));
#elif defined(CPU_CAPABILITY_AVX2)
    const __m256i narrow = narrowed<scalar_t>(value);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(data), _mm256_castsi256_si128(narrow));
#else
    narrowed<scalar_t>(value).store(data, lanes);
#endif
  }
}

/// Stores a whole vector past the caches: memory is not read before it is written. `data` must be
/// aligned to the size of what is stored; `finish_streams` must be called before another thread
/// reads it.
template <typename acc_t, typename scalar_t>
inline void stream(scalar_t* data, const Vec<acc_t>& value) {
#if defined(CPU_CAPABILITY_AVX512)
  if constexpr (std::is_same_v<scalar_t, double>) {
    _mm512_stream_pd(data, value);
  } else if constexpr (std::is_same_v<scalar_t, float>) {
    _mm512_stream_ps(data, value);
  } else {
    const __m512i narrow = narrowed<scalar_t>(value);
    _mm256_stream_si256(reinterpret_cast<__m256i*>(data), _mm512_castsi512_si256(narrow));
  }
#elif defined(CPU_CAPABILITY_AVX2)
  if constexpr (std::is_same_v<scalar_t, double>) {
    _mm256_stream_pd(data, value);
  } else if constexpr (std::is_same_v<scalar_t, float>) {
    _mm256_stream_ps(data, value);
  } else {
    const __m256i narrow = narrowed<scalar_t>(value);
    _mm_stream_si128(reinterpret_cast<__m128i*>(data), _mm256_castsi256_si128(narrow));
  }
#else
  store<acc_t>(data, value, AllLanes<acc_t>{});
#endif
}

inline void finish_streams() {
#if defined(CPU_CAPABILITY_AVX512) || defined(CPU_CAPABILITY_AVX2)
  _mm_sfence();
#endif
}

using at::vec::fmadd;
using at::vec::fmsub;

/// `then` in the lanes in which a and b are equal, `otherwise` in the others.
template <typename acc_t>
Vec<acc_t> where_equal(const Vec<acc_t>& a, const Vec<acc_t>& b, const Vec<acc_t>& then,
                       const Vec<acc_t>& otherwise) {
#if defined(CPU_CAPABILITY_AVX512)
  if constexpr (std::is_same_v<acc_t,
                               float>) {  // blendv makes vectors of masks, and masks of those
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ), otherwise, then);
  }
#endif
  return Vec<acc_t>::blendv(otherwise, then, a == b);
}

/// Pairs of neighbouring lanes, of `a` in the lower half and of `b` in the upper.
template <typename acc_t, typename Op>
Vec<acc_t> of_neighbours(const Vec<acc_t>& a, const Vec<acc_t>& b, Op&& op) {
  const auto [even, odd] = at::vec::deinterleave2<acc_t>(a, b);
  return op(even, odd);
}
#if defined(CPU_CAPABILITY_AVX512) || defined(CPU_CAPABILITY_AVX2)
/// Neighbouring groups of `kCount` lanes swapped.
template <int kCount>
Vec<float> swapped(const Vec<float>& value) {
#if defined(CPU_CAPABILITY_AVX512)
  constexpr int kOrder = kCount == 1 || kCount == 4 ? 0xB1 : 0x4E;  // 1 0 3 2, or 2 3 0 1
  if constexpr (kCount < 4) {
    return _mm512_permute_ps(value, kOrder);
  } else {
    return _mm512_shuffle_f32x4(value, value, kOrder);
  }
#elif defined(CPU_CAPABILITY_AVX2)
  if constexpr (kCount < 4) {
    return _mm256_permute_ps(value, kCount == 1 ? 0xB1 : 0x4E);
  } else {
    return _mm256_permute2f128_ps(value, value, 1);
  }
#endif
}
template <int kCount>
Vec<double> swapped(const Vec<double>& value) {
  return at::vec::cast<double>(swapped<2 * kCount>(at::vec::cast<float>(value)));
}
#else
template <int kCount, typename acc_t>
Vec<acc_t> swapped(const Vec<acc_t>& value) {
  std::array<acc_t, kLanes<acc_t>> from, to;
  value.store(from.data());
  for (int64_t lane = 0; lane < kLanes<acc_t>; ++lane) {
    to[lane] = from[lane ^ kCount];
  }
  return Vec<acc_t>::loadu(to.data());
}
#endif

/// The reduction of all lanes, in every lane: as of_neighbours would pair them, with half of the
/// operations, and with fewer cycles between them. `Value`: a vector, or what `swapped` takes like
/// one.
template <typename acc_t, typename Value, typename Op>
Value of_all_lanes(Value value, Op&& op) {
  value = op(value, swapped<1>(value));
  value = op(value, swapped<2>(value));
  if constexpr (kLanes<acc_t> > 4) {
    value = op(value, swapped<4>(value));
  }
  if constexpr (kLanes<acc_t> > 8) {
    value = op(value, swapped<8>(value));
  }
  return value;
}

template <typename acc_t>
acc_t first_lane(const Vec<acc_t>& value) {
#if defined(CPU_CAPABILITY_AVX512)
  if constexpr (std::is_same_v<acc_t, double>) {
    return _mm512_cvtsd_f64(value);
  } else {
    return _mm512_cvtss_f32(value);
  }
#elif defined(CPU_CAPABILITY_AVX2)
  if constexpr (std::is_same_v<acc_t, double>) {
    return _mm256_cvtsd_f64(value);
  } else {
    return _mm256_cvtss_f32(value);
  }
#else
  return value[0];
#endif
}

/// A vector in double.
inline std::array<Vec<double>, 2> widened(const Vec<float>& value) {
#if defined(CPU_CAPABILITY_AVX512)
  return {_mm512_cvtps_pd(_mm512_castps512_ps256(value)),
          _mm512_cvtps_pd(_mm512_extractf32x8_ps(value, 1))};
#elif defined(CPU_CAPABILITY_AVX2)
  return {_mm256_cvtps_pd(_mm256_castps256_ps128(value)),
          _mm256_cvtps_pd(_mm256_extractf128_ps(value, 1))};
#else
  const auto wide = at::vec::convert<double, 2, float, 1>(at::vec::VectorizedN<float, 1>(value));
  return {wide[0], wide[1]};
#endif
}
/// And back, rounded.
inline Vec<double> narrowed(const std::array<Vec<double>, 1>& value) { return value[0]; }
inline Vec<float> narrowed(const std::array<Vec<double>, 2>& value) {
#if defined(CPU_CAPABILITY_AVX512)
  return _mm512_insertf32x8(_mm512_castps256_ps512(_mm512_cvtpd_ps(value[0])),
                            _mm512_cvtpd_ps(value[1]), 1);
#elif defined(CPU_CAPABILITY_AVX2)
  return _mm256_set_m128(_mm256_cvtpd_ps(value[1]), _mm256_cvtpd_ps(value[0]));
#else
  return at::vec::convert<float, 1, double, 2>(
      at::vec::VectorizedN<double, 2>(value[0], value[1]))[0];
#endif
}

/// Lane-wise maximum of `value` and `bound` that may drop a nan: exp(nan - maximum) brings it back.
template <typename acc_t>
inline Vec<acc_t> maximum_dropping_nan(const Vec<acc_t>& value, const Vec<acc_t>& bound) {
  return at::vec::clamp_min(value, bound);
}

}  // namespace torchsoftmax::cpu
