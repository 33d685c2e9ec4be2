#pragma once
// The gate between kernels and composite definitions.
//
// A C++ torch::autograd::Function knows nothing of forward-mode AD or of the transforms of
// torch.func. Where one of them is at work, and where a gradient is to be differentiated again, an
// operator takes its composite definition, which PyTorch differentiates by itself.

#include <ATen/core/LegacyTypeDispatch.h>
#include <c10/core/impl/LocalDispatchKeySet.h>

#include "../ops.h"
#include "function.h"

namespace torchsoftmax {

inline bool in_torch_func() {
  return c10::impl::tls_is_dispatch_key_included(
             c10::DispatchKey::FuncTorchDynamicLayerFrontMode) ||
         c10::impl::tls_is_dispatch_key_included(c10::DispatchKey::FuncTorchDynamicLayerBackMode);
}

inline const Tensor& tensor_of(const Tensor& tensor) { return tensor; }
inline Tensor tensor_of(const OptionalTensor& tensor) { return defined_or_empty(tensor); }

inline bool has_tangent(const Tensor& tensor) {
  return tensor.defined() && tensor._fw_grad(/*level=*/0).defined();
}

/// Of tensors that are or may be undefined or not given.
template <typename... Tensors>
bool needs_composite(const Tensors&... tensors) {
  return in_torch_func() || (has_tangent(tensor_of(tensors)) || ...);
}

template <typename... Tensors>
bool needs_gradient(const Tensors&... tensors) {
  const auto needs = [](const Tensor& tensor) {
    return tensor.defined() && tensor.requires_grad();
  };
  return at::GradMode::is_enabled() && (needs(tensor_of(tensors)) || ...);
}

/// Of the arguments of an operator without a Function of its own: a backward operator, or one that
/// a Function calls.
template <typename... Tensors>
bool differentiated(const Tensors&... tensors) {
  return needs_composite(tensors...) || needs_gradient(tensors...);
}

}  // namespace torchsoftmax
