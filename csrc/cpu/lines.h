#pragma once
// Lines of derivatives, each a multiple of a row of probabilities but for a few entries.

#include <ATen/Parallel.h>

#include "rows.h"

namespace torchsoftmax::cpu {

/// Writes `factor` times the row of probabilities.
template <typename acc_t, typename scalar_t>
struct Line {
  const Walk<acc_t, LaneOrder::kAlongRow>& walk;
  const acc_t* p;
  scalar_t* out;

  void write(acc_t factor) const {
    const View<const acc_t, acc_t> from{p, kLanes<acc_t>};
    const View<scalar_t, acc_t> to{out, kLanes<acc_t>};
    const Vec<acc_t> multiple(factor);
    walk.for_each(
        [&](int64_t v, auto lanes) { to.store(v, multiple * from.load(v, lanes), lanes); });
  }
  void set(int64_t at, acc_t value) const { out[at] = static_cast<scalar_t>(value); }
};

/// `write(line, index, classes)` writes the line along the last of kIndices indices; `index` is
/// that of the line in its row.
template <typename acc_t, typename scalar_t, typename Write>
void write_lines(const Write& write, const acc_t* probabilities, scalar_t* derivatives,
                 int64_t rows, int64_t classes) {
  const Walk<acc_t, LaneOrder::kAlongRow> walk(classes);
  const int64_t lines_of_row = Write::kIndices == 3 ? classes * classes : classes;
  const int64_t grain = std::max<int64_t>(1, kGrain / classes);
  at::parallel_for(0, rows * lines_of_row, grain, [&](int64_t begin, int64_t end) {
    for (int64_t number = begin; number < end; ++number) {
      const Line<acc_t, scalar_t> line{walk, probabilities + number / lines_of_row * classes,
                                       derivatives + number * classes};
      write(line, number % lines_of_row, classes);
    }
  });
}

}  // namespace torchsoftmax::cpu
