// Matrix products with float32 sums, in tiles by oneDNN's micro-kernel, which libtorch exports.
//
// at::mm has no product of bfloat16 matrices with a float32 result, nor one that adds to it, which
// the gradient of a weight that is summed over chunks of rows needs. It is also slow for float16,
// and for float32 on processors of AMD, where its library takes AVX2 (docs/design.md has figures).
//
// A tile of the result is summed over the inner dimension by one thread, in one order: results do
// not depend on the number of threads.

#include <ATen/Parallel.h>
#include <ATen/native/CPUBlas.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/mm.h>
#include <torch/library.h>

#include "../checks.h"
#include "rows.h"
#include "tensors.h"

namespace torchsoftmax::cpu {
namespace {

/// A matrix in memory; one of the strides is 1.
template <typename scalar_t>
struct Matrix {
  const scalar_t* data;
  int64_t row_stride;
  int64_t column_stride;

  explicit Matrix(const at::Tensor& tensor)
      : data(tensor.const_data_ptr<scalar_t>()),
        row_stride(tensor.stride(0)),
        column_stride(tensor.stride(1)) {}

  const scalar_t* at(int64_t row, int64_t column) const {
    return data + row * row_stride + column * column_stride;
  }
  bool row_major() const { return column_stride == 1; }
};

/// Copies a block to rows of `pitch`, converted and, where it is not row-major, transposed.
template <typename scalar_t, typename packed_t>
void pack(const Matrix<scalar_t>& from, int64_t row, int64_t column, int64_t rows, int64_t columns,
          packed_t* to, int64_t pitch) {
  constexpr int64_t kBlock = 16;
  const auto element = [&](int64_t i, int64_t j) {
    to[i * pitch + j] = static_cast<packed_t>(*from.at(row + i, column + j));
  };
  if (from.row_major()) {
    for (int64_t i = 0; i < rows; ++i) {
      at::vec::convert(from.at(row + i, column), to + i * pitch, columns);
    }
    return;
  }
  alignas(64) std::array<packed_t, kBlock * kBlock> block;
  int64_t j = 0;
  for (; j + kBlock <= columns; j += kBlock) {
    int64_t i = 0;
    for (; i + kBlock <= rows; i += kBlock) {
      const packed_t* source;
      int64_t stride = from.column_stride;
      if constexpr (std::is_same_v<scalar_t, packed_t>) {
        source = from.at(row + i, column + j);
      } else {
        for (int64_t k = 0; k < kBlock; ++k) {
          at::vec::convert(from.at(row + i, column + j + k), block.data() + k * kBlock, kBlock);
        }
        source = block.data();
        stride = kBlock;
      }
      at::vec::transpose_mxn<packed_t, kBlock, kBlock>(source, stride, to + i * pitch + j, pitch);
    }
    for (; i < rows; ++i) {
      for (int64_t k = j; k < j + kBlock; ++k) {
        element(i, k);
      }
    }
  }
  for (int64_t i = 0; j < columns && i < rows; ++i) {
    for (int64_t k = j; k < columns; ++k) {
      element(i, k);
    }
  }
}

/// Copies rows in pairs, as the instructions for bfloat16 take them: the two values of a column
/// side by side. A last row without a partner gets zeros.
void pack_pairs(const Matrix<at::BFloat16>& from, int64_t row, int64_t column, int64_t rows,
                int64_t columns, at::BFloat16* to) {
  for (int64_t i = 0; i < rows; i += 2) {
    const at::BFloat16* first = from.at(row + i, column);
    const at::BFloat16* second = i + 1 < rows ? from.at(row + i + 1, column) : nullptr;
    at::BFloat16* pairs = to + i * columns;
    for (int64_t j = 0; j < columns; ++j) {
      pairs[2 * j] = first[j];
      pairs[2 * j + 1] = second == nullptr ? at::BFloat16(0) : second[j];
    }
  }
}

/// Sizes of a tile of the result, and of the part of the inner dimension that is packed at a time.
struct Tile {
  int64_t rows;
  int64_t columns;
  int64_t depth;
};

/// What was fastest of a dozen shapes on 2 cores (docs/design.md): the operand that is packed is
/// packed once, and stays with its tile in the second-level cache.
template <typename scalar_t>
Tile tile_of(const Matrix<scalar_t>& a, const Matrix<scalar_t>& b) {
  if (!a.row_major()) {
    return {64, 1024, 256};
  }
  return b.row_major() ? Tile{128, 192, 512} : Tile{256, 64, 768};
}

/// A block of an operand as the micro-kernel takes it.
template <typename packed_t>
struct Block {
  const packed_t* data;
  int64_t pitch;
};

/// out = a b or out + a b, by tiles. packed_t: what the micro-kernel multiplies.
template <typename packed_t, typename scalar_t, typename out_t>
class TiledProduct {
  static constexpr bool kPairs = std::is_same_v<packed_t, at::BFloat16>;
  static constexpr bool kConverts = !std::is_same_v<packed_t, scalar_t>;

