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
    strides[0] = 0;
    for (int d = 0; d < dims; ++d) {
      sizes[d] = tensor.dims[d].size;
      strides[d] = tensor.dims[d].stride;
    }
  }

  /// Where they lie in one dimension.
  __device__ scalar_t* line(int64_t index) const { return data + index * strides[0]; }
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
  const MemoryWalk<V, Group, kVector, kVectors> walk(group, out.classes, head, active);
  policy(walk, RowRange{row, active ? 1 : 0}, NoRoom{},
         MemoryView<Out, V, kVector, kVectors>(out.row(row), out.class_stride, head),
         MemoryView<const In, V, kVector, kVectors>(in.row(row), in.class_stride, head)...);
}

/// Threads of a block, and how many blocks of a multiprocessor share its registers: 1024 threads in
/// all where rows have one operand, otherwise 512.
template <typename OfHeld>
inline constexpr int kBlockThreads = OfHeld::kThreads > 0 ? OfHeld::kThreads : kRowThreads;
template <typename OfHeld, typename... In>
inline constexpr int kLeastBlocks = sizeof...(In) == 1 ? kMostThreads / kBlockThreads<OfHeld> : 1;

/// One row for each group of threads.
template <typename V, typename OfHeld, typename RowPolicy, typename Out, typename... In>
__global__ void __launch_bounds__(kBlockThreads<OfHeld>, kLeastBlocks<OfHeld, In...>)
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
    const RegisterWalk<V, OfHeld, kVector> walk(group, out.classes, head);
    const auto run = [&](const auto&... view) {
      policy(walk, RowRange{row, 1}, room_of<RowPolicy>(view...),
             VectorOutput<Out, V>{out.row(row)}, view...);
    };
    run(RegisterView<In, V, kVectors>(in.row(row), walk)...);
  }
}

/// One row after the other for each group of threads, the next of which is fetched meanwhile. Rows
/// are whole vectors and lie in one dimension.
template <typename V, typename OfHeld, typename RowPolicy, typename Out, typename... In>
__global__ void __launch_bounds__(kBlockThreads<OfHeld>, kLeastBlocks<OfHeld, In...>)
    rows_fetched_ahead(RowPolicy policy, Rows<Out> out, Rows<const In>... in) {
  using Group = typename OfHeld::Group;
  if constexpr (Group::kAvailable) {
    constexpr int kVectors = OfHeld::kVectors, kThreads = OfHeld::kThreads;
    uint4* const room = block_room();  // of each operand, kVectors of every thread
    const Group group(block_memory<typename Group::Shared>());
    const RegisterWalk<V, OfHeld, kVectorOf<Out>> walk(group, out.classes, /*head=*/0);
    const auto run = [&](const Fetched<In, kThreads>&... fetched) {
      int64_t row = group.first_row();
      if (row < out.rows) {
        (fetched.fetch(in.line(row), walk), ...);
      }
      __pipeline_commit();
      for (; row < out.rows; row += group.rows_at_once()) {
        __pipeline_wait_prior(0);
        const auto views = [&](const auto&... view) {
          const int64_t next = row + group.rows_at_once();
          if (next < out.rows) {
            __syncwarp();  // what is fetched has been read
            (fetched.fetch(in.line(next), walk), ...);
            __pipeline_commit();
          }
          policy(walk, RowRange{row, 1}, room_of<RowPolicy>(view...),
                 VectorOutput<Out, V>{out.line(row)}, view...);
        };
        views(RegisterView<In, V, kVectors>(in.line(row), walk, fetched)...);
      }
    };
    int64_t operand = 0;
    run(Fetched<In, kThreads>{reinterpret_cast<typename Fetched<In, kThreads>::Moved*>(
        room + operand++ * (kVectors * kThreads) + threadIdx.x)}...);
  }
}

}  // namespace torchsoftmax::cuda
