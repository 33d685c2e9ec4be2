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

namespace torchsoftmax::TORCHSOFTMAX_DEVICE {

/// How the classes that are not the target share in the loss.
template <typename acc_t>
struct Smoothing {
  acc_t target;      // 1 - e
  acc_t each_class;  // e / C
  const acc_t* weight;
  const acc_t* weight_sum;  // of all classes; null without smoothing
};

/// The weight of a row in the mean: 0 where it is ignored.
template <typename acc_t>
struct IndexRowWeight {
  RowTarget<acc_t> target;
  const acc_t* sample_weight;

  TORCHSOFTMAX_FN acc_t operator()(int64_t row) const {
    const acc_t sample = sample_weight == nullptr ? acc_t(1) : sample_weight[row];
    return target.valid(row) ? target.weight_of(row) * sample : acc_t(0);
  }
  /// Whether all that take part weigh 1.
  TORCHSOFTMAX_FN bool counts() const {
    return target.weight == nullptr && sample_weight == nullptr;
  }
  TORCHSOFTMAX_FN int64_t count(int64_t begin, int64_t end) const {
    return target.count(begin, end);
  }
};

template <typename acc_t>
struct RowValue {
  const acc_t* values;

  TORCHSOFTMAX_FN acc_t operator()(int64_t row) const { return values[row]; }
};

/// What is wanted of a row. Where it is known only when the kernel runs, one kernel serves all.
enum class Work { kAny, kLoss, kLossAndGradient, kGradient };

/// What all rows have beside their operands.
template <typename acc_t, Work kWork = Work::kAny>
struct LossRows {
  // Forward writes these. Backward has no loss.
  acc_t* loss = nullptr;
  acc_t* max = nullptr;
  acc_t* log_sum = nullptr;
  // Backward reads these.
  const acc_t* known_max = nullptr;
  const acc_t* known_log_sum = nullptr;

  bool has_gradient = false;
  Upstream<acc_t> upstream;
  const acc_t* sample_weight = nullptr;
  acc_t z_loss = 0;

  TORCHSOFTMAX_EVERYWHERE bool forward() const {
    return kWork == Work::kAny ? loss != nullptr : kWork != Work::kGradient;
  }
  TORCHSOFTMAX_EVERYWHERE bool with_gradient() const {
    return kWork == Work::kAny ? has_gradient : kWork != Work::kLoss;
  }

  /// The weights of the rows.
  template <typename Walk>
  TORCHSOFTMAX_FN auto weights(const Walk& walk, RowRange rows) const {
    using V = typename Walk::V;
    return sample_weight == nullptr ? V(1) : walk.load_rows(sample_weight, rows);
  }
  /// d objective / d loss of the rows.
  template <typename Walk>
  TORCHSOFTMAX_FN auto gradients(const Walk& walk, RowRange rows) const {
    return upstream.of(walk, rows) * weights(walk, rows);
  }
};

/// A row's (or neighbouring rows') logits less their maximum, their log-sum-exp less it, and that
/// sum.
template <typename Differences, typename V>
struct RowState {
  Differences logits;
  V log_sum;
  V sum;  // of exp(z - max); known in forward only

