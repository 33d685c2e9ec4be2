#pragma once
// Matrices, and blocks of them packed for a micro-kernel: converted, and in the order it reads.

#include <ATen/core/Tensor.h>

#include "vec.h"

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

template <typename scalar_t, typename packed_t>
void convert_row(const scalar_t* from, packed_t* to, int64_t count) {
  if constexpr (std::is_same_v<scalar_t, packed_t> || !std::is_same_v<packed_t, float>) {
    at::vec::convert(from, to, count);
  } else {
    int64_t i = 0;
    for (; i + kLanes<float> <= count; i += kLanes<float>) {
      load<float>(from + i, AllLanes<float>{}).store(to + i);
    }
    if (i < count) {
      load<float>(from + i, count - i).store(to + i, count - i);
    }
  }
}

/// Copies a block to rows of `pitch`, converted and, where it is not row-major, transposed.
template <typename scalar_t, typename packed_t>
void pack(const Matrix<scalar_t>& from, int64_t row, int64_t column, int64_t rows, int64_t columns,
          packed_t* to, int64_t pitch) {
  constexpr int64_t kBlock = 16;
  const auto element = [&](int64_t i, int64_t j) {
    to[i * pitch + j] = static_cast<packed_t>(*from.at(row + i, column + j));
  };
  // A block is a short piece of each of many rows, which the processor does not fetch by itself.
  if (from.row_major()) {
    constexpr int64_t kAhead = 4, kLine = 64 / sizeof(scalar_t);
    for (int64_t i = 0; i < rows; ++i) {
      for (int64_t j = 0; j < columns; j += kLine) {
        __builtin_prefetch(from.at(row + i + kAhead, column + j));
      }
      convert_row(from.at(row + i, column), to + i * pitch, columns);
    }
    return;
  }
  alignas(64) std::array<packed_t, kBlock * kBlock> block;
  int64_t j = 0;
  for (; j + kBlock <= columns; j += kBlock) {
    int64_t i = 0;
    for (; i + kBlock <= rows; i += kBlock) {
      for (int64_t k = 0; k < kBlock; ++k) {
        __builtin_prefetch(from.at(row + i, column + j + kBlock + k));
      }
      const packed_t* source;
      int64_t stride = from.column_stride;
      if constexpr (std::is_same_v<scalar_t, packed_t>) {
        source = from.at(row + i, column + j);
      } else {
        for (int64_t k = 0; k < kBlock; ++k) {
          convert_row(from.at(row + i, column + j + k), block.data() + k * kBlock, kBlock);
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

/// Rows of a row-major matrix in pairs, as the instructions for bfloat16 take them: the two values
/// of a column side by side. A last row without a partner gets zeros.
inline void pack_pairs(const Matrix<at::BFloat16>& from, int64_t row, int64_t column, int64_t rows,
                       int64_t columns, at::BFloat16* to, int64_t pitch) {
  constexpr int64_t kAhead = 8, kLine = 64 / sizeof(at::BFloat16);
  for (int64_t i = 0; i < rows; i += 2, to += 2 * pitch) {
    const bool both = i + 1 < rows;
    const at::BFloat16* first = from.at(row + i, column);
    const at::BFloat16* second = from.at(row + (both ? i + 1 : i), column);
    for (int64_t j = 0; j < columns; j += kLine) {  // see above
      __builtin_prefetch(from.at(row + i + kAhead, column + j));
      __builtin_prefetch(from.at(row + i + kAhead + 1, column + j));
    }
    for (int64_t j = 0; j < columns; ++j) {
      to[2 * j] = first[j];
      to[2 * j + 1] = both ? second[j] : at::BFloat16(0);
    }
  }
}

/// pack, of a tensor of any floating dtype but float64.
template <typename packed_t>
void pack(const at::Tensor& from, int64_t row, int64_t column, int64_t rows, int64_t columns,
          packed_t* to, int64_t pitch) {
  const auto typed = [&](auto zero) {
    pack(Matrix<decltype(zero)>(from), row, column, rows, columns, to, pitch);
  };
  switch (from.scalar_type()) {
    case at::kHalf:
      return typed(at::Half());
    case at::kBFloat16:
      return typed(at::BFloat16());
    default:
      return typed(float());
  }
}

}  // namespace torchsoftmax::cpu
