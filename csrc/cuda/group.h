#pragma once
// Threads that share a row, and how they reduce what each of them found: in an order that depends
// on nothing but the size of the group.

#include <array>

#include "byte_barrier.h"
#include "lane.h"

namespace torchsoftmax::cuda {

inline constexpr int kWarp = 32;
inline constexpr int kMostThreads = 1024;  // of a block
inline constexpr int kRowThreads = 512;    // that work on a row: each may have 128 registers
inline constexpr int kMostBlocks = 16;     // of a cluster
inline constexpr int kMostTerms = 3;       // that are reduced at once
inline constexpr int kRowTerms = 2;        // and of rows in registers

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

  Entry entries[kTurns][kWarps][kTerms];
};

/// Of one turn.
template <typename T, typename Entry, int kTerms>
struct Table {
  static_assert(sizeof(T) <= sizeof(Entry));

  Entry (*entries)[kTerms];
  int warps;

  __device__ T& at(size_t k, int warp) const { return reinterpret_cast<T&>(entries[warp][k]); }

  /// run(warp) for those that this thread of its warp has a part in.
  template <typename Run>
  __device__ __forceinline__ void for_each(Run&& run) const {
    for (int warp = threadIdx.x % kWarp; warp < warps; warp += kWarp) {
      run(warp);
    }
  }
};

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
};

/// The reductions of a group of warps that have shared memory: gather(terms) makes what every warp
/// has found, all threads of which have it, known to all.
template <typename Group>
class ByTables {
 public:
  static constexpr bool kAlong = true;
  static constexpr bool kOneWarp = false;

  __device__ bool any(bool condition) const { return condition; }

  template <size_t kCount, typename T, typename Op>
  __device__ __forceinline__ void reduce(std::array<T, kCount>& terms, const T* neutral,
                                         const Op& op) const {
    reduce_warp(terms, op);
    const auto table = static_cast<const Group&>(*this).gather(terms);
#pragma unroll
    for (size_t k = 0; k < kCount; ++k) {
      terms[k] = neutral[k];
      table.for_each([&](int warp) { terms[k] = op(k, terms[k], table.at(k, warp)); });
    }
    reduce_warp(terms, op);
  }
};

/// Every row has a block.
class BlockGroup : public ByTables<BlockGroup> {
 public:
  static constexpr bool kAvailable = true;
  using Shared = Tables<kMostThreads / kWarp, double, kMostTerms>;

  __device__ explicit BlockGroup(Shared& shared) : shared_(shared) {}

  __device__ int64_t rank() const { return threadIdx.x; }
  __device__ int64_t size() const { return blockDim.x; }
  __device__ int64_t first_row() const { return blockIdx.x; }
  __device__ int block() const { return 0; }
  __device__ int blocks() const { return 1; }

  template <size_t kCount, typename T>
  __device__ __forceinline__ auto gather(const std::array<T, kCount>& terms) const {
    static_assert(kCount <= kMostTerms);
    turn_ = turn_ + 1 == Shared::kTurns ? 0 : turn_ + 1;
    const Table<T, double, kMostTerms> table{shared_.entries[turn_],
                                             static_cast<int>(blockDim.x / kWarp)};
    if (threadIdx.x % kWarp == 0) {
#pragma unroll
      for (size_t k = 0; k < kCount; ++k) {
        table.at(k, threadIdx.x / kWarp) = terms[k];
      }
    }
    __syncthreads();
    return table;
  }

 private:
  Shared& shared_;
  mutable int turn_ = 0;
};

/// Every row has a cluster of blocks, which write to each other's shared memory: what their rows in
/// registers need, in float.
class ClusterGroup : public ByTables<ClusterGroup> {
 public:
#if defined(__CUDA_ARCH__) && !defined(TORCHSOFTMAX_CLUSTERS)
  static constexpr bool kAvailable = false;
#else
  static constexpr bool kAvailable = true;
#endif
  struct alignas(8) Shared : Tables<kMostThreads / kWarp * kMostBlocks, float, kRowTerms> {
    ByteBarrier told[kTurns];
  };

#if defined(TORCHSOFTMAX_CLUSTERS)
  __device__ explicit ClusterGroup(Shared& shared)
      : cluster_(cooperative_groups::this_cluster()), shared_(shared) {
    if (threadIdx.x == 0) {
      for (const ByteBarrier& barrier : shared.told) {
        barrier.begin();
      }
      ByteBarrier::begun();
    }
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
  __device__ int block() const { return static_cast<int>(cluster_.block_rank()); }
  __device__ int blocks() const { return static_cast<int>(cluster_.num_blocks()); }

  template <size_t kCount>
  __device__ __forceinline__ auto gather(const std::array<float, kCount>& terms) const {
    static_assert(kCount <= kRowTerms);
    turn_ = turn_ + 1 == Shared::kTurns ? 0 : turn_ + 1;
    const ByteBarrier& told = shared_.told[turn_];
    const int own_warps = blockDim.x / kWarp;
    const Table<float, float, kRowTerms> table{shared_.entries[turn_], own_warps * blocks()};
    const int lane = threadIdx.x % kWarp;
    if (lane < blocks()) {  // a thread for each block that is told
      told.tell(&table.at(0, block() * own_warps + threadIdx.x / kWarp), terms, lane);
    }
    if (threadIdx.x == 0) {
      told.expect(table.warps * kCount * sizeof(float));
    }
    told.wait(parities_ >> turn_ & 1);
    parities_ ^= 1u << turn_;
    return table;
  }

 private:
  cooperative_groups::cluster_group cluster_;
  Shared& shared_;
  mutable int turn_ = 0;
  mutable uint32_t parities_ = 0;  // of every turn's barrier
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
