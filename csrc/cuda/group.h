#pragma once
// Threads that share a row, and how they reduce what each of them found: in an order that depends
// on nothing but the size of the group.

#include <cooperative_groups.h>

#include <array>

#include "lane.h"

namespace torchsoftmax::cuda {

inline constexpr int kWarp = 32;
inline constexpr int kMostThreads = 1024;  // of a block
inline constexpr int kRowThreads = 512;    // that work on rows: each may have 128 registers
inline constexpr int kMostBlocks = 16;     // of a cluster
inline constexpr int kMostTerms = 3;       // that are reduced at once

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
template <int kWarps>
struct Tables {
  static constexpr int kTurns = 3;

  double entries[kTurns][kMostTerms][kWarps];
};

/// Of one turn.
template <typename T, int kWarps>
struct Table {
  double (*entries)[kWarps];
  int warps;

  __device__ T& at(size_t k, int warp) const { return reinterpret_cast<T&>(entries[k][warp]); }
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

/// Every row has a block.
struct BlockGroup {
  static constexpr bool kAvailable = true;
  static constexpr bool kAlong = true;
  static constexpr bool kOneWarp = false;
  static constexpr int kMostWarps = kMostThreads / kWarp;

  using Shared = Tables<kMostWarps>;
  __device__ explicit BlockGroup(Shared& shared) : shared_(shared) {}

  __device__ int64_t rank() const { return threadIdx.x; }
  __device__ int64_t size() const { return blockDim.x; }
  __device__ int64_t first_row() const { return blockIdx.x; }
  __device__ bool any(bool condition) const { return condition; }
  __device__ void wait() const { __syncthreads(); }

  /// A table of what each warp, all threads of which have it, found.
  template <size_t kTerms, typename T>
  __device__ __forceinline__ Table<T, kMostWarps> gather(const std::array<T, kTerms>& terms) const {
    turn_ = turn_ + 1 == Shared::kTurns ? 0 : turn_ + 1;
    const Table<T, kMostWarps> table{shared_.entries[turn_], static_cast<int>(blockDim.x / kWarp)};
    if (threadIdx.x % kWarp == 0) {
#pragma unroll
      for (size_t k = 0; k < kTerms; ++k) {
        table.at(k, threadIdx.x / kWarp) = terms[k];
      }
    }
    __syncthreads();
    return table;
  }

  template <size_t kTerms, typename T, typename Op>
  __device__ __forceinline__ void reduce(std::array<T, kTerms>& terms, const T* neutral,
                                         const Op& op) const {
    reduce_warp(terms, op);
    reduce_table(gather(terms), terms, neutral, op);
  }

 private:
  Shared& shared_;
  mutable int turn_ = 0;
};

/// Every row has a cluster of blocks, which write to each other's shared memory.
struct ClusterGroup {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
  static constexpr bool kAvailable = false;
#else
  static constexpr bool kAvailable = true;
#endif
  static constexpr bool kAlong = true;
  static constexpr bool kOneWarp = false;
  static constexpr int kMostWarps = kRowThreads / kWarp * kMostBlocks;

  using Shared = Tables<kMostWarps>;

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  __device__ explicit ClusterGroup(Shared& shared)
      : shared_(shared), cluster_(cooperative_groups::this_cluster()) {
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
  __device__ bool any(bool condition) const { return condition; }
  __device__ void wait() const { cluster_.sync(); }

  /// A table of what each warp of every block found.
  template <size_t kTerms, typename T>
  __device__ __forceinline__ Table<T, kMostWarps> gather(const std::array<T, kTerms>& terms) const {
    turn_ = turn_ + 1 == Shared::kTurns ? 0 : turn_ + 1;
    const int of_block = blockDim.x / kWarp, blocks = cluster_.num_blocks();
    const Table<T, kMostWarps> table{shared_.entries[turn_], of_block * blocks};
    const int lane = threadIdx.x % kWarp;
    const int warp = cluster_.block_rank() * of_block + threadIdx.x / kWarp;
    if (lane < blocks) {  // a thread for each block that is told
#pragma unroll
      for (size_t k = 0; k < kTerms; ++k) {
        *cluster_.map_shared_rank(&table.at(k, warp), lane) = terms[k];
      }
    }
    cluster_.sync();
    return table;
  }

  template <size_t kTerms, typename T, typename Op>
  __device__ __forceinline__ void reduce(std::array<T, kTerms>& terms, const T* neutral,
                                         const Op& op) const {
    reduce_warp(terms, op);
    reduce_table(gather(terms), terms, neutral, op);
  }

 private:
  Shared& shared_;
  cooperative_groups::cluster_group cluster_;
  mutable int turn_ = 0;
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
