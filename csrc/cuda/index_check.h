#pragma once
// The check of class indices while they are used: an assertion on the device, as PyTorch's own
// kernels have, for to raise would have to wait for the device.

#include <c10/macros/Macros.h>

#include <cstdint>
#include <optional>

namespace torchsoftmax::cuda {

/// What a policy has of it.
struct IndexCheck {};

struct IndexRange {
  static IndexCheck check() { return {}; }
  static void raise(const char*, const int64_t*, int64_t, std::optional<int64_t>) {}
};

__device__ inline bool accepts(IndexCheck, int64_t index, int64_t classes, int64_t) {
  const bool in_range = index >= 0 && index < classes;
  CUDA_KERNEL_ASSERT(in_range && "class index out of range");
  return in_range;
}

}  // namespace torchsoftmax::cuda
