#pragma once
// Fresh output tensors: see cpu/memory.h.

#include <ATen/core/Tensor.h>
#include <ATen/cuda/EmptyTensor.h>
#include <ATen/ops/empty_like.h>

namespace torchsoftmax::cuda {

inline at::Tensor empty_contiguous(at::IntArrayRef shape, const at::TensorOptions& options) {
  return at::Tensor(at::detail::empty_cuda(shape, options));  // a hop of the dispatcher less
}

/// Contiguous, as PyTorch's softmax returns it whatever the strides of its input.
inline at::Tensor empty_contiguous_like(const at::Tensor& like) {
  return empty_contiguous(like.sizes(), like.options());
}

/// With the strides of `like` where it is dense: the layout that autograd accumulates into.
inline at::Tensor empty_gradient_like(const at::Tensor& like, at::ScalarType dtype) {
  return at::empty_like(like, like.options().dtype(dtype), at::MemoryFormat::Preserve);
}

}  // namespace torchsoftmax::cuda
