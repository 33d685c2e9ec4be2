#pragma once
// Gradients that forward leaves for backward.

#include <ATen/ops/mul.h>
#include <c10/core/impl/TorchDispatchModeTLS.h>
#include <torch/csrc/autograd/engine.h>

#include "../ops.h"

namespace torchsoftmax {

/// Whether the tensor is memory that may be read and written here and now: not one
/// that stands for another, as in tracing.
inline bool is_plain(const Tensor& tensor) {
  constexpr c10::DispatchKeySet wrappers(
      {c10::DispatchKey::Python, c10::DispatchKey::Functionalize,
       c10::DispatchKey::FuncTorchBatched, c10::DispatchKey::FuncTorchGradWrapper,
       c10::DispatchKey::ZeroTensor, c10::DispatchKey::Negative});
  return (tensor.is_cpu() || tensor.is_cuda()) && tensor.layout() == at::kStrided &&
         tensor.has_storage() && !tensor.key_set().has_any(wrappers) &&
         !c10::impl::TorchDispatchModeTLS::any_modes_set();
}

inline bool is_one(const Tensor& number) {
  switch (number.scalar_type()) {
    case at::kFloat:
      return *number.const_data_ptr<float>() == 1;
    case at::kDouble:
      return *number.const_data_ptr<double>() == 1;
    case at::kBFloat16:
      return *number.const_data_ptr<at::BFloat16>() == 1;
    default:
      return false;
  }
}

/// The gradient that forward left, times the upstream one: in its own memory where nobody else
/// refers to it and backward will not come again.
inline Tensor scaled(Tensor gradient, const Tensor& grad_output) {
  const at::AutoDispatchBelowAutograd below;
  constexpr size_t kOwners = 2;  // the saved variable and `gradient`
  // A hook of saved tensors has shown the gradient to Python, which may have kept it.
  const bool seen = gradient.unsafeGetTensorImpl()->pyobj_slot()->load_pyobj() != nullptr;
  if (!is_plain(grad_output) || gradient.use_count() > kOwners || seen ||
      torch::autograd::get_current_graph_task_keep_graph()) {
    return at::mul(gradient, grad_output);
  }
  if (!gradient.is_cpu()) {
    ops::scale_(gradient, grad_output);  // it knows whether that is 1
    return gradient;
  }
  return is_one(grad_output) ? gradient : gradient.mul_(grad_output);
}

}  // namespace torchsoftmax