  TORCHSOFTMAX_FN V lse() const { return logits.max + log_sum; }
};

/// The state of a row of logits, from the statistics that forward left or still without its sums.
template <typename Walk, typename Row, typename Losses>
TORCHSOFTMAX_FN auto state_of(const Walk& walk, const Row& row, const Losses& loss_rows,
                              RowRange rows) {
  using V = typename Walk::V;
  const auto differences = row.differences();
  const V log_sum = loss_rows.forward() ? V(0) : walk.load_rows(loss_rows.known_log_sum, rows);
  return RowState<std::decay_t<decltype(differences)>, V>{differences, log_sum, V(0)};
}

/// Calls end(walk, rows, state, max, more...) with the state of rows whose sum is now known: at
/// once, or later for several of them, which takes a fraction of the time. `of` is the class whose
/// thread has what it needs of a row.
template <typename Walk, typename Logits, typename Sum, typename State, typename End, typename V,
          typename... More>
TORCHSOFTMAX_FN void end_rows(const Walk& walk, int64_t of, RowRange rows, const Logits& logits,
                              const Sum& sum, bool needs_log, State& state, const End& end,
                              const V& max, const More&... more) {
  state.sum = sum;
  if constexpr (Walk::kDefers) {
    state.log_sum = needs_log ? walk.log(sum) : V(0);
    walk.defer(
        rows, sum,
        [&](const auto& walk, RowRange rows, const auto& sums, const auto& max,
            const auto&... more) {
          const auto differences = logits.of_row(max).differences();
          RowState<std::decay_t<decltype(differences)>, std::decay_t<decltype(max)>> of_all;
          of_all.logits = differences;
          of_all.log_sum = walk.log(sums);
          end(walk, rows, of_all, max, more...);
        },
        max, more...);
  } else {
    state.log_sum = walk.log(sum);
    walk.by_one(of, [&] { end(walk, rows, state, max, more...); });
  }
}

/// Writes the statistics and the losses of the rows, with the z-loss; 0 in the lanes in which
/// `valid` is 0. By one thread.
template <typename Walk, typename Losses, typename State>
TORCHSOFTMAX_FN void write_losses(const Walk& walk, const Losses& loss_rows, RowRange rows,
                                  const typename Walk::V& max, const State& state,
                                  typename Walk::V loss, const typename Walk::V& valid) {
  using V = typename Walk::V;
  if (loss_rows.z_loss != 0) {
    loss = loss + V(loss_rows.z_loss) * state.lse() * state.lse();
  }
  loss = V::blendv(V(0), loss * loss_rows.weights(walk, rows), valid != V(0));
  walk.put_rows(loss_rows.loss, rows, loss);
  walk.put_rows(loss_rows.max, rows, max);
  walk.put_rows(loss_rows.log_sum, rows, state.log_sum);
}

/// What the probabilities are multiplied by in the gradient: `mass` of q, and that of the z-loss.
template <typename V, typename Losses, typename State>
TORCHSOFTMAX_FN V with_z_loss(const V& mass, const Losses& loss_rows, const State& state) {
  return loss_rows.z_loss == 0 ? mass : mass + V(2 * loss_rows.z_loss) * state.lse();
}

template <typename acc_t, typename Logits, bool kSmooth, Work kWork = Work::kAny>
struct IndexRow : Policy {
  static constexpr bool kKeeps = !Logits::kCapped;
  static constexpr bool kDirect = !Logits::kCapped;
  static constexpr bool kOften = kWork != Work::kAny;
  static constexpr bool kReduces = kWork != Work::kGradient;
  static constexpr bool kReadsElements = true;

  Logits logits;
  RowTarget<acc_t> target;
  Smoothing<acc_t> smoothing;
  LossRows<acc_t, kWork> loss_rows;

