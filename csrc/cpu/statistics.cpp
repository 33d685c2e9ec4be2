// softmax_statistics: what a loss or a policy gradient asks of a row of logits, in one pass.
//
// With p = softmax(z), z = x / T, and the entropy H = -sum_c p_c log p_c, the gradients of a row
// are
//   d log p_k / dz_c = [c = k] - p_c      d lse / dz_c = p_c      dH / dz_c = -p_c (log p_c + H).

#include <ATen/ops/empty.h>
#include <torch/library.h>

#include "../checks.h"
#include "logits.h"
#include "masked.h"
#include "memory.h"
#include "row_target.h"
#include "rows.h"
#include "tensors.h"

namespace torchsoftmax::cpu {
namespace {

/// The class indices of the rows: `count` for each.
struct RowIndices {
  const int64_t* index = nullptr;
  int64_t count = 0;
  int64_t classes = 0;
  BadIndex* bad = nullptr;

  bool valid(int64_t position) const { return bad->accepts(index[position], classes, position); }
};

/// p log p, as e = exp(z) and z, is 0 where p is: also at z = -inf.
template <typename V>
V times_log(const V& e, const V& z) {
  return e * at::vec::clamp_min(z, V(static_cast<typename V::value_type>(-1e30)));
}

template <typename acc_t>
struct Forward : Policy {
  using V = Vec<acc_t>;
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
  void operator()(const Walk& walk, RowRange rows, const Keep&, const Out&, const In& input,
                  const Mask&... mask) const {
    const auto part = [&](int64_t i, auto lanes) {
      return where_part(input.load(i, lanes), kMinusInfinity, i, lanes, mask...);
    };
    const V row_max = walk.maximum([&](int64_t i, auto lanes) { return part(i, lanes); });
    const auto row_logits = logits.of_row(row_max);
    const auto [sum, weighted] = walk.template sums<2>([&](int64_t i, auto lanes) {
      const V z = row_logits.shifted(row_logits.value(part(i, lanes)));
      const V e = exp_nonpositive(z);
      return std::array<V, 2>{e, times_log(e, z)};
    });
    V row_log_sum = walk.log(sum);
    V row_entropy = row_log_sum - weighted / sum;
    V row_lse = row_logits.max + row_log_sum;
    if (walk.any_nan(sum, rows)) {
      // Without a nan, an infinite maximum is the log-sum-exp; where nothing takes part it is -inf.
      const V has_nan = walk.maximum([&](int64_t i, auto lanes) {
        const V x = part(i, lanes);
        return V::blendv(V(0), V(1), x != x);
      });
      row_lse = V::blendv(row_lse, row_max, (row_max.abs() == V(kInfinity)) & (has_nan == V(0)));
      V takes_part(1);
      ((takes_part = walk.maximum([&](int64_t i, auto lanes) { return mask.load(i, lanes); })),
       ...);
      row_entropy = V::blendv(V(0), row_entropy, takes_part == V(1));
    }
    for (int64_t lane = 0; lane < rows.count; ++lane) {
      const int64_t row = rows.first + lane;
      max[row] = walk.lane(row_max, lane);
      log_sum[row] = walk.lane(row_log_sum, lane);
      entropy[row] = walk.lane(row_entropy, lane);
      lse[row] = walk.lane(row_lse, lane);
      for (int64_t k = row * indices.count; k < (row + 1) * indices.count; ++k) {
        log_prob[k] = 0;
        if (indices.valid(k)) {
          const V x(static_cast<acc_t>(walk.at(input, indices.index[k], lane)));
          // The lane of this row; the other lanes of a vector across rows mean nothing.
          log_prob[k] = walk.lane(row_logits.shifted(row_logits.value(x)) - row_log_sum, lane);
        }
      }
      if (argmax != nullptr) {
        argmax[row] = first_largest(walk, input, lane, max[row], walk.lane(sum, lane));
      }
    }
  }

