#pragma once
// The policies of softmax_statistics: what a loss or a policy gradient asks of a row of logits, in
// one pass.
//
// With p = softmax(z), z = x / T, and the entropy H = -sum_c p_c log p_c, the gradients of a row
// are
//   d log p_k / dz_c = [c = k] - p_c      d lse / dz_c = p_c      dH / dz_c = -p_c (log p_c + H).

#include "logits.h"
#include "masked.h"
#include "row_target.h"

namespace torchsoftmax::TORCHSOFTMAX_DEVICE {
TORCHSOFTMAX_INTERNAL(policies) {
/// The class indices of the rows: `count` for each.
struct RowIndices {
  const int64_t* index = nullptr;
  int64_t count = 0;
  int64_t classes = 0;
  IndexCheck check{};

  TORCHSOFTMAX_FN bool valid(int64_t position) const {
    return accepts(check, index[position], classes, position);
  }
};

/// p log p, as e = exp(z) and z, is 0 where p is: also at z = -inf.
template <typename V>
TORCHSOFTMAX_FN V times_log(const V& e, const V& z) {
  return e * maximum_dropping_nan(z, V(static_cast<typename V::value_type>(-1e30)));
}

template <typename acc_t>
struct StatisticsRow : Policy {
  static constexpr acc_t kInfinity = std::numeric_limits<acc_t>::infinity();

  ScaledLogits<acc_t, false> logits;
  RowIndices indices;
  acc_t* log_prob;  // indices.count for each row
  acc_t* lse;
  acc_t* entropy;
  int64_t* argmax;  // or null
  acc_t* max;
  acc_t* log_sum;

  template <typename Walk, typename Keep, typename Out, typename In, typename... Mask>
  TORCHSOFTMAX_FN void operator()(const Walk& walk, RowRange rows, const Keep&, const Out&,
                                  const In& input, const Mask&... mask) const {
    using V = typename Walk::V;
    const auto part = [&](int64_t i, auto lanes) {
      return where_part(input.load(i, lanes), kMinusInfinity, i, lanes, mask...);
    };
    const V row_max = walk.maximum([&](int64_t i, auto lanes) { return part(i, lanes); });
    const auto row_logits = logits.of_row(row_max);
    const auto [sum, weighted] = walk.template sums<2, SumFor::kLog>([&](int64_t i, auto lanes) {
      const V z = row_logits.shifted(row_logits.value(part(i, lanes)));
      const V e = exp_nonpositive(z);
      return std::array<V, 2>{e, times_log(e, z)};
    });
    V row_log_sum = walk.log(sum);
    V row_entropy = row_log_sum - weighted / sum;
    V row_lse = row_logits.max + row_log_sum;
    if (walk.any_nan(sum, rows)) {
      // Without a nan, an infinite maximum is the log-sum-exp; where nothing takes part it is
      // -inf.
      const V has_nan = walk.maximum([&](int64_t i, auto lanes) {
        const V x = part(i, lanes);
        return V::blendv(V(0), V(1), x != x);
      });
      row_lse = V::blendv(row_lse, row_max, (row_max.abs() == V(kInfinity)) & (has_nan == V(0)));
      V takes_part(1);
      ((takes_part = some_part(walk, mask)), ...);
      row_entropy = V::blendv(V(0), row_entropy, takes_part == V(1));
    }
    walk.store_rows(max, rows, row_max);
    walk.store_rows(log_sum, rows, row_log_sum);
    walk.store_rows(entropy, rows, row_entropy);
    walk.store_rows(lse, rows, row_lse);
    for (int64_t lane = 0; lane < rows.count; ++lane) {
      const int64_t row = rows.first + lane;
      walk.share(row * indices.count, (row + 1) * indices.count, [&](int64_t k) {
        log_prob[k] = 0;
        if (indices.valid(k)) {
          const V x(static_cast<acc_t>(walk.at(input, indices.index[k], lane)));
          // The lane of this row; the other lanes of a vector across rows mean nothing.
          log_prob[k] = walk.lane(row_logits.shifted(row_logits.value(x)) - row_log_sum, lane);
        }
      });
    }
    if (argmax != nullptr) {
      for (int64_t lane = 0; lane < Walk::kRows; ++lane) {
        if (Walk::kTogether || lane < rows.count) {
          const int64_t found =
              first_largest(walk, input, lane, walk.lane(row_max, lane), walk.lane(sum, lane));
          if (walk.leads() && lane < rows.count) {
            argmax[rows.first + lane] = found;
          }
        }
      }
    }
  }

 private:
  /// As torch.argmax: a nan is larger than everything.
  template <typename Walk, typename In>
  TORCHSOFTMAX_FN int64_t first_largest(const Walk& walk, const In& input, int64_t lane,
                                        acc_t row_max, acc_t sum) const {
    int64_t found = walk.first_equal(input, indices.classes, lane, row_max);
    if (walk.any(std::isnan(sum))) {
      const int64_t first_nan = walk.first_nan(input, indices.classes, lane);
      found = first_nan < indices.classes ? first_nan : found;
    }
    return std::min(found, indices.classes - 1);
  }
};

template <typename acc_t>
struct StatisticsGradientRow : Policy {
  ScaledLogits<acc_t, false> logits;
  RowIndices indices;
  const acc_t* grad_log_prob;
  const acc_t* grad_lse;
  const acc_t* grad_entropy;
  const acc_t* max;
  const acc_t* log_sum;
  const acc_t* entropy;

  template <typename Walk, typename Keep, typename Out, typename In, typename... Mask>
  TORCHSOFTMAX_FN void operator()(const Walk& walk, RowRange rows, const Keep&, const Out& out,
                                  const In& input, const Mask&... mask) const {
    using V = typename Walk::V;
    const auto of_rows = [&](auto&& value) {
      return walk.per_row(rows, [&](int64_t row, int64_t) { return value(row); });
    };
    const auto row_logits = logits.of_row(of_rows([&](int64_t row) { return max[row]; }));
    const V row_log_sum = of_rows([&](int64_t row) { return log_sum[row]; });
    const V scale(logits.per_temperature());
    // The gradient of z_c is p_c (constant - grad_entropy log p_c), and at an index more.
    const V of_entropy = scale * of_rows([&](int64_t row) { return grad_entropy[row]; });
    const V constant = scale * of_rows([&](int64_t row) {
                         acc_t sum = grad_lse[row] - grad_entropy[row] * entropy[row];
                         for (int64_t k = row * indices.count; k < (row + 1) * indices.count; ++k) {
                           sum -= grad_log_prob[k];
                         }
                         return sum;
                       });
    const auto gradient = [&](const V& x) {
      const V log_p = row_logits.shifted(row_logits.value(x)) - row_log_sum;
      const V p = exp_nonpositive(log_p);
      return p * constant - of_entropy * times_log(p, log_p);
    };
    walk.for_each([&](int64_t i, auto lanes) {
      V value = gradient(where_part(input.load(i, lanes), kMinusInfinity, i, lanes, mask...));
      value = where_part(value, 0, i, lanes, mask...);
      out.store(i, value, lanes);
    });
    for (int64_t lane = 0; lane < rows.count; ++lane) {
      const int64_t row = rows.first + lane;
      for (int64_t k = row * indices.count; k < (row + 1) * indices.count; ++k) {
        if (!indices.valid(k)) {
          continue;
        }
        const int64_t c = indices.index[k];
        if constexpr (Walk::template kExact<Out>) {
          walk.add_to(out, c, lane, logits.per_temperature() * grad_log_prob[k]);
        } else {  // all that goes to this entry is added before it is rounded
          const V x(static_cast<acc_t>(walk.at(input, c, lane)));
          walk.put(out, c, lane,
                   walk.lane(gradient(x), lane) + logits.per_temperature() * all_of(row, c));
        }
      }
    }
  }

 private:
  TORCHSOFTMAX_FN acc_t all_of(int64_t row, int64_t index) const {
    acc_t sum = 0;
    for (int64_t k = row * indices.count; k < (row + 1) * indices.count; ++k) {
      sum += indices.index[k] == index ? grad_log_prob[k] : acc_t(0);
    }
    return sum;
  }
};

}  // TORCHSOFTMAX_INTERNAL(policies)
}  // namespace torchsoftmax::TORCHSOFTMAX_DEVICE
