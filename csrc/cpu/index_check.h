#pragma once
// The check of class indices while they are used.

#include <c10/util/Exception.h>

#include <atomic>
#include <limits>

#include "../checks.h"

namespace torchsoftmax::cpu {

/// Whether indices are in range, and the first that is not. Kernels skip such rows; it is raised
/// after the loop, so the message does not depend on the number of threads.
class IndexRange {
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

  /// What a policy has of it.
  IndexRange* check() { return this; }

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

using IndexCheck = IndexRange*;
inline bool accepts(IndexCheck check, int64_t index, int64_t classes, int64_t position) {
  return check->accepts(index, classes, position);
}

}  // namespace torchsoftmax::cpu
