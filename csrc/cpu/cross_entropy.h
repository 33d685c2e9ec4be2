#pragma once
// The policies of cross_entropy on the loop of rows.h.
//
// With per-class weights w, smoothing e, C classes and logits z (logits.h), a row's loss and the
// gradient of its logits are
//   loss = s (sum_c q_c (lse - z_c) + zeta lse^2)      grad_c = s ((Q + 2 zeta lse) p_c - q_c)
// with p = softmax(z), lse = log sum exp z, Q = sum_c q_c, the row's weight s and z_loss zeta,
// where
//   q_c = (1 - e) w_c [c = target] + e w_c / C      for a class index, and
//   q_c = w_c ((1 - e) target_c + e / C)            for class probabilities.
// A row's statistics are the maximum m of its input and log(sum exp(z - z(m))), kept apart so that
// log p_c = (z_c - z(m)) - log_sum loses no digits.
//
// One policy serves three operators: the loss alone, the loss and the gradient in one pass, and the
// gradient from the statistics.

#include "logits.h"
#include "row_target.h"
#include "rows.h"

namespace torchsoftmax::cpu {

/// How the classes that are not the target share in the loss.
template <typename acc_t>
struct Smoothing {
  acc_t target;      // 1 - e
  acc_t each_class;  // e / C
  const acc_t* weight;
  acc_t weight_sum;
};

/// What all rows have beside their operands.
template <typename acc_t>
struct LossRows {
  // Forward writes these. Backward has no loss.
  acc_t* loss = nullptr;
  acc_t* max = nullptr;
  acc_t* log_sum = nullptr;
  // Backward reads these.
  const acc_t* known_max = nullptr;
  const acc_t* known_log_sum = nullptr;

  bool with_gradient = false;
  const acc_t* row_gradient = nullptr;  // d objective / d row: of each row, or the same for all
  acc_t gradient = 0;
  const acc_t* sample_weight = nullptr;
  acc_t z_loss = 0;

  bool forward() const { return loss != nullptr; }
  acc_t weight_of(int64_t row) const {
    return sample_weight == nullptr ? acc_t(1) : sample_weight[row];
  }
  acc_t gradient_of(int64_t row) const {
    return (row_gradient == nullptr ? gradient : row_gradient[row]) * weight_of(row);
  }
};

/// A row's (or a vector of rows') logits, the log-sum-exp less their maximum, and that sum.
template <typename Logits>
struct RowState {
  using V = typename Logits::V;
  typename Logits::Row logits;
  V log_sum;
  V sum;  // of exp(z - max); known in forward only

  V lse() const { return logits.max + log_sum; }
};

/// Writes the statistics and the losses of the rows, with the z-loss; 0 where a row is not `valid`.
template <typename Walk, typename Logits, typename acc_t, typename Valid>
void write_losses(const Walk& walk, const LossRows<acc_t>& loss_rows, RowRange rows,
                  const Vec<acc_t>& max, const RowState<Logits>& state, Vec<acc_t> loss,
                  Valid&& valid) {
  using V = Vec<acc_t>;
  if (loss_rows.z_loss != 0) {
    loss = loss + V(loss_rows.z_loss) * state.lse() * state.lse();
  }
  for (int64_t lane = 0; lane < rows.count; ++lane) {
    const int64_t row = rows.first + lane;
    loss_rows.loss[row] = valid(row) ? walk.lane(loss, lane) * loss_rows.weight_of(row) : acc_t(0);
    loss_rows.max[row] = walk.lane(max, lane);
    loss_rows.log_sum[row] = walk.lane(state.log_sum, lane);
  }
}

/// What the probabilities are multiplied by in the gradient: `mass` of q, and that of the z-loss.
template <typename Logits, typename acc_t>
Vec<acc_t> with_z_loss(const Vec<acc_t>& mass, const LossRows<acc_t>& loss_rows,
                       const RowState<Logits>& state) {
  return loss_rows.z_loss == 0 ? mass : mass + Vec<acc_t>(2 * loss_rows.z_loss) * state.lse();
}

/// The state from the statistics that forward left.
template <typename Walk, typename Logits, typename acc_t>
RowState<Logits> known_state(const Walk& walk, const Logits& logits,
                             const LossRows<acc_t>& loss_rows, RowRange rows) {
  const auto max =
      walk.per_row(rows, [&](int64_t row, int64_t) { return loss_rows.known_max[row]; });
  return {logits.of_row(max),
          walk.per_row(rows, [&](int64_t row, int64_t) { return loss_rows.known_log_sum[row]; }),
          typename Logits::V(0)};
}

template <typename acc_t, typename Logits, bool kSmooth>
struct IndexRow {
  using V = Vec<acc_t>;
  static constexpr bool kKeeps = !Logits::kCapped;

