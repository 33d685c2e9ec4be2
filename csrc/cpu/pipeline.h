#pragma once
// Rows in a pipeline, along them: while the terms of one row are summed up, the maximum of a later
// one is found and an earlier one is written. So there is arithmetic to do while data comes, and no
// waiting for the end of a reduction. For policies in stages (policies/staged.h).
//
// Short rows are a group behind each other, not one: as many as a vector has lanes (fewer where the
// output is streamed). What is left of their reductions inside of vectors is then done for all of
// them at once, and so is what a policy makes of a maximum or a sum, in which each lane is a row.

#include <ATen/Parallel.h>

#include "row_groups.h"
#include "streaming.h"
#include "task.h"

namespace torchsoftmax::cpu {

/// Runs a policy along the rows from `begin` to `end`; kRows: those of a group, or 1. Outputs that
/// are not kStreamed are in the caches, and fetched into the first level a row ahead, where that is
/// not a whole group. Everything inlined, for GCC otherwise passes vectors through memory.
template <typename acc_t, int kRows, bool kStreamed, typename RowPolicy, typename Out, typename In>
TORCHSOFTMAX_FLATTEN void run_pipeline(const RowPolicy& policy, const RowTensor<Out>& out,
                                       const RowTensor<const In>& in, int64_t begin, int64_t end) {
  using V = Vec<acc_t>;
  constexpr bool kInOutput = std::is_same_v<Out, acc_t> && !kStreamed;
  constexpr auto kFetching = kRows == 1 && !kStreamed ? Fetching::kOutput : Fetching::kNothing;
  const auto larger = [](const V& a, const V& b) { return maximum_dropping_nan(a, b); };
  const auto plus = [](const V& a, const V& b) { return a + b; };
  const Walk<acc_t, LaneOrder::kAlongRow> walk(out.classes);
  const GroupWalk<acc_t, kRows> of_group;
  const int64_t kept = kInOutput || !RowPolicy::kKeeps ? 0 : out.classes + kLanes<acc_t>;
  const Scratch<acc_t> scratch(2 * kRows * kept + 1);
  const auto input = [&](int64_t row) {
    return View<const In, acc_t, kFetching>{
        in.row(row), reinterpret_cast<const char*>(out.row(row)), sizeof(Out)};
  };
  const auto output = [&](int64_t row) {
    return Output<Out, acc_t, std::bool_constant<kStreamed>>{{out.row(row)}};
  };
  const auto keep = [&](int64_t row) {
    if constexpr (kInOutput) {
      return Kept<acc_t>{out.row(row)};
    } else {
      return Kept<acc_t>{scratch.data() + row % (2 * kRows) * kept};
    }
  };
  const auto rows_from = [&](int64_t first) { return std::min<int64_t>(kRows, end - first); };

  RowParts<acc_t, kRows> maxima, sums;
  for (int64_t k = 0; k < rows_from(begin); ++k) {
    const auto first = input(begin + k);
    const auto found = walk.parts_of_maximum_and_sum(
        Beside{kReadsNothing, kWritesNothing}, [&](int64_t i, auto lanes, Nothing) {
          return std::array<V, 2>{policy.largest(i, lanes, first), V(0)};
        });
    maxima.set(k, found[0]);
  }
  RowStates<decltype(policy.row_of(V(0))), acc_t, kRows> states(
      policy.row_of(maxima.reduced(larger)));
  const auto result_of = [&](const V& sum) {
    return policy.result_of(of_group, states.all(), sum, keep(begin));
  };
  RowStates<decltype(result_of(V(1))), acc_t, kRows> results(result_of(V(1)));
  const auto write = [&](int64_t row, int64_t k) {
    const auto input_row = input(row);
    const auto kept_row = keep(row);
    const auto out_row = output(row);
    const auto& result = results.of(k);
    walk.write(out_row, [&](int64_t i, auto lanes) {
      return policy.value(result, i, lanes, kept_row, input_row);
    });
  };
  int64_t group = begin;
  for (; group < end; group += kRows) {
    for (int64_t k = 0; k < rows_from(group); ++k) {
      const int64_t row = group + k;
      const auto now = input(row), later = input(std::min(row + kRows, end - 1));
      const auto kept_now = keep(row);
      const auto& state = states.of(k);
      const auto read = [&](int64_t i, auto lanes) {
        return std::array{ReadVector<acc_t>{later.first(i, lanes)},
                          ReadVector<acc_t>{now.load(i, lanes)}};
      };
      const auto both = [&](int64_t i, auto lanes, const auto& x) {
        return std::array<V, 2>{policy.largest(i, lanes, x[0]),
                                policy.add(state, i, lanes, kept_now, x[1])};
      };
      std::array<V, 2> found;
      if (group == begin) {
        found = walk.parts_of_maximum_and_sum(Beside{read, kWritesNothing}, both);
      } else {
        const auto before = input(row - kRows);
        const auto kept_before = keep(row - kRows);
        const auto out_before = output(row - kRows);
        const auto& result = results.of(k);
        const auto value = [&](int64_t i, auto lanes) {
          return policy.value(result, i, lanes, kept_before, before);
        };
        found = walk.parts_of_maximum_and_sum(Beside{read, walk.writing(out_before, value)}, both);
      }
      maxima.set(k, found[0]);
      sums.set(k, found[1]);
    }
    for (int64_t k = rows_from(group); group > begin && k < kRows; ++k) {
      write(group + k - kRows, k);
    }
    results.set(result_of(sums.reduced(plus)));
    states.set(policy.row_of(maxima.reduced(larger)));
  }
  group -= kRows;
  for (int64_t k = 0; k < rows_from(group); ++k) {
    write(group + k, k);
  }
  if (kStreamed) {
    finish_streams();
  }
}

/// The same in two stages, for rows of which the first level of the cache holds no three: while one
/// is written, the maximum of the next is found, which is fetched while the terms of the one are
/// summed up. For policies that keep these, and outputs that are not streamed.
template <typename acc_t, typename RowPolicy, typename Out, typename In>
TORCHSOFTMAX_FLATTEN void run_in_two_stages(const RowPolicy& policy, const RowTensor<Out>& out,
                                            const RowTensor<const In>& in, int64_t begin,
                                            int64_t end) {
  const Walk<acc_t, LaneOrder::kAlongRow> walk(out.classes);
  const Scratch<acc_t> scratch(std::is_same_v<Out, acc_t> ? 1 : out.classes + kLanes<acc_t>);
  const View<const In, acc_t> first{in.row(begin)};
  auto max = walk.maximum([&](int64_t i, auto lanes) { return policy.largest(i, lanes, first); });
  for (int64_t row = begin; row < end; ++row) {
    const View<const In, acc_t> next{in.row(std::min(row + 1, end - 1))};
    const View<const In, acc_t, Fetching::kNextRow> now{
        in.row(row), reinterpret_cast<const char*>(next.data), sizeof(In)};
    const Output<Out, acc_t, std::false_type> out_row{{out.row(row)}};
    Kept<acc_t> keep{scratch.data()};
    if constexpr (std::is_same_v<Out, acc_t>) {
      keep.data = out_row.data;
    }
    const auto state = policy.row_of(max);
    const auto sum =
        walk.sum([&](int64_t i, auto lanes) { return policy.add(state, i, lanes, keep, now); });
    const auto result = policy.result_of(walk, state, sum, keep);
    const auto value = [&](int64_t i, auto lanes) {
      return policy.value(result, i, lanes, keep, now);
    };
    const auto read = [&](int64_t i, auto lanes) {
      return ReadVector<acc_t>{next.first(i, lanes)};
    };
    max = walk.maximum(
        Beside{read, walk.writing(out_row, value)},
        [&](int64_t i, auto lanes, const auto& x) { return policy.largest(i, lanes, x); });
  }
}

// The longest rows, in bytes, that run in a pipeline. Of a policy that keeps its terms in the
// output, the rows and the terms of three stay in the first level of the cache; of others in the
// first two. In two stages, it is two rows that stay in the first two.
template <typename RowPolicy>
inline constexpr int64_t kPipelinedRow = int64_t{1} << (RowPolicy::kKeeps ? 13 : 15);
inline constexpr int64_t kTwoStagesRow = int64_t{1} << 19;

// The longest rows that are worked on in groups: of these, as many as a vector has lanes are in the
// caches with what is read ahead. Where outputs are streamed, and terms have a place of their own,
// only small groups of short rows are faster than row after row.
inline constexpr int64_t kGroupedClasses = 512, kGroupedStreamedClasses = 128;

template <typename acc_t, typename RowPolicy, typename Out, typename In>
void pipelined_rows(const RowPolicy& policy, const RowTensor<Out>& out,
                    const RowTensor<const In>& in, bool streamed) {
  const auto run = [&](auto rows, auto streamed) {
    at::parallel_for(0, out.rows, rows_per_task(out.classes), [&](int64_t begin, int64_t end) {
      run_pipeline<acc_t, rows(), streamed()>(policy, out, in, begin, end);
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
  if (bytes == 0 || (!streamed && is_streamed_along<acc_t>(out, in))) {
    return false;
  }
  if (bytes <= kPipelinedRow<RowPolicy>) {
    pipelined_rows<acc_t>(policy, out, in, streamed);
    return true;
  }
  if constexpr (RowPolicy::kKeeps && RowPolicy::kOften) {
    if (!streamed && bytes <= kTwoStagesRow) {
      at::parallel_for(0, out.rows, rows_per_task(out.classes), [&](int64_t begin, int64_t end) {
        run_in_two_stages<acc_t>(policy, out, in, begin, end);
      });
      return true;
    }
  }
  return false;
}

}  // namespace torchsoftmax::cpu
