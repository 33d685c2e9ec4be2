#pragma once
// Fresh output tensors. Where the system hands out huge pages on request, a large output asks for
// them before it is first touched, and a very large one is in memory that is kept: page faults
// otherwise cost several times the kernel itself.

#include <ATen/EmptyTensor.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty_like.h>

#include "kept_memory.h"

namespace torchsoftmax::cpu {

inline constexpr int64_t kHugePagesFrom = int64_t{4} << 20;  // bytes

inline at::Tensor ask_for_huge_pages(at::Tensor fresh) {
  if (static_cast<int64_t>(fresh.storage().nbytes()) >= kHugePagesFrom) {
    advise_huge_pages(fresh.storage().mutable_data(), fresh.storage().nbytes());
  }
  return fresh;
}

inline at::Tensor empty_contiguous(at::IntArrayRef shape, const at::TensorOptions& options) {
  const auto dtype = c10::typeMetaToScalarType(options.dtype());
  if (auto* memory = kept_memory(c10::multiply_integers(shape) * c10::elementSize(dtype))) {
    return at::Tensor(at::detail::empty_generic(
        shape, memory, c10::DispatchKeySet(c10::DispatchKey::CPU), dtype, std::nullopt));
  }
  return ask_for_huge_pages(at::Tensor(at::detail::empty_cpu(shape, options)));  // not dispatched
}

/// Contiguous, as PyTorch's softmax returns it whatever the strides of its input.
inline at::Tensor empty_contiguous_like(const at::Tensor& like) {
  return empty_contiguous(like.sizes(), like.options());
}

/// With the strides of `like` where it is dense: the layout that autograd accumulates into.
inline at::Tensor empty_gradient_like(const at::Tensor& like, at::ScalarType dtype) {
  const auto options = like.options().dtype(dtype);
  if (like.is_contiguous()) {
    return empty_contiguous(like.sizes(), options);
  }
  constexpr auto kLayout = at::MemoryFormat::Preserve;
  if (auto* memory = kept_memory(like.numel() * c10::elementSize(dtype))) {
    const at::Tensor layout = at::empty_like(like, options.device(at::kMeta), kLayout);
    return at::Tensor(at::detail::empty_strided_generic(layout.sizes(), layout.strides(), memory,
                                                        c10::DispatchKeySet(c10::DispatchKey::CPU),
                                                        dtype));
  }
  return ask_for_huge_pages(at::empty_like(like, options, kLayout));
}

}  // namespace torchsoftmax::cpu
