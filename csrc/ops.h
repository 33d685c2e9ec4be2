#pragma once
// Typed calls of the operators through the dispatcher. Schemas: library.cpp.

#include <ATen/core/Tensor.h>

#include <array>
#include <optional>
#include <string_view>
#include <tuple>

namespace torchsoftmax {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;
using Dtype = std::optional<at::ScalarType>;

inline Tensor defined_or_empty(const OptionalTensor& tensor) { return tensor.value_or(Tensor()); }

inline OptionalTensor optional(const Tensor& tensor) {
  return tensor.defined() ? OptionalTensor(tensor) : std::nullopt;
}

/// The arguments that all operators of cross_entropy have: one struct here, the first and the last
/// arguments in their schemas.
struct CrossEntropyArgs {
  Tensor input;
  Tensor target;
  Tensor weight;         // of the classes; undefined where not given
  Tensor sample_weight;  // of the rows; undefined where not given
  int64_t reduction;     // checks::Reduction
  int64_t ignore_index;
  double label_smoothing;
  double temperature;
  double softcap;  // 0: none
  double z_loss;
  // What messages of errors call the function, and what it takes the cross-entropy of.
  const char* function = "cross_entropy";
  const char* logits = "input";
};

/// Which gradients are wanted: of the input, of the linear weight and of the linear bias.
using GradientMask = std::array<bool, 3>;
/// Those gradients; without elements where not wanted.
using LinearGradients = std::tuple<Tensor, Tensor, Tensor>;

/// OfCrossEntropy<f>::call is f with the signature of the schema, for registration.
template <auto kFunction>
struct OfCrossEntropy;

template <typename Result, typename... Own, Result (*kFunction)(const CrossEntropyArgs&, Own...)>
struct OfCrossEntropy<kFunction> {
  static Result call(const Tensor& input, const Tensor& target, const OptionalTensor& weight,
                     const OptionalTensor& sample_weight, Own... own, int64_t reduction,
                     int64_t ignore_index, double label_smoothing, double temperature,
                     double softcap, double z_loss) {
    return kFunction({input, target, defined_or_empty(weight), defined_or_empty(sample_weight),
                      reduction, ignore_index, label_smoothing, temperature, softcap, z_loss},
                     own...);
  }
};

namespace ops {

Tensor softmax(const Tensor& input, int64_t dim, Dtype dtype, double temperature,
               const OptionalTensor& mask);
Tensor softmax_backward(const Tensor& grad_output, const Tensor& output, int64_t dim,
                        double temperature, const OptionalTensor& mask);
Tensor log_softmax(const Tensor& input, int64_t dim, Dtype dtype, double temperature,
                   const OptionalTensor& mask);
Tensor log_softmax_backward(const Tensor& grad_output, const Tensor& output, int64_t dim,
                            double temperature, const OptionalTensor& mask);

/// Of log_softmax where `log`; `output` is that of softmax in both.
Tensor softmax_jacobian(const Tensor& output, int64_t dim, double temperature, bool log);
Tensor softmax_hessian(const Tensor& output, int64_t dim, double temperature);

Tensor cross_entropy(const CrossEntropyArgs& args, const OptionalTensor& normalizer, Dtype dtype,
                     bool inplace_backward);

struct CrossEntropyForward {
  Tensor loss;
  Tensor statistics;
  Tensor normalizer;
  Tensor
      gradient;  // of the input, for an upstream gradient of 1; without elements if not asked for
};
CrossEntropyForward cross_entropy_forward(const CrossEntropyArgs& args,
                                          const OptionalTensor& normalizer, Dtype dtype,
                                          bool with_gradient);
Tensor cross_entropy_backward(const CrossEntropyArgs& args, const Tensor& grad_output,
                              const Tensor& statistics, const Tensor& normalizer);
/// The loss of each row, in the accumulation type, and the statistics; the gradient for the losses'
/// `grad_output` is written over the input.
std::tuple<Tensor, Tensor> cross_entropy_with_gradient_(const CrossEntropyArgs& args,
                                                        const Tensor& grad_output);
/// Writes the gradient over the input.
void cross_entropy_backward_(const CrossEntropyArgs& args, const Tensor& grad_output,
                             const Tensor& statistics, const Tensor& normalizer);
Tensor cross_entropy_target_backward(const CrossEntropyArgs& args, const Tensor& grad_output,
                                     const Tensor& statistics, const Tensor& normalizer);
/// values *= factor, a number.
void scale_(const Tensor& values, const Tensor& factor);

/// `args.input` holds what the logits are a linear function of. chunk_size: rows at a time.
Tensor linear_cross_entropy(const CrossEntropyArgs& args, const Tensor& linear_weight,
                            const OptionalTensor& linear_bias, const OptionalTensor& normalizer,
                            Dtype dtype, std::optional<int64_t> chunk_size);
/// What a float32 copy of a bfloat16 or float16 gradient of a linear weight may take. One that
/// would take more is not made: the logits are computed once more instead.
inline constexpr int64_t kAccumulatorBytes = int64_t{256} << 20;

struct LinearCrossEntropyForward {
  Tensor loss;
  Tensor normalizer;
  LinearGradients gradients;  // for an upstream gradient of 1
};
LinearCrossEntropyForward linear_cross_entropy_forward(
    const CrossEntropyArgs& args, const Tensor& linear_weight, const OptionalTensor& linear_bias,
    const OptionalTensor& normalizer, Dtype dtype, std::optional<int64_t> chunk_size,
    GradientMask wanted, int64_t accumulator_bytes);
LinearGradients linear_cross_entropy_backward(const CrossEntropyArgs& args,
                                              const Tensor& linear_weight,
                                              const OptionalTensor& linear_bias,
                                              const Tensor& grad_output, const Tensor& normalizer,
                                              std::optional<int64_t> chunk_size,
                                              GradientMask wanted, int64_t accumulator_bytes);

/// out = a b, or out + a b; out is of the dtype of both, or float32 for a lower one.
void gemm_(const Tensor& out, const Tensor& a, const Tensor& b, bool accumulate);

/// log_prob, lse, entropy, argmax, statistics.
using Statistics = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor>;
Statistics softmax_statistics(const Tensor& input, const OptionalTensor& index,
                              const OptionalTensor& mask, int64_t dim, double temperature,
                              bool argmax);
Tensor softmax_statistics_backward(const Tensor& grad_log_prob, const Tensor& grad_lse,
                                   const Tensor& grad_entropy, const Tensor& input,
                                   const OptionalTensor& index, const OptionalTensor& mask,
                                   const Tensor& statistics, int64_t dim, double temperature);

Statistics linear_softmax_statistics(const Tensor& input, const Tensor& linear_weight,
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
/// loss, statistics.
std::tuple<Tensor, Tensor> kl_div_with_logits_forward(const Tensor& input, const Tensor& target,
                                                      Dtype dtype, int64_t reduction,
                                                      double temperature);
Tensor kl_div_with_logits_backward(const Tensor& grad_output, const Tensor& input,
                                   const Tensor& target, const Tensor& statistics,
                                   int64_t reduction, double temperature);
Tensor kl_div_with_logits_target_backward(const Tensor& grad_output, const Tensor& input,
                                          const Tensor& target, const Tensor& statistics,
                                          int64_t reduction, double temperature);

/// `target` as indices to gather with: 0 for ignored ones; raises for one that is out of range.
Tensor gather_index(const Tensor& target, c10::SymInt num_classes,
                    std::optional<int64_t> ignore_index, std::string_view function);

}  // namespace ops
}  // namespace torchsoftmax
