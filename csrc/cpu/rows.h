#pragma once
// The one loop of this project: reduce a row to a few statistics, then map it.
//
// A *row* is the elements of a tensor along the class dimension. Lanes of a SIMD vector either hold
// consecutive classes of one row (LaneOrder::kAlongRow: class stride 1) or the same class of
// neighbouring rows (LaneOrder::kAcrossRows: all else). A kernel is a policy: a small struct that
// is called with a Walk and views of its operands, once per row or once per vector of rows, and
// cannot tell the two apart except through the Walk.
//
// Contract of a policy: it reads an element for the last time before it writes that element, and
// it writes every element of its output. So outputs may share memory with inputs.

#include <ATen/Parallel.h>

#include <algorithm>
#include <limits>
#include <memory>
#include <tuple>

#include "row_tensor.h"
#include "vec.h"

namespace torchsoftmax::cpu {

enum class LaneOrder { kAlongRow, kAcrossRows };

/// An operand as a policy sees it: vectors at a fixed distance.
template <typename scalar_t, typename acc_t>
struct View {
  scalar_t* data;
  int64_t step;  // elements from one vector to the next

  template <typename Lanes>
  Vec<acc_t> load(int64_t i, Lanes lanes) const {
    return cpu::load<acc_t>(data + i * step, lanes);
  }
  /// Of a mask: `values` where it is true, `otherwise` where it is not.
  template <typename Lanes>
  Vec<acc_t> select(int64_t i, Lanes lanes, const Vec<acc_t>& values,
                    const Vec<acc_t>& otherwise) const {
    return cpu::select<acc_t>(data + i * step, lanes, values, otherwise);
  }
  /// Along a row: the first class of the first whole vector that holds the value, or of what is
  /// left behind the whole vectors.
  int64_t first_vector_with(acc_t value, int64_t classes) const {
    constexpr int kNone = static_cast<int>((int64_t{1} << kLanes<acc_t>)-1);
    int64_t c = 0;
    while (c + kLanes<acc_t> <= classes &&
           (load(c / kLanes<acc_t>, AllLanes<acc_t>{}) == Vec<acc_t>(value)).zero_mask() == kNone) {
      c += kLanes<acc_t>;
    }
    return c;
  }
  template <typename Lanes>
  void store(int64_t i, const Vec<acc_t>& value, Lanes lanes) const {
    cpu::store<acc_t>(data + i * step, value, lanes);
  }
};

/// The rows that one call of a policy works on.
struct RowRange {
  int64_t first;
  int64_t count;
};

template <typename acc_t, LaneOrder kOrder>
class Walk {
 public:
  using V = Vec<acc_t>;
  static constexpr bool kAlong = kOrder == LaneOrder::kAlongRow;

  explicit Walk(int64_t classes)
      : whole_(kAlong ? classes / kLanes<acc_t> : classes),
        rest_(kAlong ? classes % kLanes<acc_t> : 0) {}

  /// Calls step(i, lanes) for every vector of the row.
  template <typename Step>
  void for_each(Step&& step) const {
    for (int64_t i = 0; i < whole_; ++i) {
      step(i, AllLanes<acc_t>{});
    }
    if (rest_ != 0) {
      step(whole_, rest_);
    }
  }

  /// The row's maximum of term(i, lanes), in every lane of that row.
  template <typename Term>
  V maximum(Term&& term) const {
    const V lowest(-std::numeric_limits<acc_t>::infinity());
    const auto larger = [](const V& a, const V& b) { return maximum_dropping_nan(a, b); };
    return std::get<0>(reduce<1>(
        lowest, larger, [&](int64_t i, auto lanes) { return std::array<V, 1>{term(i, lanes)}; }));
  }

  /// The row's sums of each of the kTerms vectors that terms(i, lanes) returns.
  template <size_t kTerms, typename Terms>
  std::array<V, kTerms> sums(Terms&& terms) const {
    return reduce<kTerms>(
        V(0), [](const V& a, const V& b) { return a + b; }, std::forward<Terms>(terms));
  }

  template <typename Term>
  V sum(Term&& term) const {
    return std::get<0>(
        sums<1>([&](int64_t i, auto lanes) { return std::array<V, 1>{term(i, lanes)}; }));
  }

  /// log of a statistic of the row.
  V log(const V& statistic) const {
    if constexpr (kAlong) {
      return V(std::log(lane(statistic, 0)));
    } else {
      return statistic.log();
    }
  }

  /// A statistic of one row of the range.
  acc_t lane(const V& statistic, int64_t row) const {
    std::array<acc_t, kLanes<acc_t>> values;
    statistic.store(values.data());
    return values[kAlong ? 0 : row];
  }

