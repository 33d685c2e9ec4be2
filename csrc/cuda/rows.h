#pragma once
// The loops over rows on CUDA. A kernel is a policy (policies/device.h) with a group of threads for
// each row:
// - classes side by side, in registers: a warp, a block or a cluster of blocks, by length;
// - classes side by side, from memory: a warp or a block;
// - classes apart from each other: threads side by side have neighbouring rows.
// In registers, every byte is read once and written once, in 16-byte accesses.

#include <ATen/core/Tensor.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAFunctions.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include "../row_tensor.h"
#include "walk.h"

namespace torchsoftmax::cuda {

/// RowTensor as a kernel's argument.
template <typename scalar_t>
struct Rows {
  static constexpr int kMostDims = 12;

  scalar_t* data;
  int64_t rows, classes, class_stride;
  int dims;
  int64_t sizes[kMostDims], strides[kMostDims];

  explicit Rows(const RowTensor<scalar_t>& tensor)
      : data(tensor.data),
        rows(tensor.rows),
        classes(tensor.classes),
        class_stride(tensor.class_stride),
        dims(static_cast<int>(tensor.dims.size())) {
    TORCH_CHECK(dims <= kMostDims, "torchsoftmax: expected tensors whose rows lie in ", kMostDims,
                " or fewer strided dimensions on CUDA, got ", dims);
    for (int d = 0; d < dims; ++d) {
      sizes[d] = tensor.dims[d].size;
      strides[d] = tensor.dims[d].stride;
    }
  }

  __device__ scalar_t* row(int64_t index) const {
    if (data == nullptr) {
      return nullptr;
    }
    int64_t offset = 0;
    for (int d = 0; d + 1 < dims; ++d) {
      offset += index % sizes[d] * strides[d];
      index /= sizes[d];
    }
    return dims == 0 ? data : data + offset + index * strides[dims - 1];
  }
};

template <typename Out, typename... In>
__device__ bool shares_memory(const Rows<Out>& out, const Rows<const In>&... in) {
  return ((static_cast<const void*>(out.data) == in.data) || ...);
}

template <typename V, typename Group, typename RowPolicy, typename Out, typename... In>
__global__ void __launch_bounds__(kRowThreads)
    rows_in_memory(RowPolicy policy, Rows<Out> out, Rows<const In>... in) {
  __shared__ typename Group::Shared shared;
  const Group group(shared);
  int64_t row = group.first_row();
  const bool active = row < out.rows;
  if (Group::kAlong && !active) {
    return;
  }
  row = active ? row : 0;  // threads of a block wait for each other
  const MemoryWalk<V, Group> walk(group, out.classes, active, shares_memory(out, in...));
  policy(walk, RowRange{row, active ? 1 : 0}, NoRoom{},
         MemoryView<Out, V>{out.row(row), out.class_stride},
         MemoryView<const In, V>{in.row(row), in.class_stride}...);
}

/// A group whose threads hold so many vectors of a row.
template <typename OfThreads, int kCount>
struct InRegisters {
  using Group = OfThreads;
  static constexpr int kVectors = kCount;
};

/// One row for each group of threads.
template <typename V, typename Held, typename RowPolicy, typename Out, typename... In>
__global__ void __launch_bounds__(kRowThreads)
    rows_in_registers(RowPolicy policy, Rows<Out> out, Rows<const In>... in) {
  using Group = typename Held::Group;
  if constexpr (Group::kAvailable) {
    constexpr int kVectors = Held::kVectors, kVector = kVectorOf<Out>;
    __shared__ typename Group::Shared shared;
    const Group group(shared);
    const int64_t row = group.first_row();
    if (row >= out.rows) {
      return;
    }
    const RegisterWalk<V, Group, kVector, kVectors> walk(group, out.classes, /*active=*/true,
                                                         shares_memory(out, in...));
    policy(walk, RowRange{row, 1}, NoRoom{}, VectorOutput<Out, V>{out.row(row)},
           RegisterView<In, V, kVectors>(in.row(row), walk)...);
  }
}

/// One row after the other for each group of threads, the next of which is fetched meanwhile.
template <typename V, typename Held, typename RowPolicy, typename Out, typename... In>
__global__ void __launch_bounds__(kRowThreads)
    rows_fetched_ahead(RowPolicy policy, Rows<Out> out, Rows<const In>... in) {
  using Group = typename Held::Group;
  if constexpr (Group::kAvailable) {
    constexpr int kVectors = Held::kVectors, kVector = kVectorOf<Out>;
    extern __shared__ uint4 room[];  // of each operand, kVectors of every thread
    __shared__ typename Group::Shared shared;
    const Group group(shared);
    const RegisterWalk<V, Group, kVector, kVectors> walk(group, out.classes, /*active=*/true,
                                                         shares_memory(out, in...));
    const auto run = [&](const Fetched<In>&... fetched) {
      int64_t row = group.first_row();
      (fetched.fetch(in.row(row), walk), ...);
      __pipeline_commit();
      for (; row < out.rows; row += group.rows_at_once()) {
        __pipeline_wait_prior(0);
        const auto views = [&](const auto&... view) {
          const int64_t next = row + group.rows_at_once();
          if (next < out.rows) {
            __syncwarp();  // what is fetched has been read
            (fetched.fetch(in.row(next), walk), ...);
            __pipeline_commit();
          }
          policy(walk, RowRange{row, 1}, NoRoom{}, VectorOutput<Out, V>{out.row(row)}, view...);
        };
        views(RegisterView<In, V, kVectors>(in.row(row), walk, fetched)...);
      }
    };
    int64_t operand = 0;
    const int64_t distance = int64_t{kVectors} * blockDim.x;
    run(Fetched<In>{reinterpret_cast<Vector<In>*>(room + operand++ * distance + threadIdx.x)}...);
  }
}

inline int64_t divided(int64_t value, int64_t by) { return (value + by - 1) / by; }

/// How a kernel is launched.
struct Launch {
  int64_t blocks = 0;
  dim3 threads{4 * kWarp};
  int cluster = 1;    // blocks of one
  size_t shared = 0;  // bytes for every block
};

template <typename T>
struct NotDeduced {
  using type = T;
};

template <typename... Arguments>
void launch(void (*kernel)(Arguments...), const Launch& how,
            const typename NotDeduced<Arguments>::type&... arguments) {
  TORCH_CHECK(how.blocks <= std::numeric_limits<int>::max(),
              "torchsoftmax: too many rows: ", how.blocks, " blocks of them");
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(how.blocks));
  config.blockDim = how.threads;
  config.dynamicSmemBytes = how.shared;
  config.stream = c10::cuda::getCurrentCUDAStream();
  constexpr int kPortableBlocks = 8;
  if (how.shared > 0) {  // with what a kernel has beside, it may be more than is had unasked
    C10_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                        static_cast<int>(how.shared)));
  }
  if (how.cluster > kPortableBlocks) {
    C10_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1));
  }
  cudaLaunchAttribute attribute;
  attribute.id = cudaLaunchAttributeClusterDimension;
  attribute.val.clusterDim = {static_cast<unsigned>(how.cluster), 1, 1};
  config.attrs = &attribute;
  config.numAttrs = how.cluster > 1 ? 1 : 0;
  C10_CUDA_CHECK(cudaLaunchKernelEx(&config, kernel, arguments...));
}

