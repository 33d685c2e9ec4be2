#pragma once
// Elements side by side, which are moved at once.

#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>
#include <cstring>
#include <limits>

namespace torchsoftmax::cuda {

inline constexpr int kVectorBytes = 16;

/// How many elements of the largest of some types are moved at once.
template <typename... element>
inline constexpr int kVectorOf = kVectorBytes / static_cast<int>(std::max({sizeof(element)...}));

template <typename element, int kVector>
struct alignas(sizeof(element) * kVector) Vector {
  element elements[kVector];
};

/// The largest of vectors, a nan dropped: of 16 bits in pairs, without converting them.
template <typename element, int kVector>
class LargestOf {
 public:
  __device__ __forceinline__ void add(const Vector<element, kVector>& vector) {
#pragma unroll
    for (int e = 0; e < kVector; ++e) {
      largest_ = std::fmax(largest_, vector.elements[e]);
    }
  }
  __device__ element value() const { return largest_; }

 private:
  element largest_ = -std::numeric_limits<element>::infinity();
};

template <typename element, typename Pair, int kVector>
class LargestOfPairs {
 public:
  __device__ __forceinline__ LargestOfPairs() {
    const element lowest = -std::numeric_limits<element>::infinity();
    const element both[2] = {lowest, lowest};
    memcpy(&largest_, both, sizeof(both));
  }
  __device__ __forceinline__ void add(const Vector<element, kVector>& vector) {
    static_assert(kVector % 2 == 0 && sizeof(Pair) == 2 * sizeof(element));
#pragma unroll
    for (int e = 0; e < kVector; e += 2) {
      Pair pair;
      memcpy(&pair, vector.elements + e, sizeof(pair));
      largest_ = __hmax2(largest_, pair);
    }
  }
  __device__ __forceinline__ float value() const {
    element both[2];
    memcpy(both, &largest_, sizeof(both));
    return std::fmax(static_cast<float>(both[0]), static_cast<float>(both[1]));
  }

 private:
  Pair largest_;
};

template <int kVector>
class LargestOf<c10::BFloat16, kVector>
    : public LargestOfPairs<c10::BFloat16, __nv_bfloat162, kVector> {};
template <int kVector>
class LargestOf<c10::Half, kVector> : public LargestOfPairs<c10::Half, __half2, kVector> {};

}  // namespace torchsoftmax::cuda
