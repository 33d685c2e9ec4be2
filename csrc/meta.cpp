// Shapes and dtypes without data, for torch.compile, torch.export and the meta device.

#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <torch/library.h>

#include "checks.h"
#include "linear_layer.h"

namespace torchsoftmax {
namespace {

at::TensorOptions accumulated(const Tensor& input) {
  return input.options().dtype(at::toOpMathType(input.scalar_type()));
}

/// `count` values of each row, stacked.
Tensor stacked_rows(int64_t count, c10::SymDimVector rows, const at::TensorOptions& options) {
  rows.insert(rows.begin(), count);
  return at::empty_symint(rows, options);
}

template <bool kLog>
Tensor softmax(const Tensor& input, int64_t dim, Dtype dtype, double temperature,
               const OptionalTensor& mask) {
  const Tensor converted = dtype.has_value() ? input.to(*dtype) : input;
  checks::softmax(kLog ? "log_softmax" : "softmax", converted, temperature, mask);
  at::maybe_wrap_dim(dim, input.dim());
  return at::empty_symint(input.sym_sizes(), converted.options());
}

template <bool kLog>
Tensor softmax_backward(const Tensor& grad_output, const Tensor& output, int64_t dim,
                        double temperature, const OptionalTensor& mask) {
  checks::softmax_backward(kLog ? "log_softmax_backward" : "softmax_backward", grad_output, output,
                           temperature, mask);
  at::maybe_wrap_dim(dim, output.dim());
  return at::empty_symint(output.sym_sizes(), output.options());
}

Tensor softmax_jacobian(const Tensor& output, int64_t dim, double temperature, bool) {
  dim = checks::softmax_jacobian(output, dim, temperature);
  return at::empty_symint(checks::derivatives_shape(output, dim, 2), output.options());
}

Tensor softmax_hessian(const Tensor& output, int64_t dim, double temperature) {
  dim = checks::softmax_hessian(output, dim, temperature);
  return at::empty_symint(checks::derivatives_shape(output, dim, 3), output.options());
}

std::tuple<Tensor, Tensor, Tensor, Tensor> cross_entropy_forward(const CrossEntropyArgs& args,
                                                                 const OptionalTensor& normalizer,
                                                                 Dtype dtype, bool with_gradient) {
  checks::cross_entropy(args, normalizer, dtype);
  const Tensor& input = args.input;
  const auto of_loss = input.options().dtype(dtype.value_or(input.scalar_type()));
  const auto rows = checks::row_shape(input);
  Tensor gradient;
  if (with_gradient) {
    checks::gradient_in_forward(args);
    gradient = at::empty_like(input, input.options(), at::MemoryFormat::Preserve);
  } else {
    gradient = at::empty({0}, input.options());
  }
  return {
      args.reduction == checks::kNone ? at::empty_symint(rows, of_loss) : at::empty({}, of_loss),
      stacked_rows(2, rows, accumulated(input)), at::empty({}, accumulated(input)), gradient};
}

Tensor cross_entropy_backward(const CrossEntropyArgs& args, const Tensor& grad_output,
                              const Tensor& statistics, const Tensor& normalizer) {
  checks::cross_entropy_backward(args, grad_output, statistics, normalizer);
  return at::empty_like(args.input, args.input.options(), at::MemoryFormat::Preserve);
}

void cross_entropy_backward_(const CrossEntropyArgs& args, const Tensor& grad_output,
                             const Tensor& statistics, const Tensor& normalizer) {
  checks::cross_entropy_backward(args, grad_output, statistics, normalizer);
}

Tensor cross_entropy_target_backward(const CrossEntropyArgs& args, const Tensor& grad_output,
                                     const Tensor& statistics, const Tensor& normalizer) {
  checks::cross_entropy_target_backward(args, grad_output, statistics, normalizer);
  return at::empty_like(args.target, args.target.options(), at::MemoryFormat::Preserve);
}

std::tuple<Tensor, Tensor> cross_entropy_with_gradient_(const CrossEntropyArgs& args,
                                                        const Tensor& grad_output) {
  checks::cross_entropy_with_gradient(args, grad_output);
  const auto options = accumulated(args.input);
  return {at::empty_symint(grad_output.sym_sizes(), options),
          stacked_rows(2, checks::row_shape(args.input), options)};
}

LinearGradients linear_gradients(const Tensor& input, const Tensor& linear_weight,
                                 const OptionalTensor& linear_bias, GradientMask wanted) {
  const auto like = [&](bool of_it, const Tensor& tensor) {
    return of_it ? at::empty_symint(tensor.sym_sizes(), input.options())
                 : at::empty({0}, input.options());
  };
  return {like(wanted[0], input), like(wanted[1], linear_weight),
          like(wanted[2], defined_or_empty(linear_bias))};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> linear_cross_entropy_forward(
    const CrossEntropyArgs& given, const Tensor& linear_weight, const OptionalTensor& linear_bias,
    const OptionalTensor& normalizer, Dtype dtype, std::optional<int64_t> chunk_size,
    GradientMask wanted, int64_t) {
  const LinearCrossEntropyArgs args(given, linear_weight, linear_bias, normalizer, dtype,
                                    chunk_size);
  checks::linear_cross_entropy_forward(given, linear_bias, wanted);
  const Tensor& input = given.input;
  const auto of_loss = input.options().dtype(dtype.value_or(input.scalar_type()));
  auto [of_input, of_weight, of_bias] = linear_gradients(input, linear_weight, linear_bias, wanted);
  return {given.reduction == checks::kNone ? at::empty_symint(args.loss_shape, of_loss)
                                           : at::empty({}, of_loss),
          at::empty({}, accumulated(input)), of_input, of_weight, of_bias};
}

LinearGradients linear_cross_entropy_backward(const CrossEntropyArgs& given,
                                              const Tensor& linear_weight,
                                              const OptionalTensor& linear_bias,
                                              const Tensor& grad_output, const Tensor& normalizer,
                                              std::optional<int64_t> chunk_size,
                                              GradientMask wanted, int64_t) {
  const LinearCrossEntropyArgs args(given, linear_weight, linear_bias, std::nullopt,
                                    grad_output.scalar_type(), chunk_size);
  checks::linear_cross_entropy_backward(given, linear_bias, grad_output, normalizer,
                                        args.loss_shape, wanted);
  return linear_gradients(given.input, linear_weight, linear_bias, wanted);
}

void scale_(const Tensor& values, const Tensor& factor) { checks::scale(values, factor); }

void gemm_(const Tensor& out, const Tensor& a, const Tensor& b, bool) { checks::gemm(out, a, b); }

ops::Statistics softmax_statistics(const Tensor& input, const OptionalTensor& index,
                                   const OptionalTensor& mask, int64_t dim, double temperature,
                                   bool with_argmax) {
  dim = checks::softmax_statistics(checks::statistics_name(index, with_argmax), input, index, mask,
                                   dim, temperature, with_argmax);
  const auto rows = checks::row_shape(input, dim);
  const auto indices = input.options().dtype(at::kLong);
  return {index.has_value() ? at::empty_symint(index->sym_sizes(), input.options())
                            : at::empty({0}, input.options()),
          at::empty_symint(rows, input.options()), at::empty_symint(rows, input.options()),
          with_argmax ? at::empty_symint(rows, indices) : at::empty({0}, indices),
          stacked_rows(3, rows, accumulated(input))};
}

Tensor softmax_statistics_backward(const Tensor& grad_log_prob, const Tensor& grad_lse,
                                   const Tensor& grad_entropy, const Tensor& input,
                                   const OptionalTensor& index, const OptionalTensor& mask,
                                   const Tensor& statistics, int64_t dim, double temperature) {
  checks::softmax_statistics_backward(grad_log_prob, grad_lse, grad_entropy, input, index, mask,
                                      statistics, dim, temperature);
  return at::empty_like(input, input.options(), at::MemoryFormat::Preserve);
}

ops::Statistics linear_softmax_statistics(const Tensor& input, const Tensor& linear_weight,
                                          const OptionalTensor& linear_bias, const Tensor& target,
                                          double temperature, double softcap,
                                          std::optional<int64_t> chunk_size, bool wide) {
  checks::linear_softmax_statistics(input, linear_weight, linear_bias, target, temperature, softcap,
                                    chunk_size);
  const auto like = [&](const at::TensorOptions& options) {
    return at::empty_symint(target.sym_sizes(), options);
  };
  const auto options = wide ? accumulated(input) : input.options();
  return {like(options), like(options), like(options), like(options.dtype(at::kLong)),
          stacked_rows(3, {target.sym_numel()}, accumulated(input))};
}

LinearGradients linear_softmax_statistics_backward(
    const Tensor& grad_log_prob, const Tensor& grad_lse, const Tensor& grad_entropy,
    const Tensor& input, const Tensor& linear_weight, const OptionalTensor& linear_bias,
    const Tensor& target, const Tensor& statistics, double temperature, double softcap,
    std::optional<int64_t> chunk_size, GradientMask wanted) {
  checks::linear_softmax_statistics(input, linear_weight, linear_bias, target, temperature, softcap,
                                    chunk_size);
  checks::linear_softmax_statistics_backward({grad_log_prob, grad_lse, grad_entropy}, input,
                                             linear_bias, target, statistics, wanted);
  return linear_gradients(input, linear_weight, linear_bias, wanted);
}

std::tuple<Tensor, Tensor> kl_div_with_logits_forward(const Tensor& input, const Tensor& target,
                                                      Dtype dtype, int64_t reduction,
                                                      double temperature) {
  checks::kl_div_with_logits(input, target, reduction, temperature);
  const auto of_loss = input.options().dtype(dtype.value_or(input.scalar_type()));
  const auto rows = checks::row_shape(input, input.dim() - 1);
  return {reduction == checks::kNone ? at::empty_symint(rows, of_loss) : at::empty({}, of_loss),
          stacked_rows(5, rows, accumulated(input))};
}

template <bool kOfTarget>
Tensor kl_div_with_logits_backward(const Tensor& grad_output, const Tensor& input,
                                   const Tensor& target, const Tensor& statistics,
                                   int64_t reduction, double temperature) {
  checks::kl_div_with_logits_backward(grad_output, input, target, statistics, reduction,
                                      temperature);
  return at::empty_like(kOfTarget ? target : input, input.options(), at::MemoryFormat::Preserve);
}

Tensor gather_index(const Tensor& target, c10::SymInt, std::optional<int64_t>, std::string_view) {
  return at::empty_like(target, target.options().dtype(at::kLong));
}

}  // namespace

TORCH_LIBRARY_IMPL(torchsoftmax, Meta, m) {
  m.impl("softmax", &softmax<false>);
  m.impl("softmax_backward", &softmax_backward<false>);
  m.impl("log_softmax", &softmax<true>);
  m.impl("log_softmax_backward", &softmax_backward<true>);
  m.impl("softmax_jacobian", &softmax_jacobian);
  m.impl("softmax_hessian", &softmax_hessian);
  m.impl("cross_entropy_forward", &OfCrossEntropy<&cross_entropy_forward>::call);
  m.impl("cross_entropy_backward", &OfCrossEntropy<&cross_entropy_backward>::call);
  m.impl("cross_entropy_backward_", &OfCrossEntropy<&cross_entropy_backward_>::call);
  m.impl("cross_entropy_target_backward", &OfCrossEntropy<&cross_entropy_target_backward>::call);
  m.impl("cross_entropy_with_gradient_", &OfCrossEntropy<&cross_entropy_with_gradient_>::call);
  m.impl("linear_cross_entropy_forward", &OfCrossEntropy<&linear_cross_entropy_forward>::call);
  m.impl("linear_cross_entropy_backward", &OfCrossEntropy<&linear_cross_entropy_backward>::call);
  m.impl("scale_", &scale_);
  m.impl("gemm_", &gemm_);
  m.impl("softmax_statistics", &softmax_statistics);
  m.impl("softmax_statistics_backward", &softmax_statistics_backward);
  m.impl("linear_softmax_statistics", &linear_softmax_statistics);
  m.impl("linear_softmax_statistics_backward", &linear_softmax_statistics_backward);
  m.impl("kl_div_with_logits_forward", &kl_div_with_logits_forward);
  m.impl("kl_div_with_logits_backward", &kl_div_with_logits_backward<false>);
  m.impl("kl_div_with_logits_target_backward", &kl_div_with_logits_backward<true>);
  m.impl("gather_index", &gather_index);
}

}  // namespace torchsoftmax
