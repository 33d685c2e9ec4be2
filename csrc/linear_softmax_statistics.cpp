// linear_softmax_statistics by chunks of rows; backward computes the logits again.

#include <torch/library.h>

#include "chunked_linear.h"
#include "composite/composite.h"

namespace torchsoftmax {
namespace {

Tensor index_of(const Tensor& target) { return target.reshape({-1, 1}); }

ops::Statistics forward(const Tensor& input, const Tensor& linear_weight,
                        const OptionalTensor& linear_bias, const Tensor& target, double temperature,
                        double softcap, std::optional<int64_t> chunk_size, bool wide) {
  checks::linear_softmax_statistics(input, linear_weight, linear_bias, target, temperature, softcap,
                                    chunk_size);
  const LinearLayer layer(input, linear_weight, linear_bias);
  const int64_t rows = layer.input.size(0);
  ops::gather_index(target, layer.weight.size(0), std::nullopt, "linear_softmax_statistics");
  const auto accumulated = input.options().dtype(at::toOpMathType(input.scalar_type()));
  const auto options = wide ? accumulated : input.options();
  const Tensor log_prob = at::empty({rows}, options), lse = at::empty({rows}, options);
  const Tensor entropy = at::empty({rows}, options);
  const Tensor argmax = at::empty({rows}, options.dtype(at::kLong));
  const Tensor statistics = at::empty({3, rows}, accumulated);
  ChunkedLinear chunks(layer, Rows(rows), {false, false, false});
  chunks.run(chunk_size, [&](int64_t begin, const Tensor& logits) {
    const int64_t count = logits.size(0);
    const Tensor value = composite::Capped(logits, softcap).value;
    const auto [of_index, of_lse, of_entropy, largest, kept] = ops::softmax_statistics(
        wide ? value.to(accumulated.dtype()) : value, index_of(target).narrow(0, begin, count),
        std::nullopt, 1, temperature, /*argmax=*/true);
    log_prob.narrow(0, begin, count).copy_(of_index.squeeze(1));
    lse.narrow(0, begin, count).copy_(of_lse);
    entropy.narrow(0, begin, count).copy_(of_entropy);
    argmax.narrow(0, begin, count).copy_(largest);
    statistics.narrow(1, begin, count).copy_(kept);
    return Tensor();
  });
  const auto shape = target.sizes();
  return {log_prob.view(shape), lse.view(shape), entropy.view(shape), argmax.view(shape),
          statistics};
}

LinearGradients backward(const Tensor& grad_log_prob, const Tensor& grad_lse,
                         const Tensor& grad_entropy, const Tensor& input,
                         const Tensor& linear_weight, const OptionalTensor& linear_bias,
                         const Tensor& target, const Tensor& statistics, double temperature,
                         double softcap, std::optional<int64_t> chunk_size, GradientMask wanted) {
  checks::linear_softmax_statistics(input, linear_weight, linear_bias, target, temperature, softcap,
                                    chunk_size);
  checks::linear_softmax_statistics_backward({grad_log_prob, grad_lse, grad_entropy}, input,
                                             linear_bias, target, statistics, wanted);
  const LinearLayer layer(input, linear_weight, linear_bias);
  ops::gather_index(target, layer.weight.size(0), std::nullopt,
                    "linear_softmax_statistics_backward");
  ChunkedLinear chunks(layer, Rows(layer.input.size(0)), wanted);
  chunks.run(chunk_size, [&](int64_t begin, const Tensor& logits) {
    const int64_t count = logits.size(0);
    const auto rows = [&](const Tensor& values) {
      return values.reshape({-1}).narrow(0, begin, count);
    };
    const composite::Capped capped(logits, softcap);
    Tensor gradient = ops::softmax_statistics_backward(
        rows(grad_log_prob).unsqueeze(1), rows(grad_lse), rows(grad_entropy), capped.value,
        index_of(target).narrow(0, begin, count), std::nullopt, statistics.narrow(1, begin, count),
        1, temperature);
    if (const Tensor slope = capped.slope(); slope.defined()) {
      gradient = (gradient * slope).to(logits.scalar_type());
    }
    return gradient;
  });
  return chunks.gradients(input, linear_weight, linear_bias);
}

}  // namespace

TORCH_LIBRARY_IMPL(torchsoftmax, CompositeExplicitAutograd, m) {
  m.impl("linear_softmax_statistics", &forward);
  m.impl("linear_softmax_statistics_backward", &backward);
}

}  // namespace torchsoftmax
