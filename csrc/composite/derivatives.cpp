// Matrices of derivatives in plain ATen.

#include <ATen/ATen.h>
#include <torch/library.h>

#include "../checks.h"
#include "composite.h"

namespace torchsoftmax::composite {
namespace {

/// Rows of `output` as the last dimension, in the accumulation type. A 0-d tensor is one row.
Tensor rows_of(const Tensor& output, int64_t dim) {
  const Tensor wide = output.to(accumulation_type(output));
  return output.dim() == 0 ? wide.unsqueeze(0) : wide.movedim(dim, -1);
}

}  // namespace

Tensor softmax_jacobian(const Tensor& output, int64_t dim, double temperature, bool log) {
  dim = checks::softmax_jacobian(output, dim, temperature);
  const Tensor p = rows_of(output, dim);
  const Tensor delta = at::eye_symint(p.sym_size(-1), p.options());
  const Tensor of_log = (delta - p.unsqueeze(-2)) / temperature;
  return (log ? of_log : p.unsqueeze(-1) * of_log).to(output.scalar_type());
}

Tensor softmax_jacobian_backward(const Tensor& grad, const Tensor& output, int64_t dim,
                                 double temperature, bool log) {
  const Tensor g = grad.to(accumulation_type(output));
  const Tensor p = rows_of(output, dim);
  Tensor result;
  if (log) {
    result = -g.sum(-2);
  } else {
    const Tensor column = p.unsqueeze(-1);
    result = g.diagonal(0, -2, -1) - (g.matmul(column) + g.mT().matmul(column)).squeeze(-1);
  }
  result = (result / temperature).to(output.scalar_type());
  return output.dim() == 0 ? result.squeeze(0) : result.movedim(-1, dim);
}

namespace {

void register_derivatives(torch::Library& m) { m.impl("softmax_jacobian", &softmax_jacobian); }

}  // namespace

TORCH_LIBRARY_IMPL(torchsoftmax, CompositeExplicitAutograd, m) { register_derivatives(m); }
TORCH_LIBRARY_IMPL(torchsoftmax, FuncTorchBatched, m) { register_derivatives(m); }

}  // namespace torchsoftmax::composite
