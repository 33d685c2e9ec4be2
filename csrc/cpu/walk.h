#pragma once
// How a policy goes over a row, or over neighbouring rows. The loops over rows are in rows.h.

#include <array>
#include <cmath>
#include <limits>

#include "../policies/device.h"
#include "reduction.h"
#include "unfinished.h"
#include "views.h"

namespace torchsoftmax::cpu {

// A function with everything inlined, but for sanitizers, whose checks would then take minutes to
// compile.
#if defined(__SANITIZE_ADDRESS__)
#define TORCHSOFTMAX_FLATTEN
#else
#define TORCHSOFTMAX_FLATTEN [[gnu::flatten]]
#endif

enum class LaneOrder { kAlongRow, kAcrossRows };

/// What a pass over a row does beside its own: of several vectors, it calls read(i, lanes), then
/// write(i, lanes, count) once, and then takes their terms, with what was read.
///
/// So nothing is read between what is written. A load behind a store waits for it where the last 12
/// bits of their addresses agree, as those in large tensors often do: read and written one by one,
/// a row in the caches takes up to 1.5 times as long, depending on where its memory is.
template <typename Read, typename Write>
struct Beside {
  Read read;
  Write write;
};

struct Nothing {};
inline constexpr auto kWritesNothing = [](int64_t, auto, auto) {};
inline constexpr Beside kNothingBeside{[](int64_t, auto) { return Nothing(); }, kWritesNothing};

/// `Lanes`, across rows: as many lanes of one vector as there are rows, or Overlapping.
template <typename acc_t, LaneOrder kOrder, int kCount = 1, typename Lanes = AllLanes<acc_t>>
class Walk {
 public:
  using V = Across<acc_t, kCount>;
  static constexpr bool kAlong = kOrder == LaneOrder::kAlongRow;
  static constexpr int64_t kRows = kAlong ? 1 : kCount * kLanes<acc_t>;

  /// Whether lanes have to take the same way through a policy.
  static constexpr bool kTogether = false;
  /// Whether it has merged_sum.
  static constexpr bool kMerges = false;
  /// Whether it has `defer`, and of which sums.
  static constexpr bool kDefers = kAlong;
  using DeferredSum = RoundedSum<acc_t>;
  /// Whether an output holds values as they are computed.
  template <typename Out>
  static constexpr bool kExact = std::is_same_v<typename Out::element, acc_t>;

  /// `lead`: the lanes in use of the first vector of for_each, where they are not all.
  explicit Walk(int64_t classes, Lanes lanes = {}, int64_t lead = 0)
      : classes_(classes), lanes_(lanes), lead_(std::min(lead, classes)) {}
  /// `unfinished`: the rows before, of which something is left to do, and this is the `last` one
  /// with which it is done at once.
  Walk(int64_t classes, int64_t lead, UnfinishedRows<acc_t>* unfinished, bool last)
    requires(kAlong)
      : Walk(classes, Lanes(), lead) {
    unfinished_ = unfinished;
    last_ = last;
  }

  /// Calls step(i, lanes) for every vector of the row; `i` is the vector's first class.
  template <typename Step>
  void for_each(Step&& step) const {
    if constexpr (kAlong) {
      in_vectors<1>([&](int64_t i, auto lanes, auto) { step(i, lanes); });
    } else {
      for (int64_t i = 0; i < classes_; ++i) {
        step(i, lanes_);
      }
    }
  }

  /// Stores value(i, lanes) to every vector of the output.
  template <typename Out, typename Value>
  void write(const Out& out, const Value& value) const {
    if constexpr (kAlong) {
      in_vectors<kUnroll>(writing(out, value));
    } else {
      for_each([&](int64_t i, auto lanes) { out.store(i, value(i, lanes), lanes); });
    }
  }

  /// The same for some vectors of a row, beside a pass over another.
  template <typename Out, typename Value>
  static auto writing(const Out& out, const Value& value) {
    return [&](int64_t i, auto lanes, auto count) {
      std::array<V, count()> values;
      unrolled<count()>([&](auto k) { values[k] = value(i + k * kStep, lanes); });
      unrolled<count()>([&](auto k) { out.store(i + k * kStep, values[k], lanes); });
    };
  }

