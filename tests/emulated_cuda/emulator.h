#pragma once
// What the CUDA sources need of CUDA, on the CPU: every thread of a block, or of a cluster of
// blocks, is a fiber, and all take turns at their barriers. So the kernels for GPUs can be tested
// where no GPU is. Nothing is said about time, nor about how a GPU orders memory between barriers.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <type_traits>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};

namespace emulated {

struct Shape {
  dim3 grid, block;
  unsigned cluster = 1;
  size_t room = 0;  // bytes
};

/// Runs a kernel, thread by thread.
void run(const Shape& shape, const std::function<void()>& kernel);

// For the thread that is running.
unsigned block_of_cluster();
unsigned blocks_of_cluster();
void wait_for_warp();
void wait_for_block();
void arrive_at_cluster();
void wait_for_cluster();
/// The value of the lane at that distance (XOR).
uint64_t exchange(uint64_t value, unsigned distance);
/// Whether the condition holds in any thread of the block.
bool any_of_block(bool condition);
void copy_later(void* to, const void* from, size_t bytes);
void end_group_of_copies();
/// All but those of the last groups.
void make_copies(size_t groups_left);

// Shared memory of a block: it holds garbage at first.
inline constexpr size_t kStatic = 64 * 1024;
std::byte* memory_of_block();
/// The same place in the memory of another block of the cluster.
std::byte* in_block(std::byte* place, unsigned rank);

template <typename T>
T& block_memory() {
  static_assert(sizeof(T) <= kStatic && std::is_trivially_destructible_v<T>);
  return *reinterpret_cast<T*>(memory_of_block());
}
inline uint4* block_room() { return reinterpret_cast<uint4*>(memory_of_block() + kStatic); }

inline float power_of_2(float x) {
  const float result = std::exp2(x);
  return result < 0x1p-126f ? 0.0f : result;  // as the instruction flushes
}

}  // namespace emulated

// Of the thread that is running.
inline thread_local dim3 threadIdx, blockIdx, blockDim, gridDim;

inline void __syncwarp() { emulated::wait_for_warp(); }
inline void __syncthreads() { emulated::wait_for_block(); }
inline int __syncthreads_or(int condition) { return emulated::any_of_block(condition != 0); }

template <typename T>
T __shfl_xor_sync(unsigned, T value, unsigned distance) {
  static_assert(sizeof(T) <= sizeof(uint64_t));
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  bits = emulated::exchange(bits, distance);
  std::memcpy(&value, &bits, sizeof(T));
  return value;
}

// The runtime.
using cudaStream_t = void*;
enum cudaError_t { cudaSuccess };
enum cudaFuncAttribute {
  cudaFuncAttributeMaxDynamicSharedMemorySize,
  cudaFuncAttributeNonPortableClusterSizeAllowed
};
enum cudaDeviceAttr { cudaDevAttrComputeCapabilityMajor };
enum cudaLaunchAttributeID { cudaLaunchAttributeClusterDimension };
struct cudaLaunchAttribute {
  cudaLaunchAttributeID id;
  struct {
    struct {
      unsigned x, y, z;
    } clusterDim;
  } val;
};
struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  size_t dynamicSmemBytes;
  cudaStream_t stream;
  cudaLaunchAttribute* attrs;
  unsigned numAttrs;
};

inline cudaError_t cudaFuncSetAttribute(const void*, cudaFuncAttribute, int) { return cudaSuccess; }
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr, int) {
  *value = 9;
  return cudaSuccess;
}
/// One or two, so that a cluster works on several rows.
inline cudaError_t cudaOccupancyMaxActiveClusters(int* clusters, const void*,
                                                  const cudaLaunchConfig_t* config) {
  *clusters = config->attrs->val.clusterDim.x > 2 ? 1 : 2;
  return cudaSuccess;
}
template <typename... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Arguments...),
                               const std::type_identity_t<Arguments>&... arguments) {
  const emulated::Shape shape{config->gridDim, config->blockDim, config->attrs->val.clusterDim.x,
                              config->dynamicSmemBytes};
  emulated::run(shape, [&] { kernel(arguments...); });
  return cudaSuccess;
}
