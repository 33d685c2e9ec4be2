#pragma once
// A policy in stages: what a softmax and its kin do with a row, taken apart so that rows.h can also
// work on several rows at once. `Stages` has
//   largest(i, lanes, input, mask...)        the vector that the row's maximum is taken of
//   row_of(max)                              what is known of the row with its maximum
//   add(row, i, lanes, keep, input, mask...) the vector that is summed up; it may be kept
//   result_of(walk, row, sum, keep)          what is known with the sum
//   value(result, i, lanes, keep, input, mask...)  the output
//   kKeeps and kOften; kSumFor, where kRatio: terms may all be off by a factor;
//   kNothing: the output where an entry takes no part.
// Where there is no room to keep anything, `keep` is NoRoom; where there is, what is kept is terms,
// and the result is what they are to be multiplied with.

#include "masked.h"

namespace torchsoftmax::TORCHSOFTMAX_DEVICE {

template <typename Stages>
struct Staged : Policy, Stages {
  static constexpr bool kKeeps = Stages::kKeeps;
  static constexpr bool kDirect = true;
  static constexpr bool kOften = Stages::kOften;
  static constexpr SumFor kSumFor = Stages::kSumFor;
  static constexpr bool kStaged = true;

  explicit Staged(const Stages& stages) : Stages(stages) {}

  template <typename Walk, typename Keep, typename Out, typename In, typename... Mask>
  TORCHSOFTMAX_FN void operator()(const Walk& walk, RowRange rows, const Keep& keep, const Out& out,
                                  const In& input, const Mask&... mask) const {
    const auto largest = [&](int64_t i, auto lanes) {
      return this->largest(i, lanes, input, mask...);
    };
    if constexpr (Walk::kMerges) {
      const auto merged = [&](const auto& terms) {
        const auto found = walk.merged_sum(
            terms, [&](const auto& max) { return this->row_of(max); },
            [&](const auto& row, int64_t i, auto lanes) {
              return this->add(row, i, lanes, keep, input, mask...);
            });
        auto result = this->result_of(walk, found.row, found.sum, keep);
        if constexpr (kHasRoom<Keep>) {  // what is kept is less another maximum than the row's
          result = result * found.row.rescaling(found.own);
        }
        write(walk, rows, keep, out, found.sum, result, input, mask...);
      };
      if constexpr (sizeof...(Mask) == 0) {
        merged(Elements<In>{input});
      } else {
        merged(largest);
      }
    } else {
      const auto row = this->row_of(walk.maximum(largest));
      const auto sum = walk.template sum<kSumFor>(
          [&](int64_t i, auto lanes) { return this->add(row, i, lanes, keep, input, mask...); });
      write(walk, rows, keep, out, sum, this->result_of(walk, row, sum, keep), input, mask...);
    }
  }

 private:
  template <typename Walk, typename Keep, typename Out, typename V, typename Result, typename In,
            typename... Mask>
  TORCHSOFTMAX_FN void write(const Walk& walk, RowRange rows, const Keep& keep, const Out& out,
                             const V& sum, const Result& result, const In& input,
                             const Mask&... mask) const {
    if (sizeof...(Mask) > 0 && walk.any_nan(sum, rows)) {  // nothing takes part, or a nan
      walk.write(out, [&](int64_t i, auto lanes) {
        const auto value = this->value(result, i, lanes, keep, input, mask...);
        return where_part(value, Stages::kNothing, i, lanes, mask...);
      });
      return;
    }
    walk.write(out, [&](int64_t i, auto lanes) {
      return this->value(result, i, lanes, keep, input, mask...);
    });
  }
};

}  // namespace torchsoftmax::TORCHSOFTMAX_DEVICE
