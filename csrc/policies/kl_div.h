#pragma once
// The policies of kl_div_with_logits: the divergence of two softmaxes and its gradients.
//
// With p = softmax(x / T), q = softmax(y / T) of a row's input x and target y, the loss is
// T^2 KL(q || p) = T^2 sum_c q_c (log q_c - log p_c), and its gradients are
//   d / dx_c = T (p_c - q_c)        d / dy_c = T q_c (log q_c - log p_c - KL).

#include "logits.h"
#include "row_target.h"

namespace torchsoftmax::TORCHSOFTMAX_DEVICE {
TORCHSOFTMAX_INTERNAL(policies) {
/// q (log q - log p) is 0 where q is.
template <typename V>
TORCHSOFTMAX_FN V times_log_ratio(const V& q, const V& log_ratio) {
  return V::blendv(q * log_ratio, V(0), q == V(0));
}

template <typename acc_t>
struct DivergenceRow : Policy {
  ScaledLogits<acc_t, false> logits;
  acc_t* statistics;  // of each row: max, log_sum of input, of target, mean_difference
  int64_t row_count;

  template <typename Walk, typename Keep, typename Out, typename In, typename Target>
  TORCHSOFTMAX_FN void operator()(const Walk& walk, RowRange rows, const Keep&, const Out&,
                                  const In& input, const Target& target) const {
    using V = typename Walk::V;
    const V max_x = walk.maximum([&](int64_t i, auto lanes) { return input.load(i, lanes); });
    const V max_y = walk.maximum([&](int64_t i, auto lanes) { return target.load(i, lanes); });
    const auto of_x = logits.of_row(max_x), of_y = logits.of_row(max_y);
    const auto [sum_x, sum_y, ratio] =
        walk.template sums<3, SumFor::kLog>([&](int64_t i, auto lanes) {
          const V x = of_x.shifted(input.load(i, lanes));
          const V y = of_y.shifted(target.load(i, lanes));
          const V q = exp_nonpositive(y);
          return std::array<V, 3>{exp_nonpositive(x), q, times_log_ratio(q, y - x)};
        });
    const V log_x = walk.log(sum_x), log_y = walk.log(sum_y);
    const std::array<V, 5> values{max_x, log_x, max_y, log_y, ratio / sum_y};
    for (size_t k = 0; k < values.size(); ++k) {
      walk.store_rows(statistics + static_cast<int64_t>(k) * row_count, rows, values[k]);
    }
  }
};

/// The divergence of a row, over T^2, from its statistics: the mean of log q - log p, in two
/// parts.
template <typename acc_t>
struct RowDivergence {
  const acc_t* statistics;
  int64_t row_count;

  TORCHSOFTMAX_FN acc_t operator()(int64_t row) const {
    const acc_t* of_row = statistics + row;
    return of_row[4 * row_count] + (of_row[row_count] - of_row[3 * row_count]);
  }
};

/// What both gradients share: the logarithms of p and q from the statistics.
template <typename acc_t>
struct KnownRows {
  ScaledLogits<acc_t, false> logits;
  const acc_t* statistics;
  int64_t row_count;
  Upstream<acc_t> upstream;

  template <typename V>
  struct State {
    typename ScaledLogits<acc_t, false>::template Row<V> of_x, of_y;
    V log_x, log_y, mean_difference, grad;

    TORCHSOFTMAX_FN V log_p(const V& x) const { return of_x.shifted(x) - log_x; }
    TORCHSOFTMAX_FN V log_q(const V& y) const { return of_y.shifted(y) - log_y; }
  };

  template <typename Walk>
  TORCHSOFTMAX_FN auto state(const Walk& walk, RowRange rows) const {
    const auto value = [&](int64_t k) { return walk.load_rows(statistics + k * row_count, rows); };
    return State<typename Walk::V>{
        logits.of_row(value(0)), logits.of_row(value(2)), value(1), value(3), value(4),
        upstream.of(walk, rows)};
  }
};

template <typename acc_t>
struct DivergenceInputGradient : Policy {
  KnownRows<acc_t> known;

  template <typename Walk, typename Keep, typename Out, typename In, typename Target>
  TORCHSOFTMAX_FN void operator()(const Walk& walk, RowRange rows, const Keep&, const Out& out,
                                  const In& input, const Target& target) const {
    const auto row = known.state(walk, rows);
    walk.for_each([&](int64_t i, auto lanes) {
      const auto p = exp_nonpositive(row.log_p(input.load(i, lanes)));
      const auto q = exp_nonpositive(row.log_q(target.load(i, lanes)));
      out.store(i, row.grad * (p - q), lanes);
    });
  }
};

template <typename acc_t>
struct DivergenceTargetGradient : Policy {
  KnownRows<acc_t> known;

  template <typename Walk, typename Keep, typename Out, typename In, typename Target>
  TORCHSOFTMAX_FN void operator()(const Walk& walk, RowRange rows, const Keep&, const Out& out,
                                  const In& input, const Target& target) const {
    const auto row = known.state(walk, rows);
    walk.for_each([&](int64_t i, auto lanes) {
      const auto x = row.of_x.shifted(input.load(i, lanes));
      const auto y = row.of_y.shifted(target.load(i, lanes));
      const auto q = exp_nonpositive(y - row.log_y);
      out.store(i, row.grad * times_log_ratio(q, (y - x) - row.mean_difference), lanes);
    });
  }
};

}  // TORCHSOFTMAX_INTERNAL(policies)
}  // namespace torchsoftmax::TORCHSOFTMAX_DEVICE
