#pragma once
// Lines of derivatives, each a multiple of a row of probabilities but for a few entries.

#include "rows.h"

namespace torchsoftmax::cuda {

/// Writes `factor` times the row of probabilities.
template <typename acc_t, typename Group, typename scalar_t>
struct Line {
  const Group& group;
  const acc_t* p;
  scalar_t* out;
  int64_t classes;

  __device__ void write(acc_t factor) const {
    for (int64_t c = group.rank(); c < classes; c += group.size()) {
      out[c] = static_cast<scalar_t>(factor * p[c]);
    }
  }
  /// By the thread that wrote it.
  __device__ void set(int64_t at, acc_t value) const {
    if (at % group.size() == group.rank()) {
      out[at] = static_cast<scalar_t>(value);
    }
  }
};

template <typename Group, typename acc_t, typename scalar_t, typename Write>
__global__ void __launch_bounds__(kRowThreads)
    lines(Write write, const acc_t* probabilities, scalar_t* derivatives, int64_t count,
          int64_t classes, int64_t lines_of_row) {
  const Group group(block_memory<typename Group::Shared>());
  const int64_t number = group.first_row();
  if (number < count) {
    const Line<acc_t, Group, scalar_t> line{group, probabilities + number / lines_of_row * classes,
                                            derivatives + number * classes, classes};
    write(line, number % lines_of_row, classes);
  }
}

/// `write(line, index, classes)` writes the line along the last of kIndices indices; `index` is
/// that of the line in its row.
template <typename acc_t, typename scalar_t, typename Write>
void write_lines(const Write& write, const acc_t* probabilities, scalar_t* derivatives,
                 int64_t rows, int64_t classes) {
  const int64_t lines_of_row = Write::kIndices == 3 ? classes * classes : classes;
  const int64_t count = rows * lines_of_row;
  constexpr int kThreads = 256;
  if (classes <= kWarpRow) {
    launch(&lines<WarpGroup, acc_t, scalar_t, Write>,
           Launch{divided(count, kThreads / kWarp), dim3(kThreads)}, write, probabilities,
           derivatives, count, classes, lines_of_row);
  } else {
    launch(&lines<BlockGroup, acc_t, scalar_t, Write>, Launch{count, dim3(kThreads)}, write,
           probabilities, derivatives, count, classes, lines_of_row);
  }
}

}  // namespace torchsoftmax::cuda
