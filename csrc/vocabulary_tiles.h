#pragma once
// linear_cross_entropy of all rows at once, for some classes at a time: the other way to cut the
// logits than chunks of rows. Weight and gradient of the weight, which are larger than the logits
// where there are more features than rows, are each gone over once for a product, and the gradient
// is one product, rounded once.
//
// A first pass over the tiles finds the logsumexp of the rows and the logit of their target, a
// second one the gradients. The logits of the second are those of the first, of as many rows as
// there are features: they fit into the gradient of the weight, which is not there yet, a tile's
// into the rows of its classes. Those of the other rows are computed again.

#include "chunked_linear.h"
#include "composite/composite.h"

namespace torchsoftmax {

class VocabularyTiles {
 public:
  /// Whether to take tiles: for the loss alone; with the gradient of the weight, where few logits
  /// are computed again, or where a float32 copy of the gradient, which the sum over chunks needs,
  /// would take more than the budget. Not where there would be one chunk; not on a device, whose
  /// rows are not picked by their targets and whose memory has room for larger chunks; nor for what
  /// makes the gradient of a class depend on other classes than the target.
  static bool serve(const LinearCrossEntropyArgs& args, int64_t rows,
                    std::optional<int64_t> chunk_size, GradientMask wanted,
                    int64_t accumulator_bytes) {
    const Tensor& weight = args.layer.weight;
    const CrossEntropyArgs& loss = args.rows;
    const int64_t copy_bytes = weight.numel() * static_cast<int64_t>(sizeof(float));
    const bool loss_alone = !wanted[0] && !wanted[1] && !wanted[2];
    const int64_t chunk = ChunkedLinear::rows_of_chunk(args.layer, rows, chunk_size);
    const int64_t again = std::max<int64_t>(0, rows - weight.size(1));  // of all rows
    const bool few_again =
        again == 0 || (!chunk_size.has_value() && chunk * again <= kFewAgain * rows);
    return weight.is_cpu() && rows > chunk && !args.probabilities() && loss.input.dim() == 2 &&
           loss.label_smoothing == 0 && (loss.z_loss == 0 || !loss.weight.defined()) &&
           (loss_alone || (wanted[1] && (few_again || (weight.element_size() == 2 &&
                                                       copy_bytes > accumulator_bytes))));
  }

  VocabularyTiles(const LinearCrossEntropyArgs& args, const Rows& rows,
                  std::optional<int64_t> chunk_size, GradientMask wanted)
      : args_(args),
        rows_(rows),
        wanted_(wanted),
        accumulated_(
            args.layer.input.options().dtype(at::toOpMathType(args.layer.input.scalar_type()))),
        input_(rows.of(args.layer.input, 0, rows.count())),
        target_(rows.of(args.rows.target, 0, rows.count()).to(at::kLong)) {
    const int64_t classes = args.layer.weight.size(0);
    const int64_t chunk = ChunkedLinear::rows_of_chunk(args.layer, rows.count(), chunk_size);
    most_ = std::max<int64_t>(1, chunk * classes / rows.count());
    most_ = most_ > kLine ? most_ / kLine * kLine : most_;
    if (wanted[1]) {
      kept_rows_ = std::min(rows.count(), args.layer.weight.size(1));
      grad_weight_ = fresh(args.layer.weight.sizes(), args.layer.weight.options());
    }
    buffer_ = fresh({rows.count() * (most_ + 1)}, input_.options());
    find_statistics();
  }

  /// Of all rows, in the accumulation type.
  Tensor losses() const {
    const CrossEntropyArgs args = of_row(args_.rows);
    Tensor loss = (lse_ - label_).clamp_min(0);  // below it only by rounding
    if (args_.rows.weight.defined()) {
      loss = loss * weight_of_target();
    }
    if (args.z_loss != 0) {
      loss = loss + args.z_loss * lse_.square();
    }
    if (args.sample_weight.defined()) {
      loss = loss * args.sample_weight;
    }
    const Tensor all = at::zeros({args_.layer.input.size(0)}, accumulated_);
    rows_.put(loss.to(all.scalar_type()), all, 0);
    return all;
  }

