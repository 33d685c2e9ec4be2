// The gradients of cross_entropy: cross_entropy.h has the formulas.

#include <torch/library.h>

#include "cross_entropy.h"
#include "memory.h"

namespace torchsoftmax::cpu {
namespace {

template <typename acc_t>
struct RowStatistics {
  const acc_t* max;
  const acc_t* log_sum;
};

/// One value per row of a range as a vector, shaped like the statistics of a Walk.
template <typename Walk, typename Value>
typename Walk::V row_vector(RowRange rows, Value&& value) {
  using acc_t = typename Walk::V::value_type;
  if constexpr (Walk::kAlong) {
    return typename Walk::V(value(rows.first, 0));
  } else {
    std::array<acc_t, kLanes<acc_t>> lanes{};
    for (int64_t lane = 0; lane < rows.count; ++lane) {
      lanes[lane] = value(rows.first + lane, lane);
    }
    return Walk::V::loadu(lanes.data());
  }
}

template <typename acc_t, bool kSmooth>
struct IndexBackward {
  static constexpr bool kKeeps = false;

  RowTarget<acc_t> target;
  Smoothing<acc_t> smoothing;
  RowStatistics<acc_t> statistics;
  RowGradient<acc_t> gradient;

  template <typename Walk, typename Keep, typename Out, typename In>
  void operator()(const Walk& walk, RowRange rows, const Keep&, const Out& out,
                  const In& input) const {
    using V = typename Walk::V;
    if (!target.any_valid(rows)) {
      walk.for_each([&](int64_t i, auto lanes) { out.store(i, V(0), lanes); });
      return;
    }
    const auto per_row = [&](auto&& value) { return row_vector<Walk>(rows, value); };
    const V max = per_row([&](int64_t row, int64_t) { return statistics.max[row]; });
    const V log_sum = per_row([&](int64_t row, int64_t) { return statistics.log_sum[row]; });
    const V grad = per_row([&](int64_t row, int64_t) { return gradient.of(row); });
    const V picked = per_row([&](int64_t row, int64_t) {
      return target.valid(row) ? smoothing.target * target.weight_of(row) : acc_t(0);
    });
    const V share = V(smoothing.each_class);
    const V scale = kSmooth ? grad * (picked + share * V(smoothing.weight_sum)) : grad * picked;
    // Before the row is written: the target's entry, with q_target subtracted before rounding.
    const V z_target = per_row([&](int64_t row, int64_t lane) {
      return target.valid(row) ? static_cast<acc_t>(walk.at(input, target.index[row], lane))
                               : acc_t(0);
    });
    V q_target = picked;
    if constexpr (kSmooth) {
      q_target =
          q_target + share * per_row([&](int64_t row, int64_t) {
                       return target.valid(row) ? smoothing.weight[target.index[row]] : acc_t(0);
                     });
    }
    const V grad_target = scale * exp_nonpositive((z_target - max) - log_sum) - grad * q_target;

    const V grad_share = grad * share;
    const auto valid = per_row([&](int64_t row, int64_t) { return acc_t(target.valid(row)); });
    const bool all_valid = target.all_valid(rows);
    walk.for_each([&](int64_t i, auto lanes) {
      V value = scale * exp_nonpositive((input.load(i, lanes) - max) - log_sum);
      if constexpr (kSmooth) {
        value = value - grad_share * walk.per_class(smoothing.weight, i, lanes);
      }
      if (!Walk::kAlong && !all_valid) {  // an ignored row may hold nan, its gradient is 0
        value = V::blendv(V(0), value, valid != V(0));
      }
      out.store(i, value, lanes);
    });
    for (int64_t lane = 0; lane < rows.count; ++lane) {
      if (target.valid(rows.first + lane)) {
        auto& entry = walk.at(out, target.index[rows.first + lane], lane);
        entry = static_cast<std::decay_t<decltype(entry)>>(walk.lane(grad_target, lane));
      }
    }
  }
};

template <typename acc_t>
struct ProbabilityBackward {
  static constexpr bool kKeeps = false;

