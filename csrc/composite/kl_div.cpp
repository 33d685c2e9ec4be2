// kl_div_with_logits in plain ATen.

#include <ATen/ATen.h>
#include <torch/library.h>

#include "../checks.h"
#include "composite.h"

namespace torchsoftmax::composite {
namespace {

/// Both softmaxes, the logarithm of their ratio with 0 where target's is 0 (q log q is 0 there),
/// and the divergence of a row; all with the class dimension.
struct Divergence {
  Tensor p;
  Tensor q;
  Tensor log_ratio;
  Tensor value;

  Divergence(const Tensor& input, const Tensor& target, double temperature) {
    const auto acc = accumulation_type(input);
    const Tensor log_p = at::log_softmax(input.to(acc) / temperature, -1);
    const Tensor log_q = at::log_softmax(target.to(acc) / temperature, -1);
    p = log_p.exp();
    q = log_q.exp();
    log_ratio = at::where(q == 0, 0, log_q - log_p);
    value = (q * log_ratio).sum(-1, /*keepdim=*/true);
  }
};

/// d loss / d row, with a class dimension of 1.
Tensor row_gradient(const Tensor& grad_output, const Tensor& input, int64_t reduction) {
  const Tensor grad = grad_output.to(accumulation_type(input));
  return reduction == checks::kNone ? grad.unsqueeze(-1)
                                    : grad / at::Scalar(checks::kl_div_divisor(input, reduction));
}

Tensor loss_of(const Divergence& rows, const Tensor& input, Dtype dtype, int64_t reduction,
               double temperature) {
  Tensor loss = temperature * temperature * rows.value.squeeze(-1);
  if (reduction != checks::kNone) {
    loss = loss.sum() / at::Scalar(checks::kl_div_divisor(input, reduction));
  }
  return loss.to(dtype.value_or(input.scalar_type()));
}

}  // namespace

Tensor kl_div_with_logits(const Tensor& input, const Tensor& target, Dtype dtype, int64_t reduction,
                          double temperature) {
  checks::kl_div_with_logits(input, target, reduction, temperature);
  return loss_of(Divergence(input, target, temperature), input, dtype, reduction, temperature);
}

std::tuple<Tensor, Tensor> kl_div_with_logits_forward(const Tensor& input, const Tensor& target,
                                                      Dtype dtype, int64_t reduction,
                                                      double temperature) {
  checks::kl_div_with_logits(input, target, reduction, temperature);
  const Divergence rows(input, target, temperature);
  const Tensor divergence = rows.value.squeeze(-1);
  std::vector<Tensor> statistics;
  for (const Tensor& logits : {input, target}) {
    const Tensor wide = logits.to(rows.value.scalar_type());
    const Tensor max = checks::is_empty(wide) ? at::zeros_like(divergence) : wide.amax(-1);
    statistics.push_back(max);
    statistics.push_back(at::logsumexp((wide - max.unsqueeze(-1)) / temperature, -1));
  }
  statistics.push_back(divergence - (statistics[1] - statistics[3]));
  return {loss_of(rows, input, dtype, reduction, temperature), at::stack(statistics)};
}

namespace {

/// `derivative`: of a row's divergence times the temperature, by the logits.
template <typename Derivative>
Tensor backward(const Tensor& grad_output, const Tensor& input, const Tensor& target,
                const Tensor& statistics, int64_t reduction, double temperature,
                Derivative&& derivative) {
  checks::kl_div_with_logits_backward(grad_output, input, target, statistics, reduction,
                                      temperature);
  const Divergence rows(input, target, temperature);
  return (temperature * row_gradient(grad_output, input, reduction) * derivative(rows))
      .to(input.scalar_type());
}

}  // namespace

Tensor kl_div_with_logits_backward(const Tensor& grad_output, const Tensor& input,
                                   const Tensor& target, const Tensor& statistics,
                                   int64_t reduction, double temperature) {
  return backward(grad_output, input, target, statistics, reduction, temperature,
                  [](const Divergence& rows) { return rows.p - rows.q; });
}

Tensor kl_div_with_logits_target_backward(const Tensor& grad_output, const Tensor& input,
                                          const Tensor& target, const Tensor& statistics,
                                          int64_t reduction, double temperature) {
  return backward(grad_output, input, target, statistics, reduction, temperature,
                  [](const Divergence& rows) { return rows.q * (rows.log_ratio - rows.value); });
}

namespace {

/// For devices without kernels of ours.
Tensor kl_div_with_logits_explicit(const Tensor& input, const Tensor& target, Dtype dtype,
                                   int64_t reduction, double temperature) {
  return std::get<0>(ops::kl_div_with_logits_forward(input, target, dtype, reduction, temperature));
}

void register_kl_div(torch::Library& m) {
  m.impl("kl_div_with_logits_forward", &kl_div_with_logits_forward);
  m.impl("kl_div_with_logits_backward", &kl_div_with_logits_backward);
  m.impl("kl_div_with_logits_target_backward", &kl_div_with_logits_target_backward);
}

}  // namespace

TORCH_LIBRARY_IMPL(torchsoftmax, CompositeExplicitAutograd, m) {
  register_kl_div(m);
  m.impl("kl_div_with_logits", &kl_div_with_logits_explicit);
}

TORCH_LIBRARY_IMPL(torchsoftmax, FuncTorchBatched, m) {
  register_kl_div(m);
  m.impl("kl_div_with_logits", &kl_div_with_logits);
}

}  // namespace torchsoftmax::composite