  /// One value per row of the range as a vector, shaped like a statistic: value(row, lane).
  template <typename Value>
  V per_row(RowRange rows, Value&& value) const {
    if constexpr (kAlong) {
      return V(value(rows.first, 0));
    } else {
      std::array<acc_t, kLanes<acc_t>> lanes{};
      for (int64_t lane = 0; lane < rows.count; ++lane) {
        lanes[lane] = value(rows.first + lane, lane);
      }
      return V::loadu(lanes.data());
    }
  }

  /// Whether a statistic of one of the rows is nan.
  bool any_nan(const V& statistic, RowRange rows) const {
    bool any = false;
    for (int64_t row = 0; row < rows.count; ++row) {
      any = any || std::isnan(lane(statistic, row));
    }
    return any;
  }

  /// One element: class `c` of a row of the range.
  template <typename scalar_t>
  scalar_t& at(const View<scalar_t, acc_t>& view, int64_t c, int64_t row) const {
    return view.data[kAlong ? c : c * view.step + row];
  }

  /// A vector of a per-class constant, such as the class weights.
  template <typename Lanes>
  V per_class(const acc_t* values, int64_t i, Lanes lanes) const {
    return kAlong ? cpu::load<acc_t>(values + i * kLanes<acc_t>, lanes) : V(values[i]);
  }

 private:
  // Independent accumulators hide the latency of the operation (4 cycles) and, in sums, halve the
  // rounding error twice.
  static constexpr int64_t kUnroll = 4;

  template <size_t kTerms, typename Op, typename Terms>
  std::array<V, kTerms> reduce(const V& neutral, Op&& op, Terms&& terms) const {
    std::array<std::array<V, kTerms>, kUnroll> partial;
    for (auto& each : partial) {
      each.fill(neutral);
    }
    const auto accumulate = [&](auto& into, const auto& from) {
      for (size_t k = 0; k < kTerms; ++k) {
        into[k] = op(from[k], into[k]);
      }
    };
    int64_t i = 0;
    for (; i + kUnroll <= whole_; i += kUnroll) {
      for (int64_t u = 0; u < kUnroll; ++u) {
        accumulate(partial[u], terms(i + u, AllLanes<acc_t>{}));
      }
    }
    for (; i < whole_; ++i) {
      accumulate(partial[0], terms(i, AllLanes<acc_t>{}));
    }
    if (rest_ != 0) {
      auto last = terms(whole_, rest_);
      for (auto& each : last) {
        each = V::set(neutral, each, rest_);
      }
      accumulate(partial[0], last);
    }
    accumulate(partial[0], partial[1]);
    accumulate(partial[2], partial[3]);
    accumulate(partial[0], partial[2]);
    if constexpr (kAlong) {
      for (auto& each : partial[0]) {
        each = V(at::vec::vec_reduce_all<acc_t>(op, each));
      }
    }
    return partial[0];
  }

  int64_t whole_;  // vectors with all lanes in use
  int64_t rest_;   // lanes in use of one more vector, 0 where there is none
};

/// Memory of one thread for intermediate values, aligned to a cache line.
template <typename acc_t>
class Scratch {
 public:
  explicit Scratch(int64_t size)
      : memory_(new (std::align_val_t{64}) acc_t[static_cast<size_t>(size)]) {}
  acc_t* data() const { return memory_.get(); }

 private:
  struct Free {
    void operator()(acc_t* memory) const { ::operator delete[](memory, std::align_val_t{64}); }
  };
  std::unique_ptr<acc_t[], Free> memory_;
};

// Elements that one parallel task should have at least: about ten times the cost of a fork.
inline constexpr int64_t kGrain = 16384;

/// The rows of a tile, and the distance of its classes in scratch memory. The distance is one
/// vector more than the rows take: a power of two would put all classes of a row into a few sets of
/// the cache.
struct Tile {
  int64_t width;
  int64_t pitch;