  /// The row's maximum of term(i, lanes), in every lane of that row.
  template <typename Term>
  V maximum(Term&& term) const {
    return maximum(kNothingBeside, [&](int64_t i, auto lanes, Nothing) { return term(i, lanes); });
  }
  template <typename Read, typename Write, typename Term>
  V maximum(const Beside<Read, Write>& beside, Term&& term) const {
    constexpr std::array<Larger, 1> kOps{};
    return std::get<0>(reduce(kOps, beside, [&](int64_t i, auto lanes, const auto& read) {
      return std::array<V, 1>{term(i, lanes, read)};
    }));
  }

  /// The row's sums of each of the kTerms vectors that terms(i, lanes) returns.
  template <size_t kTerms, SumFor kFor = SumFor::kItself, typename Terms>
  auto sums(Terms&& terms) const {
    constexpr std::array<SumOf<acc_t, kFor>, kTerms> kOps{};
    return reduce(kOps, kNothingBeside,
                  [&](int64_t i, auto lanes, Nothing) { return terms(i, lanes); });
  }

  /// The maximum of the first of both vectors that terms(i, lanes, read) returns, the sum of the
  /// second, still in parts: of each lane for itself.
  template <SumFor kFor, typename Read, typename Write, typename Terms>
  std::array<V, 2> parts_of_maximum_and_sum(const Beside<Read, Write>& beside,
                                            Terms&& terms) const {
    constexpr std::tuple<Larger, SumOf<acc_t, kFor>> kOps{};
    return reduce_lanes(kOps, beside, terms);
  }

  template <SumFor kFor = SumFor::kItself, typename Term>
  auto sum(Term&& term) const {
    return std::get<0>(
        sums<1, kFor>([&](int64_t i, auto lanes) { return std::array<V, 1>{term(i, lanes)}; }));
  }

  /// log of a sum of the row.
  V log(const RoundedSum<acc_t>& sum) const
    requires(kCount == 1)
  {
    return log_of_rows<kRows>(sum);
  }
  V log(const V& sum) const
    requires(!kAlong)
  {
    return sum.log();
  }

  /// Calls end(walk, rows, sums, values...), sooner or later: for several rows with what was given
  /// of each, which is then in its lane of a walk across rows.
  template <typename End, typename... Values>
  void defer(RowRange rows, const DeferredSum& sum, const End& end, const Values&... values) const
    requires(kAlong)
  {
    unfinished_->add(sum, values...);
    if (last_ || unfinished_->full()) {
      end_deferred<sizeof...(values)>(rows.first, end);
    }
  }

  /// A statistic of one row of the range.
  acc_t lane(const V& statistic, int64_t row) const {
    std::array<acc_t, kCount * kLanes<acc_t>> values;
    store_across<acc_t>(values.data(), statistic, lanes_);
    return values[kAlong ? 0 : row];
  }

