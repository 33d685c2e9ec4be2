#pragma once
// Lines of derivatives, each a multiple of a row of probabilities but for a few entries.

#include <ATen/Parallel.h>

#include "rows.h"

namespace torchsoftmax::cpu {

/// Writes `factor` times the row of probabilities.
template <typename acc_t, typename scalar_t>
struct Line {
  const acc_t* p;
  int64_t classes;
  Output<scalar_t, acc_t> out;

  void write(acc_t factor) const {
    const Walk<acc_t, LaneOrder::kAlongRow> walk(classes, {},
                                                 out.streamed ? lead_of<acc_t>(out.data) : 0);
    const View<const acc_t, acc_t> from{p};
    const Vec<acc_t> multiple(factor);
    walk.for_each(
        [&](int64_t c, auto lanes) { out.store(c, multiple * from.load(c, lanes), lanes); });
  }
  void set(int64_t at, acc_t value) const { out.data[at] = static_cast<scalar_t>(value); }
};

/// `write(line, index, classes)` writes the line along the last of kIndices indices; `index` is
/// that of the line in its row.
template <typename acc_t, typename scalar_t, typename Write>
void write_lines(const Write& write, const acc_t* probabilities, scalar_t* derivatives,
                 int64_t rows, int64_t classes) {
  const int64_t lines_of_row = Write::kIndices == 3 ? classes * classes : classes;
  const int64_t lines = rows * lines_of_row, grain = std::max<int64_t>(1, kGrain / classes);
  const RowTensor<scalar_t> out{derivatives, lines, classes, 1, {{lines, classes}}};
  const bool streamed = is_streamed_along<acc_t>(out);
  at::parallel_for(0, lines, grain, [&](int64_t begin, int64_t end) {
    for (int64_t number = begin; number < end; ++number) {
      const Line<acc_t, scalar_t> line{
          probabilities + number / lines_of_row * classes, classes, {{out.row(number)}, streamed}};
      write(line, number % lines_of_row, classes);
    }
    if (streamed) {
      finish_streams();
    }
  });
}

}  // namespace torchsoftmax::cpu
