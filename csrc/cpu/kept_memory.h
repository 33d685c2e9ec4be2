#pragma once
// Memory of very large tensors, kept for the next one.
//
// What the C library frees of this size goes back to the system, and the next tensor is made of
// pages that the system fills with zeros first: that takes longer than a softmax over them. Here it
// is kept, and the system is told that it may have it (MADV_FREE): it takes it when memory is
// short, and until then the next tensor finds its pages where they were.

#include <c10/core/Allocator.h>
#include <c10/core/CPUAllocator.h>

#include <algorithm>
#include <cstdlib>
#include <mutex>
#include <unordered_map>
#include <vector>

#if defined(__linux__)
#include <sys/mman.h>
#include <unistd.h>
#endif

// Not under the address sanitizer, for which a tensor has to end where its memory does.
#if defined(__linux__) && defined(MADV_FREE) && !defined(__SANITIZE_ADDRESS__)
#define TORCHSOFTMAX_KEEPS_MEMORY
#endif

namespace torchsoftmax::cpu {

inline constexpr size_t kHugePage = size_t{2} << 20;

/// Asks for huge pages where whole ones fit.
inline void advise_huge_pages(void* memory, size_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  const auto begin = reinterpret_cast<uintptr_t>(memory);
  const uintptr_t first = (begin + kHugePage - 1) & ~(kHugePage - 1);
  const uintptr_t last = (begin + bytes) & ~(kHugePage - 1);
  if (last > first) {
    // Advice: a failure (a kernel without huge pages) changes nothing but speed.
    (void)madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
  }
#endif
}

#if defined(TORCHSOFTMAX_KEEPS_MEMORY)

class KeptMemory final : public c10::Allocator {
 public:
  /// The only one of the process, whichever of our libraries asks (a unique symbol of GNU). It
  /// outlives all tensors.
  [[gnu::visibility("default")]] static KeptMemory& instance() {
    static auto* const memory = new KeptMemory;
    return *memory;
  }

  c10::DataPtr allocate(size_t bytes) override {
    void* memory = nullptr;
    if (bytes > 0) {
      memory = take(bytes);
      c10::profiledCPUMemoryReporter().New(memory, bytes);
    }
    return {memory, memory, &free, c10::Device(c10::kCPU)};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &free; }
  void copy_data(void* to, const void* from, std::size_t count) const override {
    default_copy_data(to, from, count);
  }

  size_t release() {
    const std::lock_guard lock(mutex_);
    const size_t bytes = kept_bytes_;
    drop_to(0);
    return bytes;
  }

 private:
  struct Block {
    void* memory;
    size_t bytes;
  };

  // What is kept at most: so many blocks, and the megabytes that the environment tells or this part
  // of the machine's memory.
  static constexpr size_t kMostBlocks = 8, kPartOfMachine = 8;
  static constexpr const char* kMegabytes = "TORCHSOFTMAX_KEEP_MB";

  KeptMemory() {
    const char* given = std::getenv(kMegabytes);
    const auto machine =
        static_cast<size_t>(sysconf(_SC_PHYS_PAGES)) * static_cast<size_t>(sysconf(_SC_PAGESIZE));
    most_ = given == nullptr ? machine / kPartOfMachine
                             : static_cast<size_t>(std::strtoull(given, nullptr, 10)) * 1'000'000;
  }

  /// A kept block, the smallest and then newest that serves if it is not much too large, or a new
  /// one.
  void* take(size_t bytes) {
    const size_t least = (bytes + kHugePage - 1) & ~(kHugePage - 1);
    const std::lock_guard lock(mutex_);
    auto best = kept_.end();
    for (auto it = kept_.begin(); it != kept_.end(); ++it) {
      const bool serves = it->bytes >= least && it->bytes - least <= least / 4;
      if (serves && (best == kept_.end() || it->bytes <= best->bytes)) {
        best = it;
      }
    }
    Block block;
    if (best == kept_.end()) {
      block = {map(least), least};
    } else {
      block = *best;
      kept_bytes_ -= block.bytes;
      kept_.erase(best);
    }
    advise_huge_pages(block.memory, bytes);  // the rest may stay untouched
    in_use_[block.memory] = block.bytes;
    return block.memory;
  }

  /// New memory that begins at a huge page.
  void* map(size_t bytes) {
    const auto ask = [&] {
      return mmap(nullptr, bytes + kHugePage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
                  -1, 0);
    };
    void* found = ask();
    if (found == MAP_FAILED) {
      drop_to(0);
      found = ask();
    }
    TORCH_CHECK_WITH(OutOfMemoryError, found != MAP_FAILED, "torchsoftmax: cannot allocate ", bytes,
                     " bytes for a result");
    const auto address = reinterpret_cast<uintptr_t>(found);
    const size_t before = (kHugePage - address % kHugePage) % kHugePage;
    char* memory = static_cast<char*>(found) + before;
    (void)munmap(memory + bytes, kHugePage - before);
    if (before > 0) {
      (void)munmap(found, before);
    }
    return memory;
  }

  static void free(void* memory) {
    if (memory != nullptr) {
      c10::profiledCPUMemoryReporter().Delete(memory);
      instance().keep(memory);
    }
  }

  void keep(void* memory) {
    const std::lock_guard lock(mutex_);
    const auto found = in_use_.find(memory);
    const Block block{memory, found->second};
    in_use_.erase(found);
    if (block.bytes > most_ || madvise(memory, block.bytes, MADV_FREE) != 0) {
      (void)munmap(memory, block.bytes);
      return;
    }
    drop_to(most_ - block.bytes);
    kept_.push_back(block);
    kept_bytes_ += block.bytes;
  }

  /// Gives back the oldest blocks until no more than `bytes` are left, and room for one more.
  void drop_to(size_t bytes) {
    while (!kept_.empty() && (kept_bytes_ > bytes || kept_.size() >= kMostBlocks)) {
      (void)munmap(kept_.front().memory, kept_.front().bytes);
      kept_bytes_ -= kept_.front().bytes;
      kept_.erase(kept_.begin());
    }
  }

  std::mutex mutex_;
  std::vector<Block> kept_;  // the oldest first
  size_t kept_bytes_ = 0;
  size_t most_;
  std::unordered_map<void*, size_t> in_use_;
};

#endif

/// What allocates a tensor of so many bytes, where that is not PyTorch's business: more than the
/// C library ever keeps, and no other allocator has been put in the place of PyTorch's.
inline c10::Allocator* kept_memory(size_t bytes) {
#if defined(TORCHSOFTMAX_KEEPS_MEMORY)
  constexpr size_t kFrom = size_t{32} << 20;  // glibc's DEFAULT_MMAP_THRESHOLD_MAX
  if (bytes >= kFrom && c10::GetCPUAllocator() == c10::GetDefaultCPUAllocator()) {
    return &KeptMemory::instance();
  }
#endif
  return nullptr;
}

/// Gives back to the system what is kept; returns its bytes.
inline size_t release_kept_memory() {
#if defined(TORCHSOFTMAX_KEEPS_MEMORY)
  return KeptMemory::instance().release();
#else
  return 0;
#endif
}

}  // namespace torchsoftmax::cpu
