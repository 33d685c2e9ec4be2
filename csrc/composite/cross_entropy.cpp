// cross_entropy in plain ATen.

#include <ATen/ATen.h>
#include <torch/library.h>

#include "../checks.h"
#include "composite.h"

namespace torchsoftmax::composite {

// The second term is 0, or nan where the weights sum to 0 and the first would be inf.
Tensor over(const Tensor& value, const Tensor& normalizer) {
  return value / normalizer + at::zeros_like(normalizer) / normalizer;
}

Capped::Capped(const Tensor& logits, double softcap) : value(logits) {
  if (softcap != 0) {
    tanh = (logits.to(accumulation_type(logits)) / softcap).tanh_();
    value = tanh * softcap;
  }
}

Tensor Capped::slope() const { return tanh.defined() ? 1 - tanh.square() : Tensor(); }

Logits::Logits(const Tensor& input, const CrossEntropyArgs& args) {
  const Capped capped(input, args.softcap);
  value = capped.value.to(accumulation_type(input));
  slope = capped.slope();
  if (args.temperature != 1) {
    value = value / args.temperature;
    slope = slope.defined() ? slope / args.temperature
                            : at::scalar_tensor(1 / args.temperature, value.options());
  }
}

namespace {

/// `per_class` with its one dimension at the class dimension of `input`.
Tensor along_classes(const Tensor& per_class, const Tensor& input) {
  c10::DimVector shape(input.dim(), 1);
  shape[checks::class_dim(input)] = -1;
  return per_class.reshape(shape);
}

/// What each class contributes to a row's loss: loss = -sum(terms * log_softmax(logits)). All have
/// a class dimension, of size 1 where they are of a row.
struct Terms {
  Tensor index;    // the target, or undefined for class probabilities
  Tensor valid;    // of index: rows that are not ignored
  Tensor picked;   // of index: the weight of the target class
  Tensor uniform;  // the weight of every class: (1, C, 1…), or class probabilities like input
  Tensor sample;   // the weight of the row, or undefined

  explicit Terms(const CrossEntropyArgs& args) {
    const Tensor& input = args.input;
    const int64_t dim = checks::class_dim(input);
    const auto acc = accumulation_type(input);
    const c10::SymInt classes = input.sym_size(dim);
    const Tensor weights = args.weight.defined()
                               ? args.weight.to(acc)
                               : at::ones_symint({classes}, input.options().dtype(acc));
    uniform = along_classes(weights * args.label_smoothing / at::Scalar(classes), input);
    if (args.sample_weight.defined()) {
      sample = args.sample_weight.to(acc).unsqueeze(dim);
    }
    if (checks::has_class_probabilities(input, args.target)) {
      uniform = uniform +
                along_classes(weights, input) * args.target.to(acc) * (1 - args.label_smoothing);
      return;
    }
    const Tensor target = args.target.to(at::kLong);  // ATen compares in the tensor's dtype
    const Tensor rows = (input.dim() == 1 ? target.reshape({}) : target).unsqueeze(dim);
    index = ops::gather_index(rows, classes, args.ignore_index, args.function);
    valid = rows.ne(args.ignore_index);
    picked = checks::is_empty_size(classes)  // all rows are ignored
                 ? at::zeros_symint(index.sym_sizes(), weights.options())
                 : weights.index_select(0, index.reshape({-1})).reshape_symint(index.sym_sizes());
  }

  /// The logits, of 0 in the place of ignored rows, which may hold nan.
  Logits logits(const CrossEntropyArgs& args) const {
    return {valid.defined() ? at::where(valid, args.input, 0) : args.input, args};
  }

