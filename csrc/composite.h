#pragma once
// Each operator's definition in plain differentiable ATen. It serves devices without kernels of
// ours, double backward, forward-mode AD and torch.func, and is what the tests compare with.

#include "ops.h"

namespace torchsoftmax::composite {

Tensor softmax(const Tensor& input, int64_t dim, std::optional<at::ScalarType> dtype);
Tensor softmax_backward(const Tensor& grad_output, const Tensor& output, int64_t dim);
Tensor log_softmax(const Tensor& input, int64_t dim, std::optional<at::ScalarType> dtype);
Tensor log_softmax_backward(const Tensor& grad_output, const Tensor& output, int64_t dim);

Tensor cross_entropy(const CrossEntropyOptions& options, const Tensor& input, const Tensor& target,
                     const std::optional<Tensor>& weight, std::optional<at::ScalarType> dtype);
std::tuple<Tensor, Tensor, Tensor> cross_entropy_forward(const CrossEntropyOptions& options,
                                                         const Tensor& input, const Tensor& target,
                                                         const std::optional<Tensor>& weight,
                                                         std::optional<at::ScalarType> dtype);
// As functions of the input: the statistics are not used, so that these can be differentiated.
Tensor cross_entropy_backward(const CrossEntropyOptions& options, const Tensor& grad_output,
                              const Tensor& input, const Tensor& target,
                              const std::optional<Tensor>& weight, const Tensor& statistics,
                              const Tensor& normalizer);
Tensor cross_entropy_target_backward(const CrossEntropyOptions& options, const Tensor& grad_output,
                                     const Tensor& input, const Tensor& target,
                                     const std::optional<Tensor>& weight, const Tensor& statistics,
                                     const Tensor& normalizer);

/// cross_entropy's arguments in the dtypes that its kernels take, by PyTorch's type promotion.
struct CrossEntropyInputs {
  Tensor input;
  Tensor target;
  std::optional<at::ScalarType> dtype;  // of the loss
};
CrossEntropyInputs promote(const Tensor& input, const Tensor& target,
                           const std::optional<Tensor>& weight,
                           std::optional<at::ScalarType> dtype);

}  // namespace torchsoftmax::composite
