#pragma once
// Memory of large tensors, kept for the next one.
//
// The C library gives what it frees back to the system: always from 32 MiB on, and below that now
// and then, as its heap happens to be. The next tensor is made of pages that the system fills with
// zeros first, which takes longer than a softmax over them. Here it is kept. Of more than 32 MiB
// the system is told that it may have it (MADV_FREE): it takes it when memory is short, and until
// then the next tensor finds its pages where they were.

#include <c10/core/Allocator.h>
#include <c10/core/CPUAllocator.h>

#include <algorithm>
#include <charconv>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <optional>
#include <unordered_map>
#include <vector>

#if defined(__linux__)
#include <pthread.h>
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

  /// Whether a tensor of so many bytes is kept when it is freed. If not, the C library's memory is
  /// the better one: it may have some.
  bool keeps(size_t bytes) const {
    const size_t block = block_of(bytes);
    return block <= shelf_of(block).most;
  }

  size_t release() {
    const std::lock_guard lock(mutex_);
    const size_t bytes = large_.bytes + small_.bytes;
    large_.drop_to(0);
    small_.drop_to(0);
    return bytes;
  }

 private:
  struct Block {
    char* base;
    size_t bytes;
    char* memory;  // of the tensor
  };

  /// Blocks that are kept, the oldest first.
  struct Shelf {
    size_t most_blocks;
    size_t most = 0;  // bytes
    std::vector<Block> blocks;
    size_t bytes = 0;

    /// Takes the smallest and then newest block that serves and is not much too large.
    std::optional<Block> take(size_t least) {
      auto best = blocks.end();
      for (auto it = blocks.begin(); it != blocks.end(); ++it) {
        const bool serves = it->bytes >= least && it->bytes - least <= least / 4;
        if (serves && (best == blocks.end() || it->bytes <= best->bytes)) {
          best = it;
        }
      }
      if (best == blocks.end()) {
        return std::nullopt;
      }
      const Block found = *best;
      blocks.erase(best);
      bytes -= found.bytes;
      return found;
    }

    void put(const Block& block) {
      if (block.bytes > most) {
        (void)munmap(block.base, block.bytes);
        return;
      }
      drop_to(most - block.bytes);
      blocks.push_back(block);
      bytes += block.bytes;
    }

    /// Gives back the oldest until no more than that is left, and room for one more block.
    void drop_to(size_t most_bytes) {
      while (!blocks.empty() && (bytes > most_bytes || blocks.size() >= most_blocks)) {
        (void)munmap(blocks.front().base, blocks.front().bytes);
        bytes -= blocks.front().bytes;
        blocks.erase(blocks.begin());
      }
    }
  };

  // Of large blocks so many at most, and so many megabytes as the environment says or this part of
  // the machine's memory; of small ones, which the system cannot take, as much as the C library may
  // keep at the end of its heap.
  static constexpr size_t kMostLarge = 8, kPartOfMachine = 8, kMostSmall = size_t{64} << 20;
  static constexpr const char* kMegabytes = "TORCHSOFTMAX_KEEP_MB";
  // The C library keeps nothing from here on: its DEFAULT_MMAP_THRESHOLD_MAX. MADV_FREE takes 50 to
  // 90 us on a virtual machine, which 8 MB in the caches would feel.
  static constexpr size_t kLarge = size_t{32} << 20;
  // Tensors begin at different places of a page: a load waits for a store before it whose address
  // ends in the same 12 bits, and operands of the same strides would meet all the time.
  static constexpr size_t kApart = 704, kPlaces = 4;
  static constexpr size_t kMegabyte = 1'000'000;

  KeptMemory() {
    const auto machine =
        static_cast<size_t>(sysconf(_SC_PHYS_PAGES)) * static_cast<size_t>(sysconf(_SC_PAGESIZE));
    large_.most = megabytes_given().value_or(machine / kPartOfMachine / kMegabyte) * kMegabyte;
    small_.most = std::min(kMostSmall, large_.most);
    // A child of fork has no thread but the one that called it, so none that would unlock.
    (void)pthread_atfork([] { instance().mutex_.lock(); }, [] { instance().mutex_.unlock(); },
                         [] { instance().mutex_.unlock(); });
  }

  static std::optional<size_t> megabytes_given() {
    const char* given = std::getenv(kMegabytes);
    if (given == nullptr) {
      return std::nullopt;
    }
    size_t value = 0;
    const char* end = given + std::strlen(given);
    const auto [rest, error] = std::from_chars(given, end, value);
    TORCH_CHECK_VALUE(error == std::errc() && rest == end && value <= SIZE_MAX / kMegabyte,
                      kMegabytes, ": expected a whole number of megabytes, got '", given, "'");
    return value;
  }

  Shelf& shelf_of(size_t block_bytes) { return block_bytes > kLarge ? large_ : small_; }
  const Shelf& shelf_of(size_t block_bytes) const { return block_bytes > kLarge ? large_ : small_; }

  static size_t block_of(size_t bytes) {
    return (bytes + kApart * kPlaces + kHugePage - 1) & ~(kHugePage - 1);
  }

  void* take(size_t bytes) {
    const size_t least = block_of(bytes);
    const std::lock_guard lock(mutex_);
    std::optional<Block> block = shelf_of(least).take(least);
    if (!block.has_value()) {
      char* base = map(least);
      block = Block{base, least, base + kApart * (1 + number_++ % kPlaces)};
    }
    advise_huge_pages(block->base, bytes + kApart * kPlaces);  // the rest may stay untouched
    in_use_[block->memory] = *block;
    return block->memory;
  }

  /// New memory that begins at a huge page.
  char* map(size_t bytes) {
    const auto ask = [&] {
      return mmap(nullptr, bytes + kHugePage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
                  -1, 0);
    };
    void* found = ask();
    if (found == MAP_FAILED) {
      large_.drop_to(0);
      small_.drop_to(0);
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
    const Block block = found->second;
    in_use_.erase(found);
    Shelf& shelf = shelf_of(block.bytes);
    if (&shelf == &large_ && block.bytes <= shelf.most) {
      (void)madvise(block.base, block.bytes, MADV_FREE);
    }
    shelf.put(block);
  }

  std::mutex mutex_;
  Shelf large_{kMostLarge}, small_{kMostSmall / kHugePage};
  size_t number_ = 0;  // of blocks made
  std::unordered_map<void*, Block> in_use_;
};

#endif

/// What allocates a tensor of so many bytes, where that is not PyTorch's business: the tensor is
/// large and will be kept, and no other allocator has been put in the place of PyTorch's.
inline c10::Allocator* kept_memory(size_t bytes) {
#if defined(TORCHSOFTMAX_KEEPS_MEMORY)
  constexpr size_t kFrom = size_t{1} << 20;
  if (bytes >= kFrom && c10::GetCPUAllocator() == c10::GetDefaultCPUAllocator() &&
      KeptMemory::instance().keeps(bytes)) {
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
