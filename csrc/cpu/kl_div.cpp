// kl_div_with_logits: the divergence of two softmaxes and its gradients.
//
// With p = softmax(x / T), q = softmax(y / T) of a row's input x and target y, the loss is
// T^2 KL(q || p) = T^2 sum_c q_c (log q_c - log p_c), and its gradients are
//   d / dx_c = T (p_c - q_c)        d / dy_c = T q_c (log q_c - log p_c - KL).

#include <ATen/ops/empty.h>
#include <ATen/ops/mul.h>
#include <torch/library.h>

#include "../checks.h"
#include "deterministic_sum.h"
#include "logits.h"
#include "memory.h"
#include "rows.h"
#include "tensors.h"

namespace torchsoftmax::cpu {
namespace {

/// q (log q - log p) is 0 where q is.
template <typename V>
V times_log_ratio(const V& q, const V& log_ratio) {
  return V::blendv(q * log_ratio, V(0), q == V(0));
}

template <typename acc_t>
struct Forward : Policy {
  using V = Vec<acc_t>;
  ScaledLogits<acc_t, false> logits;
  acc_t* statistics;  // of each row: max, log_sum of input, of target, mean_difference
  int64_t row_count;

  template <typename Walk, typename Keep, typename Out, typename In, typename Target>
  void operator()(const Walk& walk, RowRange rows, const Keep&, const Out&, const In& input,
                  const Target& target) const {
    const V max_x = walk.maximum([&](int64_t i, auto lanes) { return input.load(i, lanes); });
    const V max_y = walk.maximum([&](int64_t i, auto lanes) { return target.load(i, lanes); });
    const auto of_x = logits.of_row(max_x), of_y = logits.of_row(max_y);
    const auto [sum_x, sum_y, ratio] = walk.template sums<3>([&](int64_t i, auto lanes) {
      const V x = of_x.shifted(input.load(i, lanes));
      const V y = of_y.shifted(target.load(i, lanes));
      const V q = exp_nonpositive(y);
      return std::array<V, 3>{exp_nonpositive(x), q, times_log_ratio(q, y - x)};
    });
    const V log_x = walk.log(sum_x), log_y = walk.log(sum_y);
    const std::array<V, 5> values{max_x, log_x, max_y, log_y, ratio / sum_y};
    for (int64_t lane = 0; lane < rows.count; ++lane) {
      for (size_t k = 0; k < values.size(); ++k) {
        statistics[static_cast<int64_t>(k) * row_count + rows.first + lane] =
            walk.lane(values[k], lane);
      }
    }
  }
};

/// What both gradients share: the logarithms of p and q from the statistics.
template <typename acc_t>
struct KnownRows {
  using V = Vec<acc_t>;
  using Row = typename ScaledLogits<acc_t, false>::template Row<V>;

  ScaledLogits<acc_t, false> logits;
  const acc_t* statistics;
  int64_t row_count;
  const acc_t* row_gradient;  // of each row, or the same for all
  acc_t gradient;

  struct State {
    Row of_x, of_y;
    V log_x, log_y, mean_difference, grad;

    V log_p(const V& x) const { return of_x.shifted(x) - log_x; }
    V log_q(const V& y) const { return of_y.shifted(y) - log_y; }
  };

  template <typename Walk>
  State state(const Walk& walk, RowRange rows) const {
    const auto value = [&](int64_t k) {
      return walk.per_row(rows,
                          [&](int64_t row, int64_t) { return statistics[k * row_count + row]; });
    };
    return {logits.of_row(value(0)),
            logits.of_row(value(2)),
            value(1),
            value(3),
            value(4),
            walk.per_row(rows, [&](int64_t row, int64_t) {
              return row_gradient == nullptr ? gradient : row_gradient[row];
            })};
  }
};

template <typename acc_t>
struct InputGradient : Policy {
  KnownRows<acc_t> known;

  template <typename Walk, typename Keep, typename Out, typename In, typename Target>
  void operator()(const Walk& walk, RowRange rows, const Keep&, const Out& out, const In& input,
                  const Target& target) const {
    const auto row = known.state(walk, rows);
    walk.for_each([&](int64_t i, auto lanes) {
      const auto p = exp_nonpositive(row.log_p(input.load(i, lanes)));
      const auto q = exp_nonpositive(row.log_q(target.load(i, lanes)));
      out.store(i, row.grad * (p - q), lanes);
    });
  }
};

template <typename acc_t>
struct TargetGradient : Policy {
  KnownRows<acc_t> known;

