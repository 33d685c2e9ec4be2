#pragma once
// Threads that share a row, and how they reduce what each of them found: in an order that depends
// on nothing but the size of the group.

#include <cooperative_groups.h>

#include <array>

#include "lane.h"

namespace torchsoftmax::cuda {

inline constexpr int kWarp = 32;
inline constexpr int kMostThreads = 1024;  // of a block
inline constexpr int kRowThreads = 512;    // that work on a row: each may have 128 registers
inline constexpr int kMostBlocks = 16;     // of a cluster
inline constexpr int kMostTerms = 3;       // that are reduced at once
inline constexpr int kRowTerms = 2;        // and of rows in registers

// Whether there are clusters of blocks: from compute capability 9.0 on.
#if defined(TORCHSOFTMAX_EMULATED_CUDA) || (defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900)
#define TORCHSOFTMAX_CLUSTERS
#endif

/// Shared memory of the block.
template <typename T>
__device__ __forceinline__ T& block_memory() {
#if defined(TORCHSOFTMAX_EMULATED_CUDA)
  return emulated::block_memory<T>();
#else
  __shared__ T memory;
  return memory;
#endif
}
/// As much of it as the launch asks for.
__device__ __forceinline__ uint4* block_room() {
#if defined(TORCHSOFTMAX_EMULATED_CUDA)
  return emulated::block_room();
#else
  extern __shared__ uint4 room[];
  return room;
#endif
}

/// op(k, a, b) of the k-th terms of all threads of a warp, in every thread.
template <size_t kTerms, typename T, typename Op>
__device__ __forceinline__ void reduce_warp(std::array<T, kTerms>& terms, const Op& op) {
#pragma unroll
  for (int distance = kWarp / 2; distance > 0; distance /= 2) {
#pragma unroll
    for (size_t k = 0; k < kTerms; ++k) {
      terms[k] = op(k, terms[k], __shfl_xor_sync(0xffffffff, terms[k], distance));
    }
  }
}

/// What every warp of a group found, in shared memory. Tables take turns: a thread that is ahead
/// writes to another one than what others still read, so one barrier for each is enough.
template <int kWarps, typename Entry, int kTerms>
struct Tables {
  static constexpr int kTurns = 3;

  Entry entries[kTurns][kTerms][kWarps];
};

/// Of one turn.
template <typename T, typename Entry, int kWarps>
struct Table {
  Entry (*entries)[kWarps];
  int warps;

  __device__ T& at(size_t k, int warp) const {
    static_assert(sizeof(T) <= sizeof(Entry));
    return reinterpret_cast<T&>(entries[k][warp]);
  }
};

/// op over a table, in every thread.
template <size_t kTerms, typename OfTable, typename T, typename Op>
__device__ __forceinline__ void reduce_table(const OfTable& table, std::array<T, kTerms>& terms,
                                             const T* neutral, const Op& op) {
  const int lane = threadIdx.x % kWarp;
#pragma unroll
  for (size_t k = 0; k < kTerms; ++k) {
    terms[k] = lane < table.warps ? table.at(k, lane) : neutral[k];
    for (int warp = lane + kWarp; warp < table.warps; warp += kWarp) {
      terms[k] = op(k, terms[k], table.at(k, warp));
    }
  }
  reduce_warp(terms, op);
}

/// Every row has a warp.
struct WarpGroup {
  static constexpr bool kAvailable = true;
  static constexpr bool kAlong = true;
  static constexpr bool kOneWarp = true;

  struct Shared {};
  __device__ explicit WarpGroup(Shared&) {}

  __device__ int64_t rank() const { return threadIdx.x % kWarp; }
  __device__ int64_t size() const { return kWarp; }
  __device__ int64_t first_row() const {
    return static_cast<int64_t>(blockIdx.x) * (blockDim.x / kWarp) + threadIdx.x / kWarp;
  }
  __device__ bool any(bool condition) const { return condition; }
  __device__ void wait() const { __syncwarp(); }