  Smoothing<acc_t> smoothing;
  RowStatistics<acc_t> statistics;
  RowGradient<acc_t> gradient;

  template <typename Walk, typename Keep, typename Out, typename In, typename Target>
  void operator()(const Walk& walk, RowRange rows, const Keep&, const Out& out, const In& input,
                  const Target& target) const {
    using V = typename Walk::V;
    const V max = row_vector<Walk>(rows, [&](int64_t row, int64_t) { return statistics.max[row]; });
    const V log_sum =
        row_vector<Walk>(rows, [&](int64_t row, int64_t) { return statistics.log_sum[row]; });
    const V grad = row_vector<Walk>(rows, [&](int64_t row, int64_t) { return gradient.of(row); });
    const V scale(smoothing.target), share(smoothing.each_class);
    const auto q = [&](int64_t i, auto lanes) {
      return walk.per_class(smoothing.weight, i, lanes) *
             at::vec::fmadd(target.load(i, lanes), scale, share);
    };
    const V mass = walk.sum(q);
    walk.for_each([&](int64_t i, auto lanes) {
      const V p = exp_nonpositive((input.load(i, lanes) - max) - log_sum);
      out.store(i, grad * (p * mass - q(i, lanes)), lanes);
    });
  }
};

/// d loss / d target_c = -grad (1 - e) w_c log p_c
template <typename acc_t>
struct TargetBackward {
  static constexpr bool kKeeps = false;

  Smoothing<acc_t> smoothing;
  RowStatistics<acc_t> statistics;
  RowGradient<acc_t> gradient;

  template <typename Walk, typename Keep, typename Out, typename In>
  void operator()(const Walk& walk, RowRange rows, const Keep&, const Out& out,
                  const In& input) const {
    using V = typename Walk::V;
    const V max = row_vector<Walk>(rows, [&](int64_t row, int64_t) { return statistics.max[row]; });
    const V log_sum =
        row_vector<Walk>(rows, [&](int64_t row, int64_t) { return statistics.log_sum[row]; });
    const V grad = row_vector<Walk>(
        rows, [&](int64_t row, int64_t) { return smoothing.target * gradient.of(row); });
    walk.for_each([&](int64_t i, auto lanes) {
      const V minus_log_p = log_sum - (input.load(i, lanes) - max);
      out.store(i, grad * walk.per_class(smoothing.weight, i, lanes) * minus_log_p, lanes);
    });
  }
};

/// The gradient of each row's loss, in row order or one for all.
template <typename acc_t>
struct PreparedGradient {
  at::Tensor rows;
  RowGradient<acc_t> gradient;

