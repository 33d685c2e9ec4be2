// softmax_statistics in plain ATen.

#include <ATen/ATen.h>
#include <torch/library.h>

#include "../checks.h"
#include "composite.h"

namespace torchsoftmax::composite {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

/// Softmax, its logarithm with 0 where it is -inf (p log p is 0 there), and the entropy of a row;
/// all with the class dimension.
struct Distribution {
  MaskedLogits masked;
  Tensor log_probability;
  Tensor probability;
  Tensor finite_log;
  Tensor entropy;

  Distribution(const Tensor& input, const OptionalTensor& mask, int64_t dim, double temperature)
      : masked(input.to(accumulation_type(input)), dim, temperature, mask) {
    log_probability = at::log_softmax(masked.logits, dim);
    probability = where_part(log_probability.exp(), mask, 0);
    finite_log = at::where(probability == 0, 0, log_probability);
    entropy = -(probability * finite_log).sum(dim, /*keepdim=*/true);
  }
};

}  // namespace

ops::Statistics softmax_statistics(const Tensor& input, const OptionalTensor& index,
                                   const OptionalTensor& mask, int64_t dim, double temperature,
                                   bool with_argmax) {
  const char* name = checks::statistics_name(index, with_argmax);
  dim = checks::softmax_statistics(name, input, index, mask, dim, temperature, with_argmax);
  const auto dtype = input.scalar_type();
  const Distribution rows(input, mask, dim, temperature);
  const Tensor lse = where_part(at::logsumexp(rows.masked.logits, dim, /*keepdim=*/true),
                                rows.masked.some, -kInfinity);
  Tensor log_prob = at::empty({0}, input.options());
  if (index.has_value()) {
    const c10::SymInt classes = input.dim() == 0 ? c10::SymInt(1) : input.sym_size(dim);
    const Tensor checked = ops::gather_index(*index, classes, std::nullopt, name);
    log_prob = where_part(rows.log_probability, mask, -kInfinity).gather(dim, checked);
  }
  const Tensor argmax = with_argmax ? rows.masked.logits.argmax(dim)
                                    : at::empty({0}, input.options().dtype(at::kLong));
  const bool empty = checks::is_empty(input);  // a maximum over no classes is not defined
  const Tensor max = empty ? lse : input.to(lse.scalar_type()).amax(dim, /*keepdim=*/true);
  const auto per_row = [&](const Tensor& value) {
    return input.dim() == 0 ? value : value.squeeze(dim);
  };
  const Tensor statistics =
      at::stack({per_row(max), per_row(lse - max / temperature), per_row(rows.entropy)});
  return {log_prob.to(dtype), per_row(lse).to(dtype), per_row(rows.entropy).to(dtype), argmax,
          statistics};
}

Tensor softmax_statistics_backward(const Tensor& grad_log_prob, const Tensor& grad_lse,
                                   const Tensor& grad_entropy, const Tensor& input,
                                   const OptionalTensor& index, const OptionalTensor& mask,
                                   const Tensor& statistics, int64_t dim, double temperature) {
  dim = checks::softmax_statistics_backward(grad_log_prob, grad_lse, grad_entropy, input, index,
                                            mask, statistics, dim, temperature);
  const auto acc = accumulation_type(input);
  const Distribution rows(input, mask, dim, temperature);
  const auto with_classes = [&](const Tensor& value) {
    return input.dim() == 0 ? value.to(acc) : value.to(acc).unsqueeze(dim);
  };
  Tensor common = with_classes(grad_lse);
  if (index.has_value()) {
    common = common - grad_log_prob.to(acc).sum(dim, /*keepdim=*/true);
  }
  const Tensor of_entropy = with_classes(grad_entropy) * (rows.finite_log + rows.entropy);
  Tensor result = rows.probability * (common - of_entropy);
  if (index.has_value()) {
    const c10::SymInt classes = input.dim() == 0 ? c10::SymInt(1) : input.sym_size(dim);
    const Tensor checked =
        ops::gather_index(*index, classes, std::nullopt, "softmax_statistics_backward");
    result = result.scatter_add(dim, checked, grad_log_prob.to(acc));
  }
  return (where_part(result, mask, 0) / temperature).to(input.scalar_type());
}

namespace {

void register_statistics(torch::Library& m) {
  m.impl("softmax_statistics", &softmax_statistics);
  m.impl("softmax_statistics_backward", &softmax_statistics_backward);
}

}  // namespace

TORCH_LIBRARY_IMPL(torchsoftmax, CompositeExplicitAutograd, m) { register_statistics(m); }
TORCH_LIBRARY_IMPL(torchsoftmax, FuncTorchBatched, m) { register_statistics(m); }

}  // namespace torchsoftmax::composite