 public:
  TiledProduct(const at::Tensor& out, const at::Tensor& a, const at::Tensor& b, bool accumulate)
      : a_(a),
        b_(b),
        out_(out.mutable_data_ptr<out_t>()),
        pitch_(out.stride(0)),
        rows_(out.size(0)),
        columns_(out.size(1)),
        depth_(a.size(1)),
        accumulate_(accumulate),
        tile_(tile_of(a_, b_)) {
    tile_.columns = std::min(tile_.columns, columns_);
    tile_.depth = std::min(tile_.depth, (depth_ + 1) / 2 * 2);
  }

  void run() const {
    const int64_t down = (rows_ + tile_.rows - 1) / tile_.rows;
    const int64_t across = (columns_ + tile_.columns - 1) / tile_.columns;
    at::parallel_for(0, down * across, 1, [&](int64_t begin, int64_t end) {
      const Scratch<packed_t> of_a(tile_.rows * tile_.depth), of_b(tile_.depth * tile_.columns);
      const Scratch<float> sums(tile_.rows * tile_.columns), totals(sums_apart());
      for (int64_t tile = begin; tile < end; ++tile) {
        // Neighbours share the operand that is packed.
        const int64_t row = a_.row_major() ? tile % down : tile / across;
        const int64_t column = a_.row_major() ? tile / down : tile % across;
        tile_at(row * tile_.rows, column * tile_.columns, of_a.data(), of_b.data(), sums.data(),
                totals.data());
      }
      at::native::cpublas::brgemm_release(kPairs);
    });
  }

 private:
  /// Each part of the depth is summed from 0, then added: shorter sums round less.
  void tile_at(int64_t row, int64_t column, packed_t* of_a, packed_t* of_b, float* sums,
               float* totals) const {
    const int64_t rows = std::min(tile_.rows, rows_ - row);
    const int64_t columns = std::min(tile_.columns, columns_ - column);
    for (int64_t k = 0; k < depth_; k += tile_.depth) {
      const int64_t part = std::min(tile_.depth, depth_ - k);
      const int64_t padded = kPairs ? (part + 1) / 2 * 2 : part;
      const auto a = block_of_a(row, k, rows, part, padded, of_a);
      const auto b = block_of_b(k, column, part, columns, of_b);
      at::native::cpublas::brgemm(rows, columns, padded, a.pitch, b.pitch, columns,
                                  /*add_C=*/false, a.data, b.data, sums, /*is_vnni=*/kPairs);
      if constexpr (std::is_same_v<out_t, float>) {
        write(out_ + row * pitch_ + column, pitch_, sums, rows, columns, accumulate_ || k > 0);
      } else {
        write(totals, columns, sums, rows, columns, k > 0);
      }
    }
    if constexpr (!std::is_same_v<out_t, float>) {
      write(out_ + row * pitch_ + column, pitch_, totals, rows, columns, accumulate_);
    }
  }

  /// Room for the sums of all parts where the result cannot hold them.
  int64_t sums_apart() const {
    return std::is_same_v<out_t, float> ? 1 : tile_.rows * tile_.columns;
  }

  Block<packed_t> block_of_a(int64_t row, int64_t k, int64_t rows, int64_t part, int64_t padded,
                             packed_t* packed) const {
    if constexpr (!kConverts && !kPairs) {
      if (a_.row_major()) {
        return {a_.at(row, k), std::max(a_.row_stride, part)};
      }
    }
    pack(a_, row, k, rows, part, packed, padded);
    for (int64_t i = 0; padded != part && i < rows; ++i) {
      packed[i * padded + part] = packed_t(0);
    }
    return {packed, padded};
  }

  Block<packed_t> block_of_b(int64_t k, int64_t column, int64_t part, int64_t columns,
                             packed_t* packed) const {
    if constexpr (kPairs) {
      pack_pairs(b_, k, column, part, columns, packed);
    } else {
      if constexpr (!kConverts) {
        if (b_.row_major()) {
          return {b_.at(k, column), std::max(b_.row_stride, columns)};
        }
      }
      pack(b_, k, column, part, columns, packed, columns);
    }
    return {packed, columns};
  }

