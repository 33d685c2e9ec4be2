#pragma once
// The kernels over rows: a policy (policies/device.h) with a group of threads for each row.

#include "../row_tensor.h"
#include "memory_walk.h"
#include "register_walk.h"

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

/// A group, how many vectors of a row its threads hold at once, and whether rows begin and end
/// anywhere.
template <typename OfThreads, int kCount, bool kAnywhere = true>
struct Held {
  using Group = OfThreads;
  static constexpr int kVectors = kCount;
  static constexpr bool kEdges = kAnywhere;
};

/// The elements before the first vector of the output's row, or of the first operand's where there
/// is no output.
template <int kVector, typename Out, typename First, typename... In>
__device__ int64_t head_of(const Rows<Out>& out, int64_t row, const Rows<First>& first,
                           const Rows<In>&...) {
  return out.data == nullptr ? before_vectors<kVector>(first.row(row))
                             : before_vectors<kVector>(out.row(row));
}

template <typename V, typename OfHeld, typename RowPolicy, typename Out, typename... In>
__global__ void __launch_bounds__(kRowThreads)
    rows_in_memory(RowPolicy policy, Rows<Out> out, Rows<const In>... in) {
  using Group = typename OfHeld::Group;
  constexpr int kVectors = OfHeld::kVectors, kVector = kVectorOf<Out, In...>;
  const Group group(block_memory<typename Group::Shared>());
  int64_t row = group.first_row();
  const bool active = row < out.rows;
  if (Group::kAlong && !active) {
    return;
  }
  row = active ? row : 0;  // threads of a block wait for each other
  const int64_t head = kVectors == 0 ? 0 : head_of<kVector>(out, row, in...);
  const MemoryWalk<V, Group, kVector, kVectors> walk(group, out.classes, head, active,
                                                     shares_memory(out, in...));
  policy(walk, RowRange{row, active ? 1 : 0}, NoRoom{},
         MemoryView<Out, V, kVector, kVectors>(out.row(row), out.class_stride, head),
         MemoryView<const In, V, kVector, kVectors>(in.row(row), in.class_stride, head)...);
}

/// One row for each group of threads.
template <typename V, typename OfHeld, typename RowPolicy, typename Out, typename... In>
__global__ void __launch_bounds__(kRowThreads, sizeof...(In) == 1 ? 2 : 1)
    rows_in_registers(RowPolicy policy, Rows<Out> out, Rows<const In>... in) {
  using Group = typename OfHeld::Group;
  if constexpr (Group::kAvailable) {
    constexpr int kVectors = OfHeld::kVectors, kVector = kVectorOf<Out>;
    const Group group(block_memory<typename Group::Shared>());
    const int64_t row = group.first_row();
    if (row >= out.rows) {
      return;
    }
    const int64_t head = OfHeld::kEdges ? head_of<kVector>(out, row, in...) : 0;
    const RegisterWalk<V, Group, kVector, kVectors, OfHeld::kEdges> walk(group, out.classes, head,
                                                                         shares_memory(out, in...));
    policy(walk, RowRange{row, 1}, NoRoom{}, VectorOutput<Out, V>{out.row(row)},
           RegisterView<In, V, kVectors>(in.row(row), walk)...);
  }
}

/// Threads of a block of one row after the other. Of one operand they need no more than 64
/// registers each.
template <typename... In>
inline constexpr int kThreadsAhead = sizeof...(In) == 1 ? kMostThreads : kRowThreads;

/// One row after the other for each group of threads, the next of which is fetched meanwhile. Rows
/// are whole vectors.
template <typename V, typename OfHeld, typename RowPolicy, typename Out, typename... In>
__global__ void __launch_bounds__(kThreadsAhead<In...>)
    rows_fetched_ahead(RowPolicy policy, Rows<Out> out, Rows<const In>... in) {
  using Group = typename OfHeld::Group;
  if constexpr (Group::kAvailable) {
    constexpr int kVectors = OfHeld::kVectors, kVector = kVectorOf<Out>;
    uint4* const room = block_room();  // of each operand, kVectors of every thread
    const Group group(block_memory<typename Group::Shared>());
    const RegisterWalk<V, Group, kVector, kVectors, /*kEdges=*/false> walk(
        group, out.classes, /*head=*/0, shares_memory(out, in...));
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
    run(Fetched<In>{reinterpret_cast<typename Fetched<In>::Moved*>(room + operand++ * distance +
                                                                   threadIdx.x)}...);
  }
}

}  // namespace torchsoftmax::cuda