  template <typename Walk, typename Keep, typename Out, typename In, typename Target>
  void operator()(const Walk& walk, RowRange rows, const Keep&, const Out& out, const In& input,
                  const Target& target) const {
    const auto row = known.state(walk, rows);
    walk.for_each([&](int64_t i, auto lanes) {
      const auto x = row.of_x.shifted(input.load(i, lanes));
      const auto y = row.of_y.shifted(target.load(i, lanes));
      const auto q = exp_nonpositive(y - row.log_y);
      out.store(i, row.grad * times_log_ratio(q, (y - x) - row.mean_difference), lanes);
    });
  }
};

std::tuple<at::Tensor, at::Tensor> forward(const at::Tensor& input, const at::Tensor& target,
                                           Dtype dtype, int64_t reduction, double temperature) {
  checks::kl_div_with_logits(input, target, reduction, temperature);
  const int64_t dim = input.dim() - 1;
  at::Tensor loss, statistics;
  dispatch(input, [&](auto type) {
    using scalar_t = decltype(type);
    using acc_t = acc_type<scalar_t>;
    const auto accumulated = input.options().dtype(c10::CppTypeToScalarType<acc_t>::value);
    c10::DimVector shape(input.sizes());
    shape.pop_back();
    shape.insert(shape.begin(), 5);
    statistics = at::empty(shape, accumulated);
    const auto out = rows_of<scalar_t>(input, dim, nullptr);
    auto* values = statistics.mutable_data_ptr<acc_t>();
    if (out.classes == 0) {
      statistics.zero_();
    } else {
      const at::Tensor other = like_rows_of(input, target, dim);
      for_each_row<acc_t>(
          Forward<acc_t>{{}, ScaledLogits<acc_t, false>(temperature), values, out.rows}, out,
          rows_of<const scalar_t>(input, dim), rows_of<const scalar_t>(other, dim));
    }
    const double scale = temperature * temperature;
    const auto divergence = [&, rows = out.rows](int64_t row) {  // of log q - log p, in two parts
      return values[4 * rows + row] + (values[rows + row] - values[3 * rows + row]);
    };
    if (reduction == checks::kNone) {
      shape.erase(shape.begin());
      loss = at::empty(shape, accumulated);
      auto* losses = loss.mutable_data_ptr<acc_t>();
      for (int64_t row = 0; row < out.rows; ++row) {
        losses[row] = static_cast<acc_t>(scale * divergence(row));
      }
      return;
    }
    const double divisor =
        static_cast<double>(checks::kl_div_divisor(input, reduction).expect_int());
    const double sum = deterministic_sum_of(out.rows, divergence);
    loss = at::empty({}, accumulated);
    *loss.mutable_data_ptr<acc_t>() = static_cast<acc_t>(scale * sum / divisor);
  });
  return {loss.to(dtype.value_or(input.scalar_type())), statistics};
}

template <template <typename> typename Kernel>
at::Tensor backward(const at::Tensor& grad_output, const at::Tensor& input,
                    const at::Tensor& target, const at::Tensor& given_statistics, int64_t reduction,
                    double temperature) {
  checks::kl_div_with_logits_backward(grad_output, input, target, given_statistics, reduction,
                                      temperature);
  const int64_t dim = input.dim() - 1;
  const bool of_input = std::is_same_v<Kernel<float>, InputGradient<float>>;
  at::Tensor result = empty_gradient_like(of_input ? input : target, input.scalar_type());
  dispatch(input, [&](auto type) {
    using scalar_t = decltype(type);
    using acc_t = acc_type<scalar_t>;
    // T^2 of the loss, over T of the logits.
    const at::Tensor statistics = given_statistics.contiguous();
    const double divisor =
        static_cast<double>(checks::kl_div_divisor(input, reduction).expect_int());
    const at::Tensor upstream = at::mul(dense<acc_t>(grad_output), temperature / divisor);
    const bool each = reduction == checks::kNone;
    const auto* gradient = upstream.const_data_ptr<acc_t>();
    const auto out = rows_of<scalar_t>(result, dim);
    const KnownRows<acc_t> known{ScaledLogits<acc_t, false>(temperature),
                                 statistics.const_data_ptr<acc_t>(), out.rows,
                                 each ? gradient : nullptr, each ? acc_t(0) : *gradient};
    const at::Tensor x = like_rows_of(result, input, dim), y = like_rows_of(result, target, dim);
    for_each_row<acc_t>(Kernel<acc_t>{{}, known}, out, rows_of<const scalar_t>(x, dim),
                        rows_of<const scalar_t>(y, dim));
  });
  return result;
}

}  // namespace

TORCH_LIBRARY_IMPL(torchsoftmax, CPU, m) {
  m.impl("kl_div_with_logits_forward", &forward);
  m.impl("kl_div_with_logits_backward", &backward<InputGradient>);
  m.impl("kl_div_with_logits_target_backward", &backward<TargetGradient>);
}

}  // namespace torchsoftmax::cpu
