// linear_cross_entropy by chunks of rows, or by tiles of the vocabulary, which become losses and
// gradients while they are in memory.

#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/library.h>

#include "chunked_linear.h"
#include "composite/composite.h"
#include "vocabulary_tiles.h"

namespace torchsoftmax {
namespace {

/// A sum in float64 that does not depend on the number of threads: on the CPU at::sum splits what
/// is longer.
Tensor total(const Tensor& values) {
  constexpr int64_t kNotSplit = 16384;
  if (!values.is_cpu()) {
    return values.sum(at::kDouble);
  }
  Tensor sum = at::zeros({}, values.options().dtype(at::kDouble));
  for (const Tensor& part : values.reshape({-1}).split(kNotSplit)) {
    sum += part.sum(at::kDouble);
  }
  return sum;
}

/// The shape of one value for each row of the logits, (N, d1, …, dK).
std::vector<int64_t> row_shape(const CrossEntropyArgs& rows) {
  auto shape = rows.input.sizes().vec();
  shape.erase(shape.begin() + 1);
  return shape;
}

/// Those with a target that is not ignored; all where the host would have to wait for a device to
/// tell it which.
Rows rows_taking_part(const LinearCrossEntropyArgs& args) {
  const int64_t count = args.layer.input.size(0);
  return args.probabilities() || count == 0 || !args.layer.input.is_cpu() ? Rows(count)
                                                                          : Rows(args.has_target());
}

/// The loop over chunks, and what it makes of the rows that take part.
struct Losses {
  Tensor losses;  // of all rows, in the accumulation type

  /// row_gradient: of each row's loss; undefined where no gradient is wanted.
  Losses(const LinearCrossEntropyArgs& args, ChunkedLinear& chunks, const Tensor& row_gradient,
         std::optional<int64_t> chunk_size) {
    const Rows& rows = chunks.rows();
    const auto acc = at::toOpMathType(args.rows.input.scalar_type());
    const auto accumulated = args.rows.input.options().dtype(acc);
    losses = at::zeros(row_shape(args.rows), accumulated);
    chunks.run(chunk_size, [&](int64_t begin, const Tensor& logits) {
      const CrossEntropyArgs chunk = args_of_chunk(args.rows, rows, begin, logits);
      const bool differentiates = row_gradient.defined();
      const Tensor loss = differentiates
                              ? std::get<0>(ops::cross_entropy_with_gradient_(
                                    chunk, rows.of(row_gradient, begin, logits.size(0))))
                              : ops::cross_entropy_forward(chunk, std::nullopt, acc, false).loss;
      rows.put(loss, losses, begin);
      return differentiates ? logits : Tensor();
    });
  }

