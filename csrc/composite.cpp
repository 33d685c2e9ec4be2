#include "composite.h"

#include <ATen/ATen.h>
#include <ATen/OpMathType.h>
#include <ATen/functorch/BatchedTensorImpl.h>
#include <torch/library.h>

#include "checks.h"

namespace torchsoftmax::composite {
namespace {

using Weight = const std::optional<Tensor>&;
using Dtype = std::optional<at::ScalarType>;

at::ScalarType accumulation_type(const Tensor& tensor) {
  return at::toOpMathType(tensor.scalar_type());
}

/// `per_class` with its one dimension at the class dimension of `input`.
Tensor along_classes(const Tensor& per_class, const Tensor& input) {
  c10::DimVector shape(input.dim(), 1);
  shape[checks::class_dim(input)] = -1;
  return per_class.reshape(shape);
}

/// What each class contributes to a row's loss: loss = -sum(terms * log_softmax(input)).
struct Terms {
  Tensor index;    // (rows, with a class dimension of 1) or undefined for class probabilities
  Tensor valid;    // rows that are not ignored, shaped like index
  Tensor picked;   // weight of the target class, shaped like index
  Tensor uniform;  // weight of every class: shaped (1, C, 1…), or class probabilities like input
};

Terms terms_of(const CrossEntropyOptions& options, const Tensor& input, const Tensor& target,
               Weight weight) {
  const int64_t dim = checks::class_dim(input);
  const auto acc = accumulation_type(input);
  const double smoothing = options.label_smoothing;
  const c10::SymInt classes = input.sym_size(dim);
  const Tensor weights = weight.has_value() && weight->defined()
                             ? weight->to(acc)
                             : at::ones_symint({classes}, input.options().dtype(acc));
  const Tensor share = along_classes(weights * smoothing / at::Scalar(classes), input);
  Terms terms;
  if (checks::has_class_probabilities(input, target)) {
    terms.uniform = along_classes(weights, input) * target.to(acc) * (1 - smoothing) + share;
    return terms;
  }
  const Tensor rows = (input.dim() == 1 ? target.reshape({}) : target).unsqueeze(dim);
  terms.index = ops::gather_index(rows, classes, options.ignore_index);
  terms.valid = rows.ne(options.ignore_index);
  terms.picked =
      weights.index_select(0, terms.index.reshape({-1})).reshape_symint(terms.index.sym_sizes());
  terms.uniform = share;
  return terms;
}

Tensor normalizer_of(const Tensor& input, const Terms& terms) {
  if (terms.index.defined()) {
    return at::where(terms.valid, terms.picked, 0).sum();
  }
  const auto shape = checks::row_shape(input);
  const Tensor rows = at::ones_symint(shape, input.options().dtype(accumulation_type(input))).sum();
  return input.sym_numel() == 0 ? at::zeros_like(rows) : rows;
}

/// d loss / d row, in the shape of a row index with a class dimension of 1.
Tensor row_gradient(const CrossEntropyOptions& options, const Tensor& grad_output,
                    const Tensor& input, const Tensor& normalizer) {
  const int64_t dim = checks::class_dim(input);
  const Tensor grad = grad_output.to(accumulation_type(input));
  if (options.reduction == checks::kNone) {
    return grad.unsqueeze(dim);
  }
  return options.reduction == checks::kMean ? grad / normalizer : grad;
}

}  // namespace

Tensor softmax(const Tensor& input, int64_t dim, Dtype dtype) {
  checks::softmax("softmax", dtype.has_value() ? input.to(*dtype) : input);
  return at::softmax(input, dim, dtype);
}

Tensor log_softmax(const Tensor& input, int64_t dim, Dtype dtype) {
  checks::softmax("log_softmax", dtype.has_value() ? input.to(*dtype) : input);
  return at::log_softmax(input, dim, dtype);
}

Tensor softmax_backward(const Tensor& grad_output, const Tensor& output, int64_t dim) {
  checks::softmax_backward("softmax_backward", grad_output, output);
  const Tensor dot = (grad_output * output).sum(dim, /*keepdim=*/true);
  return output * (grad_output - dot);
}

Tensor log_softmax_backward(const Tensor& grad_output, const Tensor& output, int64_t dim) {
  checks::softmax_backward("log_softmax_backward", grad_output, output);
  return grad_output - output.exp() * grad_output.sum(dim, /*keepdim=*/true);
}

CrossEntropyInputs promote(const Tensor& input, const Tensor& target, Weight weight, Dtype dtype) {
  if (!checks::has_class_probabilities(input, target) ||
      !at::isFloatingType(target.scalar_type())) {
    return {input, target, dtype};
  }
  auto common = at::promote_types(input.scalar_type(), target.scalar_type());
  if (weight.has_value() && weight->defined()) {
    common = at::promote_types(common, weight->scalar_type());
  }
  const bool widen = at::toOpMathType(common) != accumulation_type(input);
  const bool same = !widen && target.scalar_type() == input.scalar_type();
  return {widen ? input.to(common) : input, same ? target : target.to(at::toOpMathType(common)),
          dtype.has_value() ? dtype : std::optional(common)};
}

Tensor cross_entropy(const CrossEntropyOptions& options, const Tensor& given_input,
                     const Tensor& given_target, Weight weight, Dtype given_dtype) {
  const auto [input, target, dtype] = promote(given_input, given_target, weight, given_dtype);
  checks::cross_entropy(options, input, target, weight, dtype);
  const int64_t dim = checks::class_dim(input);
  const Terms terms = terms_of(options, input, target, weight);
  const Tensor log_probability = at::log_softmax(input, dim, accumulation_type(input));
  Tensor loss;
  if (terms.index.defined()) {
    loss = -(1 - options.label_smoothing) * terms.picked * log_probability.gather(dim, terms.index);
    if (options.label_smoothing > 0) {
      loss = loss - (terms.uniform * log_probability).sum(dim, /*keepdim=*/true);
    }
    loss = at::where(terms.valid, loss, 0).squeeze(dim);
  } else {
    loss = -(terms.uniform * log_probability).sum(dim);
  }
  if (options.reduction != checks::kNone) {
    loss = loss.sum();
  }
  if (options.reduction == checks::kMean) {
    const Tensor normalizer = normalizer_of(input, terms);
    // The second term is 0, or nan where the weights sum to 0 and the first would be inf.
    loss = loss / normalizer + at::zeros_like(normalizer) / normalizer;
  }
  return loss.to(dtype.value_or(input.scalar_type()));
}

std::tuple<Tensor, Tensor, Tensor> cross_entropy_forward(const CrossEntropyOptions& options,
                                                         const Tensor& input, const Tensor& target,
                                                         Weight weight, Dtype dtype) {
  const Tensor loss = cross_entropy(options, input, target, weight, dtype);
  const int64_t dim = checks::class_dim(input);
  const Tensor wide = input.to(accumulation_type(input));
  const Tensor normalizer = normalizer_of(input, terms_of(options, input, target, weight));
  if (input.sym_numel() == 0) {  // a maximum over no classes is not defined
    auto shape = checks::row_shape(input);
    shape.insert(shape.begin(), 2);
    return {loss, at::zeros_symint(shape, wide.options()), normalizer};
  }
  const Tensor max = wide.amax(dim, /*keepdim=*/true);
  const Tensor log_sum = (wide - max).exp().sum(dim).log();
  return {loss, at::stack({max.squeeze(dim), log_sum}), normalizer};
}

Tensor cross_entropy_backward(const CrossEntropyOptions& options, const Tensor& grad_output,
                              const Tensor& input, const Tensor& target, Weight weight,
                              const Tensor& /*statistics*/, const Tensor& normalizer) {
  const int64_t dim = checks::class_dim(input);
  const Terms terms = terms_of(options, input, target, weight);
  const Tensor probability = at::softmax(input, dim, accumulation_type(input));
  Tensor grad = row_gradient(options, grad_output, input, normalizer);
  Tensor contribution = terms.uniform.expand_symint(probability.sym_sizes());
  if (terms.index.defined()) {
    contribution =
        contribution.scatter_add(dim, terms.index, (1 - options.label_smoothing) * terms.picked);
  }
  Tensor result = grad * (probability * contribution.sum(dim, /*keepdim=*/true) - contribution);
  if (terms.index.defined()) {
    result = at::where(terms.valid, result, 0);
  }
  return result.to(input.scalar_type());
}

Tensor cross_entropy_target_backward(const CrossEntropyOptions& options, const Tensor& grad_output,
                                     const Tensor& input, const Tensor& target, Weight weight,
                                     const Tensor& /*statistics*/, const Tensor& normalizer) {
  const int64_t dim = checks::class_dim(input);
  const Tensor grad = row_gradient(options, grad_output, input, normalizer);
  Tensor result =
      -(1 - options.label_smoothing) * grad * at::log_softmax(input, dim, accumulation_type(input));
  if (weight.has_value() && weight->defined()) {
    result = result * along_classes(*weight, input);
  }
  return result.to(target.scalar_type());
}

Tensor gather_index(const Tensor& target, c10::SymInt num_classes, int64_t ignore_index) {
  const Tensor valid = target.ne(ignore_index);
  if (target.device().is_cpu()) {  // elsewhere it would stall the device, whose gather asserts
    const Tensor wrong = valid.logical_and(target.lt(0).logical_or(target.ge(num_classes)));
    const Tensor values = target.masked_select(wrong);
    TORCH_CHECK_INDEX(values.numel() == 0, "cross_entropy: Target ", values[0].item<int64_t>(),
                      " is out of bounds: expected 0 <= target < ", num_classes,
                      " or ignore_index (", ignore_index, ")");
  }
  return at::where(valid, target, 0).to(at::kLong);
}

namespace {

/// The composite definition as a kernel, for devices without kernels of ours.
Tensor cross_entropy_explicit(const CrossEntropyOptions& options, const Tensor& input,
                              const Tensor& target, Weight weight, Dtype dtype) {
  const auto inputs = promote(input, target, weight, dtype);
  return std::get<0>(
      ops::cross_entropy_forward(options, inputs.input, inputs.target, weight, inputs.dtype));
}

/// Elementwise, so the batch dimension stays where it is.
Tensor gather_index_batched(const Tensor& target, c10::SymInt num_classes, int64_t ignore_index) {
  const auto* batched = at::functorch::maybeGetBatchedImpl(target);
  const c10::impl::ExcludeDispatchKeyGuard below(c10::DispatchKey::FuncTorchBatched);
  if (batched == nullptr) {
    return ops::gather_index(target, std::move(num_classes), ignore_index);
  }
  return at::functorch::makeBatched(
      ops::gather_index(batched->value(), std::move(num_classes), ignore_index), batched->bdim(),
      batched->level());
}

void register_composites(torch::Library& m) {
  m.impl("softmax", &softmax);
  m.impl("softmax_backward", &softmax_backward);
  m.impl("log_softmax", &log_softmax);
  m.impl("log_softmax_backward", &log_softmax_backward);
  m.impl("cross_entropy_forward", &WithOptions<&cross_entropy_forward>::call);
  m.impl("cross_entropy_backward", &WithOptions<&cross_entropy_backward>::call);
  m.impl("cross_entropy_target_backward", &WithOptions<&cross_entropy_target_backward>::call);
}

}  // namespace

TORCH_LIBRARY_IMPL(torchsoftmax, CompositeExplicitAutograd, m) {
  register_composites(m);
  m.impl("cross_entropy", &WithOptions<&cross_entropy_explicit>::call);
  m.impl("gather_index", &gather_index);
}

TORCH_LIBRARY_IMPL(torchsoftmax, FuncTorchBatched, m) {
  register_composites(m);
  m.impl("cross_entropy", &WithOptions<&cross_entropy>::call);
  m.impl("gather_index", &gather_index_batched);
}

}  // namespace torchsoftmax::composite
