#pragma once
// The class index of each row, its weight, and the rows to leave out.

#include <array>

#include "device.h"

#if defined(TORCHSOFTMAX_ON_CUDA)
#include "../cuda/index_check.h"
#else
#include "../cpu/index_check.h"
#endif

namespace torchsoftmax::TORCHSOFTMAX_DEVICE {

template <typename acc_t>
struct RowTarget {
  const int64_t* index = nullptr;
  const acc_t* weight = nullptr;
  int64_t ignore_index = 0;
  int64_t classes = 0;
  IndexCheck check{};

  /// Whether the row takes part; only then may memory be read with its index.
  TORCHSOFTMAX_FN bool valid(int64_t row) const {
    return index[row] != ignore_index && accepts(check, index[row], classes, row);
  }

  /// How many of the rows take part, on the CPU.
  TORCHSOFTMAX_FN int64_t count(int64_t begin, int64_t end) const {
    int64_t left_out = 0;
    for (int64_t row = begin; row < end; ++row) {
      left_out += !is_valid(index[row]);
    }
    tell_wrong(begin, end, left_out);
    return end - begin - left_out;
  }

  /// The indices of the rows of a range, -1 where one takes no part.
  template <int64_t kRows>
  struct OfRows {
    std::array<int64_t, kRows> index;
    bool any = false;
    bool all = true;
  };
  template <typename Walk>
  TORCHSOFTMAX_FN OfRows<Walk::kRows> of_rows(const Walk& walk, RowRange rows) const {
    OfRows<Walk::kRows> result;
    if constexpr (Walk::kRows > 1) {
      const int64_t* of_range = index + rows.first;
      int64_t left_out = 0;
      for (int64_t lane = 0; lane < rows.count; ++lane) {
        const bool in = is_valid(of_range[lane]);
        result.index[lane] = in ? of_range[lane] : -1;
        left_out += !in;
      }
      result.any = left_out < rows.count;
      result.all = left_out == 0;
      tell_wrong(rows.first, rows.first + rows.count, left_out);
      return result;
    }
    for (int64_t lane = 0; lane < rows.count; ++lane) {
      const int64_t row = rows.first + lane;
      const bool takes_part = valid(row);
      result.index[lane] = takes_part ? index[row] : -1;
      result.any = result.any || takes_part;
      result.all = result.all && takes_part;
    }
    result.any = walk.any(result.any);
    return result;
  }

  TORCHSOFTMAX_FN acc_t weight_of(int64_t row) const {
    return weight == nullptr ? acc_t(1) : weight[index[row]];
  }

 private:
  // In conditions without a branch, so that loops over rows are vectorized.
  TORCHSOFTMAX_FN bool in_range(int64_t c) const {
    return static_cast<uint64_t>(c) < static_cast<uint64_t>(classes);
  }
  TORCHSOFTMAX_FN bool is_valid(int64_t c) const { return (c != ignore_index) & in_range(c); }

  /// Tells the check of rows that are out of range, where some of these rows take no part.
  TORCHSOFTMAX_FN void tell_wrong(int64_t begin, int64_t end, int64_t left_out) const {
    int64_t wrong = 0;
    for (int64_t row = begin; left_out != 0 && row < end; ++row) {
      wrong += (index[row] != ignore_index) & !in_range(index[row]);
    }
    for (int64_t row = begin; wrong != 0 && row < end; ++row) {
      wrong -= index[row] != ignore_index && !accepts(check, index[row], classes, row);
    }
  }
};

/// d objective / d row: of each row, or the same for all, which may be over a divisor.
template <typename acc_t>
struct Upstream {
  const acc_t* values = nullptr;
  bool of_each_row = false;
  const acc_t* divisor = nullptr;

  template <typename Walk>
  TORCHSOFTMAX_FN typename Walk::V of(const Walk& walk, RowRange rows) const {
    using V = typename Walk::V;
    if (of_each_row) {
      return walk.load_rows(values, rows);
    }
    return V(divisor == nullptr ? *values : over(*values, *divisor));
  }
};

}  // namespace torchsoftmax::TORCHSOFTMAX_DEVICE
