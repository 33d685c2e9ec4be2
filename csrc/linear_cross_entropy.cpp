// linear_cross_entropy by chunks of rows, which become losses and gradients while they are in
// memory.

#include <torch/library.h>

#include "chunked_linear.h"
#include "composite/composite.h"

namespace torchsoftmax {
namespace {

/// A sum in float64 that does not depend on the number of threads: at::sum splits what is longer.
Tensor total(const Tensor& values) {
  constexpr int64_t kNotSplit = 16384;
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

/// Those with a target that is not ignored.
Rows rows_taking_part(const LinearCrossEntropyArgs& args) {
  const int64_t count = args.layer.input.size(0);
  return args.probabilities() || count == 0
             ? Rows(count)
             : Rows(args.rows.target.ne(args.rows.ignore_index).reshape({count, -1}).any(1));
}

/// The loop over chunks, and what it makes of the rows that take part.
struct Losses {
  Tensor losses;      // of all rows, in the accumulation type
  Tensor statistics;  // of those that take part, where asked for

  /// row_gradient: of each row's loss; undefined where no gradient is wanted.
  Losses(const LinearCrossEntropyArgs& args, ChunkedLinear& chunks, const Tensor& row_gradient,
         std::optional<int64_t> chunk_size, bool with_statistics) {
    const Rows& rows = chunks.rows();
    const auto acc = at::toOpMathType(args.rows.input.scalar_type());
    const auto accumulated = args.rows.input.options().dtype(acc);
    losses = at::zeros(row_shape(args.rows), accumulated);
    if (with_statistics) {
      statistics = at::empty({2, rows.count()}, accumulated);
    }
    chunks.run(chunk_size, [&](int64_t begin, const Tensor& logits) {
      const CrossEntropyArgs chunk = args_of_chunk(args.rows, rows, begin, logits);
      const bool differentiates = row_gradient.defined();
      Tensor loss, kept;
      if (differentiates) {
        std::tie(loss, kept) =
            ops::cross_entropy_with_gradient_(chunk, rows.of(row_gradient, begin, logits.size(0)));
      } else {
        const auto forward = ops::cross_entropy_forward(chunk, std::nullopt, acc, false);
        loss = forward.loss;
        kept = forward.statistics;
      }
      rows.put(loss, losses, begin);
      if (with_statistics) {
        statistics.narrow(1, begin, logits.size(0)).copy_(kept);
      }
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

/// Whether the gradient of the weight is computed by tiles of the vocabulary: where a float32 copy
/// of it, which the sum over chunks needs, would take more than the budget. What makes the gradient
/// of a class depend on other classes than the target keeps the copy.
bool by_vocabulary(const LinearCrossEntropyArgs& args, int64_t accumulator_bytes) {
  const CrossEntropyArgs& rows = args.rows;
  const int64_t bytes = args.layer.weight.numel() * static_cast<int64_t>(sizeof(float));
  return args.layer.input.element_size() == 2 && bytes > accumulator_bytes &&
         !args.probabilities() && rows.input.dim() == 2 && rows.label_smoothing == 0 &&
         (rows.z_loss == 0 || !rows.weight.defined());
}

/// The gradient of the weight, a tile of the classes at a time: each is one product over all rows,
/// which is summed in float32 and rounded once, of logits that are computed again.
///
/// cross_entropy's own backward computes a tile's gradient from the statistics of whole rows. A
/// target outside of the tile is represented by one more class, which is left out of the product.
Tensor weight_gradient_by_vocabulary(const LinearCrossEntropyArgs& args, const Rows& rows,
                                     const Tensor& row_gradient, const Tensor& statistics) {
  constexpr int64_t kTileBytes = 52'000'000;
  const Tensor input = rows.of(args.layer.input, 0, rows.count());
  const Tensor target = rows.of(args.rows.target, 0, rows.count()).to(at::kLong);
  Tensor upstream = rows.of(row_gradient, 0, rows.count());
  CrossEntropyArgs tile = args.rows;
  tile.reduction = checks::kNone;
  tile.ignore_index = -1;
  if (tile.sample_weight.defined()) {
    tile.sample_weight = rows.of(tile.sample_weight, 0, rows.count());
  }
  if (tile.weight.defined()) {
    upstream = upstream * tile.weight.to(upstream.scalar_type()).index({target});
    tile.weight = Tensor();
  }
  const Tensor normalizer = at::ones({}, upstream.options());
  const int64_t classes = args.layer.weight.size(0);
  const int64_t row_bytes = std::max<int64_t>(1, rows.count()) * input.element_size();
  const int64_t most = std::max<int64_t>(64, kTileBytes / row_bytes / 32 * 32) - 1;
  Tensor result = fresh(args.layer.weight.sizes(), args.layer.weight.options());
  const Tensor buffer = fresh({rows.count(), std::min(most, classes) + 1}, input.options());
  for (int64_t begin = 0; begin < classes; begin += most) {
    const int64_t count = std::min(most, classes - begin);
    tile.input = buffer.narrow(1, 0, count + 1);
    Tensor logits = buffer.narrow(1, 0, count);
    ops::gemm_(logits, input, args.layer.weight.narrow(0, begin, count).t(), /*accumulate=*/false);
    if (args.layer.bias.defined()) {
      logits += args.layer.bias.narrow(0, begin, count);
    }
    tile.input.select(1, count).zero_();
    const Tensor inside = target.ge(begin).logical_and(target.lt(begin + count));
    tile.target = at::where(inside, target - begin, count);
    ops::cross_entropy_backward_(tile, upstream, statistics, normalizer);
    ops::gemm_(result.narrow(0, begin, count), logits.t(), input, /*accumulate=*/false);
  }
  return result;
}

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

struct Computed {
  Tensor losses;
  LinearGradients gradients;
};

Computed compute(const LinearCrossEntropyArgs& args, const CrossEntropyArgs& given,
                 const Tensor& linear_weight, const OptionalTensor& linear_bias,
                 const Tensor& row_gradient, std::optional<int64_t> chunk_size, GradientMask wanted,
                 int64_t accumulator_bytes) {
  const bool tiles = wanted[1] && by_vocabulary(args, accumulator_bytes);
  const GradientMask by_rows{wanted[0], wanted[1] && !tiles, wanted[2]};
  const bool any = by_rows[0] || by_rows[1] || by_rows[2];
  ChunkedLinear chunks(args.layer, rows_taking_part(args), by_rows);
  const Losses rows(args, chunks, any ? row_gradient : Tensor(), chunk_size, tiles);
  auto gradients = chunks.gradients(given.input, linear_weight, linear_bias);
  if (tiles) {
    std::get<1>(gradients) =
        weight_gradient_by_vocabulary(args, chunks.rows(), row_gradient, rows.statistics)
            .view(linear_weight.sizes());
  }
  return {rows.losses, gradients};
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
    sum = given_normalizer->to(sum.options());
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
