#pragma once
// The loops over rows, of which each reduces a row to a few statistics and then maps it: along
// rows, across rows, and which of them a kernel takes. The same for three rows at once, along them,
// is pipeline.h.
//
// A *row* is the elements of a tensor along the class dimension. Lanes of a SIMD vector either hold
// consecutive classes of one row (LaneOrder::kAlongRow: class stride 1) or the same class of
// neighbouring rows (LaneOrder::kAcrossRows: all else). A kernel is a policy: a small struct that
// is called with a Walk and views of its operands, once per row or once per vector of rows, and
// cannot tell the two apart except through the Walk.
//
// The contract of a policy, and what the loop has to know of it beside: policies/device.h.

#include <ATen/Parallel.h>

#include <algorithm>
#include <tuple>
#include <utility>

#include "packing.h"
#include "pipeline.h"
#include "sums.h"

namespace torchsoftmax::cpu {

/// A policy for one row, with everything inlined: what GCC leaves out of it by itself is another
/// part with every change, and a row in the caches takes up to 1.3 times as long.
template <typename RowPolicy, typename... Operands>
TORCHSOFTMAX_FLATTEN void run_row(const RowPolicy& policy, const Operands&... operands) {
  policy(operands...);
}

/// Calls `policy(walk, rows, keep, out, in...)` for rows whose class stride is 1 in every operand.
/// `keep` holds intermediate values of the row: the output itself where it has the precision and is
/// in the caches.
template <typename acc_t, typename RowPolicy, typename Out, typename In, typename... More>
void along_rows(const RowPolicy& policy, const RowTensor<Out>& out, const RowTensor<const In>& in,
                const RowTensor<const More>&... more) {
  using AlongRow = Walk<acc_t, LaneOrder::kAlongRow>;
  // An element that is written again is read from memory first, if it was streamed.
  constexpr int64_t kWorthStreaming = RowPolicy::kReadsElements ? 1024 : 0;
  const bool streamed =
      out.classes >= kWorthStreaming && is_streamed_along<acc_t>(out, in, more...);
  const bool in_output = std::is_same_v<Out, acc_t> && !streamed;
  // While a row is computed with, memory has nothing to do, unless its terms are stored there.
  const bool fetches_next = (out.data == nullptr || !in_output) &&
                            out.classes * static_cast<int64_t>(sizeof(In)) <= kFetchedRow;
  at::parallel_for(0, out.rows, rows_per_task(out.classes), [&](int64_t begin, int64_t end) {
    const Scratch<acc_t> scratch(in_output || !RowPolicy::kKeeps ? 1 : out.classes + kLanes<acc_t>);
    UnfinishedRows<acc_t> unfinished;
    for (int64_t row = begin; row < end; ++row) {
      const Output<Out, acc_t> out_row{{out.row(row)}, streamed};
      Kept<acc_t> keep{scratch.data()};
      if constexpr (std::is_same_v<Out, acc_t>) {
        keep.data = in_output ? out_row.data : keep.data;
      }
      const In* next = in.row(fetches_next && row + 1 < end ? row + 1 : row);
      const View<const In, acc_t, Fetching::kNextRow> in_row{
          in.row(row), reinterpret_cast<const char*>(next), sizeof(In)};
      const AlongRow walk(out.classes, streamed ? lead_of<acc_t>(out_row.data) : 0, &unfinished,
                          row + 1 == end);
      run_row(policy, walk, RowRange{row, 1}, keep, out_row, in_row,
              View<const More, acc_t>{more.row(row)}...);
    }
    if (streamed) {
      finish_streams();
    }
  });
}

/// Whether rows across are worth packing: where all passes then find them in the first-level cache,
/// or where the distance of the classes puts them all into a few sets of the caches.
template <typename acc_t, typename scalar_t>
bool worth_packing(const RowTensor<scalar_t>& operand, int64_t rows) {
  constexpr int64_t kFirstLevel = 24 * 1024, kSets = 4096;
  return operand.classes * rows * static_cast<int64_t>(sizeof(acc_t)) <= kFirstLevel ||
         operand.class_stride * static_cast<int64_t>(sizeof(scalar_t)) % kSets == 0;
}

/// Calls the policy for `rows` across, at most kCount vectors of them. What is not read from its
/// tensor or written to it directly is packed in `memory`, classes outermost.
template <typename acc_t, int kCount, typename Lanes, typename RowPolicy, typename Out,
          typename... In>
void across_group(const RowPolicy& policy, RowRange rows, Lanes lanes, bool streamed, acc_t* memory,
                  const RowTensor<Out>& out, const RowTensor<const In>&... in) {
  const Walk<acc_t, LaneOrder::kAcrossRows, kCount, Lanes> walk(out.classes, lanes);
  constexpr int64_t kStep = kCount * kLanes<acc_t>;
  const auto side_by_side = [&](const auto& operand) {
    constexpr bool kMask = std::is_same_v<decltype(operand.data), const bool*>;
    return RowPolicy::kDirect && !kMask && operand.row_stride() == 1 &&
           operand.run(rows.first) >= rows.count;
  };
  const auto view = [&](const auto& operand, acc_t* packed) {
    using scalar_t = std::remove_const_t<std::remove_pointer_t<decltype(operand.data)>>;
    AcrossView<scalar_t, acc_t, kCount> result{
        nullptr, operand.class_stride, worth_packing<acc_t>(operand, kStep), {packed, kStep}};
    if (side_by_side(operand)) {
      result.tensor = operand.row(rows.first);
    } else {
      pack(operand, rows.first, rows.count, kStep, packed);
    }
    return result;
  };
  const bool direct = out.data != nullptr && side_by_side(out);
  const Columns<acc_t, kCount> packed{memory, kStep};
  const AcrossOutput<Out, acc_t, kCount> out_rows{direct ? out.row(rows.first) : nullptr,
                                                  out.class_stride, streamed, packed};
  Columns<acc_t, kCount> keep = packed;
  if constexpr (std::is_same_v<Out, acc_t>) {
    if (direct && !streamed && !worth_packing<acc_t>(out, kStep)) {
      keep = {out_rows.tensor, out.class_stride};
    }
  }
  acc_t* next = memory;
  const auto column = [&] {
    return std::exchange(next, next + packed_classes<acc_t>(out.classes) * kStep);
  };
  const std::tuple views{view(in, column())...};
  std::apply([&](const auto&... each) { policy(walk, rows, keep, out_rows, each...); }, views);
  if (out.data != nullptr && !direct) {
    unpack(memory, out, rows.first, rows.count, kStep, is_streamed(out, in...));
  }
}

/// across_group for several vectors, which stay in registers only where everything is inlined.
template <typename acc_t, int kCount, typename RowPolicy, typename Out, typename... In>
TORCHSOFTMAX_FLATTEN void across_wide_group(const RowPolicy& policy, RowRange rows, bool streamed,
                                            acc_t* memory, const RowTensor<Out>& out,
                                            const RowTensor<const In>&... in) {
  const Overlapping all{rows.count - kLanes<acc_t>};
  across_group<acc_t, kCount>(policy, rows, all, streamed, memory, out, in...);
}

/// The same for rows of any strides, groups of neighbouring rows one after the other. A group does
/// not go over the end of a run of rows that lie side by side, unless runs are very short.
template <typename acc_t, typename RowPolicy, typename Out, typename... In>
void across_rows(const RowPolicy& policy, const RowTensor<Out>& out,
                 const RowTensor<const In>&... in) {
  constexpr int64_t kStep = kLanes<acc_t>;
  // Where it matters, so as not to compile it for all.
  constexpr bool kMasked = (std::is_same_v<In, bool> || ...);
  constexpr int kWide = RowPolicy::kDirect && std::is_same_v<acc_t, float> && !kMasked ? 4 : 1;
  constexpr int64_t kSecondLevel = int64_t{1} << 20, kLine = 64;
  const int64_t column =
      sizeof...(In) * packed_classes<acc_t>(out.classes) * kStep;  // elements of a vector of rows
  const bool wide = static_cast<int64_t>(sizeof(acc_t)) * column * kWide <= kSecondLevel;
  const int64_t group = wide ? kWide * kStep : kStep;

  const bool runs = RowPolicy::kDirect && out.row_stride() == 1 && out.run(0) >= kStep / 2;
  const int64_t run = std::max<int64_t>(1, runs ? out.run(0) : out.rows);
  const int64_t groups_of_run = (run + group - 1) / group;
  const int64_t groups = out.rows / run * groups_of_run;
  const bool large = is_streamed(out, in...);
  const bool streamed = RowPolicy::kDirect && large && is_aligned(out, out.class_stride, kLine);
  at::parallel_for(0, groups, rows_per_task(group * out.classes), [&](int64_t begin, int64_t end) {
    const Scratch<acc_t> scratch(std::max<int64_t>(1, column * (wide ? kWide : 1)));
    for (int64_t g = begin; g < end; ++g) {
      const int64_t in_run = g % groups_of_run * group;
      const RowRange rows{g / groups_of_run * run + in_run, std::min(group, run - in_run)};
      if constexpr (kWide > 1) {
        if (wide && rows.count > (kWide - 1) * kStep) {
          const bool whole = rows.count == group;
          across_wide_group<acc_t, kWide>(policy, rows, streamed && whole, scratch.data(), out,
                                          in...);
          continue;
        }
      }
      for (int64_t row = 0; row < rows.count; row += kStep) {
        const int64_t count = std::min(kStep, rows.count - row);
        across_group<acc_t, 1>(policy, RowRange{rows.first + row, count}, count,
                               /*streamed=*/false, scratch.data(), out, in...);
      }
    }
    if (large) {
      finish_streams();
    }
  });
}

/// Whether rows of so few classes are worked on across, even where they lie along: a row costs two
/// reductions inside of a vector and a logarithm, which neighbouring rows then share. Where tiles
/// are packed, that pays for longer rows than the two vectors of other types and of two operands;
/// in memory, half as long ones; and a pipeline shares some of it too, from four whole vectors on.
template <typename acc_t, typename RowPolicy, size_t kOperands>
bool is_short(int64_t classes, bool large) {
  constexpr int64_t kVector = kLanes<acc_t>;
  if constexpr (!kHasTiles<acc_t> || kOperands > 1) {
    return classes <= 2 * kVector;
  } else if constexpr (RowPolicy::kStaged) {
    return classes < (large ? 2 : 4) * kVector;
  } else {
    return classes <= (large ? 4 : 8) * kVector;
  }
}

/// Runs `policy` over every row of the operands, which agree in rows and classes. A policy without
/// an output passes `RowTensor<Out>` with null data.
template <typename acc_t, typename RowPolicy, typename Out, typename... In>
void for_each_row(const RowPolicy& policy, const RowTensor<Out>& out,
                  const RowTensor<const In>&... in) {
  if (out.rows == 0) {
    return;
  }
  const bool short_rows =
      is_short<acc_t, RowPolicy, sizeof...(In)>(out.classes, (is_large(in) || ...)) &&
      out.rows >= kLanes<acc_t> / 2;
  if (short_rows || out.class_stride != 1 || ((in.class_stride != 1) || ...)) {
    across_rows<acc_t>(policy, out, in...);
    return;
  }
  if constexpr (RowPolicy::kStaged && sizeof...(In) == 1) {
    if (ran_in_pipeline<acc_t>(policy, out, in...)) {
      return;
    }
  }
  if constexpr (RowPolicy::kSummed && !(std::is_same_v<In, bool> || ...)) {
    summed_rows<acc_t>(policy, out, in...);
  } else {
    along_rows<acc_t>(policy, out, in...);
  }
}

}  // namespace torchsoftmax::cpu
