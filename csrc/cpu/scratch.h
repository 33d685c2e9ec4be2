#pragma once
// Memory of a thread.

#include <cstdint>
#include <memory>
#include <new>

namespace torchsoftmax::cpu {

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