/// Blocks of a cluster: from compute capability 9.0 on.
inline bool has_clusters() {
  int major = 0;
  C10_CUDA_CHECK(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor,
                                        c10::cuda::current_device()));
  return major >= 9;
}

/// Whether every row can be accessed in whole vectors.
template <typename scalar_t>
bool in_vectors(const RowTensor<scalar_t>& tensor) {
  constexpr int kVector = kVectorOf<std::remove_const_t<scalar_t>>;
  bool whole = reinterpret_cast<uintptr_t>(tensor.data) % 16 == 0 && tensor.class_stride == 1 &&
               tensor.classes % kVector == 0;
  for (const auto& dim : tensor.dims) {
    whole = whole && dim.stride % kVector == 0;
  }
  return whole;
}

/// Whether rows in registers were a way to do it, and are on their way.
template <typename V, typename RowPolicy, typename Out, typename... In>
bool launch_in_registers(const RowPolicy& policy, const RowTensor<Out>& out,
                         const RowTensor<const In>&... in) {
  using Kernel = void (*)(RowPolicy, Rows<Out>, Rows<const In>...);
  const bool whole = (out.data == nullptr || in_vectors(out)) && (in_vectors(in) && ...);
  if (!whole || out.classes == 0) {
    return false;
  }
  constexpr int kMost = 8;  // vectors of a thread
  const int64_t vectors = divided(out.classes, kVectorOf<Out>);
  const int64_t threads = divided(divided(vectors, kMost), kWarp) * kWarp;
  Kernel kernel = nullptr;
  Launch how;
  if (threads == kWarp) {
    how.blocks = divided(out.rows, how.threads.x / kWarp);
    if (vectors > 4 * kWarp) {
      kernel = rows_in_registers<V, InRegisters<WarpGroup, 8>, RowPolicy, Out, In...>;
    } else if (vectors > 2 * kWarp) {
      kernel = rows_in_registers<V, InRegisters<WarpGroup, 4>, RowPolicy, Out, In...>;
    } else if (vectors > kWarp) {
      kernel = rows_in_registers<V, InRegisters<WarpGroup, 2>, RowPolicy, Out, In...>;
    } else {
      kernel = rows_in_registers<V, InRegisters<WarpGroup, 1>, RowPolicy, Out, In...>;
    }
  } else if (threads <= kRowThreads) {
    how.threads.x = static_cast<unsigned>(threads);
    how.blocks = out.rows;
    kernel = rows_in_registers<V, InRegisters<BlockGroup, kMost>, RowPolicy, Out, In...>;
  } else {
    for (how.cluster = 2; how.cluster * kRowThreads < threads;) {
      how.cluster *= 2;
    }
    if (how.cluster > kMostBlocks || !has_clusters()) {
      return false;
    }
    how.threads.x = static_cast<unsigned>(divided(threads, how.cluster * kWarp) * kWarp);
    if constexpr (RowPolicy::kReadsElements) {
      how.blocks = out.rows * how.cluster;
      kernel = rows_in_registers<V, InRegisters<ClusterGroup, kMost>, RowPolicy, Out, In...>;
    } else {
      // Several rows each, so that a next one can be fetched, and many times as many clusters as
      // run at once.
      constexpr int64_t kMostRows = 16, kBlocks = 4096;
      const int64_t rows =
          std::min(kMostRows, std::max<int64_t>(1, out.rows * how.cluster / kBlocks));
      how.blocks = divided(out.rows, rows) * how.cluster;
      how.shared = sizeof...(In) * kMost * how.threads.x * sizeof(uint4);
      kernel = rows_fetched_ahead<V, InRegisters<ClusterGroup, kMost>, RowPolicy, Out, In...>;
    }
  }
  launch(kernel, how, policy, Rows<Out>(out), Rows<const In>(in)...);
  return true;
}

