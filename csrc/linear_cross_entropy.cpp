// linear_cross_entropy without its logits: a loop over chunks of rows on any device. The logits of
// a chunk are multiplied, turned into losses and overwritten by their gradient, and that is
// multiplied, all in one buffer. One product without gradients, three with all of them.

#include <ATen/ATen.h>
#include <torch/library.h>

#include "composite/composite.h"
#include "cpu/memory.h"
#include "linear_layer.h"

namespace torchsoftmax {
namespace {

// What the logits of a chunk may take. Every chunk reads the weight once for each product and its
// gradient once more, so chunks should be large; below 64 MB in all the gain from more is small.
constexpr int64_t kLogitsBytes = 52'000'000;
constexpr int64_t kFewestRows = 16;

/// Memory that is written soon, in huge pages where that is large.
Tensor fresh(at::IntArrayRef shape, const at::TensorOptions& options) {
  const Tensor result = at::empty(shape, options);
  return result.device().is_cpu() ? cpu::ask_for_huge_pages(result) : result;
}

/// A sum in float64 that does not depend on the number of threads: at::sum splits what is longer.
Tensor total(const Tensor& values) {
  constexpr int64_t kNotSplit = 16384;
  Tensor sum = at::zeros({}, values.options().dtype(at::kDouble));
  for (const Tensor& part : values.reshape({-1}).split(kNotSplit)) {
    sum += part.sum(at::kDouble);
  }
  return sum;
}

/// The rows that take part: all, or those of an index.
class Rows {
 public:
  explicit Rows(const LinearCrossEntropyArgs& args) : count_(args.layer.input.size(0)) {
    if (args.probabilities()) {
      return;
    }
    const Tensor valid = args.rows.target.ne(args.rows.ignore_index).reshape({count_, -1}).any(1);
    if (!valid.all().item<bool>()) {
      index_ = valid.nonzero().squeeze(1);
      count_ = index_.size(0);
    }
  }

  int64_t count() const { return count_; }
  bool all() const { return !index_.defined(); }

  Tensor of(const Tensor& values, int64_t begin, int64_t count) const {
    return all() ? values.narrow(0, begin, count)
                 : values.index_select(0, index_.narrow(0, begin, count));
  }

  void put(const Tensor& values, const Tensor& result, int64_t begin) const {
    if (all()) {
      result.narrow(0, begin, values.size(0)).copy_(values);
    } else {
      result.index_copy_(0, index_.narrow(0, begin, values.size(0)), values);
    }
  }

 private:
  int64_t count_;
  Tensor index_;
};

/// As many rows as are asked for, or as the logits may take, in chunks of equal size.
int64_t rows_of_chunk(const LinearLayer& layer, int64_t rows, std::optional<int64_t> chunk_size) {
  if (chunk_size.has_value()) {
    return *chunk_size;
  }
  const int64_t row_bytes = std::max<int64_t>(1, layer.weight.size(0)) * layer.input.element_size();
  const int64_t most = std::max(kFewestRows, kLogitsBytes / row_bytes);
  const int64_t chunks = std::max<int64_t>(1, (rows + most - 1) / most);
  return (rows + chunks - 1) / chunks;
}

/// The loop. `row_gradient`: of each row's loss, undefined where no gradient is wanted.
class ChunkLoop {
 public:
  Tensor losses;  // of each row, in the accumulation type

  ChunkLoop(const LinearCrossEntropyArgs& args, const Tensor& row_gradient, GradientMask wanted,
            std::optional<int64_t> chunk_size)
      : args_(args),
        layer_(args.layer),
        rows_(args),
        acc_(at::toOpMathType(layer_.input.scalar_type())),
        accumulated_(layer_.input.options().dtype(acc_)) {
    auto shape = args.rows.input.sizes().vec();
    shape.erase(shape.begin() + 1);
    losses = at::zeros(shape, accumulated_);
    start_gradients(wanted);
    const int64_t chunk = rows_of_chunk(layer_, rows_.count(), chunk_size);
    const Tensor buffer =
        fresh({std::min(chunk, rows_.count()), layer_.weight.size(0)}, layer_.input.options());
    for (int64_t begin = 0; begin < rows_.count(); begin += chunk) {
      const int64_t count = std::min(chunk, rows_.count() - begin);
      run(begin, buffer.narrow(0, 0, count), row_gradient);
    }
  }

  /// In the dtype and the shapes of what they are of.
  LinearGradients gradients(const Tensor& input, const Tensor& linear_weight,
                            const OptionalTensor& linear_bias) const {
    const auto finished = [&](const Tensor& gradient, const Tensor& like) {
      if (!gradient.defined()) {
        return at::empty({0}, input.options());
      }
      if (gradient.scalar_type() == like.scalar_type()) {
        return gradient.view(like.sizes());
      }
      return fresh(like.sizes(), like.options()).copy_(gradient.view(like.sizes()));
    };
    return {finished(grad_input_, input), finished(grad_weight_, linear_weight),
            finished(grad_bias_, defined_or_empty(linear_bias))};
  }

 private:
  void start_gradients(GradientMask wanted) {
    if (wanted[0]) {
      grad_input_ = fresh(layer_.input.sizes(), layer_.input.options());
      if (!rows_.all()) {
        grad_input_.zero_();
      }
    }
    if (wanted[1]) {
      grad_weight_ = fresh(layer_.weight.sizes(), accumulated_);
      if (rows_.count() == 0) {
        grad_weight_.zero_();
      }
    }
    if (wanted[2]) {
      grad_bias_ = at::zeros(layer_.bias.sizes(), accumulated_);
    }
  }

