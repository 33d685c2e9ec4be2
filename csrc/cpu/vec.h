#pragma once
// The SIMD vocabulary of the kernels: an accumulation type per dtype, loads and stores that convert
// to and from it, and the exponential. Everything else is at::vec, which comes with PyTorch.

#include <ATen/OpMathType.h>
#include <ATen/cpu/vec/functional.h>
#include <ATen/cpu/vec/vec.h>

#include <array>
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
