#pragma once
// Products of matrices in tiles, by oneDNN's micro-kernel.

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/native/CPUBlas.h>
#include <ATen/ops/empty.h>

#include "rows.h"

namespace torchsoftmax::cpu {

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

/// The rows of a matrix in pairs, as the instructions for bfloat16 take them: the two values of a
/// column side by side. A last row without a partner gets zeros.
inline at::Tensor in_pairs(const at::Tensor& matrix) {
  const Matrix<at::BFloat16> from(matrix);
  const int64_t rows = matrix.size(0), columns = matrix.size(1), pairs = (rows + 1) / 2;
  at::Tensor result = at::empty({pairs, 2 * columns}, matrix.options());
  at::BFloat16* to = result.mutable_data_ptr<at::BFloat16>();
  at::parallel_for(0, pairs, std::max<int64_t>(1, kGrain / columns), [&](int64_t i, int64_t end) {
    for (; i < end; ++i) {
      const at::BFloat16* first = from.at(2 * i, 0);
      const bool both = 2 * i + 1 < rows;
      const at::BFloat16* second = from.at(both ? 2 * i + 1 : 2 * i, 0);
      for (int64_t j = 0; j < columns; ++j) {
        to[2 * (i * columns + j)] = first[j];
        to[2 * (i * columns + j) + 1] = both ? second[j] : at::BFloat16(0);
      }
    }
  });
  return result;
}

/// Sizes of a tile of the result, and of the part of the inner dimension that is packed at a time.
struct ProductTile {
  int64_t rows;
  int64_t columns;
  int64_t depth;
};

/// What was fastest of a dozen shapes on 2 cores (docs/design.md): the operand that is packed is
/// packed once, and stays with its tile in the second-level cache.
template <typename scalar_t>
ProductTile tile_of(const Matrix<scalar_t>& a, const Matrix<scalar_t>& b) {
  if (!a.row_major()) {
    return {64, 1024, 256};
  }
  return b.row_major() ? ProductTile{128, 192, 512} : ProductTile{256, 64, 768};
}

/// A block of an operand as the micro-kernel takes it.
template <typename packed_t>
struct Block {
  const packed_t* data;
  int64_t pitch;
};

/// out = a b or out + a b, by tiles. packed_t: what the micro-kernel multiplies. b of bfloat16 is
/// in pairs: it is read by every tile, so it is packed once, before.
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
      return {b_.at(k / 2, 2 * column), columns_};
    }
    if constexpr (!kConverts) {
      if (b_.row_major()) {
        return {b_.at(k, column), std::max(b_.row_stride, columns)};
      }
    }
    pack(b_, k, column, part, columns, packed, columns);
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
  ProductTile tile_;
};

}  // namespace torchsoftmax::cpu
