#pragma once
// Which outputs are written past the caches.

#include "../row_tensor.h"
#include "vec.h"

namespace torchsoftmax::cpu {

// Tensors of this many bytes or more do not fit into the caches. A store into the cache first reads
// from memory what it is going to overwrite, so such outputs are written past the caches.
inline constexpr int64_t kLargeTensor = int64_t{16} << 20;

template <typename scalar_t>
bool is_large(const RowTensor<scalar_t>& tensor) {
  return tensor.rows * tensor.classes * static_cast<int64_t>(sizeof(scalar_t)) >= kLargeTensor;
}

/// Whether an output is large, and not where an input is, which is in the cache already.
template <typename Out, typename... In>
bool is_streamed(const RowTensor<Out>& out, const RowTensor<const In>&... in) {
  return out.data != nullptr && is_large(out) &&
         ((static_cast<const void*>(out.data) != in.data) && ...);
}

/// Whether it begins, and each of its steps leads, to a multiple of `bytes`.
template <typename Out>
bool is_aligned(const RowTensor<Out>& out, int64_t step, int64_t bytes) {
  const auto whole = [&](int64_t elements) {
    return elements * static_cast<int64_t>(sizeof(Out)) % bytes == 0;
  };
  bool aligned = reinterpret_cast<uintptr_t>(out.data) % bytes == 0 && whole(step);
  for (const auto& dim : out.dims) {
    aligned = aligned && whole(dim.stride == 1 ? dim.size : dim.stride);
  }
  return aligned;
}

/// The bytes of an output that a vector is stored to.
template <typename acc_t, typename Out>
inline constexpr int64_t kVectorBytes = kLanes<acc_t> * static_cast<int64_t>(sizeof(Out));

template <typename acc_t, typename Out>
bool has_aligned_rows(const RowTensor<Out>& out) {
  return is_aligned(out, out.classes, kVectorBytes<acc_t, Out>);
}

/// Whether rows of that output, along which vectors lie, are streamed. Where they do not begin at a
/// vector, they have one more that is not whole: too many for short rows.
template <typename acc_t, typename Out, typename... In>
bool is_streamed_along(const RowTensor<Out>& out, const RowTensor<const In>&... in) {
  constexpr int64_t kLong = 512;
  return is_streamed(out, in...) && (out.classes >= kLong || has_aligned_rows<acc_t>(out));
}

/// The elements before the first at a multiple of a vector's size.
template <typename acc_t, typename Out>
int64_t lead_of(const Out* row) {
  constexpr int64_t kBytes = kVectorBytes<acc_t, Out>;
  return (kBytes - reinterpret_cast<uintptr_t>(row) % kBytes) % kBytes / sizeof(Out);
}

}  // namespace torchsoftmax::cpu
