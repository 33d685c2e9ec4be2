// The forward pass of cross_entropy: cross_entropy.h has the formulas.

#include <ATen/ops/empty.h>
#include <torch/library.h>

#include "cross_entropy.h"

namespace torchsoftmax::cpu {
namespace {

/// The statistics and the loss of each row, in row order.
template <typename acc_t>
struct RowResults {
  acc_t* loss;
  acc_t* max;
  acc_t* log_sum;
};

template <typename acc_t, bool kSmooth>
struct IndexForward {
  static constexpr bool kKeeps = false;

  RowTarget<acc_t> target;
  Smoothing<acc_t> smoothing;
  RowResults<acc_t> result;

  template <typename Walk, typename Keep, typename Out, typename In>
  void operator()(const Walk& walk, RowRange rows, const Keep&, const Out&, const In& input) const {
    using V = typename Walk::V;
    if (!target.any_valid(rows)) {
      for (int64_t row = rows.first; row < rows.first + rows.count; ++row) {
        write(row, 0, 0, 0);
      }
      return;
    }
    const V max = walk.maximum([&](int64_t i, auto lanes) { return input.load(i, lanes); });
    V sum, dot(0);
    if constexpr (kSmooth) {
      const auto sums = walk.template sums<2>([&](int64_t i, auto lanes) {
        const V z = input.load(i, lanes) - max;
        return std::array<V, 2>{exp_nonpositive(z), z * walk.per_class(smoothing.weight, i, lanes)};
      });
      sum = sums[0];
      dot = sums[1];
    } else {
      sum = walk.sum(
          [&](int64_t i, auto lanes) { return exp_nonpositive(input.load(i, lanes) - max); });
    }
    const V log_sum = walk.log(sum);
    for (int64_t lane = 0; lane < rows.count; ++lane) {
      const int64_t row = rows.first + lane;
      const acc_t m = walk.lane(max, lane), s = walk.lane(log_sum, lane);
      acc_t loss = 0;
      if (target.valid(row)) {
        const acc_t z = static_cast<acc_t>(walk.at(input, target.index[row], lane)) - m;
        loss = smoothing.target * target.weight_of(row) * (s - z);
        if constexpr (kSmooth) {
          loss += smoothing.each_class * (smoothing.weight_sum * s - walk.lane(dot, lane));
        }
      }
      write(row, loss, m, s);
    }
  }

  void write(int64_t row, acc_t loss, acc_t max, acc_t log_sum) const {
    result.loss[row] = loss;
    result.max[row] = max;
    result.log_sum[row] = log_sum;
  }
};

template <typename acc_t>
struct ProbabilityForward {
  static constexpr bool kKeeps = false;

  Smoothing<acc_t> smoothing;
  RowResults<acc_t> result;

  template <typename Walk, typename Keep, typename Out, typename In, typename Target>
  void operator()(const Walk& walk, RowRange rows, const Keep&, const Out&, const In& input,
                  const Target& target) const {
    using V = typename Walk::V;
    const V scale(smoothing.target), share(smoothing.each_class);
    const V max = walk.maximum([&](int64_t i, auto lanes) { return input.load(i, lanes); });
    const auto [sum, dot, mass] = walk.template sums<3>([&](int64_t i, auto lanes) {
      const V z = input.load(i, lanes) - max;
      const V q = walk.per_class(smoothing.weight, i, lanes) *
                  at::vec::fmadd(target.load(i, lanes), scale, share);
      return std::array<V, 3>{exp_nonpositive(z), q * z, q};
    });
    const V log_sum = walk.log(sum);
    const V loss = mass * log_sum - dot;
    for (int64_t lane = 0; lane < rows.count; ++lane) {
      const int64_t row = rows.first + lane;
      result.loss[row] = walk.lane(loss, lane);
      result.max[row] = walk.lane(max, lane);
      result.log_sum[row] = walk.lane(log_sum, lane);
    }
  }
};

std::tuple<at::Tensor, at::Tensor, at::Tensor> forward(const CrossEntropyOptions& options,
                                                       const at::Tensor& input,
                                                       const at::Tensor& target, Weight weight,
                                                       std::optional<at::ScalarType> dtype) {
  checks::cross_entropy(options, input, target, weight, dtype);
  const int64_t dim = checks::class_dim(input);
  at::Tensor losses, statistics, normalizer;
  dispatch(input, [&](auto type) {
    using scalar_t = decltype(type);
    using acc_t = acc_type<scalar_t>;
    BadTarget bad;
    const Prepared<acc_t> prepared(options, input, target, weight, bad);
    const auto logits = rows_of<const scalar_t>(input, dim);
    const auto accumulated = input.options().dtype(c10::CppTypeToScalarType<acc_t>::value);
    auto shape = C10_AS_INTARRAYREF_SLOW(c10::SymIntArrayRef(checks::row_shape(input))).vec();
    losses = at::empty(shape, accumulated);
    shape.insert(shape.begin(), 2);
    statistics = at::empty(shape, accumulated);
    auto* max = statistics.mutable_data_ptr<acc_t>();
    const RowResults<acc_t> result{losses.mutable_data_ptr<acc_t>(), max, max + logits.rows};
    RowTensor<acc_t> none;
    none.rows = logits.rows;
    none.classes = logits.classes;
    if (prepared.probabilities && logits.classes == 0) {  // an empty sum, where log p is nan
      losses.zero_();
      statistics.zero_();
    } else if (prepared.probabilities) {
      with_probabilities<scalar_t>(input, prepared.target, dim, [&](const auto& probabilities) {
        for_each_row<acc_t>(ProbabilityForward<acc_t>{prepared.smoothing, result}, none, logits,
                            probabilities);
      });
    } else if (prepared.smooth) {
      for_each_row<acc_t>(IndexForward<acc_t, true>{prepared.rows, prepared.smoothing, result},
                          none, logits);
    } else {
      for_each_row<acc_t>(IndexForward<acc_t, false>{prepared.rows, prepared.smoothing, result},
                          none, logits);
    }
    bad.raise(prepared.rows);
    const double total =
        prepared.probabilities
            ? static_cast<double>(input.numel() == 0 ? 0 : logits.rows)
            : deterministic_sum_of(logits.rows, [&](int64_t row) {
                return prepared.rows.valid(row) ? prepared.rows.weight_of(row) : acc_t(0);
              });
    normalizer = at::empty({}, accumulated);
    *normalizer.mutable_data_ptr<acc_t>() = static_cast<acc_t>(total);
    if (options.reduction != checks::kNone) {
      double loss = deterministic_sum(result.loss, logits.rows);
      if (options.reduction == checks::kMean) {  // nan, not inf, where the weights sum to 0
        loss = loss / total + 0.0 / total;
      }
      losses = at::empty({}, accumulated);
      *losses.mutable_data_ptr<acc_t>() = static_cast<acc_t>(loss);
    }
  });
  return {losses.to(dtype.value_or(input.scalar_type())), statistics, normalizer};
}

}  // namespace

TORCH_LIBRARY_IMPL(torchsoftmax, CPU, m) {
  m.impl("cross_entropy_forward", &WithOptions<&forward>::call);
}

}  // namespace torchsoftmax::cpu
