#pragma once
// Elements of a row that are in no whole vector.

#include <cstdint>

namespace torchsoftmax::cuda {

/// One element, of class c, as the part of a row that a thread works on.
struct Single {
  int64_t c;

  template <typename Step>
  __device__ __forceinline__ void for_each(Step&& step) const {
    step(0, *this);
  }
};

/// How many elements of a row come before the first that begins a vector.
template <int kVector, typename scalar_t>
__device__ int64_t before_vectors(const scalar_t* row) {
  const auto index = reinterpret_cast<uintptr_t>(row) / sizeof(scalar_t);
  return (kVector - index % kVector) % kVector;
}

}  // namespace torchsoftmax::cuda
