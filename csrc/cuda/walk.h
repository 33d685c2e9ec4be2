#pragma once
// How a policy goes over a row on CUDA: each thread of a group takes some of its classes. A row is
// read from memory in every pass (memory_walk.h), or stays on the chip, in the registers of its
// threads (register_walk.h).

#include <algorithm>
#include <limits>

#include "../policies/device.h"
#include "group.h"

namespace torchsoftmax::cuda {

/// What is the same for rows in memory and in registers.
template <typename Walk, typename OfLane, typename Group>
class WalkBase {
 public:
  using V = OfLane;
  using acc_t = typename V::value_type;
  static constexpr bool kAlong = Group::kAlong;
  static constexpr int64_t kRows = 1;
  static constexpr bool kTogether = true;
  static constexpr bool kMerges = true;
  static constexpr bool kDefers = false;
  template <typename Out>
  static constexpr bool kExact = std::is_same_v<typename Out::element, acc_t>;

  __device__ WalkBase(const Group& group, int64_t classes, bool active)
      : group_(group), classes_(active ? classes : 0), active_(active) {}

  __device__ V log(const V& statistic) const { return statistic.log(); }
  __device__ acc_t lane(const V& statistic, int64_t) const { return statistic.number; }
  __device__ void store_lanes(acc_t* values, const V& statistic) const {
    values[0] = statistic.number;
  }
  __device__ void store_rows(acc_t* values, RowRange rows, const V& statistic) const {
    if (leads()) {
      put_rows(values, rows, statistic);
    }
  }
  /// By the thread that calls.
  __device__ void put_rows(acc_t* values, RowRange rows, const V& statistic) const {
    values[rows.first] = statistic.number;
  }
  __device__ V load_rows(const acc_t* values, RowRange rows) const { return values[rows.first]; }
  template <typename Value>
  __device__ __forceinline__ V per_row(RowRange rows, Value&& value) const {
    return active_ ? static_cast<acc_t>(value(rows.first, 0)) : acc_t(0);
  }

  __device__ bool any(bool condition) const { return group_.any(condition); }
  __device__ bool any_nan(const V& statistic, RowRange) const {
    return any(std::isnan(statistic.number));
  }
  /// run() in one thread of the row: that which works on class `of`, where there is one.
  template <typename Run>
  __device__ __forceinline__ void by_one(int64_t of, Run&& run) const {
    if (of < 0 ? leads() : self().owns(of)) {
      run();
    }
  }
  __device__ bool leads() const { return active_ && group_.rank() == 0; }
  template <typename Do>
  __device__ __forceinline__ void share(int64_t begin, int64_t end, Do&& run) const {
    for (int64_t k = begin + group_.rank(); active_ && k < end; k += group_.size()) {
      run(k);
    }
  }

  /// One element: class `c` of the row.
  template <typename View>
  __device__ auto& at(const View& view, int64_t c, int64_t) const {
    return view.data[c * view.class_stride];
  }
  /// The same for the thread that writes it; 0 for the others.
  template <typename View>
  __device__ acc_t own(const View& view, int64_t c, int64_t row) const {
    return self().owns(c) ? static_cast<acc_t>(at(view, c, row)) : acc_t(0);
  }
  /// By the thread that wrote it.
  template <typename View>
  __device__ void put(const View& view, int64_t c, int64_t row, acc_t value) const {
    if (self().owns(c)) {
      at(view, c, row) = static_cast<typename View::element>(value);
    }
  }
  template <typename View>
  __device__ void add_to(const View& view, int64_t c, int64_t row, acc_t value) const {
    if (self().owns(c)) {
      at(view, c, row) += value;
    }
  }

  template <typename View>
  __device__ int64_t first_equal(const View& view, int64_t classes, int64_t row,
                                 acc_t value) const {
    return first_of(view, classes, row, [=](acc_t x) { return x == value; });
  }
  template <typename View>
  __device__ int64_t first_nan(const View& view, int64_t classes, int64_t row) const {
    return first_of(view, classes, row, [](acc_t x) { return std::isnan(x); });
  }

 protected:
  __device__ const Walk& self() const { return static_cast<const Walk&>(*this); }

