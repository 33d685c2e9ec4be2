#pragma once
// Typed calls of the operators through the dispatcher. Schemas: library.cpp.

#include <ATen/core/Tensor.h>

#include <optional>
#include <tuple>

namespace torchsoftmax {

using at::Tensor;

/// The options of cross_entropy that are not tensors: one struct here, the last arguments of its
/// operators in their schemas.
struct CrossEntropyOptions {
  int64_t reduction;  // checks::Reduction
  int64_t ignore_index;
  double label_smoothing;
};

/// WithOptions<f>::call is f with the signature of the schema, for registration.
template <auto kFunction>
struct WithOptions;

template <typename Result, typename... Args,
          Result (*kFunction)(const CrossEntropyOptions&, Args...)>
struct WithOptions<kFunction> {
  static Result call(Args... args, int64_t reduction, int64_t ignore_index,
                     double label_smoothing) {
    return kFunction({reduction, ignore_index, label_smoothing}, args...);
  }
};

namespace ops {

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
Tensor cross_entropy_backward(const CrossEntropyOptions& options, const Tensor& grad_output,
                              const Tensor& input, const Tensor& target,
                              const std::optional<Tensor>& weight, const Tensor& statistics,
                              const Tensor& normalizer);
Tensor cross_entropy_target_backward(const CrossEntropyOptions& options, const Tensor& grad_output,
                                     const Tensor& input, const Tensor& target,
                                     const std::optional<Tensor>& weight, const Tensor& statistics,
                                     const Tensor& normalizer);
Tensor gather_index(const Tensor& target, c10::SymInt num_classes, int64_t ignore_index);

}  // namespace ops
}  // namespace torchsoftmax
