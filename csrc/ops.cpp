#include "ops.h"

#include <ATen/core/dispatch/Dispatcher.h>

namespace torchsoftmax::ops {
namespace {

/// The operator of that name and of the type of its kernels.
template <typename Signature>
c10::TypedOperatorHandle<Signature> find(const char* name) {
  return c10::Dispatcher::singleton().findSchemaOrThrow(name, "").typed<Signature>();
}

using Optional = const OptionalTensor&;
using Softmax = Tensor(const Tensor&, int64_t, Dtype, double, Optional);
using SoftmaxBackward = Tensor(const Tensor&, const Tensor&, int64_t, double, Optional);

/// An operator of cross_entropy: its own arguments are between the common ones.
template <typename Result, typename... Own>
class OpOfCrossEntropy {
 public:
  explicit OpOfCrossEntropy(const char* name)
      : op_(find<Result(const Tensor&, const Tensor&, Optional, Optional, Own..., int64_t, int64_t,
                        double, double, double, double)>(name)) {}

  Result operator()(const CrossEntropyArgs& args, Own... own) const {
    return op_.call(args.input, args.target, optional(args.weight), optional(args.sample_weight),
                    own..., args.reduction, args.ignore_index, args.label_smoothing,
                    args.temperature, args.softcap, args.z_loss);
  }

