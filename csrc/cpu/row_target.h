#pragma once
// The class index of each row, its weight, and the rows to leave out.

#include <c10/util/Exception.h>

#include <atomic>
#include <limits>

#include "../checks.h"
#include "rows.h"

namespace torchsoftmax::cpu {

/// The first index that is out of range. Kernels skip such rows; it is raised after the loop, so
/// the message does not depend on the number of threads.
class BadIndex {
 public:
  /// Whether the index at a position is in range; notes the position where it is not.
  bool accepts(int64_t index, int64_t classes, int64_t position) {
    if (index >= 0 && index < classes) {
      return true;
    }
    int64_t first = first_.load(std::memory_order_relaxed);
    while (position < first &&
           !first_.compare_exchange_weak(first, position, std::memory_order_relaxed)) {
    }
    return false;
  }

  void raise(const char* name, const int64_t* index, int64_t classes,
             std::optional<int64_t> ignore_index) const {
    const int64_t position = first_.load(std::memory_order_relaxed);
    TORCH_CHECK_INDEX(position == kNone,
                      checks::out_of_range(name, index[position], classes, ignore_index));
  }

 private:
  static constexpr int64_t kNone = std::numeric_limits<int64_t>::max();
  std::atomic<int64_t> first_{kNone};
};

template <typename acc_t>
struct RowTarget {
  const int64_t* index = nullptr;
  const acc_t* weight = nullptr;
  int64_t ignore_index = 0;
  int64_t classes = 0;
  BadIndex* bad = nullptr;

  /// Whether the row takes part; only then may memory be read with its index.
  bool valid(int64_t row) const {
    return index[row] != ignore_index && bad->accepts(index[row], classes, row);
  }

  /// The indices of the rows of a range, -1 where one takes no part.
  template <int64_t kRows>
  struct OfRows {
    std::array<int64_t, kRows> index;
    bool any = false;
    bool all = true;
  };
  template <int64_t kRows>
  OfRows<kRows> of_rows(RowRange rows) const {
    OfRows<kRows> result;
    for (int64_t lane = 0; lane < rows.count; ++lane) {
      const int64_t row = rows.first + lane;
      const bool takes_part = valid(row);
      result.index[lane] = takes_part ? index[row] : -1;
      result.any = result.any || takes_part;
      result.all = result.all && takes_part;
    }
    return result;
  }

  acc_t weight_of(int64_t row) const { return weight == nullptr ? acc_t(1) : weight[index[row]]; }
};

}  // namespace torchsoftmax::cpu