  template <typename Walk, typename Keep, typename Out, typename In>
  TORCHSOFTMAX_FN void operator()(const Walk& walk, RowRange rows, const Keep& keep, const Out& out,
                                  const In& input) const {
    using V = typename Walk::V;
    const auto targets = target.of_rows(walk, rows);
    if (!targets.any) {
      leave_out(walk, rows, out);
      return;
    }
    const auto of_rows = [&](auto&& value) {
      return walk.per_row(rows, [&](int64_t, int64_t lane) {
        const int64_t index = targets.index[lane];
        return index < 0 ? acc_t(0) : static_cast<acc_t>(value(index, lane));
      });
    };
    const V valid = targets.all ? V(1) : of_rows([](int64_t, int64_t) { return 1; });
    const V weight = target.weight == nullptr
                         ? valid
                         : of_rows([&](int64_t c, int64_t) { return target.weight[c]; });
    const V picked = V(smoothing.target) * weight;
    const bool forward = loss_rows.forward();
    const bool keeps = kKeeps && kHasRoom<Keep> && forward && loss_rows.with_gradient();
    constexpr bool kTermsAgain = kWork == Work::kLossAndGradient && !kHasRoom<Keep>;

    // Only the thread that works on the target has its logit, and what follows from it. Read here,
    // so that nobody waits for it later; of rows across, where waiting for so many would take
    // longer, when a first pass has fetched them, and before terms may take their place.
    const auto logit_of_target = [&] {
      if constexpr (Walk::kRows > 1) {
        return walk.elements(input, targets.index, rows.count);
      } else {
        return of_rows([&](int64_t c, int64_t lane) { return walk.own(input, c, lane); });
      }
    };
    V x_target(0);
    if (Walk::kRows == 1 || !forward) {
      x_target = logit_of_target();
    }
    const auto maximum = [&](const auto& largest) {
      const V max = walk.maximum(largest);
      if constexpr (Walk::kRows > 1) {
        x_target = logit_of_target();
      }
      return max;
    };
    const V upstream = loss_rows.with_gradient() ? loss_rows.gradients(walk, rows) : V(0);
    const auto logits_of = [&](const V& max) { return logits.of_row(max); };
    RowState<decltype(logits_of(V(0)).differences()), V> state;
    if (!forward) {
      const auto row = logits_of(walk.load_rows(loss_rows.known_max, rows));
      state = state_of(walk, row, loss_rows, rows);
    } else if constexpr (kReduces) {
      const Elements<In> largest{input};
      const auto exponential = [&](const auto& row, int64_t i, const V& value, auto lanes) {
        if constexpr (kHasRoom<Keep>) {
          const V e = row.exponential(value);
          if (keeps) {
            keep.store(i, e, lanes);
          }
          return e;
        } else {
          return row.term(value);
        }
      };
      const auto summed_up = [&](const V& max, const auto& sum, const V& dot) {
        const bool needs_log = loss_rows.with_gradient() && !keeps && !kTermsAgain;
        end_rows(walk, targets.index[0], rows, logits, sum, needs_log || loss_rows.z_loss != 0,
                 state, ending(), max, x_target, picked, valid, dot);
      };
      if constexpr (kSmooth) {
        const V max = maximum(largest);
        const auto row = logits_of(max);
        state.logits = row.differences();
        const auto sums = walk.template sums<2, SumFor::kLog>([&](int64_t i, auto lanes) {
          const V value = row.value(input.load(i, lanes));
          const V z = row.shifted(value);
          return std::array<V, 2>{exponential(row, i, value, lanes),
                                  z * walk.per_class(smoothing.weight, i, lanes)};
        });
        summed_up(max, sums[0], sums[1]);
      } else if constexpr (Walk::kMerges && !Logits::kCapped) {
        const auto found =
            walk.merged_sum(largest, logits_of, [&](const auto& row, int64_t i, auto lanes) {
              return exponential(row, i, row.value(input.load(i, lanes)), lanes);
            });
        state.logits = found.row.differences();
        summed_up(found.max, found.sum, V(0));
      } else {
        const V max = maximum(largest);
        const auto row = logits_of(max);
        state.logits = row.differences();
        const auto sum = walk.template sum<SumFor::kLog>([&](int64_t i, auto lanes) {
          return exponential(row, i, row.value(input.load(i, lanes)), lanes);
        });
        summed_up(max, sum, V(0));
      }
    }
    if (!loss_rows.with_gradient()) {
      return;
    }
    const V grad = V(logits.per_temperature()) * valid * upstream;
    const V share(smoothing.each_class);
    V mass = picked;
    V q_target = picked;
    if constexpr (kSmooth) {
      mass = mass + share * V(*smoothing.weight_sum);
      q_target =
          q_target + share * of_rows([&](int64_t c, int64_t) { return smoothing.weight[c]; });
    }
    mass = with_z_loss(mass, loss_rows, state);
    // The target's entry, with q_target subtracted before rounding.
    const auto entry_of_target = [&] {
      const V value_target = state.logits.value(x_target);
      const V z = state.logits.shifted(value_target);
      const V p = kTwoParts && forward ? exp_nonpositive(z) / state.sum
                                       : exp_nonpositive(z - state.log_sum);
      return state.logits.times_slope(grad * (mass * p - q_target), value_target);
    };
    const V* some_valid = targets.all ? nullptr : &valid;
    if constexpr (Walk::kRows > 1) {
      // Rows across: it takes its place in the vectors that are written.
      if (target.classes <= kExactClasses) {
        const V entry = entry_of_target();
        const V place = walk.per_row(
            rows, [&](int64_t, int64_t lane) { return static_cast<acc_t>(targets.index[lane]); });
        const auto amended = [&](int64_t i, const V& value) {
          return where_equal(V(static_cast<acc_t>(i)), place, entry, value);
        };
        write_gradient(walk, keep, out, input, state, keeps, grad * mass, grad * share, some_valid,
                       amended);
        return;
      }
    }
    write_gradient(walk, keep, out, input, state, keeps, grad * mass, grad * share, some_valid,
                   [](int64_t, const V& value) { return value; });
    walk.by_one(targets.index[0], [&] {
      std::array<acc_t, Walk::kRows> entries;
      walk.store_lanes(entries.data(), entry_of_target());
      for (int64_t lane = 0; lane < rows.count; ++lane) {
        if (targets.index[lane] >= 0) {
          walk.put(out, targets.index[lane], lane, entries[lane]);
        }
      }
    });
  }

