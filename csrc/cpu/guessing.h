#pragma once
// Rows whose terms are taken before their maximum is known, less a guess of it: that of the task's
// first row. The maximum is found in the same pass; where it was too far away for the guess, or the
// sum is nan, the row's terms are taken again. What comes out is the same whatever the guess was
// (RatioExp in exp.h). A row is read once, nothing waits for its maximum, and while its terms are
// taken the row a group before is written, as in pipeline.h.

#include "pipeline_rows.h"

namespace torchsoftmax::cpu {

/// Whether a policy can do with a guess.
template <typename RowPolicy, typename V>
inline constexpr bool kGuesses =
    requires(const RowPolicy& policy, V v) { policy.guess_of(v).misfits(v, v); };

/// The parts of a row's sum, of terms less its maximum, which are kept instead of others.
template <typename acc_t, typename RowPolicy, typename Rows>
[[gnu::noinline]] Vec<acc_t> sum_anew(const RowPolicy& policy, const Rows& rows, int64_t row,
                                      acc_t max) {
  using V = Vec<acc_t>;
  const auto own = policy.row_of(V(max));
  const auto from = rows.input(row);
  const auto kept = rows.keep(row);
  return rows.walk.template parts_of_maximum_and_sum<RowPolicy::kSumFor>(
      kNothingBeside, [&](int64_t i, auto lanes, Nothing) {
        return std::array<V, 2>{V(0), policy.add(own, i, lanes, kept, from)};
      })[1];
}

/// Takes the terms of rows of a group anew that do not fit. Returns the guess for the next ones.
template <typename acc_t, int kRows, typename RowPolicy, typename Rows, typename Guess>
[[gnu::noinline]] Guess mend(const RowPolicy& policy, const Rows& rows, int64_t group, Guess guess,
                             const RowParts<acc_t, kRows>& maxima, RowParts<acc_t, kRows>& sums) {
  const Vec<acc_t> max = maxima.reduced(Larger());
  const int misfits = guess.misfits(max, sums.reduced(Plus()));
  alignas(64) std::array<acc_t, kLanes<acc_t>> each_max;
  max.store(each_max.data());
  for (int64_t k = 0; k < rows.of_group(group); ++k) {
    if (misfits >> k & 1) {
      sums.set(k, sum_anew<acc_t>(policy, rows, group + k, each_max[k]));
      guess = policy.guess_of(Vec<acc_t>(each_max[k]));
    }
  }
  return guess;
}

/// Takes the rows from a group on, until one has rows that do not fit, which it returns. A function
/// of its own, for GCC keeps less in registers where there is another call, even if it is never
/// made.
template <typename acc_t, int kRows, typename RowPolicy, typename Rows, typename Guess,
          typename Results>
[[gnu::noinline]] TORCHSOFTMAX_FLATTEN int64_t run_fitting(const RowPolicy& policy,
                                                           const Rows& rows, int64_t group,
                                                           int64_t end, const Guess guess,
                                                           Results& results_of_all,
                                                           RowParts<acc_t, kRows>& maxima_of_group,
                                                           RowParts<acc_t, kRows>& sums_of_group) {
  using V = Vec<acc_t>;
  Results results = results_of_all;
  RowParts<acc_t, kRows> maxima = maxima_of_group, sums = sums_of_group;
  for (; group < end; group += kRows) {
    const int64_t count = rows.of_group(group);
    V largest = Larger::neutral<V>();
    for (int64_t k = 0; k < count; ++k) {
      const int64_t row = group + k;
      const auto now = rows.input(row);
      const auto kept = rows.keep(row);
      const auto found = rows.pass(
          row, results.of(k),
          [&](int64_t i, auto lanes) { return ReadVector<acc_t>{now.load(i, lanes)}; },
          [&](int64_t i, auto lanes, const auto& x) {
            return std::array<V, 2>{policy.largest(i, lanes, x),
                                    policy.add(guess, i, lanes, kept, x)};
          });
      maxima.set(k, found[0]);
      sums.set(k, found[1]);
      largest = Larger()(found[0], largest);
    }
    rows.write(group - kRows, results, count);
    const V sum = sums.reduced(Plus());
    if (guess.misfits(largest, sum) != 0) [[unlikely]] {
      maxima_of_group = maxima;
      sums_of_group = sums;
      break;
    }
    results.set(rows.result_of(guess, sum));
  }
  results_of_all = results;
  return group;
}

/// Runs a policy along the rows; its output must not share memory with its input.
template <typename acc_t, int kRows, bool kStreamed, typename RowPolicy, typename Out, typename In>
TORCHSOFTMAX_FLATTEN void run_guessing(const RowPolicy& policy, const RowTensor<Out>& out,
                                       const RowTensor<const In>& in, int64_t begin, int64_t end) {
  using V = Vec<acc_t>;
  const PipelineRows<acc_t, kRows, kStreamed, Fetching::kNothing, RowPolicy, Out, In> rows(
      policy, out, in, begin, end);
  const auto first = rows.input(begin);
  auto guess = policy.guess_of(
      rows.walk.maximum([&](int64_t i, auto lanes) { return policy.largest(i, lanes, first); }));
  RowParts<acc_t, kRows> maxima, sums;
  RowStates<decltype(rows.result_of(guess, V(1))), acc_t, kRows> results(
      rows.result_of(guess, V(1)));
  int64_t group = begin;
  for (;;) {
    group = run_fitting<acc_t, kRows>(policy, rows, group, end, guess, results, maxima, sums);
    if (group >= end) {
      break;
    }
    guess = mend<acc_t, kRows>(policy, rows, group, guess, maxima, sums);
    results.set(rows.result_of(guess, sums.reduced(Plus())));
    group += kRows;
  }
  rows.write(group - kRows, results);
  if (kStreamed) {
    finish_streams();
  }
}

}  // namespace torchsoftmax::cpu