  template <size_t kTerms, typename T, typename Op>
  __device__ __forceinline__ void reduce(std::array<T, kTerms>& terms, const T*,
                                         const Op& op) const {
    reduce_warp(terms, op);
  }
};

/// Every row has blocks that know nothing of each other: of policies that reduce nothing.
struct PieceGroup {
  static constexpr bool kAvailable = true;
  static constexpr bool kAlong = true;

  struct Shared {};
  __device__ explicit PieceGroup(Shared&) {}

  __device__ int64_t rank() const {
    return static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  }
  __device__ int64_t size() const { return static_cast<int64_t>(gridDim.x) * blockDim.x; }
  __device__ int64_t first_row() const {
    return static_cast<int64_t>(blockIdx.z) * gridDim.y + blockIdx.y;
  }
  __device__ bool any(bool condition) const { return condition; }
  /// Only the thread that writes an element needs what was there.
  __device__ void wait() const {}
};

/// The reductions of a group whose warps tell each other what they found. `Group` has
///   warps() and warp()    how many they are, and which one this is
///   tell(entry, value)    to all, by any threads of a warp
///   arrive() and await()  the two halves of a barrier
template <typename Group, int kWarps, typename Entry, int kTerms>
class Telling {
 public:
  static constexpr bool kAlong = true;
  static constexpr bool kOneWarp = false;
  using Shared = Tables<kWarps, Entry, kTerms>;

  __device__ bool any(bool condition) const { return condition; }

  /// Tells what a warp found, all threads of which have it; `await` has to follow.
  template <size_t kCount, typename T>
  __device__ __forceinline__ void publish(const std::array<T, kCount>& terms) const {
    static_assert(kCount <= kTerms);
    turn_ = turn_ + 1 == Shared::kTurns ? 0 : turn_ + 1;
    const auto table = published<T>();
#pragma unroll
    for (size_t k = 0; k < kCount; ++k) {
      self().tell(table.at(k, self().warp()), terms[k]);
    }
    self().arrive();
  }
  /// What was published last, by all warps.
  template <typename T>
  __device__ __forceinline__ Table<T, Entry, kWarps> published() const {
    return {shared_.entries[turn_], self().warps()};
  }

  template <size_t kCount, typename T, typename Op>
  __device__ __forceinline__ void reduce(std::array<T, kCount>& terms, const T* neutral,
                                         const Op& op) const {
    reduce_warp(terms, op);
    publish(terms);
    self().await();
    reduce_table(published<T>(), terms, neutral, op);
  }

 protected:
  __device__ explicit Telling(Shared& shared) : shared_(shared) {}

 private:
  __device__ const Group& self() const { return static_cast<const Group&>(*this); }

  Shared& shared_;
  mutable int turn_ = 0;
};

/// Every row has a block.
class BlockGroup : public Telling<BlockGroup, kMostThreads / kWarp, double, kMostTerms> {
 public:
  static constexpr bool kAvailable = true;

  __device__ explicit BlockGroup(Shared& shared) : Telling(shared) {}

  __device__ int64_t rank() const { return threadIdx.x; }
  __device__ int64_t size() const { return blockDim.x; }
  __device__ int64_t first_row() const { return blockIdx.x; }
  __device__ void wait() const { __syncthreads(); }