  /// row_gradient: of each row's loss. Like ChunkedLinear::gradients; that of the weight is wanted.
  /// Once only, over the logits that were kept.
  LinearGradients gradients(const Tensor& row_gradient, const Tensor& input,
                            const Tensor& linear_weight, const OptionalTensor& linear_bias) const {
    const LinearLayer& layer = args_.layer;
    Tensor grad_input, grad_bias;
    if (wanted_[0]) {
      grad_input = at::empty(input_.sizes(), accumulated_);
    }
    if (wanted_[2]) {
      grad_bias = at::empty(layer.bias.sizes(), accumulated_);
    }
    Tensor upstream = rows_.of(row_gradient, 0, rows_.count());
    if (args_.rows.weight.defined()) {
      upstream = upstream * weight_of_target();
    }
    CrossEntropyArgs tile = of_row(args_.rows);
    const Tensor normalizer = at::ones({}, upstream.options());
    for_each_tile([&](int64_t begin, int64_t count) {
      // A target outside of the tile is one more class, which is left out of the products.
      tile.input = buffer_.narrow(0, 0, rows_.count() * (count + 1)).view({-1, count + 1});
      const Tensor logits = tile.input.narrow(1, 0, count);
      logits.narrow(0, 0, kept_rows_).copy_(kept(begin, count));
      compute(logits.narrow(0, kept_rows_, rows_.count() - kept_rows_), begin, kept_rows_);
      tile.input.select(1, count).zero_();
      tile.target = at::where(is_inside(begin, count), target_ - begin, count);
      ops::cross_entropy_backward_(tile, upstream, statistics_, normalizer);
      if (wanted_[0]) {
        ops::gemm_(grad_input, logits, layer.weight.narrow(0, begin, count), begin > 0);
      }
      ops::gemm_(grad_weight_.narrow(0, begin, count), logits.t(), input_, /*accumulate=*/false);
      if (wanted_[2]) {
        grad_bias.narrow(0, begin, count).copy_(logits.sum(0, false, grad_bias.scalar_type()));
      }
    });
    return {wanted_[0] ? of_all_rows(grad_input, input) : at::empty({0}, input.options()),
            grad_weight_.view(linear_weight.sizes()),
            wanted_[2] ? grad_bias.to(linear_bias->scalar_type()).view(linear_bias->sizes())
                       : at::empty({0}, input.options())};
  }

 private:
  static constexpr int64_t kLine = 32;
  static constexpr double kInfinity = std::numeric_limits<double>::infinity();

  /// How many rows' logits of a chunk may be computed again, rather than that each chunk of rows
  /// goes over the weight twice, and twice over its gradient.
  static constexpr int64_t kFewAgain = 32;

  template <typename Do>
  void for_each_tile(Do&& run) const {
    const int64_t classes = args_.layer.weight.size(0);
    for (int64_t begin = 0; begin < classes; begin += most_) {
      run(begin, std::min(most_, classes - begin));
    }
  }

  Tensor is_inside(int64_t begin, int64_t count) const {
    return target_.ge(begin).logical_and(target_.lt(begin + count));
  }

  /// The place of the logits of a tile in the gradient of its classes.
  Tensor kept(int64_t begin, int64_t count) const {
    return grad_weight_.narrow(0, begin, count)
        .view({-1})
        .narrow(0, 0, kept_rows_ * count)
        .view({kept_rows_, count});
  }

  /// The logits of a tile that begins at that class, of rows from `first` on.
  void compute(const Tensor& logits, int64_t begin, int64_t first) const {
    const int64_t rows = logits.size(0), count = logits.size(1);
    if (rows > 0) {
      const Tensor& bias = args_.layer.bias;
      write_logits(logits, input_.narrow(0, first, rows),
                   args_.layer.weight.narrow(0, begin, count),
                   bias.defined() ? bias.narrow(0, begin, count) : bias);
    }
  }

  Tensor weight_of_target() const {
    return args_.rows.weight.to(accumulated_.dtype()).index({target_});
  }

