// cross_entropy on the loop of rows.h.
//
// With per-class weights w, smoothing e and C classes, a row's loss and gradient are
//   loss = -sum_c q_c log p_c        grad_c = Q p_c - q_c        p = softmax(z), Q = sum_c q_c
// where q_c = (1 - e) w_c [c = target] + e w_c / C for a class index, and
//       q_c = w_c ((1 - e) target_c + e / C)       for class probabilities.
// Forward keeps two statistics of a row, its maximum m and s = log(sum exp(z - m)), so that
// log p_c = (z_c - m) - s without loss of digits; backward recomputes p from them.

#include <ATen/Dispatch.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/ones.h>
#include <torch/library.h>

#include "../checks.h"
#include "deterministic_sum.h"
#include "memory.h"
#include "row_target.h"
#include "rows.h"
#include "tensors.h"

namespace torchsoftmax::cpu {
namespace {

using Weight = const std::optional<at::Tensor>&;
using Dtype = std::optional<at::ScalarType>;

/// The statistics and the loss of each row, in row order.
template <typename acc_t>
struct RowResults {
  acc_t* loss;
  acc_t* max;
  acc_t* log_sum;
};

template <typename acc_t>
struct RowStatistics {
  const acc_t* max;
  const acc_t* log_sum;
};

/// How the classes that are not the target share in the loss.
template <typename acc_t>
struct Smoothing {
  acc_t target;      // 1 - e
  acc_t each_class;  // e / C
  const acc_t* weight;
  acc_t weight_sum;
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

/// The inputs of every cross-entropy kernel in the form that the policies take.
template <typename acc_t>
struct Prepared {
  at::Tensor target;  // int64 and contiguous, or class probabilities
  at::Tensor weight;  // acc_t and contiguous, or undefined
  RowTarget<acc_t> rows;
  Smoothing<acc_t> smoothing;
  bool smooth;
  bool probabilities;

  Prepared(const CrossEntropyOptions& options, const at::Tensor& input, const at::Tensor& given,
           Weight given_weight, BadTarget& bad) {
    probabilities = checks::has_class_probabilities(input, given);
    smooth = options.label_smoothing > 0;
    const int64_t classes = input.size(checks::class_dim(input));
    const auto accumulated = input.options().dtype(c10::CppTypeToScalarType<acc_t>::value);
    if (given_weight.has_value() && given_weight->defined()) {
      weight = given_weight->to(accumulated.dtype()).contiguous();
    } else if (smooth || probabilities) {
      weight = at::ones({classes}, accumulated);
    }
    const acc_t* weights = weight.defined() ? weight.const_data_ptr<acc_t>() : nullptr;
    const auto share = static_cast<acc_t>(options.label_smoothing / std::max<int64_t>(1, classes));
    smoothing = {static_cast<acc_t>(1 - options.label_smoothing), share, weights,
                 smooth ? static_cast<acc_t>(deterministic_sum(weights, classes)) : acc_t(0)};
    if (probabilities) {
      target = given;
      return;
    }
    target = given.to(at::kLong).contiguous();
    rows = {target.const_data_ptr<int64_t>(), weights, options.ignore_index, classes, &bad};
  }
};

template <typename Body>
void dispatch(const at::Tensor& input, Body&& body) {
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, input.scalar_type(), "cross_entropy",
                                  [&] { body(scalar_t{}); });
}

/// Calls `run` with the class probabilities as rows, in the input's dtype or the accumulation type.
template <typename scalar_t, typename Run>
void with_probabilities(const at::Tensor& layout, const at::Tensor& target, int64_t dim,
                        Run&& run) {
  using acc_t = acc_type<scalar_t>;
  const at::Tensor operand = like_rows_of(layout, target, dim);
  if (operand.scalar_type() == c10::CppTypeToScalarType<scalar_t>::value) {
    run(rows_of<const scalar_t>(operand, dim));
  } else {
    const at::Tensor wide = operand.to(c10::CppTypeToScalarType<acc_t>::value);
    run(rows_of<const acc_t>(wide, dim));
  }
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> forward(const CrossEntropyOptions& options,
                                                       const at::Tensor& input,
                                                       const at::Tensor& target, Weight weight,
                                                       Dtype dtype) {
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
      loss = options.reduction == checks::kMean ? loss / total : loss;
      losses = at::empty({}, accumulated);
      *losses.mutable_data_ptr<acc_t>() = static_cast<acc_t>(loss);
    }
  });
  return {losses.to(dtype.value_or(input.scalar_type())), statistics, normalizer};
}

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
                    const at::Tensor& input, const at::Tensor& target, Weight weight,
                    const at::Tensor& statistics, const at::Tensor& normalizer) {
  checks::cross_entropy(options, input, target, weight, grad_output.scalar_type());
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
  const int64_t dim = checks::class_dim(input);
  at::Tensor result;
  dispatch(input, [&](auto type) {
    using scalar_t = decltype(type);
    using acc_t = acc_type<scalar_t>;
    check_backward<acc_t>(options, grad_output, input, target, weight, statistics, normalizer);
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
  m.impl("cross_entropy_forward", &WithOptions<&forward>::call);
  m.impl("cross_entropy_backward", &WithOptions<&backward<false>>::call);
  m.impl("cross_entropy_target_backward", &WithOptions<&backward<true>>::call);
}

}  // namespace torchsoftmax::cpu