  Logits logits;
  RowTarget<acc_t> target;
  Smoothing<acc_t> smoothing;
  LossRows<acc_t> loss_rows;

  template <typename Walk, typename Keep, typename Out, typename In>
  void operator()(const Walk& walk, RowRange rows, const Keep& keep, const Out& out,
                  const In& input) const {
    if (!target.any_valid(rows)) {
      leave_out(walk, rows, out);
      return;
    }
    const auto of_rows = [&](auto&& value) {
      return walk.per_row(rows, [&](int64_t row, int64_t lane) {
        return target.valid(row) ? static_cast<acc_t>(value(row, lane)) : acc_t(0);
      });
    };
    // Read before anything is written.
    const V x_target =
        of_rows([&](int64_t row, int64_t lane) { return walk.at(input, target.index[row], lane); });
    const V picked =
        of_rows([&](int64_t row, int64_t) { return smoothing.target * target.weight_of(row); });
    const bool keeps = kKeeps && loss_rows.forward() && loss_rows.with_gradient;
    RowState<Logits> state;
    if (loss_rows.forward()) {
      const V max = walk.maximum([&](int64_t i, auto lanes) { return input.load(i, lanes); });
      state.logits = logits.of_row(max);
      const auto exponential = [&](int64_t i, const V& z, auto lanes) {
        const V e = exp_nonpositive(z);
        if (keeps) {
          keep.store(i, e, lanes);
        }
        return e;
      };
      V dot(0);
      if constexpr (kSmooth) {
        const auto sums = walk.template sums<2>([&](int64_t i, auto lanes) {
          const V z = state.logits.shifted(state.logits.value(input.load(i, lanes)));
          return std::array<V, 2>{exponential(i, z, lanes),
                                  z * walk.per_class(smoothing.weight, i, lanes)};
        });
        state.sum = sums[0];
        dot = sums[1];
      } else {
        state.sum = walk.sum([&](int64_t i, auto lanes) {
          const V z = state.logits.shifted(state.logits.value(input.load(i, lanes)));
          return exponential(i, z, lanes);
        });
      }
      state.log_sum = walk.log(state.sum);
      const V z_target = state.logits.shifted(state.logits.value(x_target));
      V loss = picked * (state.log_sum - z_target);
      if constexpr (kSmooth) {
        loss = loss + V(smoothing.each_class) * (V(smoothing.weight_sum) * state.log_sum - dot);
      }
      write_losses(walk, loss_rows, rows, max, state, loss,
                   [&](int64_t row) { return target.valid(row); });
    } else {
      state = known_state(walk, logits, loss_rows, rows);
    }
    if (loss_rows.with_gradient) {
      gradient(walk, rows, keep, out, input, state, of_rows, keeps, x_target, picked);
    }
  }

 private:
  template <typename Walk, typename Keep, typename Out, typename In, typename OfRows>
  void gradient(const Walk& walk, RowRange rows, const Keep& keep, const Out& out, const In& input,
                const RowState<Logits>& state, const OfRows& of_rows, bool keeps, const V& x_target,
                const V& picked) const {
    const V grad = V(logits.per_temperature()) *
                   of_rows([&](int64_t row, int64_t) { return loss_rows.gradient_of(row); });
    const V share(smoothing.each_class);
    V mass = picked;
    V q_target = picked;
    if constexpr (kSmooth) {
      mass = mass + share * V(smoothing.weight_sum);
      q_target = q_target + share * of_rows([&](int64_t row, int64_t) {
                              return smoothing.weight[target.index[row]];
                            });
    }
    mass = with_z_loss(mass, loss_rows, state);
    // The target's entry, with q_target subtracted before rounding.
    const V value_target = state.logits.value(x_target);
    V grad_target =
        grad *
        (mass * exp_nonpositive(state.logits.shifted(value_target) - state.log_sum) - q_target);
    grad_target = state.logits.times_slope(grad_target, value_target);
    const V grad_share = grad * share;
    const bool blend = !Walk::kAlong && !target.all_valid(rows);
    const V valid = of_rows([](int64_t, int64_t) { return 1; });
    const auto store = [&](int64_t i, V value, auto lanes) {
      if (blend) {  // an ignored row may hold nan, its gradient is 0
        value = V::blendv(V(0), value, valid != V(0));
      }
      out.store(i, value, lanes);
    };
    const auto less_share = [&](int64_t i, const V& value, auto lanes) {
      if constexpr (kSmooth) {
        return value - grad_share * walk.per_class(smoothing.weight, i, lanes);
      } else {
        return value;
      }
    };
    if (keeps) {
      const V scale = grad * mass / state.sum;
      walk.for_each([&](int64_t i, auto lanes) {
        store(i, less_share(i, scale * keep.load(i, lanes), lanes), lanes);
      });
    } else {
      const V scale = grad * mass;
      walk.for_each([&](int64_t i, auto lanes) {
        const V value = state.logits.value(input.load(i, lanes));
        const V p = exp_nonpositive(state.logits.shifted(value) - state.log_sum);
        const V result = less_share(i, scale * p, lanes);
        store(i, state.logits.times_slope(result, value), lanes);
      });
    }
    for (int64_t lane = 0; lane < rows.count; ++lane) {
      if (target.valid(rows.first + lane)) {
        auto& entry = walk.at(out, target.index[rows.first + lane], lane);
        entry = static_cast<std::decay_t<decltype(entry)>>(walk.lane(grad_target, lane));
      }
    }
  }

