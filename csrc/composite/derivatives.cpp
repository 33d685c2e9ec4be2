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

/// d log p_i / d x_j of rows `p`.
Tensor of_logarithm(const Tensor& p, double temperature) {
  return (at::eye_symint(p.sym_size(-1), p.options()) - p.unsqueeze(-2)) / temperature;
}

}  // namespace

Tensor softmax_jacobian(const Tensor& output, int64_t dim, double temperature, bool log) {
  dim = checks::softmax_jacobian(output, dim, temperature);
  const Tensor p = rows_of(output, dim);
  const Tensor scores = of_logarithm(p, temperature);
  return (log ? scores : p.unsqueeze(-1) * scores).to(output.scalar_type());
}

/// With p = exp(log p), the second derivative of p is p (s s^T + ds) for the score s, the first
/// derivative of log p. Of all log p the second derivative is -J / T.
Tensor softmax_hessian(const Tensor& output, int64_t dim, double temperature) {
  dim = checks::softmax_hessian(output, dim, temperature);
  const Tensor p = rows_of(output, dim);
  const Tensor scores = of_logarithm(p, temperature);
  const Tensor jacobian = p.unsqueeze(-1) * scores;
  const Tensor squares = scores.unsqueeze(-1) * scores.unsqueeze(-2);
  return (p.unsqueeze(-1).unsqueeze(-1) * (squares - jacobian.unsqueeze(-3) / temperature))
      .to(output.scalar_type());
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

void register_derivatives(torch::Library& m) {
  m.impl("softmax_jacobian", &softmax_jacobian);
  m.impl("softmax_hessian", &softmax_hessian);
}

}  // namespace

TORCH_LIBRARY_IMPL(torchsoftmax, CompositeExplicitAutograd, m) { register_derivatives(m); }
TORCH_LIBRARY_IMPL(torchsoftmax, FuncTorchBatched, m) { register_derivatives(m); }

}  // namespace torchsoftmax::composite
