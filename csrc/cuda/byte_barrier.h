#pragma once
// What the blocks of a cluster tell each other.

#include <cooperative_groups.h>

#include <algorithm>
#include <array>
#include <cstdint>

// Whether there are clusters of blocks: from compute capability 9.0 on.
#if defined(TORCHSOFTMAX_EMULATED_CUDA) || (defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900)
#define TORCHSOFTMAX_CLUSTERS
#endif

namespace torchsoftmax::cuda {

/// A barrier in shared memory at which bytes arrive that other blocks of the cluster write. Nothing
/// else is waited for: a barrier of the whole cluster would wait for all that its threads have
/// written to global memory before, which is most of a row.
class ByteBarrier {
#if defined(TORCHSOFTMAX_EMULATED_CUDA)
 public:
  __device__ void begin() const {}
  static __device__ void begun() {}
  __device__ void expect(uint32_t) const {}
  __device__ void wait(uint32_t) const { cooperative_groups::this_cluster().sync(); }
  template <size_t kCount>
  __device__ void tell(float* entry, const std::array<float, kCount>& values,
                       unsigned block) const {
    std::copy_n(values.data(), kCount,
                cooperative_groups::this_cluster().map_shared_rank(entry, block));
  }
#elif defined(TORCHSOFTMAX_CLUSTERS)
 public:
  __device__ void begin() const {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(address(state_)) : "memory");
  }
  /// By the thread that has begun them.
  static __device__ void begun() {
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  }
  /// By one thread of the block, in every phase.
  __device__ void expect(uint32_t bytes) const {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(address(state_)),
                 "r"(bytes)
                 : "memory");
  }
  __device__ void wait(uint32_t parity) const {
    uint32_t done = 0;
    while (done == 0) {
      asm volatile(
          "{\n"
          ".reg .pred done;\n"
          "mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 done, [%1], %2;\n"
          "selp.u32 %0, 1, 0, done;\n"
          "}"
          : "=r"(done)
          : "r"(address(state_)), "r"(parity)
          : "memory");
    }
  }
  /// Writes one or two values to a place in the memory of a block of the cluster, where its barrier
  /// gets to know.
  __device__ void tell(float* entry, const std::array<float, 1>& values, unsigned block) const {
    asm volatile(
        "{\n"
        ".reg .u32 entry, barrier;\n"
        "mapa.shared::cluster.u32 entry, %0, %3;\n"
        "mapa.shared::cluster.u32 barrier, %1, %3;\n"
        "st.async.shared::cluster.mbarrier::complete_tx::bytes.f32 [entry], %2, [barrier];\n"
        "}" ::"r"(address(*entry)),
        "r"(address(state_)), "f"(values[0]), "r"(block)
        : "memory");
  }
  __device__ void tell(float* entry, const std::array<float, 2>& values, unsigned block) const {
    asm volatile(
        "{\n"
        ".reg .u32 entry, barrier;\n"
        "mapa.shared::cluster.u32 entry, %0, %4;\n"
        "mapa.shared::cluster.u32 barrier, %1, %4;\n"
        "st.async.shared::cluster.mbarrier::complete_tx::bytes.v2.f32 [entry], {%2, %3}, "
        "[barrier];\n"
        "}" ::"r"(address(*entry)),
        "r"(address(state_)), "f"(values[0]), "f"(values[1]), "r"(block)
        : "memory");
  }

 private:
  template <typename T>
  static __device__ uint32_t address(const T& place) {
    return static_cast<uint32_t>(__cvta_generic_to_shared(&place));
  }
#endif

 private:
  uint64_t state_;
};

}  // namespace torchsoftmax::cuda