  /// The first class for which `found` is true, or `classes`.
  template <typename View, typename Found>
  __device__ int64_t first_of(const View& view, int64_t classes, int64_t row,
                              const Found& found) const {
    const int64_t none = classes;
    std::array<int64_t, 1> first{none};
    for (int64_t c = group_.rank(); c < classes_; c += group_.size()) {
      if (found(static_cast<acc_t>(at(view, c, row)))) {
        first[0] = c;
        break;
      }
    }
    group_.reduce(first, &none, [](size_t, int64_t a, int64_t b) { return a < b ? a : b; });
    return first[0];
  }

  const Group& group_;
  const int64_t classes_;
  const bool active_;
};

/// The reductions of a walk whose for_each_part(run) calls run(part) for some of a thread's
/// elements after the other: part.for_each(step) calls step(i, place) for each, numbered in its
/// part.
template <typename Walk, typename V, typename Group>
class Reductions : public WalkBase<Walk, V, Group> {
  using Base = WalkBase<Walk, V, Group>;

 public:
  using acc_t = typename V::value_type;
  using Base::Base;

  template <typename Step>
  __device__ __forceinline__ void for_each(Step&& step) const {
    this->self().for_each_part([&](const auto& part) { part.for_each(step); });
  }
  /// Stores value(i, place) to every element of the output.
  template <typename Out, typename Value>
  __device__ __forceinline__ void write(const Out& out, Value&& value) const {
    for_each([&](int64_t i, auto place) { out.store(i, value(i, place), place); });
  }

  /// The row's maximum of term(i, place), in every thread.
  template <typename Term>
  __device__ __forceinline__ V maximum(Term&& term) const {
    const acc_t lowest = kLowest;
    std::array<acc_t, 1> max{lowest};
    this->self().for_each_part(
        [&](const auto& part) { max[0] = std::fmax(max[0], largest_of(term, part)); });
    this->group_.reduce(max, &lowest, larger);
    return max[0];
  }

  /// The row's sums of each of the kTerms values that terms(i, place) returns.
  template <size_t kTerms, SumFor = SumFor::kItself, typename Terms>
  __device__ __forceinline__ std::array<V, kTerms> sums(Terms&& terms) const {
    // Several sums round less than one: side by side, which also hides the latency of the
    // addition, and one after the other.
    acc_t partial[kPartial][kTerms] = {};
    std::array<acc_t, kTerms> total{}, zeros{};
    const auto add_partial = [&] {
#pragma unroll
      for (size_t k = 0; k < kTerms; ++k) {
        total[k] += (partial[0][k] + partial[1][k]) + (partial[2][k] + partial[3][k]);
        partial[0][k] = partial[1][k] = partial[2][k] = partial[3][k] = 0;
      }
    };
    int count = 0;
    this->self().for_each_part([&](const auto& part) {
      part.for_each([&](int64_t i, auto place) {
        const std::array<V, kTerms> more = terms(i, place);
#pragma unroll
        for (size_t k = 0; k < kTerms; ++k) {
          partial[i % kPartial][k] += more[k].number;
        }
      });
      if (!Walk::kOnePart && ++count % kRun == 0) {
        add_partial();
      }
    });
    add_partial();
    this->group_.reduce(total, zeros.data(), plus);
    std::array<V, kTerms> result;
#pragma unroll
    for (size_t k = 0; k < kTerms; ++k) {
      result[k] = total[k];
    }
    return result;
  }
  /// See MaximumAndSum. Each thread takes its terms less the largest that it has met, and they are
  /// put together in one reduction instead of two. A sum less an infinite maximum is nan, so this
  /// is not for logits with a softcap.
  template <typename Largest, typename RowOf, typename Term>
  __device__ __forceinline__ auto merged_sum(Largest&& largest, RowOf&& row_of, Term&& term) const {
    if constexpr (!Group::kAlong) {
      const V max = maximum(largest);
      const auto row = row_of(max);
      const V total = sum([&](int64_t i, auto place) { return term(row, i, place); });
      return MaximumAndSum<V, std::decay_t<decltype(row)>>{max, row, total, max};
    } else {
      std::array<acc_t, 2> found = of_warp(largest, row_of, term);
      const V own(found[0]);
      if constexpr (!Group::kOneWarp) {
        found = of_all(row_of, this->group_.gather(found));
      }
      const V max(found[0]);
      const auto row = row_of(max);
      return MaximumAndSum<V, std::decay_t<decltype(row)>>{max, row, V(found[1]) + (max - max),
                                                           own};
    }
  }