 private:
  /// As torch.argmax: a nan is larger than everything.
  template <typename Walk, typename In>
  int64_t first_largest(const Walk& walk, const In& input, int64_t lane, acc_t row_max,
                        acc_t sum) const {
    for (int64_t c = 0; std::isnan(sum) && c < indices.classes; ++c) {
      if (std::isnan(static_cast<acc_t>(walk.at(input, c, lane)))) {
        return c;
      }
    }
    int64_t c = 0;
    if constexpr (Walk::kAlong) {
      c = input.first_vector_with(row_max, indices.classes);
    }
    while (c + 1 < indices.classes && static_cast<acc_t>(walk.at(input, c, lane)) != row_max) {
      ++c;
    }
    return c;
  }
};

template <typename acc_t>
struct Backward : Policy {
  using V = Vec<acc_t>;
  ScaledLogits<acc_t, false> logits;
  RowIndices indices;
  const acc_t* grad_log_prob;
  const acc_t* grad_lse;
  const acc_t* grad_entropy;
  const acc_t* max;
  const acc_t* log_sum;
  const acc_t* entropy;

  template <typename Walk, typename Keep, typename Out, typename In, typename... Mask>
  void operator()(const Walk& walk, RowRange rows, const Keep&, const Out& out, const In& input,
                  const Mask&... mask) const {
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
        auto& entry = walk.at(out, indices.index[k], lane);
        using scalar_t = std::decay_t<decltype(entry)>;
        if constexpr (std::is_same_v<scalar_t, acc_t>) {
          entry += logits.per_temperature() * grad_log_prob[k];
        } else {  // all that goes to this entry is added before it is rounded
          const acc_t x = static_cast<acc_t>(walk.at(input, indices.index[k], lane));
          entry = static_cast<scalar_t>(walk.lane(gradient(V(x)), lane) +
                                        logits.per_temperature() * all_of(row, indices.index[k]));
        }
      }
    }
  }

 private:
  acc_t all_of(int64_t row, int64_t index) const {
    acc_t sum = 0;
    for (int64_t k = row * indices.count; k < (row + 1) * indices.count; ++k) {
      sum += indices.index[k] == index ? grad_log_prob[k] : acc_t(0);
    }
    return sum;
  }
};

/// `tensor` with its dimension `dim` last, contiguous: the values of a row side by side.
template <typename value_t>
at::Tensor row_by_row(const at::Tensor& tensor, int64_t dim) {
  return dense<value_t>(tensor.dim() == 0 ? tensor : tensor.movedim(dim, -1));
}

RowIndices indices_of(const at::Tensor& index, const at::Tensor& input, int64_t dim,
                      BadIndex& bad) {
  RowIndices indices;
  indices.classes = input.dim() == 0 ? 1 : input.size(dim);
  if (index.defined()) {
    indices.index = index.const_data_ptr<int64_t>();
    indices.count = index.dim() == 0 ? 1 : index.size(-1);
    indices.bad = &bad;
  }
  return indices;
}