  /// Stores a statistic of each row of the range.
  void store_lanes(acc_t* values, const V& statistic) const {
    if constexpr (kAlong) {
      values[0] = lane(statistic, 0);
    } else {
      store_across<acc_t>(values, statistic, lanes_);
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

  void put_rows(acc_t* values, RowRange rows, const V& statistic) const {
    store_rows(values, rows, statistic);
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
      return load_across<acc_t, kCount>(values.data(), lanes_);
    }
  }

  // One thread works on all rows of the range.
  bool any(bool condition) const { return condition; }
  bool leads() const { return true; }
  template <typename Run>
  void by_one(int64_t, Run&& run) const {
    run();
  }
  template <typename Do>
  void share(int64_t begin, int64_t end, Do&& run) const {
    for (int64_t k = begin; k < end; ++k) {
      run(k);
    }
  }

  /// The first class with that value, or `classes`.
  template <typename In>
  int64_t first_equal(const In& view, int64_t classes, int64_t row, acc_t value) const {
    int64_t c = 0;
    if constexpr (kAlong) {
      c = view.first_vector_with(value, classes);
    }
    while (c < classes && static_cast<acc_t>(at(view, c, row)) != value) {
      ++c;
    }
    return c;
  }
  template <typename In>
  int64_t first_nan(const In& view, int64_t classes, int64_t row) const {
    int64_t c = 0;
    while (c < classes && !std::isnan(static_cast<acc_t>(at(view, c, row)))) {
      ++c;
    }
    return c;
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
  template <typename scalar_t, Fetching kFetching>
  scalar_t& at(const View<scalar_t, acc_t, kFetching>& view, int64_t c, int64_t) const {
    return view.data[c];
  }
  template <typename scalar_t>
  acc_t at(const AcrossView<scalar_t, acc_t, kCount>& view, int64_t c, int64_t row) const {
    return view.tensor == nullptr ? view.packed.data[c * kRows + row]
                                  : static_cast<acc_t>(view.tensor[c * view.class_stride + row]);
  }
  template <typename In>
  acc_t own(const In& view, int64_t c, int64_t row) const {
    return static_cast<acc_t>(at(view, c, row));
  }
  /// One of each row, 0 where `classes` is less than 0. Not inlined: it is a loop over rows amid
  /// all that is computed with vectors, for which no registers would be left.
  template <typename In>
  [[gnu::noinline]] V elements(const In& view, const std::array<int64_t, kRows>& classes,
                               int64_t rows) const
    requires(!kAlong)
  {
    alignas(64) std::array<acc_t, kRows> values{};
    for (int64_t row = 0; row < rows; ++row) {
      values[row] = classes[row] < 0 ? acc_t(0) : own(view, classes[row], row);
    }
    return load_across<acc_t, kCount>(values.data(), lanes_);
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

  /// Of an output that is kExact.
  template <typename Out>
  void add_to(const Out& view, int64_t c, int64_t row, acc_t value) const {
    at(view, c, row) += value;
  }

  /// A vector of a per-class constant, such as the class weights.
  template <typename SomeLanes>
  V per_class(const acc_t* values, int64_t i, SomeLanes lanes) const {
    if constexpr (kAlong) {
      return cpu::load<acc_t>(values + i, lanes);
    } else {
      return V(values[i]);
    }
  }

 private:
  static constexpr int64_t kStep = kAlong ? kLanes<acc_t> : 1;  // classes of a vector
  // Independent accumulators hide the latency of the operation (4 cycles) and, in sums, halve the
  // rounding error twice.
  static constexpr int64_t kUnroll = 4;

  /// Along a row, calls step(i, lanes, count) for all of it: for `count` whole vectors, kMany or 1,
  /// or for a part of one.
  template <int kMany, typename Step>
  void in_vectors(Step&& step) const {
    constexpr std::integral_constant<int, kMany> kAll;
    constexpr std::integral_constant<int, 1> kOne;
    const auto whole = [&](int64_t i) {
      if constexpr (kMany > 1) {
        for (; i + kMany * kStep <= classes_; i += kMany * kStep) {
          step(i, lanes_, kAll);
        }
      }
      for (; i + kStep <= classes_; i += kStep) {
        step(i, lanes_, kOne);
      }
      return i;
    };
    int64_t i = 0;
    for (const int64_t some : {lead_, (classes_ - lead_) % kStep}) {
      if (some != 0) {
        step(i, some, kOne);
      }
      i = whole(i + some);
    }
  }

  template <typename Ops, typename Read, typename Write, typename Terms>
  auto reduce(const Ops& ops, const Beside<Read, Write>& beside, Terms&& terms) const {
    const auto parts = reduce_lanes_inlined(ops, beside, terms);
    if constexpr (kAlong) {
      std::array<decltype(of_lanes(parts[0], std::get<0>(ops))), parts.size()> result;
      unrolled<parts.size()>([&](auto k) { result[k] = of_lanes(parts[k], std::get<k>(ops)); });
      return result;
    } else {
      return parts;
    }
  }

  /// Each lane for itself.
  template <typename Ops, typename Read, typename Write, typename Terms>
  auto reduce_lanes(const Ops& ops, const Beside<Read, Write>& beside, Terms&& terms) const {
    return reduce_lanes_inlined(ops, beside, terms);
  }

  template <size_t kValues, typename End>
  [[gnu::noinline]] void end_deferred(int64_t last_row, const End& end) const {
    const int64_t count = unfinished_->count();
    const Walk<acc_t, LaneOrder::kAcrossRows, 1, int64_t> across(classes_, count);
    std::apply(
        [&](const auto&... values) {
          end(across, RowRange{last_row + 1 - count, count}, unfinished_->sums(), values...);
        },
        unfinished_->template values<kValues>());
    unfinished_->clear();
  }

  template <size_t k, typename Ops, typename Partial>
  [[gnu::always_inline]] static V of_four(const Ops& ops, const Partial& partial) {
    const auto& op = std::get<k>(ops);
    constexpr bool kLanesInDouble = kAlong && std::is_same_v<acc_t, float>;
    if constexpr (std::is_same_v<std::decay_t<decltype(op)>, PlusForLog> && !kLanesInDouble) {
      return of_vectors(
          [](const auto& a, const auto& b, const auto& c, const auto& d) {
            using Parts = TwoParts<std::decay_t<decltype(a)>>;
            return (Parts::sum(a, b) + Parts::sum(c, d)).rounded();
          },
          partial[3][k], partial[2][k], partial[1][k], partial[0][k]);
    } else {
      return op(op(partial[3][k], partial[2][k]), op(partial[1][k], partial[0][k]));
    }
  }

  // Where GCC decides, it leaves this out of softmax across rows, which then takes 1.3 times as
  // long; inlined that early into the pipeline, rows of 128 classes take 1.15 times as long.
  template <typename Ops, typename Read, typename Write, typename Terms>
  [[gnu::always_inline]] auto reduce_lanes_inlined(const Ops& ops,
                                                   const Beside<Read, Write>& beside,
                                                   Terms&& terms) const {
    constexpr size_t kTerms = std::tuple_size_v<Ops>;
    constexpr int64_t kRun =
        std::apply([](const auto&... op) { return std::max({op.kRun...}); }, Ops());
    std::array<V, kTerms> neutral;
    unrolled<kTerms>([&](auto k) { neutral[k] = std::get<k>(ops).template neutral<V>(); });
    std::array<std::array<V, kTerms>, kUnroll> partial;
    unrolled<kUnroll>([&](auto u) { partial[u] = neutral; });
    std::array<InPairs<V>, kTerms> chunks;
    const auto accumulate = [&](auto& into, const auto& from) {
      unrolled<kTerms>([&](auto k) { into[k] = std::get<k>(ops)(from[k], into[k]); });
    };
    const auto terms_of_one = [&](int64_t i, auto lanes) {
      const auto read = beside.read(i, lanes);
      beside.write(i, lanes, std::integral_constant<int, 1>());
      return terms(i, lanes, read);
    };
    const auto take_four = [&](int64_t i) __attribute__((always_inline)) {
      if constexpr (kAlong) {
        std::array<decltype(beside.read(i, lanes_)), kUnroll> read;
        unrolled<kUnroll>([&](auto u) { read[u] = beside.read(i + u * kStep, lanes_); });
        beside.write(i, lanes_, std::integral_constant<int, kUnroll>());
        unrolled<kUnroll>(
            [&](auto u) { accumulate(partial[u], terms(i + u * kStep, lanes_, read[u])); });
      } else {  // nothing beside; GCC makes slower code of it otherwise
        unrolled<kUnroll>(
            [&](auto u) { accumulate(partial[u], terms(i + u * kStep, lanes_, Nothing())); });
      }
    };
    constexpr int64_t kFour = kUnroll * kStep;
    int64_t i = 0;
    if constexpr (kRun == 0) {
      for (; i + kFour <= classes_; i += kFour) {
        take_four(i);
      }
    } else {
      for (int64_t end = 0; end < classes_;) {
        if (end > 0) {
          unrolled<kTerms>([&](auto k) {
            if constexpr (std::tuple_element_t<k, Ops>::kRun > 0) {
              chunks[k].add(of_four<k>(ops, partial), std::get<k>(ops));
              unrolled<kUnroll>([&](auto u) { partial[u][k] = neutral[k]; });
            }
          });
        }
        end = std::min(classes_, i + kRun * kFour);
        for (; i + kFour <= end; i += kFour) {
          take_four(i);
        }
      }
    }
    for (; i + kStep <= classes_; i += kStep) {
      accumulate(partial[0], terms_of_one(i, lanes_));
    }
    if constexpr (kAlong) {
      if (i < classes_) {
        const int64_t rest = classes_ - i;
        auto last = terms_of_one(i, rest);
        unrolled<kTerms>([&](auto k) { last[k] = V::set(neutral[k], last[k], rest); });
        accumulate(partial[0], last);
      }
    }
    std::array<V, kTerms> result;
    unrolled<kTerms>(
        [&](auto k) { result[k] = chunks[k].all(of_four<k>(ops, partial), std::get<k>(ops)); });
    return result;
  }

  int64_t classes_;
  Lanes lanes_;
  int64_t lead_;
  UnfinishedRows<acc_t>* unfinished_ = nullptr;
  bool last_ = false;
};

}  // namespace torchsoftmax::cpu