 private:
  /// What is left to do in rows that are summed up: their losses.
  TORCHSOFTMAX_FN auto ending() const {
    return [this](const auto& walk, RowRange rows, const auto& state, const auto& max,
                  const auto& x_target, const auto& picked, const auto& valid, const auto& dot) {
      using V = typename std::decay_t<decltype(walk)>::V;
      const auto z_target = state.logits.exactly_shifted(state.logits.value(x_target));
      V loss = picked * difference(state.log_sum, z_target);
      if constexpr (kSmooth) {
        loss = loss + V(smoothing.each_class) * (V(*smoothing.weight_sum) * state.log_sum - dot);
      }
      write_losses(walk, loss_rows, rows, max, state, loss, valid);
    };
  }

  /// As many are different numbers of acc_t.
  static constexpr int64_t kExactClasses = int64_t{1} << std::numeric_limits<acc_t>::digits;

  /// The gradient, of which `amended` may change entries that are the target's. `some_valid`: 0 in
  /// the lanes of ignored rows, where there are any: they may hold nan, their gradient is 0.
  template <typename Walk, typename Keep, typename Out, typename In, typename State, typename V,
            typename Amended>
  TORCHSOFTMAX_FN void write_gradient(const Walk& walk, const Keep& keep, const Out& out,
                                      const In& input, const State& state, bool keeps,
                                      const V& mass, const V& grad_share, const V* some_valid,
                                      const Amended& amended) const {
    const auto less_share = [&](int64_t i, V value, auto lanes) {
      if constexpr (kSmooth) {
        value = fmadd(V(0) - grad_share, walk.per_class(smoothing.weight, i, lanes), value);
      }
      return value;
    };
    const auto write = [&](int64_t i, V value, auto lanes) {
      if (!Walk::kAlong && some_valid != nullptr) {
        value = V::blendv(V(0), value, *some_valid != V(0));
      }
      out.store(i, amended(i, value), lanes);
    };
    if constexpr (kHasRoom<Keep>) {
      if (keeps) {
        const V scale = mass / state.sum;
        walk.for_each([&](int64_t i, auto lanes) {
          write(i, less_share(i, scale * keep.load(i, lanes), lanes), lanes);
        });
        return;
      }
    }
    if constexpr (kWork == Work::kLossAndGradient && !kHasRoom<Keep>) {
      const V scale = mass / state.sum;
      walk.for_each([&](int64_t i, auto lanes) {
        const V value = state.logits.value(input.load(i, lanes));
        const V entry = less_share(i, scale * state.logits.exponential(value), lanes);
        write(i, state.logits.times_slope(entry, value), lanes);
      });
      return;
    }
    walk.for_each([&](int64_t i, auto lanes) {
      const V x = loss_rows.forward() ? input.load(i, lanes) : input.first(i, lanes);
      const V value = state.logits.value(x);
      const V p = exp_nonpositive(state.logits.shifted(value) - state.log_sum);
      write(i, state.logits.times_slope(less_share(i, mass * p, lanes), value), lanes);
    });
  }

  template <typename Walk, typename Out>
  TORCHSOFTMAX_FN void leave_out(const Walk& walk, RowRange rows, const Out& out) const {
    using V = typename Walk::V;
    if (loss_rows.forward()) {
      if constexpr (Walk::kDefers) {
        RowState<decltype(logits.of_row(V(0)).differences()), V> state;
        const typename Walk::DeferredSum one(1);
        const V zero(0);
        end_rows(walk, -1, rows, logits, one, /*needs_log=*/false, state, ending(), zero, zero,
                 zero, zero, zero);
      } else {
        for (acc_t* values : {loss_rows.loss, loss_rows.max, loss_rows.log_sum}) {
          walk.store_rows(values, rows, V(0));
        }
      }
    }
    if (loss_rows.with_gradient()) {
      walk.for_each([&](int64_t i, auto lanes) { out.store(i, V(0), lanes); });
    }
  }
};

template <typename acc_t, typename Logits>
struct ProbabilityRow : Policy {
  static constexpr bool kKeeps = !Logits::kCapped;