  /// `per_row` times the rows' weights, and 0 where they are ignored.
  Tensor of_rows(const Tensor& per_row) const {
    const Tensor weighted = sample.defined() ? per_row * sample : per_row;
    return valid.defined() ? at::where(valid, weighted, 0) : weighted;
  }
};

/// What `mean` divides by.
Tensor normalizer_of(const CrossEntropyArgs& args, const Terms& terms,
                     const OptionalTensor& given) {
  const Tensor& input = args.input;
  const auto accumulated = input.options().dtype(accumulation_type(input));
  if (given.has_value() && given->defined()) {
    return given->to(accumulated);
  }
  if (terms.index.defined()) {
    return terms.of_rows(terms.picked).sum();
  }
  const Tensor rows =
      at::ones_symint(checks::row_shape(input), accumulated).unsqueeze(checks::class_dim(input));
  const Tensor sum = terms.of_rows(rows).sum();
  return checks::is_empty(input) ? at::zeros_like(sum) : sum;
}

Tensor reduced(const CrossEntropyArgs& args, const Tensor& loss, const Tensor& normalizer) {
  if (args.reduction == checks::kNone) {
    return loss;
  }
  if (args.reduction == checks::kSum) {
    return loss.sum();
  }
  return over(loss.sum(), normalizer);
}

/// d loss / d row, with a class dimension of 1.
Tensor row_gradient(const CrossEntropyArgs& args, const Terms& terms, const Tensor& grad_output,
                    const Tensor& normalizer) {
  const Tensor grad = grad_output.to(accumulation_type(args.input));
  if (args.reduction == checks::kNone) {
    return terms.of_rows(grad.unsqueeze(checks::class_dim(args.input)));
  }
  const Tensor all = args.reduction == checks::kMean ? over(grad, normalizer) : grad;
  const bool varies = terms.valid.defined() || terms.sample.defined();
  return varies ? terms.of_rows(all) : all;
}

Tensor input_gradient(const CrossEntropyArgs& args, const Logits& logits, const Terms& terms,
                      const Tensor& grad_output, const Tensor& normalizer) {
  const int64_t dim = checks::class_dim(args.input);
  const Tensor probability = at::softmax(logits.value, dim);
  Tensor q = terms.uniform.expand_symint(probability.sym_sizes());
  if (terms.index.defined() && !checks::is_empty_size(args.input.sym_size(dim))) {
    q = q.scatter_add(dim, terms.index, (1 - args.label_smoothing) * terms.picked);
  }
  Tensor mass = q.sum(dim, /*keepdim=*/true);
  if (args.z_loss != 0) {
    mass = mass + 2 * args.z_loss * at::logsumexp(logits.value, dim, /*keepdim=*/true);
  }
  Tensor result = row_gradient(args, terms, grad_output, normalizer) * (probability * mass - q);
  if (logits.slope.defined()) {
    result = result * logits.slope;
  }
  return result.to(args.input.scalar_type());
}

/// Each row's maximum of the input, and the log-sum-exp of its logits less their maximum.
Tensor statistics_of(const CrossEntropyArgs& args, const Logits& logits) {
  const Tensor& input = args.input;
  const int64_t dim = checks::class_dim(input);
  const auto acc = accumulation_type(input);
  if (checks::is_empty(input)) {  // a maximum over no classes is not defined
    auto shape = checks::row_shape(input);
    shape.insert(shape.begin(), 2);
    return at::zeros_symint(shape, input.options().dtype(acc));
  }
  const Tensor max = input.to(acc).amax(dim, /*keepdim=*/true);
  const Tensor shifted = logits.value - Logits(max, args).value;
  return at::stack({max.squeeze(dim), shifted.exp().sum(dim).log()});
}

}  // namespace

Dtype promoted_dtype(const CrossEntropyArgs& args) {
  const auto input = args.input.scalar_type(), target = args.target.scalar_type();
  if (!checks::has_class_probabilities(args.input, args.target) || !at::isFloatingType(target) ||
      !at::isFloatingType(input)) {
    return std::nullopt;
  }
  const auto common = at::promote_types(input, target);
  return args.weight.defined() ? at::promote_types(common, args.weight.scalar_type()) : common;
}

CrossEntropyArgs promote(const CrossEntropyArgs& args, Dtype& dtype) {
  const Dtype common = promoted_dtype(args);
  if (!common.has_value()) {
    return args;
  }
  const Tensor &input = args.input, &target = args.target;
  const bool widen = at::toOpMathType(*common) != accumulation_type(input);
  const bool same = !widen && target.scalar_type() == input.scalar_type();
  CrossEntropyArgs promoted = args;
  promoted.input = widen ? input.to(*common) : input;
  promoted.target = same ? target : target.to(at::toOpMathType(*common));
  dtype = dtype.has_value() ? dtype : common;
  return promoted;
}

namespace {

Tensor loss_of(const CrossEntropyArgs& args, const Logits& logits, const Terms& terms,
               const Tensor& normalizer, Dtype dtype) {
  const int64_t dim = checks::class_dim(args.input);
  const Tensor log_probability = at::log_softmax(logits.value, dim);
  Tensor loss;
  if (terms.index.defined()) {
    loss =
        checks::is_empty_size(args.input.sym_size(dim))
            ? terms.picked
            : -(1 - args.label_smoothing) * terms.picked * log_probability.gather(dim, terms.index);
    if (args.label_smoothing > 0) {
      loss = loss - (terms.uniform * log_probability).sum(dim, /*keepdim=*/true);
    }
  } else {
    loss = -(terms.uniform * log_probability).sum(dim, /*keepdim=*/true);
  }
  if (args.z_loss != 0) {
    loss = loss + args.z_loss * at::logsumexp(logits.value, dim, /*keepdim=*/true).square();
  }
  return reduced(args, terms.of_rows(loss).squeeze(dim), normalizer)
      .to(dtype.value_or(args.input.scalar_type()));
}

}  // namespace

Tensor cross_entropy(const CrossEntropyArgs& given, const OptionalTensor& normalizer, Dtype dtype,
                     bool /*inplace_backward: there is no backward of its own*/) {
  const CrossEntropyArgs args = promote(given, dtype);
  checks::cross_entropy(args, normalizer, dtype);
  const Terms terms(args);
  return loss_of(args, terms.logits(args), terms, normalizer_of(args, terms, normalizer), dtype);
}

std::tuple<Tensor, Tensor, Tensor, Tensor> cross_entropy_forward(const CrossEntropyArgs& args,
                                                                 const OptionalTensor& given,
                                                                 Dtype dtype, bool with_gradient) {
  checks::cross_entropy(args, given, dtype);
  const Terms terms(args);
  const Logits logits = terms.logits(args);
  const Tensor normalizer = normalizer_of(args, terms, given);
  Tensor gradient;
  if (with_gradient) {
    checks::gradient_in_forward(args);
    gradient = input_gradient(args, logits, terms, at::ones_like(normalizer), normalizer);
  } else {
    gradient = at::empty({0}, args.input.options());
  }
  return {loss_of(args, logits, terms, normalizer, dtype), statistics_of(args, logits), normalizer,
          gradient};
}

Tensor cross_entropy_backward(const CrossEntropyArgs& args, const Tensor& grad_output,
                              const Tensor& statistics, const Tensor& normalizer) {
  checks::cross_entropy_backward(args, grad_output, statistics, normalizer);
  const Terms terms(args);
  return input_gradient(args, terms.logits(args), terms, grad_output, normalizer);
}

Tensor cross_entropy_target_backward(const CrossEntropyArgs& args, const Tensor& grad_output,
                                     const Tensor& statistics, const Tensor& normalizer) {
  checks::cross_entropy_target_backward(args, grad_output, statistics, normalizer);
  const Tensor grad = row_gradient(args, Terms(args), grad_output, normalizer);
  Tensor result = -(1 - args.label_smoothing) * grad *
                  at::log_softmax(Logits(args.input, args).value, checks::class_dim(args.input));
  if (args.weight.defined()) {
    result = result * along_classes(args.weight, args.input);
  }
  return result.to(args.target.scalar_type());
}

namespace {

std::tuple<Tensor, Tensor> cross_entropy_with_gradient_over_input(const CrossEntropyArgs& args,
                                                                  const Tensor& grad_output) {
  checks::cross_entropy_with_gradient(args, grad_output);
  const Terms terms(args);
  const Logits logits = terms.logits(args);
  const Tensor none;  // nothing is divided
  const Tensor loss = loss_of(args, logits, terms, none, accumulation_type(args.input));
  const Tensor statistics = statistics_of(args, logits);
  args.input.copy_(input_gradient(args, logits, terms, grad_output, none));
  return {loss, statistics};
}

void cross_entropy_backward_over_input(const CrossEntropyArgs& args, const Tensor& grad_output,
                                       const Tensor& statistics, const Tensor& normalizer) {
  args.input.copy_(ops::cross_entropy_backward(args, grad_output, statistics, normalizer));
}

/// For devices without kernels of ours.
Tensor cross_entropy_explicit(const CrossEntropyArgs& given, const OptionalTensor& normalizer,
                              Dtype dtype, bool) {
  const CrossEntropyArgs args = promote(given, dtype);
  return ops::cross_entropy_forward(args, normalizer, dtype, /*with_gradient=*/false).loss;
}

void scale_(const Tensor& values, const Tensor& factor) {
  checks::scale(values, factor);
  Tensor(values).mul_(factor);
}

void register_cross_entropy(torch::Library& m) {
  m.impl("cross_entropy_forward", &OfCrossEntropy<&cross_entropy_forward>::call);
  m.impl("cross_entropy_backward", &OfCrossEntropy<&cross_entropy_backward>::call);
  m.impl("cross_entropy_backward_", &OfCrossEntropy<&cross_entropy_backward_over_input>::call);
  m.impl("cross_entropy_target_backward", &OfCrossEntropy<&cross_entropy_target_backward>::call);
  m.impl("cross_entropy_with_gradient_",
         &OfCrossEntropy<&cross_entropy_with_gradient_over_input>::call);
}

}  // namespace

TORCH_LIBRARY_IMPL(torchsoftmax, CompositeExplicitAutograd, m) {
  register_cross_entropy(m);
  m.impl("scale_", &scale_);
  m.impl("cross_entropy", &OfCrossEntropy<&cross_entropy_explicit>::call);
}

TORCH_LIBRARY_IMPL(torchsoftmax, FuncTorchBatched, m) {
  register_cross_entropy(m);
  m.impl("cross_entropy", &OfCrossEntropy<&cross_entropy>::call);
}

}  // namespace torchsoftmax::composite
