#pragma once
// Fresh output tensors. Where the system hands out huge pages on request, a large output asks for
// them before it is first touched: page faults otherwise cost several times the kernel itself.

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace torchsoftmax::cpu {

inline constexpr uintptr_t kHugePage = uintptr_t{2} << 20;
inline constexpr size_t kHugePagesFrom = size_t{4} << 20;

inline at::Tensor ask_for_huge_pages(at::Tensor fresh) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  const size_t bytes = fresh.storage().nbytes();
  if (bytes >= kHugePagesFrom) {
    const auto begin = reinterpret_cast<uintptr_t>(fresh.storage().mutable_data());
    const uintptr_t first = (begin + kHugePage - 1) & ~(kHugePage - 1);
    const uintptr_t last = (begin + bytes) & ~(kHugePage - 1);
    if (last > first) {
      // Advice: a failure (a kernel without huge pages) changes nothing but speed.
      (void)madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
    }
  }
#endif
  return fresh;
}

inline at::Tensor empty_contiguous(at::IntArrayRef shape, const at::TensorOptions& options) {
  return ask_for_huge_pages(at::empty(shape, options));
}

/// Contiguous, as PyTorch's softmax returns it whatever the strides of its input.
inline at::Tensor empty_contiguous_like(const at::Tensor& like) {
  return empty_contiguous(like.sizes(), like.options());
}

/// With the strides of `like` where it is dense: the layout that autograd accumulates into.
inline at::Tensor empty_gradient_like(const at::Tensor& like, at::ScalarType dtype) {
  return ask_for_huge_pages(
      at::empty_like(like, like.options().dtype(dtype), at::MemoryFormat::Preserve));
}

}  // namespace torchsoftmax::cpu