  __device__ int warps() const { return blockDim.x / kWarp; }
  __device__ int warp() const { return threadIdx.x / kWarp; }
  template <typename T>
  __device__ __forceinline__ void tell(T& entry, const T& value) const {
    if (threadIdx.x % kWarp == 0) {
      entry = value;
    }
  }
  __device__ void arrive() const {}
  __device__ void await() const { __syncthreads(); }
};

/// Every row has a cluster of blocks, which write to each other's shared memory: what their rows in
/// registers need, in float.
class ClusterGroup
    : public Telling<ClusterGroup, kMostThreads / kWarp * kMostBlocks, float, kRowTerms> {
 public:
#if defined(__CUDA_ARCH__) && !defined(TORCHSOFTMAX_CLUSTERS)
  static constexpr bool kAvailable = false;
#else
  static constexpr bool kAvailable = true;
#endif

#if defined(TORCHSOFTMAX_CLUSTERS)
  __device__ explicit ClusterGroup(Shared& shared)
      : Telling(shared), cluster_(cooperative_groups::this_cluster()) {
    cluster_.sync();  // all have begun
  }
  // No block leaves while others may write to its memory: each waits for all in every turn, and
  // nothing is written after the last.

  __device__ int64_t rank() const {
    return static_cast<int64_t>(cluster_.block_rank()) * blockDim.x + threadIdx.x;
  }
  __device__ int64_t size() const {
    return static_cast<int64_t>(cluster_.num_blocks()) * blockDim.x;
  }
  __device__ int64_t first_row() const { return blockIdx.x / cluster_.num_blocks(); }
  __device__ int64_t rows_at_once() const { return gridDim.x / cluster_.num_blocks(); }
  __device__ void wait() const { cluster_.sync(); }

  __device__ int warps() const { return blockDim.x / kWarp * cluster_.num_blocks(); }
  __device__ int warp() const {
    return cluster_.block_rank() * (blockDim.x / kWarp) + threadIdx.x / kWarp;
  }
  /// To every block, by a thread for each.
  template <typename T>
  __device__ __forceinline__ void tell(T& entry, const T& value) const {
    const unsigned lane = threadIdx.x % kWarp;
    if (lane < cluster_.num_blocks()) {
      *cluster_.map_shared_rank(&entry, lane) = value;
    }
  }
  __device__ void arrive() const { cluster_.barrier_arrive(); }
  __device__ void await() const { cluster_.barrier_wait(); }

 private:
  cooperative_groups::cluster_group cluster_;
#endif
};

/// Threads side by side have neighbouring rows, and those above each other share one: for classes
/// that are apart from each other.
struct ColumnGroup {
  static constexpr bool kAlong = false;
  static constexpr bool kOneWarp = false;

  struct Shared {
    double partial[kMostTerms][kRowThreads];
  };

  __device__ explicit ColumnGroup(Shared& shared) : shared_(shared) {}

  __device__ int64_t rank() const { return threadIdx.y; }
  __device__ int64_t size() const { return blockDim.y; }
  __device__ int64_t first_row() const {
    return static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  }
  /// Of any row of the block, where its threads wait for each other: they have to go the same way.
  __device__ bool any(bool condition) const {
    return blockDim.y == 1 ? condition : __syncthreads_or(condition) != 0;
  }
  __device__ void wait() const {
    if (blockDim.y > 1) {
      __syncthreads();
    }
  }

  template <size_t kTerms, typename T, typename Op>
  __device__ __forceinline__ void reduce(std::array<T, kTerms>& terms, const T*,
                                         const Op& op) const {
    if (blockDim.y == 1) {
      return;
    }
#pragma unroll
    for (size_t k = 0; k < kTerms; ++k) {
      reinterpret_cast<T&>(shared_.partial[k][threadIdx.y * blockDim.x + threadIdx.x]) = terms[k];
    }
    __syncthreads();
#pragma unroll
    for (size_t k = 0; k < kTerms; ++k) {
      terms[k] = reinterpret_cast<T&>(shared_.partial[k][threadIdx.x]);
      for (unsigned y = 1; y < blockDim.y; ++y) {
        const double& other = shared_.partial[k][y * blockDim.x + threadIdx.x];
        terms[k] = op(k, terms[k], reinterpret_cast<const T&>(other));
      }
    }
    __syncthreads();
  }

 private:
  Shared& shared_;
};

}  // namespace torchsoftmax::cuda