  /// The options of the rows that take part; the weight of the classes is applied to their losses.
  CrossEntropyArgs of_row(CrossEntropyArgs rows) const {
    rows.reduction = checks::kNone;
    rows.ignore_index = -1;
    rows.weight = Tensor();
    if (rows.sample_weight.defined()) {
      rows.sample_weight = rows_.of(rows.sample_weight, 0, rows_.count());
    }
    return rows;
  }

  /// Sums over tiles are in float64.
  void find_statistics() {
    const auto wide = accumulated_.dtype(at::kDouble);
    const int64_t count = rows_.count();
    const Tensor max = at::full({count}, -kInfinity, wide);
    lse_ = at::full({count}, -kInfinity, wide);
    label_ = at::zeros({count}, wide);
    CrossEntropyArgs tile = of_row(args_.rows);
    tile.sample_weight = Tensor();  // of all rows
    for_each_tile([&](int64_t begin, int64_t classes) {
      if (kept_rows_ > 0) {
        tile.input = kept(begin, classes);
        add_statistics(tile, max, begin, 0);
      }
      if (const int64_t others = count - kept_rows_; others > 0) {
        tile.input = buffer_.narrow(0, 0, others * classes).view({others, classes});
        add_statistics(tile, max, begin, kept_rows_);
      }
    });
    statistics_ = at::stack({max, lse_ - logits_of(max)}).to(accumulated_.dtype());
  }

  /// Those of a tile that begins at that class, of rows from `first` on, whose logits it leaves in
  /// its input.
  void add_statistics(CrossEntropyArgs& tile, const Tensor& all_max, int64_t begin, int64_t first) {
    const int64_t count = tile.input.size(0);
    compute(tile.input, begin, first);
    const auto of_rows = [&](const Tensor& values) { return values.narrow(0, first, count); };
    const Tensor inside = of_rows(is_inside(begin, tile.input.size(1)));
    tile.target = at::where(inside, of_rows(target_) - begin, 0);
    const auto found =
        ops::cross_entropy_forward(tile, std::nullopt, accumulated_.dtype().toScalarType(), false);
    const Tensor most = found.statistics.select(0, 0).to(at::kDouble).view({count});
    Tensor lse = logits_of(most) + found.statistics.select(0, 1).view({count});
    if (const Tensor none = lse.isnan().logical_and(most == -kInfinity); none.any().item<bool>()) {
      // A row of nothing but -inf adds nothing; one that holds nan too, of which the kernel has the
      // same statistics, stays nan.
      lse = at::where(none.logical_and(tile.input.isnan().any(1).logical_not()), -kInfinity, lse);
    }
    const Tensor label = tile.input.gather(1, tile.target.unsqueeze(1)).squeeze(1);
    const Tensor max = of_rows(all_max), all_lse = of_rows(lse_), all_label = of_rows(label_);
    all_label.copy_(at::where(inside, logits_of(label.to(at::kDouble)), all_label));
    max.copy_(at::maximum(max, most));
    all_lse.copy_(at::logaddexp(all_lse, lse));
  }

  /// After softcap and temperature.
  Tensor logits_of(const Tensor& values) const {
    CrossEntropyArgs args = args_.rows;
    args.input = values;
    return composite::Logits(args.input, args).value;
  }

  Tensor of_all_rows(const Tensor& grad_input, const Tensor& input) const {
    if (rows_.all()) {
      return grad_input.to(input.scalar_type()).view(input.sizes());
    }
    const Tensor all = at::zeros(args_.layer.input.sizes(), input.options());
    rows_.put(grad_input.to(input.scalar_type()), all, 0);
    return all.view(input.sizes());
  }

  const LinearCrossEntropyArgs& args_;
  const Rows rows_;
  const GradientMask wanted_;
  const at::TensorOptions accumulated_;
  const Tensor input_, target_;  // of the rows that take part
  int64_t most_;                 // classes of a tile
  int64_t kept_rows_ = 0;        // whose logits are kept for the gradients
  Tensor grad_weight_, buffer_;
  Tensor lse_, label_, statistics_;  // of rows: of all classes, and of the target
};

}  // namespace torchsoftmax