ops::Statistics forward(const at::Tensor& input, const OptionalTensor& given_index,
                        const OptionalTensor& mask, int64_t dim, double temperature,
                        bool with_argmax) {
  const char* name = checks::statistics_name(given_index, with_argmax);
  dim = checks::softmax_statistics(name, input, given_index, mask, dim, temperature, with_argmax);
  const auto dtype = input.scalar_type();
  at::Tensor index, log_prob, statistics;
  if (given_index.has_value()) {
    index = row_by_row<int64_t>(*given_index, dim);
  }
  c10::DimVector shape(input.sizes());
  if (!shape.empty()) {
    shape.erase(shape.begin() + dim);
  }
  at::Tensor argmax = with_argmax ? at::empty(shape, input.options().dtype(at::kLong))
                                  : at::empty({0}, input.options().dtype(at::kLong));
  at::Tensor lse, entropy;
  dispatch(input, [&](auto type) {
    using scalar_t = decltype(type);
    using acc_t = acc_type<scalar_t>;
    const auto accumulated = input.options().dtype(c10::CppTypeToScalarType<acc_t>::value);
    BadIndex bad;
    const RowIndices indices = indices_of(index, input, dim, bad);
    log_prob =
        index.defined() ? at::empty(index.sizes(), accumulated) : at::empty({0}, accumulated);
    lse = at::empty(shape, accumulated);
    c10::DimVector stacked(shape);
    stacked.insert(stacked.begin(), 3);
    statistics = at::empty(stacked, accumulated);
    const int64_t rows = lse.numel();
    auto* max = statistics.mutable_data_ptr<acc_t>();
    const Forward<acc_t> policy{{},
                                ScaledLogits<acc_t, false>(temperature),
                                indices,
                                log_prob.mutable_data_ptr<acc_t>(),
                                lse.mutable_data_ptr<acc_t>(),
                                max + 2 * rows,
                                with_argmax ? argmax.mutable_data_ptr<int64_t>() : nullptr,
                                max,
                                max + rows};
    if (indices.classes == 0) {
      lse.fill_(-std::numeric_limits<acc_t>::infinity());
      statistics.zero_();
    } else {
      for_each_masked_row<acc_t>(policy, mask, input, dim, rows_of<scalar_t>(input, dim, nullptr),
                                 rows_of<const scalar_t>(input, dim));
    }
    if (index.defined()) {
      bad.raise(name, indices.index, indices.classes, std::nullopt);
      log_prob = (log_prob.dim() == 0 ? log_prob : log_prob.movedim(-1, dim)).contiguous();
    }
    entropy = statistics.select(0, 2).to(dtype, /*non_blocking=*/false, /*copy=*/true);
  });
  return {log_prob.to(dtype), lse.to(dtype), entropy, argmax, statistics};
}

at::Tensor backward(const at::Tensor& grad_log_prob, const at::Tensor& grad_lse,
                    const at::Tensor& grad_entropy, const at::Tensor& input,
                    const OptionalTensor& given_index, const OptionalTensor& mask,
                    const at::Tensor& given_statistics, int64_t dim, double temperature) {
  dim = checks::softmax_statistics_backward(grad_log_prob, grad_lse, grad_entropy, input,
                                            given_index, mask, given_statistics, dim, temperature);
  at::Tensor result = empty_gradient_like(input, input.scalar_type());
  dispatch(input, [&](auto type) {
    using scalar_t = decltype(type);
    using acc_t = acc_type<scalar_t>;
    BadIndex bad;
    at::Tensor index, of_log_prob;
    if (given_index.has_value()) {
      index = row_by_row<int64_t>(*given_index, dim);
      of_log_prob = row_by_row<acc_t>(grad_log_prob, dim);
    }
    const RowIndices indices = indices_of(index, input, dim, bad);
    const at::Tensor of_lse = dense<acc_t>(grad_lse), of_entropy = dense<acc_t>(grad_entropy);
    const at::Tensor statistics = given_statistics.contiguous();
    const auto* max = statistics.const_data_ptr<acc_t>();
    const int64_t rows = of_lse.numel();
    const Backward<acc_t> policy{
        {},
        ScaledLogits<acc_t, false>(temperature),
        indices,
        of_log_prob.defined() ? of_log_prob.const_data_ptr<acc_t>() : nullptr,
        of_lse.const_data_ptr<acc_t>(),
        of_entropy.const_data_ptr<acc_t>(),
        max,
        max + rows,
        max + 2 * rows};
    const at::Tensor source = like_rows_of(result, input, dim);
    for_each_masked_row<acc_t>(policy, mask, input, dim, rows_of<scalar_t>(result, dim),
                               rows_of<const scalar_t>(source, dim));
    if (index.defined()) {
      bad.raise("softmax_statistics_backward", indices.index, indices.classes, std::nullopt);
    }
  });
  return result;
}

}  // namespace

TORCH_LIBRARY_IMPL(torchsoftmax, CPU, m) {
  m.impl("softmax_statistics", &forward);
  m.impl("softmax_statistics_backward", &backward);
}

}  // namespace torchsoftmax::cpu
