#pragma once
// How a policy sees its operands (views) and a row (Walk). The loops over rows are in rows.h.

#include <array>
#include <cmath>
#include <limits>

#include "pack.h"

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
  /// The same in a policy's first pass over the operand.
  template <typename Lanes>
  Vec<acc_t> first(int64_t i, Lanes lanes) const {
    return load(i, lanes);
  }
  /// Of a mask: `values` where it is true, `otherwise` where it is not.
  template <typename Lanes>
  Vec<acc_t> select(int64_t i, Lanes lanes, const Vec<acc_t>& values, double otherwise) const {
    return cpu::select<acc_t>(data + i * step, lanes, values,
                              Vec<acc_t>(static_cast<acc_t>(otherwise)));
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

/// An output along a row, written past the caches where `streamed`: see rows.h.
template <typename scalar_t, typename acc_t>
struct OutputView : View<scalar_t, acc_t> {
  bool streamed;

  template <typename Lanes>
  void store(int64_t i, const Vec<acc_t>& value, Lanes lanes) const {
    scalar_t* target = this->data + i * this->step;
    if constexpr (std::is_same_v<Lanes, AllLanes<acc_t>>) {
      if (streamed) {
        stream<acc_t>(target, value);
        return;
      }
    }
    cpu::store<acc_t>(target, value, lanes);
  }
};

/// What a policy computes with across rows: kCount vectors of neighbouring rows.
template <typename acc_t, int kCount>
using Across = std::conditional_t<kCount == 1, Vec<acc_t>, Pack<acc_t, kCount>>;

/// `lanes` elements, as many as there are rows, that lie side by side.
template <typename acc_t, int kCount, typename scalar_t, typename Lanes>
Across<acc_t, kCount> load_across(const scalar_t* data, Lanes lanes) {
  if constexpr (kCount == 1) {
    return cpu::load<acc_t>(data, lanes);
  } else {
    return Pack<acc_t, kCount>::of([&](auto k) {
      return cpu::load<acc_t>(data + k * kLanes<acc_t>,
                              lanes_of_vector<acc_t, decltype(k)::value>(lanes));
    });
  }
}
template <typename acc_t, typename scalar_t, typename Lanes>
void store_across(scalar_t* data, const Vec<acc_t>& value, Lanes lanes) {
  cpu::store<acc_t>(data, value, lanes);
}
template <typename acc_t, typename scalar_t, typename Lanes, int kCount>
void store_across(scalar_t* data, const Pack<acc_t, kCount>& value, Lanes lanes) {
  unrolled<kCount>([&](auto k) {
    cpu::store<acc_t>(data + k * kLanes<acc_t>, value.vectors[k],
                      lanes_of_vector<acc_t, decltype(k)::value>(lanes));
  });
}

/// Values of rows across, in the accumulation type: packed, or in a tensor.
template <typename acc_t, int kCount>
struct Columns {
  using V = Across<acc_t, kCount>;

  acc_t* data;
  int64_t class_stride;

  template <typename Lanes>
  V load(int64_t i, Lanes lanes) const {
    return load_across<acc_t, kCount>(data + i * class_stride, lanes);
  }
  template <typename Lanes>
  void store(int64_t i, const V& value, Lanes lanes) const {
    store_across<acc_t>(data + i * class_stride, value, lanes);
  }
};

/// An operand across rows. Where neighbouring rows lie side by side, `tensor` is their place, and
/// `packs` tells whether the first pass leaves a packed copy there for the passes behind it;
/// otherwise the rows are packed beforehand. In packed memory the classes of a group of rows follow
/// each other.
template <typename scalar_t, typename acc_t, int kCount>
struct AcrossView {
  using V = Across<acc_t, kCount>;
  static constexpr int64_t kStep = kCount * kLanes<acc_t>;

  const scalar_t* tensor;  // null where packed beforehand
  int64_t class_stride;
  bool packs;
  Columns<acc_t, kCount> packed;

  template <typename Lanes>
  V load(int64_t i, Lanes lanes) const {
    return packs || tensor == nullptr ? packed.load(i, lanes) : from_tensor(i, lanes);
  }
  template <typename Lanes>
  V first(int64_t i, Lanes lanes) const {
    if (tensor == nullptr) {
      return packed.load(i, lanes);
    }
    const V value = from_tensor(i, lanes);
    // The classes of a row are far apart, so hardware foresees little of what comes next.
    unrolled<kCount>([&](auto k) {
      __builtin_prefetch(tensor + i * class_stride + 2 * kStep + k * kLanes<acc_t>);
    });
    if (packs) {
      packed.store(i, value, lanes);
    }
    return value;
  }
  /// Of a mask, which is always packed: see View.
  template <typename Lanes>
  V select(int64_t i, Lanes lanes, const V& values, double otherwise) const {
    return V::blendv(V(static_cast<acc_t>(otherwise)), values, packed.load(i, lanes) != V(0));
  }

 private:
  template <typename Lanes>
  V from_tensor(int64_t i, Lanes lanes) const {
    return load_across<acc_t, kCount>(tensor + i * class_stride, lanes);
  }
};

/// An output across rows: written to the tensor where rows lie side by side there, otherwise to
/// packed memory.
template <typename scalar_t, typename acc_t, int kCount>
struct AcrossOutput {
  using V = Across<acc_t, kCount>;
  static constexpr int64_t kStep = kCount * kLanes<acc_t>;

  scalar_t* tensor;  // null where it is unpacked afterwards
  int64_t class_stride;
  bool streamed;
  Columns<acc_t, kCount> packed;

  template <typename Lanes>
  void store(int64_t i, const V& value, Lanes lanes) const {
    if (tensor == nullptr) {
      packed.store(i, value, lanes);
      return;
    }
    if constexpr (kCount > 1 && std::is_same_v<Lanes, AllLanes<acc_t>>) {
      if (streamed) {
        unrolled<kCount>([&](auto k) {
          stream<acc_t>(tensor + i * class_stride + k * kLanes<acc_t>, value.vectors[k]);
        });
        return;
      }
    }
    store_across<acc_t>(tensor + i * class_stride, value, lanes);
  }
};

/// The rows that one call of a policy works on.
struct RowRange {
  int64_t first;
  int64_t count;
};

/// `Lanes`, across rows: all lanes of every vector, or as many lanes of all vectors together as
/// there are rows.
template <typename acc_t, LaneOrder kOrder, int kCount = 1, typename Lanes = AllLanes<acc_t>>
class Walk {
 public:
  using V = Across<acc_t, kCount>;
  static constexpr bool kAlong = kOrder == LaneOrder::kAlongRow;
  static constexpr int64_t kRows = kAlong ? 1 : kCount * kLanes<acc_t>;

  explicit Walk(int64_t classes, Lanes lanes = {})
      : whole_(kAlong ? classes / kLanes<acc_t> : classes),
        rest_(kAlong ? classes % kLanes<acc_t> : 0),
        lanes_(lanes) {}

  /// Calls step(i, lanes) for every vector of the row.
  template <typename Step>
  void for_each(Step&& step) const {
    for (int64_t i = 0; i < whole_; ++i) {
      step(i, lanes_);
    }
    if constexpr (kAlong) {
      if (rest_ != 0) {
        step(whole_, rest_);
      }
    }
  }

  /// The row's maximum of term(i, lanes), in every lane of that row.
  template <typename Term>
  V maximum(Term&& term) const {
    return std::get<0>(reduce(
        std::array<V, 1>{lowest()},
        [](auto, const V& a, const V& b) { return maximum_dropping_nan(a, b); },
        [&](int64_t i, auto lanes) { return std::array<V, 1>{term(i, lanes)}; }));
  }

  /// The row's sums of each of the kTerms vectors that terms(i, lanes) returns.
  template <size_t kTerms, typename Terms>
  std::array<V, kTerms> sums(Terms&& terms) const {
    std::array<V, kTerms> zeros;
    unrolled<kTerms>([&](auto k) { zeros[k] = V(0); });
    return reduce(
        zeros, [](auto, const V& a, const V& b) { return a + b; }, std::forward<Terms>(terms));
  }

  /// The maximum of the first of both vectors that terms(i, lanes) returns, the sum of the second.
  template <typename Terms>
  std::array<V, 2> maximum_and_sum(Terms&& terms) const {
    return reduce(
        std::array<V, 2>{lowest(), V(0)},
        [](auto k, const V& a, const V& b) {
          if constexpr (k == 0) {
            return maximum_dropping_nan(a, b);
          } else {
            return a + b;
          }
        },
        std::forward<Terms>(terms));
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
    std::array<acc_t, kCount * kLanes<acc_t>> values;
    statistic.store(values.data());
    return values[kAlong ? 0 : row];
  }

  /// Stores the kRows values of a statistic.
  void store_lanes(acc_t* values, const V& statistic) const {
    if constexpr (kAlong) {
      values[0] = lane(statistic, 0);
    } else {
      statistic.store(values);
    }
  }

  /// Stores a statistic of each row at the place of the row.
  void store_rows(acc_t* values, RowRange rows, const V& statistic) const {
    if constexpr (kAlong) {
      values[rows.first] = lane(statistic, 0);
    } else {
      store_across<acc_t>(values + rows.first, statistic, lanes_);
    }
  }

  /// The values of the rows, shaped like a statistic.
  V load_rows(const acc_t* values, RowRange rows) const {
    if constexpr (kAlong) {
      return V(values[rows.first]);
    } else {
      return load_across<acc_t, kCount>(values + rows.first, lanes_);
    }
  }

  /// One value per row of the range as a vector, shaped like a statistic: value(row, lane).
  template <typename Value>
  V per_row(RowRange rows, Value&& value) const {
    if constexpr (kAlong) {
      return V(value(rows.first, 0));
    } else {
      std::array<acc_t, kRows> values{};
      for (int64_t lane = 0; lane < rows.count; ++lane) {
        values[lane] = value(rows.first + lane, lane);
      }
      return V::loadu(values.data());
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
  scalar_t& at(const View<scalar_t, acc_t>& view, int64_t c, int64_t) const {
    return view.data[c];
  }
  template <typename scalar_t>
  acc_t at(const AcrossView<scalar_t, acc_t, kCount>& view, int64_t c, int64_t row) const {
    return view.tensor == nullptr ? view.packed.data[c * kRows + row]
                                  : static_cast<acc_t>(view.tensor[c * view.class_stride + row]);
  }
  /// Of an output that is not direct.
  template <typename scalar_t>
  acc_t& at(const AcrossOutput<scalar_t, acc_t, kCount>& view, int64_t c, int64_t row) const {
    return view.packed.data[c * kRows + row];
  }
  /// Sets one element, rounded.
  template <typename scalar_t>
  void put(const View<scalar_t, acc_t>& view, int64_t c, int64_t row, acc_t value) const {
    at(view, c, row) = static_cast<scalar_t>(value);
  }
  template <typename scalar_t>
  void put(const AcrossOutput<scalar_t, acc_t, kCount>& view, int64_t c, int64_t row,
           acc_t value) const {
    if (view.tensor == nullptr) {
      view.packed.data[c * kRows + row] = value;
    } else {
      view.tensor[c * view.class_stride + row] = static_cast<scalar_t>(value);
    }
  }

  /// A vector of a per-class constant, such as the class weights.
  template <typename SomeLanes>
  V per_class(const acc_t* values, int64_t i, SomeLanes lanes) const {
    if constexpr (kAlong) {
      return cpu::load<acc_t>(values + i * kLanes<acc_t>, lanes);
    } else {
      return V(values[i]);
    }
  }

 private:
  // Independent accumulators hide the latency of the operation (4 cycles) and, in sums, halve the
  // rounding error twice.
  static constexpr int64_t kUnroll = 4;

  static V lowest() { return V(-std::numeric_limits<acc_t>::infinity()); }

  template <size_t kTerms, typename Op, typename Terms>
  std::array<V, kTerms> reduce(const std::array<V, kTerms>& neutral, Op&& op, Terms&& terms) const {
    std::array<std::array<V, kTerms>, kUnroll> partial;
    unrolled<kUnroll>([&](auto u) { partial[u] = neutral; });
    const auto accumulate = [&](auto& into, const auto& from) {
      unrolled<kTerms>([&](auto k) { into[k] = op(k, from[k], into[k]); });
    };
    int64_t i = 0;
    for (; i + kUnroll <= whole_; i += kUnroll) {
      unrolled<kUnroll>([&](auto u) { accumulate(partial[u], terms(i + u, lanes_)); });
    }
    for (; i < whole_; ++i) {
      accumulate(partial[0], terms(i, lanes_));
    }
    if constexpr (kAlong) {
      if (rest_ != 0) {
        auto last = terms(whole_, rest_);
        unrolled<kTerms>([&](auto k) { last[k] = V::set(neutral[k], last[k], rest_); });
        accumulate(partial[0], last);
      }
    }
    accumulate(partial[0], partial[1]);
    accumulate(partial[2], partial[3]);
    accumulate(partial[0], partial[2]);
    if constexpr (kAlong) {
      unrolled<kTerms>([&](auto k) {
        const auto combine = [&](const V& a, const V& b) { return op(k, a, b); };
        partial[0][k] = V(at::vec::vec_reduce_all<acc_t>(combine, partial[0][k]));
      });
    }
    return partial[0];
  }

  int64_t whole_;  // vectors with all lanes in use
  int64_t rest_;   // lanes in use of one more vector, 0 where there is none
  Lanes lanes_;
};

}  // namespace torchsoftmax::cpu