  PreparedGradient(const CrossEntropyOptions& options, const at::Tensor& grad_output,
                   const at::Tensor& normalizer) {
    rows = grad_output.to(c10::CppTypeToScalarType<acc_t>::value).contiguous();
    const auto* data = rows.const_data_ptr<acc_t>();
    if (options.reduction == checks::kNone) {
      gradient = {data, 0};
      return;
    }
    const acc_t divisor =
        options.reduction == checks::kMean ? *normalizer.const_data_ptr<acc_t>() : acc_t(1);
    gradient = {nullptr, *data / divisor};
  }
};

/// What a caller of a backward operator could get wrong, before its memory is read.
template <typename acc_t>
void check_backward(const CrossEntropyOptions& options, const at::Tensor& grad_output,
                    const at::Tensor& input, const at::Tensor& statistics,
                    const at::Tensor& normalizer) {
  const auto shape = checks::row_shape(input);
  const auto rows = c10::SymIntArrayRef(shape);
  TORCH_CHECK(
      options.reduction == checks::kNone ? grad_output.sym_sizes() == rows : grad_output.dim() == 0,
      "cross_entropy_backward: expected grad_output of the shape of the loss, got ",
      grad_output.sizes());
  const auto accumulated = c10::CppTypeToScalarType<acc_t>::value;
  TORCH_CHECK(statistics.scalar_type() == accumulated && statistics.is_contiguous() &&
                  statistics.sym_numel() == c10::multiply_integers(rows) * 2,
              "cross_entropy_backward: expected the statistics of cross_entropy_forward, got ",
              statistics.scalar_type(), " of shape ", statistics.sizes());
  TORCH_CHECK(normalizer.scalar_type() == accumulated && normalizer.dim() == 0,
              "cross_entropy_backward: expected the normalizer of cross_entropy_forward, got ",
              normalizer.scalar_type(), " of shape ", normalizer.sizes());
}

template <bool kOfTarget>
at::Tensor backward(const CrossEntropyOptions& options, const at::Tensor& grad_output,
                    const at::Tensor& input, const at::Tensor& target, Weight weight,
                    const at::Tensor& statistics, const at::Tensor& normalizer) {
  checks::cross_entropy_backward(options, grad_output, input, target, weight, statistics,
                                 normalizer);
  const int64_t dim = checks::class_dim(input);
  at::Tensor result;
  dispatch(input, [&](auto type) {
    using scalar_t = decltype(type);
    using acc_t = acc_type<scalar_t>;
    check_backward<acc_t>(options, grad_output, input, statistics, normalizer);
    BadTarget bad;
    const Prepared<acc_t> prepared(options, input, target, weight, bad);
    const PreparedGradient<acc_t> prepared_gradient(options, grad_output, normalizer);
    const auto& gradient = prepared_gradient.gradient;
    const auto* max = statistics.const_data_ptr<acc_t>();
    const RowStatistics<acc_t> row_statistics{max, max + statistics.numel() / 2};
    const auto run = [&](const auto& policy, auto&&... operands) {
      for_each_row<acc_t>(policy, rows_of<scalar_t>(result, dim), operands...);
    };
    if constexpr (kOfTarget) {
      TORCH_CHECK(prepared.probabilities,
                  "cross_entropy_target_backward: expected class probabilities as target, got "
                  "class indices");
      const bool same = target.scalar_type() == input.scalar_type();
      const auto computed = same ? target.scalar_type() : c10::CppTypeToScalarType<acc_t>::value;
      result = empty_gradient_like(target, computed);
      const at::Tensor source = like_rows_of(result, input, dim);
      const TargetBackward<acc_t> policy{prepared.smoothing, row_statistics, gradient};
      const auto logits = rows_of<const scalar_t>(source, dim);
      if (same) {
        for_each_row<acc_t>(policy, rows_of<scalar_t>(result, dim), logits);
      } else {
        for_each_row<acc_t>(policy, rows_of<acc_t>(result, dim), logits);
      }
      result = result.to(target.scalar_type());
      return;
    }
    result = empty_gradient_like(input, input.scalar_type());
    const at::Tensor source = like_rows_of(result, input, dim);
    const auto logits = rows_of<const scalar_t>(source, dim);
    if (prepared.probabilities) {
      with_probabilities<scalar_t>(result, prepared.target, dim, [&](const auto& probabilities) {
        run(ProbabilityBackward<acc_t>{prepared.smoothing, row_statistics, gradient}, logits,
            probabilities);
      });
    } else if (prepared.smooth) {
      run(IndexBackward<acc_t, true>{prepared.rows, prepared.smoothing, row_statistics, gradient},
          logits);
    } else {
      run(IndexBackward<acc_t, false>{prepared.rows, prepared.smoothing, row_statistics, gradient},
          logits);
    }
    bad.raise(prepared.rows);
  });
  return result;
}

}  // namespace

TORCH_LIBRARY_IMPL(torchsoftmax, CPU, m) {
  m.impl("cross_entropy_backward", &WithOptions<&backward<false>>::call);
  m.impl("cross_entropy_target_backward", &WithOptions<&backward<true>>::call);
}

}  // namespace torchsoftmax::cpu