  Logits logits;
  Smoothing<acc_t> smoothing;
  LossRows<acc_t> loss_rows;

  template <typename Walk, typename Keep, typename Out, typename In, typename Target>
  TORCHSOFTMAX_FN void operator()(const Walk& walk, RowRange rows, const Keep& keep, const Out& out,
                                  const In& input, const Target& target) const {
    using V = typename Walk::V;
    const V target_scale(smoothing.target), share(smoothing.each_class);
    const auto q_of = [&](int64_t i, auto lanes) {
      return walk.per_class(smoothing.weight, i, lanes) *
             fmadd(target.load(i, lanes), target_scale, share);
    };
    const bool keeps = kKeeps && kHasRoom<Keep> && loss_rows.forward() && loss_rows.with_gradient();
    const bool forward = loss_rows.forward();
    const V max = forward
                      ? walk.maximum([&](int64_t i, auto lanes) { return input.first(i, lanes); })
                      : walk.load_rows(loss_rows.known_max, rows);
    const auto row = logits.of_row(max);
    auto state = state_of(walk, row, loss_rows, rows);
    V mass(0);
    if (forward) {
      const auto sums = walk.template sums<3, SumFor::kLog>([&](int64_t i, auto lanes) {
        const V value = row.value(input.load(i, lanes));
        const V z = row.shifted(value);
        const V q = q_of(i, lanes);
        const V e = row.exponential(value);
        if constexpr (kHasRoom<Keep>) {
          if (keeps) {
            keep.store(i, e, lanes);
          }
        }
        return std::array<V, 3>{e, q * z, q};
      });
      mass = sums[2];
      const bool needs_log = (loss_rows.with_gradient() && !keeps) || loss_rows.z_loss != 0;
      end_rows(walk, -1, rows, logits, sums[0], needs_log, state, ending(), max, mass, sums[1]);
    } else {
      mass = walk.sum(q_of);
    }
    if (!loss_rows.with_gradient()) {
      return;
    }
    mass = with_z_loss(mass, loss_rows, state);
    const V grad = V(logits.per_temperature()) * loss_rows.gradients(walk, rows);
    if constexpr (kHasRoom<Keep>) {
      if (keeps) {
        const V scale = mass / state.sum;
        walk.for_each([&](int64_t i, auto lanes) {
          out.store(i, grad * fmsub(keep.load(i, lanes), scale, q_of(i, lanes)), lanes);
        });
        return;
      }
    }
    walk.for_each([&](int64_t i, auto lanes) {
      const V value = state.logits.value(input.load(i, lanes));
      const V p = exp_nonpositive(state.logits.shifted(value) - state.log_sum);
      const V result = grad * fmsub(p, mass, q_of(i, lanes));
      out.store(i, state.logits.times_slope(result, value), lanes);
    });
  }

 private:
  /// What is left to do in rows that are summed up: their losses.
  TORCHSOFTMAX_FN auto ending() const {
    return [this](const auto& walk, RowRange rows, const auto& state, const auto& max,
                  const auto& mass, const auto& dot) {
      using V = typename std::decay_t<decltype(walk)>::V;
      write_losses(walk, loss_rows, rows, max, state, mass * state.log_sum - dot, V(1));
    };
  }
};

/// The gradient of class probabilities: (1 - e) w_c (lse - z_c).
template <typename acc_t, typename Logits>
struct TargetGradientRow : Policy {
  Logits logits;
  Smoothing<acc_t> smoothing;
  LossRows<acc_t> loss_rows;

  template <typename Walk, typename Keep, typename Out, typename In>
  TORCHSOFTMAX_FN void operator()(const Walk& walk, RowRange rows, const Keep&, const Out& out,
                                  const In& input) const {
    using V = typename Walk::V;
    const auto row = logits.of_row(walk.load_rows(loss_rows.known_max, rows));
    const auto state = state_of(walk, row, loss_rows, rows);
    const V grad = V(smoothing.target) * loss_rows.gradients(walk, rows);
    walk.for_each([&](int64_t i, auto lanes) {
      const V z = state.logits.shifted(state.logits.value(input.load(i, lanes)));
      out.store(i, grad * walk.per_class(smoothing.weight, i, lanes) * (state.log_sum - z), lanes);
    });
  }
};

}  // namespace torchsoftmax::TORCHSOFTMAX_DEVICE
