#pragma once
// Gradients that forward leaves for backward.

#include <ATen/ops/eq.h>
#include <ATen/ops/mul.h>
#include <ATen/ops/where.h>
#include <c10/core/impl/TorchDispatchModeTLS.h>
#include <torch/csrc/autograd/engine.h>

#include <cmath>

#include "gate.h"

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

/// A plain number on the CPU.
inline double number_in(const Tensor& number) {
  switch (number.scalar_type()) {
    case at::kFloat:
      return *number.const_data_ptr<float>();
    case at::kDouble:
      return *number.const_data_ptr<double>();
    case at::kBFloat16:
      return *number.const_data_ptr<at::BFloat16>();
    default:
      return number.item<double>();
  }
}

/// Whether what it gives is not differentiated again.
inline bool is_last(const Tensor& grad_output) {
  return !at::GradMode::is_enabled() && !has_tangent(grad_output);
}

/// Whether the gradient that forward left only has to be scaled: not where the upstream one has a
/// tangent, nor where it is infinite, for the gradient of an ignored row, 0, would become nan.
inline bool only_scales(const Tensor& grad_output) {
  return is_last(grad_output) && (!(is_plain(grad_output) && grad_output.is_cpu()) ||
                                  std::isfinite(number_in(grad_output)));
}

/// The gradient that forward left, times the upstream one: in its own memory where nobody else
/// refers to it and backward will not come again.
inline Tensor scaled(Tensor gradient, const Tensor& grad_output) {
  const at::AutoDispatchBelowAutograd below;
  constexpr size_t kOwners = 2;  // the saved variable and `gradient`
  // A hook of saved tensors has shown the gradient to Python, which may have kept it.
  const bool seen = gradient.unsafeGetTensorImpl()->pyobj_slot()->load_pyobj() != nullptr;
  if (!is_plain(grad_output)) {  // where its value is not known; see only_scales
    return at::where(gradient.eq(0), gradient, at::mul(gradient, grad_output));
  }
  if (gradient.use_count() > kOwners || seen ||
      torch::autograd::get_current_graph_task_keep_graph()) {
    return at::mul(gradient, grad_output);
  }
  if (!gradient.is_cpu()) {
    ops::scale_(gradient, grad_output);  // it knows whether that is 1
    return gradient;
  }
  return number_in(grad_output) == 1 ? gradient : gradient.mul_(grad_output);
}

}  // namespace torchsoftmax
