#pragma once
// Loops along rows for policies of a sum (policies/summed.h) without a mask. They are so little
// work for each vector that what is not done may not even be a condition there.

#include <ATen/Parallel.h>

#include <tuple>

#include "streaming.h"
#include "task.h"
#include "walk.h"

namespace torchsoftmax::cpu {

/// A row of several at a fixed distance.
template <typename scalar_t>
struct InStep {
  scalar_t* data;
  int64_t step;
};

/// One row after the other, the next of which is fetched while one is written, or nothing.
template <typename acc_t, bool kStreamed, bool kFetches, typename RowPolicy, typename Out,
          typename... In>
TORCHSOFTMAX_FLATTEN void sum_by_sum(const RowPolicy& given, int64_t begin, int64_t end,
                                     const RowTensor<Out>& out, const RowTensor<const In>&... in) {
  constexpr auto kFetching = kFetches ? Fetching::kNextRow : Fetching::kNothing;
  const RowPolicy policy = given;  // which no store can change, so it stays in registers
  const int64_t classes = out.classes;
  for (int64_t row = begin; row < end;) {
    // Rows at a fixed distance: to look for the place of each takes as long as a few vectors.
    const int64_t last = row + std::min({end - row, out.run(row), in.run(row)...}) - 1;
    const auto along_run = [&](InStep<Out> to, InStep<const In>... from) {
      for (; row <= last; ++row) {
        const Output<Out, acc_t, std::bool_constant<kStreamed>> out_row{{to.data}};
        const Walk<acc_t, LaneOrder::kAlongRow> walk(classes, {},
                                                     kStreamed ? lead_of<acc_t>(to.data) : 0);
        policy(
            walk, RowRange{row, 1}, NoRoom{}, out_row,
            View<const In, acc_t, kFetching>{
                from.data, reinterpret_cast<const char*>(from.data + (row < last ? from.step : 0)),
                sizeof(In)}...);
        to.data += to.step;
        ((from.data += from.step), ...);
      }
    };
    along_run({out.row(row), out.row_stride()}, {in.row(row), in.row_stride()}...);
  }
}

/// A row is written, past the caches, while the next one is summed up: memory is read and written
/// all the time. Rows begin with a whole vector.
template <typename acc_t, typename RowPolicy, typename Out, typename... In>
void sums_ahead(const RowPolicy& given, int64_t begin, int64_t end, const RowTensor<Out>& out,
                const RowTensor<const In>&... in) {
  const RowPolicy policy = given;  // which no store can change, so it stays in registers
  const Walk<acc_t, LaneOrder::kAlongRow> walk(out.classes);
  const auto operands_of = [&](int64_t row) {
    return std::tuple{View<const In, acc_t, Fetching::kAhead>{in.row(row)}...};
  };
  const auto term_of = [&](const auto& operands, int64_t i, auto lanes) {
    return std::apply([&](const auto&... each) { return policy.term(i, lanes, each...); },
                      operands);
  };
  auto now = operands_of(begin);
  auto sum = walk.sum([&](int64_t i, auto lanes) { return term_of(now, i, lanes); });
  for (int64_t row = begin; row < end; ++row) {
    const auto next = operands_of(std::min(row + 1, end - 1));
    const Output<Out, acc_t, std::true_type> out_row{{out.row(row)}};
    const auto own = sum;
    sum = walk.sum([&](int64_t i, auto lanes) {
      const auto value = std::apply(
          [&](const auto&... each) { return policy.value(own, i, lanes, each...); }, now);
      const auto term = term_of(next, i, lanes);
      out_row.store(i, value, lanes);
      return term;
    });
    now = next;
  }
}

/// Chooses one of them.
template <typename acc_t, typename RowPolicy, typename Out, typename... In>
void summed_rows(const RowPolicy& policy, const RowTensor<Out>& out,
                 const RowTensor<const In>&... in) {
  // Shorter rows are still in the first level when they are read again, and the next come soon
  // enough; of longer ones, what is summed up ahead does not slow down the writing.
  constexpr int64_t kNear = int64_t{1} << 14, kFar = int64_t{1} << 17;
  const int64_t bytes = out.classes * static_cast<int64_t>((sizeof(In) + ...));
  const bool streamed = is_streamed_along<acc_t>(out, in...);
  const bool fetches = (streamed || bytes > kNear) && bytes <= kFetchedRow;
  const auto run = [&](auto&& rows) {
    at::parallel_for(0, out.rows, rows_per_task(out.classes), [&](int64_t begin, int64_t end) {
      rows(begin, end);
      if (streamed) {
        finish_streams();
      }
    });
  };
  const auto one_by_one = [&](auto streams, auto fetching) {
    run([&](int64_t begin, int64_t end) {
      sum_by_sum<acc_t, streams(), fetching()>(policy, begin, end, out, in...);
    });
  };
  constexpr std::true_type kYes;
  constexpr std::false_type kNo;
  if (streamed && fetches && bytes >= kFar && has_aligned_rows<acc_t>(out)) {
    run([&](int64_t begin, int64_t end) { sums_ahead<acc_t>(policy, begin, end, out, in...); });
  } else if (streamed) {
    fetches ? one_by_one(kYes, kYes) : one_by_one(kYes, kNo);
  } else {
    fetches ? one_by_one(kNo, kYes) : one_by_one(kNo, kNo);
  }
}

}  // namespace torchsoftmax::cpu