  /// A tile fits the first-level cache where that leaves it four vectors or more of rows, so that
  /// rows are read in pieces of some cache lines; otherwise a part of the second-level cache.
  template <typename acc_t>
  static Tile of(int64_t classes, int64_t operands) {
    constexpr int64_t kFirstLevel = 24 * 1024;
    constexpr int64_t kSecondLevel = 256 * 1024;
    const int64_t vector =
        kLanes<acc_t> * static_cast<int64_t>(sizeof(acc_t)) * std::max<int64_t>(1, classes);
    const int64_t small = std::clamp<int64_t>(kFirstLevel / (vector * operands), 4, 16);
    const int64_t vectors = std::clamp<int64_t>(kSecondLevel / (vector * operands), 1, small);
    return {vectors * kLanes<acc_t>, (vectors + 1) * kLanes<acc_t>};
  }
};

/// Calls `policy(walk, rows, keep, out, in...)` for rows whose class stride is 1 in every operand.
/// `keep` holds intermediate values of the row: the output itself where it has the precision.
template <typename acc_t, typename Policy, typename Out, typename... In>
void along_rows(const Policy& policy, const RowTensor<Out>& out, const RowTensor<const In>&... in) {
  const Walk<acc_t, LaneOrder::kAlongRow> walk(out.classes);
  constexpr int64_t kStep = kLanes<acc_t>;
  constexpr bool kKeepsInOutput = std::is_same_v<Out, acc_t>;
  const int64_t grain = std::max<int64_t>(1, kGrain / std::max<int64_t>(1, out.classes));
  at::parallel_for(0, out.rows, grain, [&](int64_t begin, int64_t end) {
    const Scratch<acc_t> scratch(kKeepsInOutput || !Policy::kKeeps ? 1 : out.classes + kStep);
    for (int64_t row = begin; row < end; ++row) {
      const View<Out, acc_t> out_row{out.row(row), kStep};
      View<acc_t, acc_t> keep{scratch.data(), kStep};
      if constexpr (kKeepsInOutput) {
        keep.data = out_row.data;
      }
      policy(walk, RowRange{row, 1}, keep, out_row, View<const In, acc_t>{in.row(row), kStep}...);
    }
  });
}

/// The same for rows of any strides: tiles of neighbouring rows are copied to the scratch memory of
/// a thread, classes outermost, and worked on there, one vector of rows after the other.
template <typename acc_t, typename Policy, typename Out, typename... In>
void across_rows(const Policy& policy, const RowTensor<Out>& out,
                 const RowTensor<const In>&... in) {
  const Walk<acc_t, LaneOrder::kAcrossRows> walk(out.classes);
  constexpr int64_t kStep = kLanes<acc_t>;
  constexpr int64_t kOperands = sizeof...(In);
  const auto [width, pitch] = Tile::of<acc_t>(out.classes, kOperands);
  const int64_t tiles = (out.rows + width - 1) / width;
  const int64_t tile_elements = pitch * out.classes;
  const int64_t grain = std::max<int64_t>(1, kGrain / std::max<int64_t>(1, tile_elements));
  at::parallel_for(0, tiles, grain, [&, width = width, pitch = pitch](int64_t begin, int64_t end) {
    const Scratch<acc_t> scratch(std::max<int64_t>(1, kOperands * tile_elements));
    for (int64_t tile = begin; tile < end; ++tile) {
      const RowRange rows{tile * width, std::min(width, out.rows - tile * width)};
      acc_t* packed = scratch.data();
      std::array<acc_t*, kOperands> columns;
      size_t operand = 0;
      ((columns[operand++] = pack(in, rows.first, rows.count, pitch, packed),
        packed += tile_elements),
       ...);
      for (int64_t lane = 0; lane < rows.count; lane += kStep) {
        const RowRange vector{rows.first + lane, std::min(kStep, rows.count - lane)};
        const View<acc_t, acc_t> keep{columns[0] + lane, pitch};
        std::apply(
            [&](auto*... column) {
              policy(walk, vector, keep, keep, View<const acc_t, acc_t>{column + lane, pitch}...);
            },
            columns);
      }
      if (out.data != nullptr) {
        unpack(columns[0], out, rows.first, rows.count, pitch);
      }
    }
  });
}

// Rows of this many vectors or fewer are worked on across, even where they lie along: a row costs
// two reductions inside of a vector and a logarithm, which neighbouring rows then share.
inline constexpr int64_t kShortRow = 2;

/// Runs `policy` over every row of the operands, which agree in rows and classes. A policy without
/// an output passes `RowTensor<Out>` with null data.
template <typename acc_t, typename Policy, typename Out, typename... In>
void for_each_row(const Policy& policy, const RowTensor<Out>& out,
                  const RowTensor<const In>&... in) {
  const bool short_rows = out.classes <= kShortRow * kLanes<acc_t> && out.rows >= kLanes<acc_t> / 2;
  if (!short_rows && out.class_stride == 1 && ((in.class_stride == 1) && ...)) {
    along_rows<acc_t>(policy, out, in...);
  } else {
    across_rows<acc_t>(policy, out, in...);
  }
}

}  // namespace torchsoftmax::cpu
