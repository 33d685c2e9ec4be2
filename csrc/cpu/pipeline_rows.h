#pragma once
// What the loops of a pipeline (pipeline.h, guessing.h) do with their rows: each goes over a row to
// take its terms, and over the one a group before to write it, in one pass.

#include "row_groups.h"
#include "streaming.h"
#include "task.h"

namespace torchsoftmax::cpu {

/// The rows of a task, in groups of kRows. Outputs that are not kStreamed are in the caches; they
/// may be fetched while the maximum of their row is found.
template <typename acc_t, int kRows, bool kStreamed, Fetching kFetching, typename RowPolicy,
          typename Out, typename In>
class PipelineRows {
 public:
  using V = Vec<acc_t>;

  const Walk<acc_t, LaneOrder::kAlongRow> walk;

  PipelineRows(const RowPolicy& policy, const RowTensor<Out>& out, const RowTensor<const In>& in,
               int64_t begin, int64_t end)
      : walk(out.classes),
        policy_(policy),
        out_(out),
        in_(in),
        begin_(begin),
        end_(end),
        kept_(kInOutput || !RowPolicy::kKeeps ? 0 : out.classes + kLanes<acc_t>),
        scratch_(2 * kRows * kept_ + 1) {}

  int64_t of_group(int64_t first) const { return std::min<int64_t>(kRows, end_ - first); }
  auto input(int64_t row) const {
    return View<const In, acc_t, kFetching>{
        in_.row(row), reinterpret_cast<const char*>(out_.row(row)), sizeof(Out)};
  }
  /// The place of a row's terms.
  auto keep(int64_t row) const {
    if constexpr (kInOutput) {
      return Kept<acc_t>{out_.row(row)};
    } else {
      return Kept<acc_t>{scratch_.data() + row % (2 * kRows) * kept_};
    }
  }
  /// What the policy makes of sums.
  template <typename State, typename Sum>
  auto result_of(const State& state, const Sum& sum) const {
    return policy_.result_of(GroupWalk<acc_t, kRows>(), state, sum, keep(begin_));
  }

  /// The parts of a maximum and a sum: walk.parts_of_maximum_and_sum. What is written is the row a
  /// group before `row`, where there is one.
  template <typename Result, typename Read, typename Terms>
  std::array<V, 2> pass(int64_t row, const Result& result_before, const Read& read,
                        const Terms& terms) const {
    const int64_t before = row - kRows;
    if (before < begin_) {
      return walk.template parts_of_maximum_and_sum<RowPolicy::kSumFor>(
          Beside{read, kWritesNothing}, terms);
    }
    const auto to = output(before);
    const auto value = value_of(before, result_before);
    return walk.template parts_of_maximum_and_sum<RowPolicy::kSumFor>(
        Beside{read, walk.writing(to, value)}, terms);
  }
  /// Writes the rows of a group, from the k-th on.
  template <typename Results>
  void write(int64_t group, const Results& results, int64_t k = 0) const {
    for (; group >= begin_ && k < of_group(group); ++k) {
      walk.write(output(group + k), value_of(group + k, results.of(k)));
    }
  }

 private:
  static constexpr bool kInOutput = std::is_same_v<Out, acc_t> && !kStreamed;

  auto output(int64_t row) const {
    return Output<Out, acc_t, std::bool_constant<kStreamed>>{{out_.row(row)}};
  }
  /// A vector of the output. With a copy of the row's result, which may be a temporary.
  template <typename Result>
  auto value_of(int64_t row, const Result& result) const {
    return [this, result, kept = keep(row), from = input(row)](int64_t i, auto lanes) {
      return policy_.value(result, i, lanes, kept, from);
    };
  }

  const RowPolicy& policy_;
  const RowTensor<Out>& out_;
  const RowTensor<const In>& in_;
  const int64_t begin_, end_, kept_;
  const Scratch<acc_t> scratch_;
};

}  // namespace torchsoftmax::cpu