  template <SumFor = SumFor::kItself, typename Term>
  __device__ __forceinline__ V sum(Term&& term) const {
    return sums<1>([&](int64_t i, auto place) { return std::array<V, 1>{term(i, place)}; })[0];
  }

 private:
  static constexpr int kPartial = 4;
  static constexpr int kRun = 32;
  static constexpr acc_t kLowest = -std::numeric_limits<acc_t>::infinity();

  static __device__ acc_t larger(size_t, acc_t a, acc_t b) { return std::fmax(a, b); }
  static __device__ acc_t plus(size_t, acc_t a, acc_t b) { return a + b; }

  template <typename Term, typename Part>
  static __device__ __forceinline__ acc_t largest_of(const Term& term, const Part& part) {
    acc_t largest = kLowest;
    part.for_each(
        [&](int64_t i, auto place) { largest = std::fmax(largest, term(i, place).number); });
    return largest;
  }
  template <typename View, typename Part>
  static __device__ __forceinline__ acc_t largest_of(const Elements<View>& term, const Part& part) {
    return static_cast<acc_t>(term.view.largest_of(part));
  }

  /// Where nothing takes part, any finite number will do: the terms are 0.
  template <typename RowOf>
  static __device__ __forceinline__ auto finite_row(const RowOf& row_of, acc_t max) {
    return row_of(V(max == kLowest ? acc_t(0) : max));
  }
  /// A sum of terms less the maximum `of`, as terms of `row`; it stays nan where it is.
  template <typename Row>
  static __device__ __forceinline__ acc_t as_of(const Row& row, acc_t sum, acc_t of) {
    return sum * (of == kLowest ? acc_t(0) : row.rescaling(V(of)).number);
  }

  /// The maximum of a warp, and its sum of terms less that.
  template <typename Largest, typename RowOf, typename Term>
  __device__ __forceinline__ std::array<acc_t, 2> of_warp(const Largest& largest,
                                                          const RowOf& row_of,
                                                          const Term& term) const {
    std::array<acc_t, 1> max{kLowest}, sum{0};
    const auto add = [&](const auto& row, const auto& part) {
      acc_t partial[kPartial] = {};
      part.for_each(
          [&](int64_t i, auto place) { partial[i % kPartial] += term(row, i, place).number; });
      sum[0] += (partial[0] + partial[1]) + (partial[2] + partial[3]);
    };
    if constexpr (Walk::kOnePart) {
      this->self().for_each_part(
          [&](const auto& part) { max[0] = std::fmax(max[0], largest_of(largest, part)); });
      reduce_warp(max, larger);
      this->self().for_each_part([&](const auto& part) { add(finite_row(row_of, max[0]), part); });
    } else {
      this->self().for_each_part([&](const auto& part) {
        const acc_t now = std::fmax(max[0], largest_of(largest, part));
        const auto row = finite_row(row_of, now);
        sum[0] = as_of(row, sum[0], max[0]);
        max[0] = now;
        add(row, part);
      });
      const acc_t own = max[0];
      reduce_warp(max, larger);
      sum[0] = as_of(finite_row(row_of, max[0]), sum[0], own);
    }
    reduce_warp(sum, plus);
    return {max[0], sum[0]};
  }
  /// The same of all warps, from a table of theirs.
  template <typename RowOf, typename Table>
  static __device__ __forceinline__ std::array<acc_t, 2> of_all(const RowOf& row_of,
                                                                const Table& table) {
    std::array<acc_t, 1> max{kLowest}, sum{0};
    table.for_each([&](int warp) { max[0] = std::fmax(max[0], table.at(0, warp)); });
    reduce_warp(max, larger);
    const auto row = finite_row(row_of, max[0]);
    table.for_each([&](int warp) { sum[0] += as_of(row, table.at(1, warp), table.at(0, warp)); });
    reduce_warp(sum, plus);
    return {max[0], sum[0]};
  }
};

}  // namespace torchsoftmax::cuda