// Rows of this many classes or fewer, side by side, have a warp each.
inline constexpr int64_t kWarpRow = 1024;
// And of this many a thread each, where there are many.
inline constexpr int64_t kThreadRow = 32, kManyRows = 16384;

/// Runs `policy` over every row of the operands, which agree in rows and classes. A policy without
/// an output passes `RowTensor<Out>` with null data.
template <typename acc_t, typename RowPolicy, typename Out, typename... In>
void for_each_row(const RowPolicy& policy, const RowTensor<Out>& out,
                  const RowTensor<const In>&... in) {
  if (out.rows == 0) {
    return;
  }
  using V = Lane<acc_t, sizeof(Out) == 2>;
  if constexpr (RowPolicy::kOften && sizeof(acc_t) == 4 && ((sizeof(In) == sizeof(Out)) && ...)) {
    if (launch_in_registers<V>(policy, out, in...)) {
      return;
    }
  }
  using Kernel = void (*)(RowPolicy, Rows<Out>, Rows<const In>...);
  const bool along = out.class_stride == 1 && ((in.class_stride == 1) && ...);
  Kernel kernel = nullptr;
  Launch how;
  how.blocks = out.rows;
  if (!along || (out.classes <= kThreadRow && out.rows >= kManyRows)) {
    kernel = rows_in_memory<V, ColumnGroup, RowPolicy, Out, In...>;
    // As many threads for a row as it takes to fill the device.
    constexpr int64_t kFull = int64_t{1} << 17;
    dim3& threads = how.threads;
    while (threads.y < 16 && threads.y * out.rows < kFull && threads.y * 4 < out.classes) {
      threads.y *= 2;
    }
    threads.x = threads.y > 4 ? kWarp : 4 * kWarp;
    how.blocks = divided(out.rows, threads.x);
  } else if (out.classes <= kWarpRow) {
    kernel = rows_in_memory<V, WarpGroup, RowPolicy, Out, In...>;
    how.blocks = divided(out.rows, how.threads.x / kWarp);
  } else {
    kernel = rows_in_memory<V, BlockGroup, RowPolicy, Out, In...>;
    how.threads.x = static_cast<unsigned>(
        std::min<int64_t>(kRowThreads, divided(out.classes, 8 * kWarp) * kWarp));
  }
  launch(kernel, how, policy, Rows<Out>(out), Rows<const In>(in)...);
}

}  // namespace torchsoftmax::cuda
