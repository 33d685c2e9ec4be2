#pragma once
// A policy of one sum, taken apart so that cpu/sums.h can sum up one row and write another.
// `Stages` has
//   term(i, lanes, operands...)        the vector that is summed up
//   value(sum, i, lanes, operands...)  the output

#include "device.h"

namespace torchsoftmax::TORCHSOFTMAX_DEVICE {

template <typename Stages>
struct Summed : Policy, Stages {
  static constexpr bool kDirect = true;
  static constexpr bool kOften = true;
  static constexpr bool kSummed = true;

  explicit Summed(const Stages& stages) : Stages(stages) {}

  template <typename Walk, typename Keep, typename Out, typename... In>
  TORCHSOFTMAX_FN void operator()(const Walk& walk, RowRange, const Keep&, const Out& out,
                                  const In&... operands) const {
    const Stages stages(*this);  // which no store can change, so it stays in registers
    const auto sum =
        walk.sum([&](int64_t i, auto lanes) { return stages.term(i, lanes, operands...); });
    walk.write(out,
               [&](int64_t i, auto lanes) { return stages.value(sum, i, lanes, operands...); });
  }
};

}  // namespace torchsoftmax::TORCHSOFTMAX_DEVICE
