#pragma once
// The loops over rows on CUDA: which kernel (row_kernels.h) is for which rows.
// - classes side by side, in registers: a warp, a block or a cluster of blocks, by length;
// - classes side by side, from memory: a warp or a block;
// - classes apart from each other: threads side by side have neighbouring rows.
// In registers, every byte is read once and written once, in 16-byte accesses.

#include "launch.h"
#include "row_kernels.h"

namespace torchsoftmax::cuda {

/// Whether vectors begin at the same classes of every row of two operands.
template <typename A, typename B>
bool same_vectors(const RowTensor<A>& a, const RowTensor<B>& b) {
  constexpr int kVector = kVectorOf<std::remove_const_t<A>>;
  bool same =
      a.class_stride == 1 && b.class_stride == 1 && a.dims.size() == b.dims.size() &&
      (reinterpret_cast<uintptr_t>(a.data) - reinterpret_cast<uintptr_t>(b.data)) % kVectorBytes ==
          0;
  for (size_t d = 0; same && d < a.dims.size(); ++d) {
    same = a.dims[d].size == b.dims[d].size && (a.dims[d].stride - b.dims[d].stride) % kVector == 0;
  }
  return same;
}

/// Whether every row is in whole vectors.
template <typename scalar_t>
bool in_vectors(const RowTensor<scalar_t>& tensor) {
  constexpr int kVector = kVectorOf<std::remove_const_t<scalar_t>>;
  bool whole =
      reinterpret_cast<uintptr_t>(tensor.data) % kVectorBytes == 0 && tensor.classes % kVector == 0;
  for (const auto& dim : tensor.dims) {
    whole = whole && dim.stride % kVector == 0;
  }
  return whole;
}

// Vectors of a thread that has a row in registers, with others; and of one that reduces nothing.
inline constexpr int kMostVectors = 8, kVectorsOfPiece = 8;
inline constexpr int kPieceThreads = 128;

/// Blocks of no more than `most` threads for so many, a power of 2.
inline int blocks_for(int64_t threads, int most) {
  int count = 1;
  while (count * most < threads) {
    count *= 2;
  }
  return count;
}

template <typename RowPolicy, typename Out, typename... In>
using RowKernel = void (*)(RowPolicy, Rows<Out>, Rows<const In>...);

/// What runs rows whose next one is fetched meanwhile; no kernel where nothing does. A cluster has
/// several rows, so that there is a next one, and more where more is waited for in each; but there
/// are many times as many clusters as run at once, which begin and end apart.
template <typename V, typename RowPolicy, typename Out, typename... In>
RowKernel<RowPolicy, Out, In...> fetched_ahead(Launch& how, const RowTensor<Out>& out,
                                               int64_t threads) {
  constexpr int kOperands = sizeof...(In);
  RowKernel<RowPolicy, Out, In...> kernel =
      &rows_fetched_ahead<V, Held<ClusterGroup, kMostVectors, false, kRowThreads>, RowPolicy, Out,
                          In...>;
  how.threads.x = kRowThreads;
  how.cluster = blocks_for(threads, kRowThreads);
  if constexpr (kOperands == 1) {
    if (how.cluster >= kMostBlocks) {  // 8 large blocks waste less of the device than 16
      kernel = &rows_fetched_ahead<V, Held<ClusterGroup, kMostVectors, false, kMostThreads>,
                                   RowPolicy, Out, In...>;
      how.threads.x = kMostThreads;
      how.cluster = blocks_for(threads, kMostThreads);
    }
  }
  if (how.cluster > kMostBlocks) {
    return nullptr;
  }
  how.shared = size_t{kOperands} * kMostVectors * how.threads.x * kVectorBytes;
  const int64_t at_once = clusters_at_once(reinterpret_cast<const void*>(kernel), how);
  if (at_once == 0) {
    return nullptr;
  }
  const bool few = kOperands == 1 && !RowPolicy::kReadsElements;
  const int64_t most = how.cluster * how.threads.x / kRowThreads / (few ? 2 : 1);
  const int64_t rows = std::clamp<int64_t>(out.rows / (4 * at_once), 1, most);
  how.blocks = divided(out.rows, rows) * how.cluster;
  return kernel;
}

/// Whether rows in registers were a way to do it, and are on their way.
template <typename V, typename RowPolicy, typename Out, typename First, typename... In>
bool launch_in_registers(const RowPolicy& policy, const RowTensor<Out>& out,
                         const RowTensor<const First>& first, const RowTensor<const In>&... in) {
  const bool same = (out.data == nullptr || same_vectors(out, first)) &&
                    (same_vectors(in, first) && ...) && first.class_stride == 1;
  if (!same || out.classes == 0) {
    return false;
  }
  constexpr auto kernel_of = [](auto held) {
    return &rows_in_registers<V, decltype(held), RowPolicy, Out, First, In...>;
  };
  const bool whole = in_vectors(first);
  const int64_t vectors = divided(out.classes, kVectorOf<Out>);
  const int64_t threads = divided(divided(vectors, kMostVectors), kWarp) * kWarp;
  RowKernel<RowPolicy, Out, First, In...> kernel = nullptr;
  Launch how;
  how.blocks = out.rows;
  if (threads == kWarp) {
    how.blocks = divided(out.rows, how.threads.x / kWarp);
    if (!whole) {
      kernel = kernel_of(Held<WarpGroup, 8>{});
    } else if (vectors > 4 * kWarp) {
      kernel = kernel_of(Held<WarpGroup, 8, false>{});
    } else if (vectors > 2 * kWarp) {
      kernel = kernel_of(Held<WarpGroup, 4, false>{});
    } else if (vectors > kWarp) {
      kernel = kernel_of(Held<WarpGroup, 2, false>{});
    } else {
      kernel = kernel_of(Held<WarpGroup, 1, false>{});
    }
  } else if constexpr (!RowPolicy::kReduces) {
    how.threads.x = kPieceThreads;
    how.pieces = static_cast<int>(divided(vectors, kVectorsOfPiece * kPieceThreads));
    kernel = whole ? kernel_of(Held<PieceGroup, kVectorsOfPiece, false>{})
                   : kernel_of(Held<PieceGroup, kVectorsOfPiece>{});
  } else if (threads <= kRowThreads) {
    how.threads.x = static_cast<unsigned>(threads);
    kernel = whole ? kernel_of(Held<BlockGroup, kMostVectors, false>{})
                   : kernel_of(Held<BlockGroup, kMostVectors>{});
  } else if (out.data == nullptr) {
    return false;  // nothing is read twice
  } else if (sizeof...(In) == 0 && threads <= kMostThreads) {
    if constexpr (sizeof...(In) == 0) {
      how.threads.x = kMostThreads;
      kernel = whole ? kernel_of(Held<BlockGroup, kMostVectors, false, kMostThreads>{})
                     : kernel_of(Held<BlockGroup, kMostVectors, true, kMostThreads>{});
    }
  } else if (!has_clusters()) {
    return false;
  } else {
    if (whole && out.dims.size() <= 1 && first.dims.size() <= 1) {
      kernel = fetched_ahead<V, RowPolicy, Out, First, In...>(how, out, threads);
    }
    if (kernel == nullptr) {
      how.threads.x = kRowThreads;
      how.cluster = blocks_for(threads, kRowThreads);
      if (how.cluster > kMostBlocks) {
        return false;
      }
      how.shared = 0;
      how.blocks = out.rows * how.cluster;
      kernel = whole ? kernel_of(Held<ClusterGroup, kMostVectors, false, kRowThreads>{})
                     : kernel_of(Held<ClusterGroup, kMostVectors, true, kRowThreads>{});
    }
  }
  launch(kernel, how, policy, Rows<Out>(out), Rows<const First>(first), Rows<const In>(in)...);
  return true;
}

// Rows of this many classes or fewer, side by side, have a warp each.
inline constexpr int64_t kWarpRow = 1024;
// Threads of a block for a longer one of which nothing is written: more rows at once hide more.
inline constexpr int kReadThreads = 128;
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
  constexpr int kAtOnce = sizeof...(In) == 1 ? 4 : 2;  // vectors of each operand
  const bool along = out.class_stride == 1 && ((in.class_stride == 1) && ...);
  Kernel kernel = nullptr;
  Launch how;
  how.blocks = out.rows;
  if (!along || (out.classes <= kThreadRow && out.rows >= kManyRows)) {
    kernel = rows_in_memory<V, Held<ColumnGroup, 0>, RowPolicy, Out, In...>;
    // As many threads for a row as it takes to fill the device.
    constexpr int64_t kFull = int64_t{1} << 17;
    dim3& threads = how.threads;
    while (threads.y < 16 && threads.y * out.rows < kFull && threads.y * 4 < out.classes) {
      threads.y *= 2;
    }
    threads.x = threads.y > 4 ? kWarp : 4 * kWarp;
    how.blocks = divided(out.rows, threads.x);
  } else if (out.classes <= kWarpRow) {
    kernel = rows_in_memory<V, Held<WarpGroup, kAtOnce>, RowPolicy, Out, In...>;
    how.blocks = divided(out.rows, how.threads.x / kWarp);
  } else {
    kernel = rows_in_memory<V, Held<BlockGroup, kAtOnce>, RowPolicy, Out, In...>;
    const int64_t vectors = divided(out.classes, kVectorOf<Out, In...>);
    how.threads.x =
        static_cast<unsigned>(std::min<int64_t>(out.data == nullptr ? kReadThreads : kRowThreads,
                                                divided(vectors, kAtOnce * kWarp) * kWarp));
  }
  launch(kernel, how, policy, Rows<Out>(out), Rows<const In>(in)...);
}

}  // namespace torchsoftmax::cuda