  template <typename to_t>
  static void write(to_t* to, int64_t pitch, const float* sums, int64_t rows, int64_t columns,
                    bool add) {
    const auto some = [&](to_t* at, const float* from, auto lanes) {
      Vec<float> value = Vec<float>::loadu(from, lanes);
      if (add) {
        value = value + load<float>(at, lanes);
      }
      store(at, value, lanes);
    };
    for (int64_t i = 0; i < rows; ++i, to += pitch, sums += columns) {
      int64_t j = 0;
      for (; j + kLanes<float> <= columns; j += kLanes<float>) {
        some(to + j, sums + j, AllLanes<float>{});
      }
      if (j < columns) {
        some(to + j, sums + j, columns - j);
      }
    }
  }

  const Matrix<scalar_t> a_, b_;
  out_t* const out_;
  const int64_t pitch_, rows_, columns_, depth_;
  const bool accumulate_;
  Tile tile_;
};

template <typename packed_t, typename scalar_t, typename out_t>
void tiled(const at::Tensor& out, const at::Tensor& a, const at::Tensor& b, bool accumulate) {
  TiledProduct<packed_t, scalar_t, out_t>(out, a, b, accumulate).run();
}

/// Whether the micro-kernel takes pairs of bfloat16 on this processor.
bool has_pairs() {
  static const bool has = [] {
    const std::array<at::BFloat16, 4> ones{1, 1, 1, 1};
    std::array<float, 4> sums{};
    try {
      at::native::cpublas::brgemm(2, 2, 2, 2, 2, 2, false, ones.data(), ones.data(), sums.data(),
                                  /*is_vnni=*/true);
      at::native::cpublas::brgemm_release(true);
      return sums[0] == 2;
    } catch (const c10::Error&) {
      return false;
    }
  }();
  return has;
}

/// Rows, or columns, one after the other in memory.
bool is_dense(const at::Tensor& matrix) {
  return (matrix.stride(1) == 1 && matrix.stride(0) >= matrix.size(1)) ||
         (matrix.stride(0) == 1 && matrix.stride(1) >= matrix.size(0));
}

void gemm_(const at::Tensor& out, const at::Tensor& a, const at::Tensor& b, bool accumulate) {
  checks::gemm(out, a, b);
  const auto dtype = a.scalar_type();
  const bool wide = out.scalar_type() == at::kFloat;
  // Where both products are of bfloat16 at::mm is as fast, for float64 there is no micro-kernel,
  // and a few rows are bound by memory.
  constexpr int64_t kFew = 16;
  const bool small = out.size(0) < kFew || out.size(1) < kFew || a.size(1) < kFew;
  const bool native = dtype == at::kDouble || (dtype == at::kBFloat16 && !wide) ||
                      (small && out.scalar_type() == dtype) || out.stride(1) != 1 ||
                      out.stride(0) < out.size(1);
  if (native) {
    at::Tensor result = out;
    if (accumulate) {
      at::addmm_out(result, out, a.to(out.scalar_type()), b.to(out.scalar_type()));
    } else {
      at::mm_out(result, a.to(out.scalar_type()), b.to(out.scalar_type()));
    }
    return;
  }
  if (out.numel() == 0) {
    return;
  }
  if (a.size(1) == 0) {
    if (!accumulate) {
      out.zero_();
    }
    return;
  }
  const at::Tensor left = is_dense(a) ? a : a.contiguous();
  at::Tensor right = is_dense(b) ? b : b.contiguous();
  if (dtype == at::kFloat) {
    tiled<float, float, float>(out, left, right, accumulate);
  } else if (dtype == at::kBFloat16 && has_pairs()) {
    right = right.stride(1) == 1 ? right : right.contiguous();
    tiled<at::BFloat16, at::BFloat16, float>(out, left, right, accumulate);
  } else if (dtype == at::kBFloat16) {
    tiled<float, at::BFloat16, float>(out, left, right, accumulate);
  } else if (wide) {
    tiled<float, at::Half, float>(out, left, right, accumulate);
  } else {
    tiled<float, at::Half, at::Half>(out, left, right, accumulate);
  }
}

}  // namespace

TORCH_LIBRARY_IMPL(torchsoftmax, CPU, m) { m.impl("gemm_", &gemm_); }

}  // namespace torchsoftmax::cpu
