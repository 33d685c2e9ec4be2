#pragma once
// Each operator's definition in plain differentiable ATen. It serves devices without kernels of
// ours, double backward, forward-mode AD and torch.func, and is what the tests compare with.
//
// Backward definitions are functions of the inputs: they do not use the statistics of forward, so
// that they can be differentiated.

#include <ATen/OpMathType.h>

#include "../linear_layer.h"
#include "../ops.h"

namespace torchsoftmax::composite {

inline at::ScalarType accumulation_type(const Tensor& tensor) {
  return at::toOpMathType(tensor.scalar_type());
}

/// `values`, or `otherwise` where an entry takes no part.
Tensor where_part(const Tensor& values, const OptionalTensor& mask, double otherwise);

/// Logits over temperature, -inf where `mask` is false; 0 in rows where nothing takes part.
struct MaskedLogits {
  Tensor logits;
  OptionalTensor some;  // rows in which something takes part, with a class dimension of 1

  MaskedLogits(const Tensor& input, int64_t dim, double temperature, const OptionalTensor& mask);
};

Tensor softmax(const Tensor& input, int64_t dim, Dtype dtype, double temperature,
               const OptionalTensor& mask);
Tensor softmax_backward(const Tensor& grad_output, const Tensor& output, int64_t dim,
                        double temperature, const OptionalTensor& mask);
Tensor log_softmax(const Tensor& input, int64_t dim, Dtype dtype, double temperature,
                   const OptionalTensor& mask);
Tensor log_softmax_backward(const Tensor& grad_output, const Tensor& output, int64_t dim,
                            double temperature, const OptionalTensor& mask);

Tensor softmax_jacobian(const Tensor& output, int64_t dim, double temperature, bool log);
Tensor softmax_hessian(const Tensor& output, int64_t dim, double temperature);
/// The gradient of `output`.
Tensor softmax_jacobian_backward(const Tensor& grad, const Tensor& output, int64_t dim,
                                 double temperature, bool log);

/// The logits after softcap: themselves without one, else in the accumulation type.
struct Capped {
  Tensor value;
  Tensor tanh;  // undefined without softcap

  Capped(const Tensor& logits, double softcap);
  /// d value / d logits; undefined where it is 1.
  Tensor slope() const;
};

/// The logits after softcap and temperature, in the accumulation type.
struct Logits {
  Tensor value;
  Tensor slope;  // d value / d input, undefined where it is 1

  Logits(const Tensor& input, const CrossEntropyArgs& args);
};

Tensor cross_entropy(const CrossEntropyArgs& args, const OptionalTensor& normalizer, Dtype dtype,
                     bool inplace_backward);
std::tuple<Tensor, Tensor, Tensor, Tensor> cross_entropy_forward(const CrossEntropyArgs& args,
                                                                 const OptionalTensor& normalizer,
                                                                 Dtype dtype, bool with_gradient);
Tensor cross_entropy_backward(const CrossEntropyArgs& args, const Tensor& grad_output,
                              const Tensor& statistics, const Tensor& normalizer);
Tensor cross_entropy_target_backward(const CrossEntropyArgs& args, const Tensor& grad_output,
                                     const Tensor& statistics, const Tensor& normalizer);

/// The quotient; nan, not inf, where the weights sum to 0.
Tensor over(const Tensor& value, const Tensor& normalizer);

/// The dtype of logits and class probabilities by PyTorch's type promotion; none for class indices.
Dtype promoted_dtype(const CrossEntropyArgs& args);

/// cross_entropy's arguments in the dtypes that its kernels take, by PyTorch's type promotion.
/// `dtype` is the loss's and may be set.
CrossEntropyArgs promote(const CrossEntropyArgs& args, Dtype& dtype);

/// The gradients of a linear layer from that of its output.
LinearGradients linear_gradients(const Tensor& of_logits, const LinearLayer& layer,
                                 const Tensor& input, const Tensor& linear_weight,
                                 const OptionalTensor& linear_bias, GradientMask wanted);

Tensor linear_cross_entropy(const CrossEntropyArgs& args, const Tensor& linear_weight,
                            const OptionalTensor& linear_bias, const OptionalTensor& normalizer,
                            Dtype dtype, std::optional<int64_t> chunk_size);
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> linear_cross_entropy_forward(
    const CrossEntropyArgs& args, const Tensor& linear_weight, const OptionalTensor& linear_bias,
    const OptionalTensor& normalizer, Dtype dtype, std::optional<int64_t> chunk_size,
    GradientMask wanted, int64_t accumulator_bytes);
LinearGradients linear_cross_entropy_backward(const CrossEntropyArgs& args,
                                              const Tensor& linear_weight,
                                              const OptionalTensor& linear_bias,
                                              const Tensor& grad_output, const Tensor& normalizer,
                                              std::optional<int64_t> chunk_size,
                                              GradientMask wanted, int64_t accumulator_bytes);

/// Sets the target's dtype to one that goes with the input's, and the loss's dtype, as promote
/// does. False where the logits would have to be of a wider one: then it takes the definition.
bool promote_target(CrossEntropyArgs& args, const Tensor& linear_weight, Dtype& dtype);

ops::Statistics softmax_statistics(const Tensor& input, const OptionalTensor& index,
                                   const OptionalTensor& mask, int64_t dim, double temperature,
                                   bool with_argmax);
Tensor softmax_statistics_backward(const Tensor& grad_log_prob, const Tensor& grad_lse,
                                   const Tensor& grad_entropy, const Tensor& input,
                                   const OptionalTensor& index, const OptionalTensor& mask,
                                   const Tensor& statistics, int64_t dim, double temperature);

ops::Statistics linear_softmax_statistics(const Tensor& input, const Tensor& linear_weight,
                                          const OptionalTensor& linear_bias, const Tensor& target,
                                          double temperature, double softcap,
                                          std::optional<int64_t> chunk_size, bool wide);
LinearGradients linear_softmax_statistics_backward(
    const Tensor& grad_log_prob, const Tensor& grad_lse, const Tensor& grad_entropy,
    const Tensor& input, const Tensor& linear_weight, const OptionalTensor& linear_bias,
    const Tensor& target, const Tensor& statistics, double temperature, double softcap,
    std::optional<int64_t> chunk_size, GradientMask wanted);

Tensor kl_div_with_logits(const Tensor& input, const Tensor& target, Dtype dtype, int64_t reduction,
                          double temperature);
std::tuple<Tensor, Tensor> kl_div_with_logits_forward(const Tensor& input, const Tensor& target,
                                                      Dtype dtype, int64_t reduction,
                                                      double temperature);
Tensor kl_div_with_logits_backward(const Tensor& grad_output, const Tensor& input,
                                   const Tensor& target, const Tensor& statistics,
                                   int64_t reduction, double temperature);
Tensor kl_div_with_logits_target_backward(const Tensor& grad_output, const Tensor& input,
                                          const Tensor& target, const Tensor& statistics,
                                          int64_t reduction, double temperature);

}  // namespace torchsoftmax::composite