  template <typename Walk, typename Out>
  void leave_out(const Walk& walk, RowRange rows, const Out& out) const {
    for (int64_t row = rows.first; loss_rows.forward() && row < rows.first + rows.count; ++row) {
      loss_rows.loss[row] = loss_rows.max[row] = loss_rows.log_sum[row] = 0;
    }
    if (loss_rows.with_gradient) {
      walk.for_each([&](int64_t i, auto lanes) { out.store(i, V(0), lanes); });
    }
  }
};

template <typename acc_t, typename Logits>
struct ProbabilityRow {
  using V = Vec<acc_t>;
  static constexpr bool kKeeps = !Logits::kCapped;

  Logits logits;
  Smoothing<acc_t> smoothing;
  LossRows<acc_t> loss_rows;

  template <typename Walk, typename Keep, typename Out, typename In, typename Target>
  void operator()(const Walk& walk, RowRange rows, const Keep& keep, const Out& out,
                  const In& input, const Target& target) const {
    const V target_scale(smoothing.target), share(smoothing.each_class);
    const auto q_of = [&](int64_t i, auto lanes) {
      return walk.per_class(smoothing.weight, i, lanes) *
             at::vec::fmadd(target.load(i, lanes), target_scale, share);
    };
    const bool keeps = kKeeps && loss_rows.forward() && loss_rows.with_gradient;
    RowState<Logits> state;
    V mass(0);
    if (loss_rows.forward()) {
      const V max = walk.maximum([&](int64_t i, auto lanes) { return input.load(i, lanes); });
      state.logits = logits.of_row(max);
      const auto sums = walk.template sums<3>([&](int64_t i, auto lanes) {
        const V z = state.logits.shifted(state.logits.value(input.load(i, lanes)));
        const V q = q_of(i, lanes);
        const V e = exp_nonpositive(z);
        if (keeps) {
          keep.store(i, e, lanes);
        }
        return std::array<V, 3>{e, q * z, q};
      });
      state.sum = sums[0];
      state.log_sum = walk.log(state.sum);
      mass = sums[2];
      write_losses(walk, loss_rows, rows, max, state, mass * state.log_sum - sums[1],
                   [](int64_t) { return true; });
    } else {
      state = known_state(walk, logits, loss_rows, rows);
      mass = walk.sum(q_of);
    }
    if (!loss_rows.with_gradient) {
      return;
    }
    mass = with_z_loss(mass, loss_rows, state);
    const V grad = V(logits.per_temperature()) * walk.per_row(rows, [&](int64_t row, int64_t) {
      return loss_rows.gradient_of(row);
    });
    if (keeps) {
      const V scale = mass / state.sum;
      walk.for_each([&](int64_t i, auto lanes) {
        out.store(i, grad * (keep.load(i, lanes) * scale - q_of(i, lanes)), lanes);
      });
    } else {
      walk.for_each([&](int64_t i, auto lanes) {
        const V value = state.logits.value(input.load(i, lanes));
        const V p = exp_nonpositive(state.logits.shifted(value) - state.log_sum);
        const V result = grad * (p * mass - q_of(i, lanes));
        out.store(i, state.logits.times_slope(result, value), lanes);
      });
    }
  }
};

/// The gradient of class probabilities: (1 - e) w_c (lse - z_c).
template <typename acc_t, typename Logits>
struct TargetGradientRow {
  using V = Vec<acc_t>;
  static constexpr bool kKeeps = false;

  Logits logits;
  Smoothing<acc_t> smoothing;
  LossRows<acc_t> loss_rows;

  template <typename Walk, typename Keep, typename Out, typename In>
  void operator()(const Walk& walk, RowRange rows, const Keep&, const Out& out,
                  const In& input) const {
    const RowState<Logits> state = known_state(walk, logits, loss_rows, rows);
    const V grad = walk.per_row(
        rows, [&](int64_t row, int64_t) { return smoothing.target * loss_rows.gradient_of(row); });
    walk.for_each([&](int64_t i, auto lanes) {
      const V z = state.logits.shifted(state.logits.value(input.load(i, lanes)));
      out.store(i, grad * walk.per_class(smoothing.weight, i, lanes) * (state.log_sum - z), lanes);
    });
  }
};

}  // namespace torchsoftmax::cpu