  void run(int64_t begin, const Tensor& logits, const Tensor& row_gradient) {
    const int64_t count = logits.size(0);
    const Tensor input = rows_.of(layer_.input, begin, count);
    if (layer_.bias.defined()) {
      logits.copy_(layer_.bias.expand_as(logits));
    }
    ops::gemm_(logits, input, layer_.weight.t(), /*accumulate=*/layer_.bias.defined());

    CrossEntropyArgs chunk = args_.rows;
    auto shape = args_.rows.input.sizes().vec();
    shape[0] = count;
    chunk.input = logits.view(shape);
    chunk.target = rows_.of(args_.rows.target, begin, count);
    if (chunk.sample_weight.defined()) {
      chunk.sample_weight = rows_.of(chunk.sample_weight, begin, count);
    }
    chunk.reduction = checks::kNone;
    if (!row_gradient.defined()) {
      rows_.put(ops::cross_entropy_forward(chunk, std::nullopt, acc_, false).loss, losses, begin);
      return;
    }
    rows_.put(ops::cross_entropy_with_gradient_(chunk, rows_.of(row_gradient, begin, count)),
              losses, begin);
    const Tensor& gradient = logits;
    if (grad_input_.defined()) {
      const Tensor result =
          rows_.all() ? grad_input_.narrow(0, begin, count) : at::empty_like(input);
      ops::gemm_(result, gradient, layer_.weight, /*accumulate=*/false);
      if (!rows_.all()) {
        rows_.put(result, grad_input_, begin);
      }
    }
    if (grad_weight_.defined()) {
      ops::gemm_(grad_weight_, gradient.t(), input, /*accumulate=*/begin > 0);
    }
    if (grad_bias_.defined()) {
      grad_bias_ += gradient.sum(0, /*keepdim=*/false, acc_);
    }
  }

  const LinearCrossEntropyArgs& args_;
  const LinearLayer& layer_;
  const Rows rows_;
  const at::ScalarType acc_;
  const at::TensorOptions accumulated_;
  Tensor grad_input_, grad_weight_, grad_bias_;
};

/// Raises for a target out of range, before memory is read with it; else the sum of the weights of
/// the rows that take part, in float64.
Tensor total_weight(const CrossEntropyArgs& rows) {
  const auto acc = at::toOpMathType(rows.input.scalar_type());
  Tensor weights;
  if (checks::has_class_probabilities(rows.input, rows.target)) {
    auto shape = rows.input.sizes().vec();
    shape.erase(shape.begin() + 1);
    const bool empty = rows.input.numel() == 0;
    weights = at::full(shape, empty ? 0 : 1, rows.input.options().dtype(acc));
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
  auto shape = rows.input.sizes().vec();
  shape.erase(shape.begin() + 1);
  const Tensor grad = grad_output.to(at::toOpMathType(rows.input.scalar_type()));
  if (rows.reduction == checks::kNone) {
    return grad.reshape(shape);
  }
  return (rows.reduction == checks::kMean ? composite::over(grad, normalizer) : grad).expand(shape);
}

bool any(GradientMask wanted) { return wanted[0] || wanted[1] || wanted[2]; }

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> forward(
    const CrossEntropyArgs& given, const Tensor& linear_weight, const OptionalTensor& linear_bias,
    const OptionalTensor& given_normalizer, Dtype dtype, std::optional<int64_t> chunk_size,
    GradientMask wanted) {
  const LinearCrossEntropyArgs args(given, linear_weight, linear_bias, given_normalizer, dtype,
                                    chunk_size);
  checks::linear_cross_entropy_wanted(given, linear_bias, wanted);
  const auto accumulated = given.input.options().dtype(at::toOpMathType(given.input.scalar_type()));
  Tensor sum = total_weight(args.rows);
  if (given_normalizer.has_value() && given_normalizer->defined()) {
    sum = given_normalizer->to(sum.options());
  }
  const Tensor normalizer = sum.to(accumulated);
  const Tensor row_gradient =
      any(wanted) ? row_gradient_of(args.rows, at::ones({}, accumulated), normalizer) : Tensor();
  const ChunkLoop loop(args, row_gradient, wanted, chunk_size);
  Tensor loss;
  if (given.reduction == checks::kNone) {
    loss = loop.losses.view_symint(args.loss_shape);
  } else {
    loss = total(loop.losses);
    loss = given.reduction == checks::kMean ? composite::over(loss, sum) : loss;
  }
  auto [of_input, of_weight, of_bias] = loop.gradients(given.input, linear_weight, linear_bias);
  return {loss.to(dtype.value_or(given.input.scalar_type())), normalizer, of_input, of_weight,
          of_bias};
}

LinearGradients backward(const CrossEntropyArgs& given, const Tensor& linear_weight,
                         const OptionalTensor& linear_bias, const Tensor& grad_output,
                         const Tensor& normalizer, std::optional<int64_t> chunk_size,
                         GradientMask wanted) {
  const LinearCrossEntropyArgs args(given, linear_weight, linear_bias, std::nullopt,
                                    grad_output.scalar_type(), chunk_size);
  checks::linear_cross_entropy_backward(given, linear_bias, grad_output, normalizer,
                                        args.loss_shape, wanted);
  if (!args.probabilities()) {
    ops::gather_index(args.rows.target, args.rows.input.size(1), given.ignore_index,
                      args.rows.function);
  }
  const ChunkLoop loop(args, row_gradient_of(args.rows, grad_output, normalizer), wanted,
                       chunk_size);
  return loop.gradients(given.input, linear_weight, linear_bias);
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
                                           chunk_size, {false, false, false})
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
