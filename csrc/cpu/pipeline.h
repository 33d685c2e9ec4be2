#pragma once
// Rows in a pipeline, along them: while the terms of one row are summed up, the maximum of a later
// one is found and an earlier one is written. So there is arithmetic to do while data comes, and no
// waiting for the end of a reduction. For policies in stages (policies/staged.h).
//
// Where terms of a row may be taken before its maximum is known, with a guess of that, it is found
// in the same pass over the row instead: guessing.h.
//
// Short rows are a group behind each other, not one: as many as a vector has lanes (fewer where the
// output is streamed). What is left of their reductions inside of vectors is then done for all of
// them at once, and so is what a policy makes of a maximum or a sum, in which each lane is a row.

#include <ATen/Parallel.h>

#include "guessing.h"

namespace torchsoftmax::cpu {

/// Runs a policy along the rows. Everything inlined, for GCC otherwise passes vectors through
/// memory.
template <typename acc_t, int kRows, bool kStreamed, typename RowPolicy, typename Out, typename In>
TORCHSOFTMAX_FLATTEN void run_pipeline(const RowPolicy& policy, const RowTensor<Out>& out,
                                       const RowTensor<const In>& in, int64_t begin, int64_t end) {
  using V = Vec<acc_t>;
  constexpr auto kFetching = kRows == 1 && !kStreamed ? Fetching::kOutput : Fetching::kNothing;
  const PipelineRows<acc_t, kRows, kStreamed, kFetching, RowPolicy, Out, In> rows(policy, out, in,
                                                                                  begin, end);
  const auto& walk = rows.walk;
  RowParts<acc_t, kRows> maxima, sums;
  for (int64_t k = 0; k < rows.of_group(begin); ++k) {
    const auto first = rows.input(begin + k);
    const auto found = walk.template parts_of_maximum_and_sum<RowPolicy::kSumFor>(
        kNothingBeside, [&](int64_t i, auto lanes, Nothing) {
          return std::array<V, 2>{policy.largest(i, lanes, first), V(0)};
        });
    maxima.set(k, found[0]);
  }
  RowStates<decltype(policy.row_of(V(0))), acc_t, kRows> states(
      policy.row_of(maxima.reduced(Larger())));
  constexpr SumOf<acc_t, RowPolicy::kSumFor> kSum;
  RowStates<decltype(rows.result_of(states.all(), sums.reduced(kSum))), acc_t, kRows> results(
      rows.result_of(states.all(), sums.reduced(kSum)));
  int64_t group = begin;
  for (; group < end; group += kRows) {
    for (int64_t k = 0; k < rows.of_group(group); ++k) {
      const int64_t row = group + k;
      const auto now = rows.input(row), later = rows.input(std::min(row + kRows, end - 1));
      const auto kept_now = rows.keep(row);
      const auto& state = states.of(k);
      const auto found = rows.pass(
          row, results.of(k),
          [&](int64_t i, auto lanes) {
            return std::array{ReadVector<acc_t>{later.first(i, lanes)},
                              ReadVector<acc_t>{now.load(i, lanes)}};
          },
          [&](int64_t i, auto lanes, const auto& x) {
            return std::array<V, 2>{policy.largest(i, lanes, x[0]),
                                    policy.add(state, i, lanes, kept_now, x[1])};
          });
      maxima.set(k, found[0]);
      sums.set(k, found[1]);
    }
    rows.write(group - kRows, results, rows.of_group(group));
    results.set(rows.result_of(states.all(), sums.reduced(kSum)));
    states.set(policy.row_of(maxima.reduced(Larger())));
  }
  rows.write(group - kRows, results);
  if (kStreamed) {
    finish_streams();
  }
}

// The longest rows, in bytes, that run in a pipeline. Where terms are kept in the output, two rows
// stay in the first two levels of the cache; where they have a place of their own, for the output
// is streamed, three rows and the terms stay in the first level; where none are kept, in the first
// two.
template <typename RowPolicy>
int64_t longest_pipelined(bool streamed) {
  return int64_t{1} << (!RowPolicy::kKeeps ? 15 : streamed ? 13 : 19);
}

// The longest rows that are worked on in groups: of these, as many as a vector has lanes are in the
// caches with what is read ahead. Where outputs are streamed, and terms have a place of their own,
// only small groups of short rows are faster than row after row.
inline constexpr int64_t kGroupedClasses = 512, kGroupedStreamedClasses = 128;

template <typename acc_t, typename RowPolicy, typename Out, typename In>
void pipelined_rows(const RowPolicy& policy, const RowTensor<Out>& out,
                    const RowTensor<const In>& in, bool streamed) {
  const auto run = [&](auto rows, auto streamed) {
    at::parallel_for(0, out.rows, rows_per_task(out.classes), [&](int64_t begin, int64_t end) {
      if constexpr (kGuesses<RowPolicy, Vec<acc_t>>) {
        run_guessing<acc_t, rows(), streamed()>(policy, out, in, begin, end);
      } else {
        run_pipeline<acc_t, rows(), streamed()>(policy, out, in, begin, end);
      }
    });
  };
  constexpr std::integral_constant<int, 1> kOne;
  if constexpr (RowPolicy::kOften) {
    if constexpr (RowPolicy::kKeeps) {
      if (streamed && out.classes <= kGroupedStreamedClasses) {
        constexpr int kRows = std::min<int>(4, kLanes<acc_t>);
        run(std::integral_constant<int, kRows>(), std::true_type());
        return;
      }
    }
    if (!streamed && out.classes <= kGroupedClasses) {
      run(std::integral_constant<int, kLanes<acc_t>>(), std::false_type());
      return;
    }
  }
  if (streamed) {
    run(kOne, std::true_type());
  } else {
    run(kOne, std::false_type());
  }
}

/// Runs a policy's rows, which lie along, in a pipeline, and returns whether it did. Those that are
/// streamed have to begin with a whole vector there.
template <typename acc_t, typename RowPolicy, typename Out, typename In>
bool ran_in_pipeline(const RowPolicy& policy, const RowTensor<Out>& out,
                     const RowTensor<const In>& in) {
  const int64_t bytes = out.classes * static_cast<int64_t>(sizeof(acc_t));
  const bool streamed = is_streamed(out, in) && has_aligned_rows<acc_t>(out);
  if (bytes == 0 || (!streamed && is_streamed_along<acc_t>(out, in)) ||
      bytes > longest_pipelined<RowPolicy>(streamed)) {
    return false;
  }
  pipelined_rows<acc_t>(policy, out, in, streamed);
  return true;
}

}  // namespace torchsoftmax::cpu