 private:
  c10::TypedOperatorHandle<Result(const Tensor&, const Tensor&, Optional, Optional, Own..., int64_t,
                                  int64_t, double, double, double, double)>
      op_;
};

template <typename Result>
using CrossEntropyBackward = OpOfCrossEntropy<Result, const Tensor&, const Tensor&, const Tensor&>;

}  // namespace

Tensor softmax(const Tensor& input, int64_t dim, Dtype dtype, double temperature, Optional mask) {
  static const auto op = find<Softmax>("torchsoftmax::softmax");
  return op.call(input, dim, dtype, temperature, mask);
}

Tensor softmax_backward(const Tensor& grad_output, const Tensor& output, int64_t dim,
                        double temperature, Optional mask) {
  static const auto op = find<SoftmaxBackward>("torchsoftmax::softmax_backward");
  return op.call(grad_output, output, dim, temperature, mask);
}

Tensor log_softmax(const Tensor& input, int64_t dim, Dtype dtype, double temperature,
                   Optional mask) {
  static const auto op = find<Softmax>("torchsoftmax::log_softmax");
  return op.call(input, dim, dtype, temperature, mask);
}

Tensor log_softmax_backward(const Tensor& grad_output, const Tensor& output, int64_t dim,
                            double temperature, Optional mask) {
  static const auto op = find<SoftmaxBackward>("torchsoftmax::log_softmax_backward");
  return op.call(grad_output, output, dim, temperature, mask);
}

Tensor softmax_jacobian(const Tensor& output, int64_t dim, double temperature, bool log) {
  static const auto op =
      find<Tensor(const Tensor&, int64_t, double, bool)>("torchsoftmax::softmax_jacobian");
  return op.call(output, dim, temperature, log);
}

Tensor softmax_hessian(const Tensor& output, int64_t dim, double temperature) {
  static const auto op =
      find<Tensor(const Tensor&, int64_t, double)>("torchsoftmax::softmax_hessian");
  return op.call(output, dim, temperature);
}

Tensor cross_entropy(const CrossEntropyArgs& args, Optional normalizer, Dtype dtype,
                     bool inplace_backward) {
  static const OpOfCrossEntropy<Tensor, Optional, Dtype, bool> op("torchsoftmax::cross_entropy");
  return op(args, normalizer, dtype, inplace_backward);
}

CrossEntropyForward cross_entropy_forward(const CrossEntropyArgs& args, Optional normalizer,
                                          Dtype dtype, bool with_gradient) {
  using Result = std::tuple<Tensor, Tensor, Tensor, Tensor>;
  static const OpOfCrossEntropy<Result, Optional, Dtype, bool> op(
      "torchsoftmax::cross_entropy_forward");
  auto [loss, statistics, used, gradient] = op(args, normalizer, dtype, with_gradient);
  return {std::move(loss), std::move(statistics), std::move(used), std::move(gradient)};
}

Tensor cross_entropy_backward(const CrossEntropyArgs& args, const Tensor& grad_output,
                              const Tensor& statistics, const Tensor& normalizer) {
  static const CrossEntropyBackward<Tensor> op("torchsoftmax::cross_entropy_backward");
  return op(args, grad_output, statistics, normalizer);
}

void cross_entropy_backward_(const CrossEntropyArgs& args, const Tensor& grad_output,
                             const Tensor& statistics, const Tensor& normalizer) {
  static const CrossEntropyBackward<void> op("torchsoftmax::cross_entropy_backward_");
  op(args, grad_output, statistics, normalizer);
}

Tensor cross_entropy_target_backward(const CrossEntropyArgs& args, const Tensor& grad_output,
                                     const Tensor& statistics, const Tensor& normalizer) {
  static const CrossEntropyBackward<Tensor> op("torchsoftmax::cross_entropy_target_backward");
  return op(args, grad_output, statistics, normalizer);
}

void scale_(const Tensor& values, const Tensor& factor) {
  static const auto op = find<void(const Tensor&, const Tensor&)>("torchsoftmax::scale_");
  op.call(values, factor);
}

std::tuple<Tensor, Tensor> cross_entropy_with_gradient_(const CrossEntropyArgs& args,
                                                        const Tensor& grad_output) {
  static const OpOfCrossEntropy<std::tuple<Tensor, Tensor>, const Tensor&> op(
      "torchsoftmax::cross_entropy_with_gradient_");
  return op(args, grad_output);
}

Tensor linear_cross_entropy(const CrossEntropyArgs& args, const Tensor& linear_weight,
                            Optional linear_bias, Optional normalizer, Dtype dtype,
                            std::optional<int64_t> chunk_size) {
  static const OpOfCrossEntropy<Tensor, const Tensor&, Optional, Optional, Dtype,
                                std::optional<int64_t>>
      op("torchsoftmax::linear_cross_entropy");
  return op(args, linear_weight, linear_bias, normalizer, dtype, chunk_size);
}

LinearCrossEntropyForward linear_cross_entropy_forward(
    const CrossEntropyArgs& args, const Tensor& linear_weight, Optional linear_bias,
    Optional normalizer, Dtype dtype, std::optional<int64_t> chunk_size, GradientMask wanted,
    int64_t accumulator_bytes) {
  using Result = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor>;
  static const OpOfCrossEntropy<Result, const Tensor&, Optional, Optional, Dtype,
                                std::optional<int64_t>, GradientMask, int64_t>
      op("torchsoftmax::linear_cross_entropy_forward");
  auto [loss, used, of_input, of_weight, of_bias] = op(
      args, linear_weight, linear_bias, normalizer, dtype, chunk_size, wanted, accumulator_bytes);
  return {std::move(loss),
          std::move(used),
          {std::move(of_input), std::move(of_weight), std::move(of_bias)}};
}

LinearGradients linear_cross_entropy_backward(const CrossEntropyArgs& args,
                                              const Tensor& linear_weight, Optional linear_bias,
                                              const Tensor& grad_output, const Tensor& normalizer,
                                              std::optional<int64_t> chunk_size,
                                              GradientMask wanted, int64_t accumulator_bytes) {
  static const OpOfCrossEntropy<LinearGradients, const Tensor&, Optional, const Tensor&,
                                const Tensor&, std::optional<int64_t>, GradientMask, int64_t>
      op("torchsoftmax::linear_cross_entropy_backward");
  return op(args, linear_weight, linear_bias, grad_output, normalizer, chunk_size, wanted,
            accumulator_bytes);
}

void gemm_(const Tensor& out, const Tensor& a, const Tensor& b, bool accumulate) {
  static const auto op =
      find<void(const Tensor&, const Tensor&, const Tensor&, bool)>("torchsoftmax::gemm_");
  op.call(out, a, b, accumulate);
}

Statistics softmax_statistics(const Tensor& input, Optional index, Optional mask, int64_t dim,
                              double temperature, bool argmax) {
  static const auto op = find<Statistics(const Tensor&, Optional, Optional, int64_t, double, bool)>(
      "torchsoftmax::softmax_statistics");
  return op.call(input, index, mask, dim, temperature, argmax);
}

Tensor softmax_statistics_backward(const Tensor& grad_log_prob, const Tensor& grad_lse,
                                   const Tensor& grad_entropy, const Tensor& input, Optional index,
                                   Optional mask, const Tensor& statistics, int64_t dim,
                                   double temperature) {
  static const auto op =
      find<Tensor(const Tensor&, const Tensor&, const Tensor&, const Tensor&, Optional, Optional,
                  const Tensor&, int64_t, double)>("torchsoftmax::softmax_statistics_backward");
  return op.call(grad_log_prob, grad_lse, grad_entropy, input, index, mask, statistics, dim,
                 temperature);
}

Statistics linear_softmax_statistics(const Tensor& input, const Tensor& linear_weight,
                                     Optional linear_bias, const Tensor& target, double temperature,
                                     double softcap, std::optional<int64_t> chunk_size, bool wide) {
  static const auto op =
      find<Statistics(const Tensor&, const Tensor&, Optional, const Tensor&, double, double,
                      std::optional<int64_t>, bool)>("torchsoftmax::linear_softmax_statistics");
  return op.call(input, linear_weight, linear_bias, target, temperature, softcap, chunk_size, wide);
}

LinearGradients linear_softmax_statistics_backward(
    const Tensor& grad_log_prob, const Tensor& grad_lse, const Tensor& grad_entropy,
    const Tensor& input, const Tensor& linear_weight, Optional linear_bias, const Tensor& target,
    const Tensor& statistics, double temperature, double softcap, std::optional<int64_t> chunk_size,
    GradientMask wanted) {
  static const auto op = find<LinearGradients(
      const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&, Optional,
      const Tensor&, const Tensor&, double, double, std::optional<int64_t>, GradientMask)>(
      "torchsoftmax::linear_softmax_statistics_backward");
  return op.call(grad_log_prob, grad_lse, grad_entropy, input, linear_weight, linear_bias, target,
                 statistics, temperature, softcap, chunk_size, wanted);
}

Tensor kl_div_with_logits(const Tensor& input, const Tensor& target, Dtype dtype, int64_t reduction,
                          double temperature) {
  static const auto op = find<Tensor(const Tensor&, const Tensor&, Dtype, int64_t, double)>(
      "torchsoftmax::kl_div_with_logits");
  return op.call(input, target, dtype, reduction, temperature);
}

std::tuple<Tensor, Tensor> kl_div_with_logits_forward(const Tensor& input, const Tensor& target,
                                                      Dtype dtype, int64_t reduction,
                                                      double temperature) {
  static const auto op =
      find<std::tuple<Tensor, Tensor>(const Tensor&, const Tensor&, Dtype, int64_t, double)>(
          "torchsoftmax::kl_div_with_logits_forward");
  return op.call(input, target, dtype, reduction, temperature);
}

using KlDivBackward = Tensor(const Tensor&, const Tensor&, const Tensor&, const Tensor&, int64_t,
                             double);

Tensor kl_div_with_logits_backward(const Tensor& grad_output, const Tensor& input,
                                   const Tensor& target, const Tensor& statistics,
                                   int64_t reduction, double temperature) {
  static const auto op = find<KlDivBackward>("torchsoftmax::kl_div_with_logits_backward");
  return op.call(grad_output, input, target, statistics, reduction, temperature);
}

Tensor kl_div_with_logits_target_backward(const Tensor& grad_output, const Tensor& input,
                                          const Tensor& target, const Tensor& statistics,
                                          int64_t reduction, double temperature) {
  static const auto op = find<KlDivBackward>("torchsoftmax::kl_div_with_logits_target_backward");
  return op.call(grad_output, input, target, statistics, reduction, temperature);
}

Tensor gather_index(const Tensor& target, c10::SymInt num_classes,
                    std::optional<int64_t> ignore_index, std::string_view function) {
  static const auto op =
      find<Tensor(const Tensor&, c10::SymInt, std::optional<int64_t>, std::string_view)>(
          "torchsoftmax::gather_index");
  return op.call(target, std::move(num_classes), ignore_index, function);
}

}  // namespace torchsoftmax::ops
