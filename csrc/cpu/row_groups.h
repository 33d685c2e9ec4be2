#pragma once
// Groups of short rows, along which a pipeline (pipeline.h) works: what is left of their reductions
// inside of vectors is done for all of a group at once, and so is what a policy makes of a maximum
// or a sum, in which each lane is a row.

#include "walk.h"

namespace torchsoftmax::cpu {

/// A vector of each of kRows rows, which together are reduced to one value of each row.
template <typename acc_t, int kRows>
class RowParts {
  static_assert(kRows <= kLanes<acc_t>);

 public:
  using V = Vec<acc_t>;

  void set(int64_t row, const V& part) { parts_[kRows == 1 ? 0 : row] = part; }

  /// In lane k that of row k; of one row in all lanes. In the order of Walk's own reductions.
  template <typename Op>
  auto reduced(const Op& op) const {
    if constexpr (kRows == 1) {
      return of_lanes(parts_[0], op);
    } else if constexpr (std::is_same_v<Op, PlusForLog>) {
      static_assert(kRows == kLanes<acc_t>);
      std::array<double, kRows> sums;
      unrolled<kRows>([&](auto row) { sums[row] = of_lanes(parts_[row], op).number(); });
      return RoundedSum<acc_t>(sums);
    } else {
      return pairwise_of_all(op);
    }
  }

 private:
  template <typename Op>
  V pairwise_of_all(const Op& op) const {
    V result = pairwise<0, kRows>(op);
    for (int64_t rows = kRows; rows < kLanes<acc_t>; rows *= 2) {
      result = of_neighbours<acc_t>(result, result, op);
    }
    return result;
  }

  template <int kFirst, int kCount, typename Op>
  V pairwise(const Op& op) const {
    if constexpr (kCount == 1) {
      return parts_[kFirst];
    } else {
      constexpr int kHalf = kCount / 2;
      return of_neighbours<acc_t>(pairwise<kFirst, kHalf>(op), pairwise<kFirst + kHalf, kHalf>(op),
                                  op);
    }
  }

  std::array<V, kRows> parts_{};
};

/// What a policy knows of kRows rows: a vector, or a struct with `each`. Of a group, lanes are
/// rows.
template <typename State, typename acc_t, int kRows>
class RowStates {
 public:
  using V = Vec<acc_t>;

  explicit RowStates(const State& states) { set(states); }

  void set(const State& states) {
    states_ = states;
    if constexpr (kRows > 1) {
      acc_t* to = lanes_.data();
      mapped(states, [&](const V& member) {
        member.store(std::exchange(to, to + kLanes<acc_t>));
        return member;
      });
    }
  }
  const State& all() const { return states_; }
  /// Of one row, in all lanes.
  decltype(auto) of(int64_t row) const {
    if constexpr (kRows == 1) {
      return (states_);
    } else {
      const acc_t* from = lanes_.data() + row;
      return mapped(states_,
                    [&](const V&) { return V(*std::exchange(from, from + kLanes<acc_t>)); });
    }
  }

 private:
  static constexpr size_t kMembers = sizeof(State) / sizeof(V);

  template <typename Map>
  static State mapped(const State& state, Map&& map) {
    if constexpr (std::is_same_v<State, V>) {
      return map(state);
    } else {
      return state.each(map);
    }
  }

  State states_;
  alignas(64) std::array<acc_t, kMembers * kLanes<acc_t>> lanes_;
};

/// A walk over kRows rows, as far as a policy needs one for their sums: those of single rows and of
/// groups have the same logarithm.
template <typename acc_t, int kRows>
struct GroupWalk {
  template <typename Sums>
  Vec<acc_t> log(const Sums& sums) const {
    return log_of_rows<kRows>(sums);
  }
};

}  // namespace torchsoftmax::cpu
