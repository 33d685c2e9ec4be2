#pragma once
// Launches of kernels on the current stream.

#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAFunctions.h>
#include <c10/cuda/CUDAStream.h>

#include <algorithm>
#include <limits>
#include <map>
#include <mutex>
#include <tuple>

#include "group.h"

namespace torchsoftmax::cuda {

inline int64_t divided(int64_t value, int64_t by) { return (value + by - 1) / by; }

/// How a kernel is launched.
struct Launch {
  int64_t blocks = 0;
  dim3 threads{4 * kWarp};
  int cluster = 1;    // blocks of one
  int pieces = 0;     // of each of `blocks` rows (PieceGroup), or 0: a block is not one of several
  size_t shared = 0;  // bytes for every block of a cluster

  dim3 grid() const {
    if (pieces == 0) {
      TORCH_CHECK(blocks <= std::numeric_limits<int>::max(),
                  "torchsoftmax: too many rows: ", blocks, " blocks of them");
      return dim3(static_cast<unsigned>(blocks));
    }
    constexpr int64_t kMost = 32768;  // in the other directions of a grid
    const int64_t down = std::min(blocks, kMost);
    return dim3(static_cast<unsigned>(pieces), static_cast<unsigned>(down),
                static_cast<unsigned>(divided(blocks, down)));
  }
};

template <typename T>
struct NotDeduced {
  using type = T;
};

/// What launches a kernel with clusters of blocks.
struct ClusterConfig {
  cudaLaunchConfig_t config{};
  cudaLaunchAttribute attribute{};

  ClusterConfig(const void* kernel, const Launch& how) {
    C10_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                        static_cast<int>(how.shared)));
    constexpr int kPortableBlocks = 8;
    if (how.cluster > kPortableBlocks) {
      C10_CUDA_CHECK(
          cudaFuncSetAttribute(kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1));
    }
    attribute.id = cudaLaunchAttributeClusterDimension;
    attribute.val.clusterDim = {static_cast<unsigned>(how.cluster), 1, 1};
    config.gridDim = how.grid();
    config.blockDim = how.threads;
    config.dynamicSmemBytes = how.shared;
    config.stream = c10::cuda::getCurrentCUDAStream();
    config.attrs = &attribute;
    config.numAttrs = 1;
  }
  ClusterConfig(const ClusterConfig&) = delete;
};

template <typename... Arguments>
void launch(void (*kernel)(Arguments...), const Launch& how,
            const typename NotDeduced<Arguments>::type&... arguments) {
#if defined(__CUDACC__)
  if (how.cluster == 1 && how.shared == 0) {
    kernel<<<how.grid(), how.threads, 0, c10::cuda::getCurrentCUDAStream()>>>(arguments...);
    C10_CUDA_KERNEL_LAUNCH_CHECK();
    return;
  }
#endif
  const ClusterConfig with_clusters(reinterpret_cast<const void*>(kernel), how);
  C10_CUDA_CHECK(cudaLaunchKernelEx(&with_clusters.config, kernel, arguments...));
}

/// How many clusters, or single blocks, the device has room for.
inline int64_t clusters_at_once(const void* kernel, const Launch& how) {
  using Key = std::tuple<const void*, int, int, unsigned, size_t>;
  static std::mutex mutex;
  static std::map<Key, int> known;
  const Key key{kernel, c10::cuda::current_device(), how.cluster, how.threads.x, how.shared};
  const std::lock_guard<std::mutex> lock(mutex);
  auto found = known.find(key);
  if (found == known.end()) {
    Launch one = how;
    one.blocks = how.cluster;
    const ClusterConfig config(kernel, one);
    int clusters = 0;
    C10_CUDA_CHECK(cudaOccupancyMaxActiveClusters(&clusters, kernel, &config.config));
    found = known.emplace(key, clusters).first;
  }
  return found->second;
}

/// Blocks of a cluster: from compute capability 9.0 on.
inline bool has_clusters() {
  int major = 0;
  C10_CUDA_CHECK(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor,
                                        c10::cuda::current_device()));
  return major >= 9;
}

}  // namespace torchsoftmax::cuda
