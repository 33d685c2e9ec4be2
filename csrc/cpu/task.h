#pragma once
// What one task of a parallel loop has: its share of the rows, and memory.

#include <algorithm>
#include <cstdint>
#include <memory>
#include <new>

namespace torchsoftmax::cpu {

// Elements that one parallel task should have at least: about ten times the cost of a fork.
inline constexpr int64_t kGrain = 16384;

/// The number of rows that one task should have.
inline int64_t rows_per_task(int64_t elements_of_row) {
  return std::max<int64_t>(1, kGrain / std::max<int64_t>(1, elements_of_row));
}

/// Memory of one thread for intermediate values, aligned to a cache line.
template <typename acc_t>
class Scratch {
 public:
  explicit Scratch(int64_t size)
      : memory_(new (std::align_val_t{64}) acc_t[static_cast<size_t>(size)]) {}
  acc_t* data() const { return memory_.get(); }

 private:
  struct Free {
    void operator()(acc_t* memory) const { ::operator delete[](memory, std::align_val_t{64}); }
  };
  std::unique_ptr<acc_t[], Free> memory_;
};

}  // namespace torchsoftmax::cpu