 private:
  static CrossEntropyArgs args_of_chunk(const CrossEntropyArgs& args, const Rows& rows,
                                        int64_t begin, const Tensor& logits) {
    const int64_t count = logits.size(0);
    auto shape = args.input.sizes().vec();
    shape[0] = count;
    CrossEntropyArgs chunk = args;
    chunk.reduction = checks::kNone;
    chunk.input = logits.view(shape);
    chunk.target = rows.of(args.target, begin, count);
    if (chunk.sample_weight.defined()) {
      chunk.sample_weight = rows.of(chunk.sample_weight, begin, count);
    }
    return chunk;
  }
};

/// Raises for a target out of range, before memory is read with it; else the sum of the weights of
/// the rows that take part, in float64.
Tensor total_weight(const CrossEntropyArgs& rows) {
  const auto acc = at::toOpMathType(rows.input.scalar_type());
  Tensor weights;
  if (checks::has_class_probabilities(rows.input, rows.target)) {
    const bool empty = rows.input.numel() == 0;
    weights = at::full(row_shape(rows), empty ? 0 : 1, rows.input.options().dtype(acc));
  } else {
    const Tensor index =
        ops::gather_index(rows.target, rows.input.size(1), rows.ignore_index, rows.function);
    weights = rows.target.ne(rows.ignore_index).to(acc);
    if (rows.weight.defined()) {
      weights = weights * rows.weight.to(acc).index({index});
    }
  }
  if (rows.sample_weight.defined()) {  // of an ignored row it may be nan
    weights = at::where(weights == 0, 0, weights * rows.sample_weight.to(acc));
  }
  return total(weights);
}

/// d loss / d row of all rows.
Tensor row_gradient_of(const CrossEntropyArgs& rows, const Tensor& grad_output,
                       const Tensor& normalizer) {
  const auto shape = row_shape(rows);
  const Tensor grad = grad_output.to(at::toOpMathType(rows.input.scalar_type()));
  if (rows.reduction == checks::kNone) {
    return grad.reshape(shape);
  }
  return (rows.reduction == checks::kMean ? composite::over(grad, normalizer) : grad).expand(shape);
}

LinearGradients no_gradients(const Tensor& input) {
  const Tensor none = at::empty({0}, input.options());
  return {none, none, none};
}

/// The layer, with 0 in the place of the rows that are ignored, which may hold nan: of a device,
/// whose rows all reach the products.
LinearLayer without_ignored(const LinearCrossEntropyArgs& args, const Rows& rows) {
  LinearLayer layer = args.layer;
  if (!layer.input.is_cpu() && rows.count() > 0 && !args.probabilities()) {
    // PyTorch's kernel takes one element after the other: larger ones where that is possible.
    const Tensor& input = layer.input;
    const bool in_words =
        input.is_contiguous() && input.size(1) * input.element_size() % sizeof(int64_t) == 0;
    const Tensor words = in_words ? input.view(at::kLong) : input;
    layer.input = at::where(args.has_target().unsqueeze(1), words, 0).view(input.scalar_type());
  }
  return layer;
}

/// Whether the CPU has kernels of ours. Tiles of the vocabulary need them: the definition of a
/// gradient takes no statistics of other tiles.
bool cpu_has_kernels() {
  static const bool found = c10::Dispatcher::singleton()
                                .findSchemaOrThrow("torchsoftmax::cross_entropy_backward_", "")
                                .hasKernelForDispatchKey(c10::DispatchKey::CPU);
  return found;
}

struct Computed {
  Tensor losses;
  LinearGradients gradients;
};

Computed compute(const LinearCrossEntropyArgs& args, const CrossEntropyArgs& given,
                 const Tensor& linear_weight, const OptionalTensor& linear_bias,
                 const Tensor& row_gradient, std::optional<int64_t> chunk_size, GradientMask wanted,
                 int64_t accumulator_bytes) {
  const Rows taking_part = rows_taking_part(args);
  if (cpu_has_kernels() &&
      VocabularyTiles::serve(args, taking_part.count(), chunk_size, wanted, accumulator_bytes)) {
    const VocabularyTiles tiles(args, taking_part, chunk_size, wanted);
    const Tensor losses = tiles.losses();
    return {losses, wanted[1]
                        ? tiles.gradients(row_gradient, given.input, linear_weight, linear_bias)
                        : no_gradients(given.input)};
  }
  const bool any = wanted[0] || wanted[1] || wanted[2];
  const LinearLayer layer = without_ignored(args, taking_part);
  ChunkedLinear chunks(layer, taking_part, wanted);
  const Losses rows(args, chunks, any ? row_gradient : Tensor(), chunk_size);
  return {rows.losses, chunks.gradients(given.input, linear_weight, linear_bias)};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> forward(
    const CrossEntropyArgs& given, const Tensor& linear_weight, const OptionalTensor& linear_bias,
    const OptionalTensor& given_normalizer, Dtype dtype, std::optional<int64_t> chunk_size,
    GradientMask wanted, int64_t accumulator_bytes) {
  const LinearCrossEntropyArgs args(given, linear_weight, linear_bias, given_normalizer, dtype,
                                    chunk_size);
  checks::linear_cross_entropy_forward(given, linear_bias, wanted);
  const auto accumulated = given.input.options().dtype(at::toOpMathType(given.input.scalar_type()));
  Tensor sum = total_weight(args.rows);
  if (given_normalizer.has_value() && given_normalizer->defined()) {
    sum = given_normalizer->is_cpu() ? at::full({}, given_normalizer->item<double>(), sum.options())
                                     : given_normalizer->to(sum.options());
  }
  const Tensor normalizer = sum.to(accumulated);
  const Tensor row_gradient =
      given.reduction == checks::kNone
          ? Tensor()
          : row_gradient_of(args.rows, at::ones({}, accumulated), normalizer);
  auto [loss, gradients] = compute(args, given, linear_weight, linear_bias, row_gradient,
                                   chunk_size, wanted, accumulator_bytes);
  if (given.reduction == checks::kNone) {
    loss = loss.view_symint(args.loss_shape);
  } else {
    loss = total(loss);
    loss = given.reduction == checks::kMean ? composite::over(loss, sum) : loss;
  }
  const auto& [of_input, of_weight, of_bias] = gradients;
  return {loss.to(dtype.value_or(given.input.scalar_type())), normalizer, of_input, of_weight,
          of_bias};
}

LinearGradients backward(const CrossEntropyArgs& given, const Tensor& linear_weight,
                         const OptionalTensor& linear_bias, const Tensor& grad_output,
                         const Tensor& normalizer, std::optional<int64_t> chunk_size,
                         GradientMask wanted, int64_t accumulator_bytes) {
  const LinearCrossEntropyArgs args(given, linear_weight, linear_bias, std::nullopt,
                                    grad_output.scalar_type(), chunk_size);
  checks::linear_cross_entropy_backward(given, linear_bias, grad_output, normalizer,
                                        args.loss_shape, wanted);
  if (!args.probabilities()) {
    ops::gather_index(args.rows.target, args.rows.input.size(1), given.ignore_index,
                      args.rows.function);
  }
  return compute(args, given, linear_weight, linear_bias,
                 row_gradient_of(args.rows, grad_output, normalizer), chunk_size, wanted,
                 accumulator_bytes)
      .gradients;
}

/// Without a gradient.
Tensor loss_alone(const CrossEntropyArgs& given, const Tensor& linear_weight,
                  const OptionalTensor& linear_bias, const OptionalTensor& normalizer, Dtype dtype,
                  std::optional<int64_t> chunk_size) {
  CrossEntropyArgs args = given;
  if (!composite::promote_target(args, linear_weight, dtype)) {
    return composite::linear_cross_entropy(given, linear_weight, linear_bias, normalizer, dtype,
                                           chunk_size);
  }
  return ops::linear_cross_entropy_forward(args, linear_weight, linear_bias, normalizer, dtype,
                                           chunk_size, {false, false, false},
                                           ops::kAccumulatorBytes)
      .loss;
}

void gemm_(const Tensor& out, const Tensor& a, const Tensor& b, bool accumulate) {
  checks::gemm(out, a, b);
  const Tensor left = a.to(out.scalar_type()), right = b.to(out.scalar_type());
  Tensor result = out;
  if (accumulate) {
    at::addmm_out(result, out, left, right);
  } else {
    at::mm_out(result, left, right);
  }
}

}  // namespace

TORCH_LIBRARY_IMPL(torchsoftmax, CompositeExplicitAutograd, m) {
  m.impl("linear_cross_entropy", &OfCrossEntropy<&loss_alone>::call);
  m.impl("linear_cross_entropy_forward", &OfCrossEntropy<&forward>::call);
  m.impl("linear_cross_entropy_backward", &OfCrossEntropy<&backward>::call);
  m.impl("gemm_", &gemm_);
}

}  // namespace torchsoftmax
