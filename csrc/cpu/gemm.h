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
  if (from.row_major()) {
    for (int64_t i = 0; i < rows; ++i) {
      convert_row(from.at(row + i, column), to + i * pitch, columns);
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

/// A block of an operand as the micro-kernel takes it.
template <typename packed_t>
struct Block {
  const packed_t* data;
  int64_t pitch;
};

/// Whether rows at this distance fall into a few sets of the caches.
inline bool collides(const at::Tensor& matrix) {
  return matrix.stride(0) * matrix.element_size() % 512 == 0;
}

/// An operand of a product, which hands out its blocks: where they lie, or packed.
template <typename packed_t>
class Operand {
 public:
  Operand(const at::Tensor& tensor, bool direct)
      : tensor_(tensor), direct_(direct && tensor.stride(1) == 1) {
    switch (tensor.scalar_type()) {
      case at::kHalf:
        pack_ = &pack_from<at::Half>;
        break;
      case at::kBFloat16:
        pack_ = &pack_from<at::BFloat16>;
        break;
      default:
        direct_ = direct_ && !kPairs;
        pack_ = &pack_from<float>;
        return;
    }
    direct_ = false;
  }

  const at::Tensor& tensor() const { return tensor_; }
  bool row_major() const { return tensor_.stride(1) == 1; }

  /// `room` is for `rows` times `columns`, rounded up to pairs: a column more is 0.
  Block<packed_t> block(int64_t row, int64_t column, int64_t rows, int64_t columns,
                        packed_t* room) const {
    if (direct_) {
      const auto* data = static_cast<const packed_t*>(tensor_.const_data_ptr());
      return {data + row * tensor_.stride(0) + column, std::max(tensor_.stride(0), columns)};
    }
    const int64_t pitch = kPairs ? (columns + 1) / 2 * 2 : columns;
    pack_(tensor_, row, column, rows, columns, room, pitch);
    for (int64_t i = 0; pitch != columns && i < rows; ++i) {
      room[i * pitch + columns] = packed_t(0);
    }
    return {room, pitch};
  }

 private:
  static constexpr bool kPairs = std::is_same_v<packed_t, at::BFloat16>;
  using Pack = void (*)(const at::Tensor&, int64_t, int64_t, int64_t, int64_t, packed_t*, int64_t);

  template <typename scalar_t>
  static void pack_from(const at::Tensor& tensor, int64_t row, int64_t column, int64_t rows,
                        int64_t columns, packed_t* to, int64_t pitch) {
    pack(Matrix<scalar_t>(tensor), row, column, rows, columns, to, pitch);
  }

  const at::Tensor tensor_;
  bool direct_;
  Pack pack_;
};

/// Adds sums to the result, or writes them there.
template <typename out_t>
void write_sums(const at::Tensor& out, int64_t row, int64_t column, const float* sums, int64_t rows,
                int64_t columns, bool add) {
  const int64_t pitch = out.stride(0);
  auto* to = static_cast<out_t*>(out.mutable_data_ptr()) + row * pitch + column;
  const auto some = [&](out_t* at, const float* from, auto lanes) {
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

/// Sizes of a tile of the result, and of the part of the inner dimension that is packed at a time.
struct ProductTile {
  int64_t rows;
  int64_t columns;
  int64_t depth;
};

/// out = a b or out + a b, by tiles. packed_t: what the micro-kernel multiplies. b in pairs of
/// bfloat16 is read by every tile, so it is packed once, before.
template <typename packed_t>
class TiledProduct {
  static constexpr bool kPairs = std::is_same_v<packed_t, at::BFloat16>;

 public:
  TiledProduct(const at::Tensor& out, const at::Tensor& a, const at::Tensor& b, bool accumulate)
      : out_(out),
        a_(a, /*direct=*/true),
        b_(b, /*direct=*/!collides(b)),
        accumulate_(accumulate),
        exact_(out.scalar_type() == at::kFloat),
        write_(exact_                           ? &write_sums<float>
               : out.scalar_type() == at::kHalf ? &write_sums<at::Half>
                                                : &write_sums<at::BFloat16>),
        tile_(tile_of(a_, b_)) {
    // Tiles of the same size, none of them of the few rows that are left over.
    const int64_t down = (out.size(0) + tile_.rows - 1) / tile_.rows;
    tile_.rows = (out.size(0) + down - 1) / down;
    tile_.columns = std::min(tile_.columns, out.size(1));
    tile_.depth = std::min(tile_.depth, (a.size(1) + 1) / 2 * 2);
  }

  void run() const {
    const int64_t down = (out_.size(0) + tile_.rows - 1) / tile_.rows;
    const int64_t across = (out_.size(1) + tile_.columns - 1) / tile_.columns;
    at::parallel_for(0, down * across, 1, [&](int64_t begin, int64_t end) {
      const Scratch<packed_t> of_a(tile_.rows * tile_.depth), of_b(tile_.depth * tile_.columns);
      const Scratch<float> sums(tile_.rows * tile_.columns);
      const Scratch<float> totals(exact_ ? 1 : tile_.rows * tile_.columns);
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
  /// What was fastest of a dozen shapes on 2 cores (docs/design.md): the operand that is packed is
  /// packed once, and stays with its tile in the second-level cache.
  static ProductTile tile_of(const Operand<packed_t>& a, const Operand<packed_t>& b) {
    if (kPairs) {
      return a.row_major() ? ProductTile{128, 192, 512} : ProductTile{64, 1024, 256};
    }
    return b.row_major() ? ProductTile{192, 384, 256} : ProductTile{256, 64, 768};
  }

  /// Each part of the depth is summed from 0, then added: shorter sums round less.
  void tile_at(int64_t row, int64_t column, packed_t* of_a, packed_t* of_b, float* sums,
               float* totals) const {
    const int64_t rows = std::min(tile_.rows, out_.size(0) - row);
    const int64_t columns = std::min(tile_.columns, out_.size(1) - column);
    const int64_t depth = a_.tensor().size(1);
    for (int64_t k = 0; k < depth; k += tile_.depth) {
      const int64_t part = std::min(tile_.depth, depth - k);
      const auto a = a_.block(row, k, rows, part, of_a);
      const auto b = block_of_b(k, column, part, columns, of_b);
      at::native::cpublas::brgemm(rows, columns, kPairs ? (part + 1) / 2 * 2 : part, a.pitch,
                                  b.pitch, columns, /*add_C=*/false, a.data, b.data, sums,
                                  /*is_vnni=*/kPairs);
      if (exact_) {
        write_(out_, row, column, sums, rows, columns, accumulate_ || k > 0);
      } else {
        for (int64_t i = 0; i < rows * columns; ++i) {
          totals[i] = k > 0 ? totals[i] + sums[i] : sums[i];
        }
      }
    }
    if (!exact_) {
      write_(out_, row, column, totals, rows, columns, accumulate_);
    }
  }

  Block<packed_t> block_of_b(int64_t k, int64_t column, int64_t part, int64_t columns,
                             packed_t* room) const {
    if constexpr (kPairs) {
      const int64_t pitch = b_.tensor().size(1);
      return {b_.tensor().template const_data_ptr<packed_t>() + k / 2 * pitch + 2 * column,
              pitch / 2};
    } else {
      return b_.block(k, column, part, columns, room);
    }
  }

  const at::Tensor out_;
  const Operand<packed_t> a_, b_;
  const bool accumulate_;
  const bool exact_;  // the result can hold the sums of the parts
  decltype(&write_sums<float>) const write_;
  ProductTile tile_;
};

}  // namespace torchsoftmax::cpu
