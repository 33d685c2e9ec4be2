#pragma once
// Products of matrices in tiles, by oneDNN's micro-kernel, which libtorch exports.
//
// The micro-kernel adds a product of `Tiles` rows, their depth, and 128 columns, or fewer, to a
// tile of the result. It reads the right operand best as panels of 128 columns: all threads
// together put a block of it, of 6 MB, into panels, and multiply with it all that there is to
// multiply. The left one is read where it lies if its rows lie along and need no conversion; else a
// thread packs what it works on.
//
// Who does what depends on the number of threads; tiles, and the order of their sums, do not.

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/native/CPUBlas.h>
#include <ATen/ops/empty.h>

#include <atomic>

#include "packed_matrix.h"
#include "task.h"

namespace torchsoftmax::cpu {

/// How much the micro-kernel is given: what a tile takes stays in a second-level cache of 1 MB. It
/// takes 6 rows at a time. It sums from 0, then adds to the tile: shorter sums round less.
struct Tiles {
  int64_t rows, depth;
  int64_t summed;  // of the depth, at once
  bool direct;  // the left operand is read where it lies, if it is of the kind that is multiplied
};

inline constexpr Tiles kTilesOfFloats{192, 512, 256, true};
/// In vectors. The tile itself, which sums are added to, stays in the first level, and is read and
/// written less often; for sums of products that are rounded to bfloat16, longer ones round little
/// enough.
inline constexpr Tiles kTilesOfPairs{48, 1024, 1024, true};
/// In a matrix unit, which has to have more rows for a panel that it loads.
inline constexpr Tiles kTilesOfMatrixUnit{192, 512, 256, false};

/// A part of a product: of its result, and of the inner dimension.
struct Part {
  int64_t row, column, rows, columns, k, depth;
};

/// Where its rows are in memory.
template <typename element_t>
struct Tile {
  element_t* data;
  int64_t pitch;
};

template <typename element_t>
Tile<element_t> tile_of(const at::Tensor& out, const Part& part) {
  const int64_t pitch = out.stride(0);
  return {out.mutable_data_ptr<element_t>() + part.row * pitch + part.column, pitch};
}

/// Adds sums to a part of the result, or writes them there, rounded.
template <typename out_t>
void write_sums(const at::Tensor& out, const Part& part, const Tile<float>& sums, bool add) {
  auto [to, pitch] = tile_of<out_t>(out, part);
  const float* from = sums.data;
  const auto some = [&](out_t* at, const float* sum, auto lanes) {
    Vec<float> value = Vec<float>::loadu(sum, lanes);
    if (add) {
      value = value + load<float>(at, lanes);
    }
    store(at, value, lanes);
  };
  for (int64_t i = 0; i < part.rows; ++i, to += pitch, from += sums.pitch) {
    int64_t j = 0;
    for (; j + kLanes<float> <= part.columns; j += kLanes<float>) {
      some(to + j, from + j, AllLanes<float>{});
    }
    if (j < part.columns) {
      some(to + j, from + j, part.columns - j);
    }
  }
}

/// out = a b or out + a b. packed_t: what the micro-kernel multiplies.
template <typename packed_t>
class TiledProduct {
 public:
  TiledProduct(const Tiles& tiles, const at::Tensor& out, const at::Tensor& a, const at::Tensor& b,
               bool accumulate)
      : tiles_(tiles),
        out_(out),
        a_(a),
        b_(b),
        accumulate_(accumulate),
        direct_(tiles.direct && a.scalar_type() == kType && a.stride(1) == 1 &&
                even(a.size(1)) == a.size(1)),
        exact_(out.scalar_type() == at::kFloat),
        write_(out.scalar_type() == at::kHalf ? &write_sums<at::Half> : &write_sums<at::BFloat16>),
        width_(std::min(kColumns, out.size(1))),
        enough_(4 * at::get_num_threads()),
        shared_(!direct_ || b.stride(1) == 1 || at::divup(out.size(1), width_) < enough_),
        block_columns_(out.size(1)),
        block_depth_(b.size(0)) {
    if (shared_) {
      // As much as lies together in memory. Sums that are rounded once take the whole depth.
      const int64_t whole = up(b.size(0), tiles_.depth);
      const int64_t together =
          b.stride(1) == 1 ? tiles_.depth : std::min(whole, down(kBlock / width_, tiles_.depth));
      const int64_t least = exact_ ? together : whole;
      block_columns_ =
          std::min(up(out.size(1), width_), std::max(width_, down(kBlock / least, width_)));
      block_depth_ = std::min(whole, std::max(least, down(kBlock / block_columns_, tiles_.depth)));
      panels_ = at::empty({block_columns_ * block_depth_}, b.options().dtype(kType));
    }
  }

  /// Whether the result can hold the sums, or they are few enough for a thread to keep them.
  static bool serves(const Tiles& tiles, const at::Tensor& out, const at::Tensor& b) {
    return out.scalar_type() == at::kFloat || up(b.size(0), tiles.depth) * kColumns <= kBlock;
  }

  void run() const {
    for (int64_t column = 0; column < out_.size(1); column += block_columns_) {
      for (int64_t k = 0; k < b_.size(0); k += block_depth_) {
        const Part block{0,
                         column,
                         out_.size(0),
                         std::min(block_columns_, out_.size(1) - column),
                         k,
                         std::min(block_depth_, b_.size(0) - k)};
        if (shared_) {
          put_into_panels(block);
        }
        multiply(block);
      }
    }
  }

 private:
  static constexpr bool kPairs = std::is_same_v<packed_t, at::BFloat16>;
  static constexpr auto kType = kPairs ? at::kBFloat16 : at::kFloat;
  static constexpr int64_t kColumns = 128;
  static constexpr int64_t kBlock = int64_t{3} << 19;  // elements of the right operand in panels

  int64_t pitch() const { return tiles_.depth + 32; }  // spreads rows over the cache's sets

  static int64_t up(int64_t value, int64_t step) { return at::divup(value, step) * step; }
  static int64_t down(int64_t value, int64_t step) { return value / step * step; }

  void put_into_panels(const Part& block) const {
    constexpr int64_t kRun = 128;
    const int64_t panels = at::divup(block.columns, width_), runs = at::divup(block.depth, kRun);
    const bool along = b_.stride(1) == 1;  // neighbours are neighbours in memory
    at::parallel_for(0, panels * runs, 1, [&](int64_t i, int64_t end) {
      for (; i < end; ++i) {
        const int64_t j = (along ? i % panels : i / runs) * width_;
        const int64_t k = (along ? i / panels : i % runs) * kRun;
        pack_panel(block.column + j, std::min(width_, block.columns - j), block.k + k,
                   std::min(kRun, block.depth - k), shared_panel(block, block.column + j, k));
      }
    });
  }

  /// The columns of a tile for the whole depth of the block.
  packed_t* shared_panel(const Part& block, int64_t column, int64_t k) const {
    return panels_.template mutable_data_ptr<packed_t>() + (column - block.column) * block_depth_ +
           k * width_;
  }

  void pack_panel(int64_t column, int64_t columns, int64_t k, int64_t depth, packed_t* to) const {
    if constexpr (kPairs) {
      pack_pairs(Matrix<packed_t>(b_), k, column, depth, columns, to, width_);
    } else {
      pack(b_, k, column, depth, columns, to, width_);
    }
  }

  /// Threads take parts with what they pack for themselves in common: rows of a left operand for
  /// many columns, or a panel for many rows.
  void multiply(const Part& block) const {
    constexpr int64_t kMost = 16;
    const int64_t down = at::divup(out_.size(0), tiles_.rows),
                  across = at::divup(block.columns, width_);
    const auto taken = [&](int64_t tiles, int64_t others) {
      return std::min(kMost, std::max<int64_t>(1, tiles / at::divup(enough_, others)));
    };
    const int64_t rows = (shared_ ? 1 : taken(down, across)) * tiles_.rows;
    const int64_t columns = (shared_ ? taken(across, down) : 1) * width_;
    const int64_t parts_across = at::divup(block.columns, columns);
    const int64_t count = at::divup(out_.size(0), rows) * parts_across;
    std::atomic<int64_t> next{0};  // threads are not equally fast
    at::parallel_for(0, std::min<int64_t>(count, at::get_num_threads()), 1, [&](auto, auto) {
      const Scratch<packed_t> of_a(direct_ ? 1 : tiles_.rows * pitch()),
          of_b(shared_ ? 1 : tiles_.depth * width_);
      const Scratch<float> sums(exact_ ? 1 : rows * columns);
      for (int64_t i; (i = next++) < count;) {
        Part part = block;
        part.row = i / parts_across * rows;
        part.rows = std::min(rows, out_.size(0) - part.row);
        part.column += i % parts_across * columns;
        part.columns = std::min(columns, block.column + block.columns - part.column);
        if (exact_) {
          add(block, part, tile_of<float>(out_, part), accumulate_, of_a.data(), of_b.data());
        } else {
          add(block, part, {sums.data(), columns}, false, of_a.data(), of_b.data());
          write_(out_, part, {sums.data(), columns}, accumulate_);
        }
      }
      at::native::cpublas::brgemm_release(kPairs);
    });
  }

  /// Adds the product to `result`, or writes it there.
  void add(const Part& block, const Part& part, const Tile<float>& result, bool accumulate,
           packed_t* of_a, packed_t* of_b) const {
    for (int64_t k = 0; k < part.depth; k += tiles_.depth) {
      const int64_t depth = std::min(tiles_.depth, part.depth - k);
      if (!shared_) {
        pack_panel(part.column, part.columns, part.k + k, depth, of_b);
      }
      for (int64_t i = 0; i < part.rows; i += tiles_.rows) {
        const int64_t rows = std::min(tiles_.rows, part.rows - i);
        const auto a = left(part.row + i, rows, part.k + k, depth, of_a);
        for (int64_t j = 0; j < part.columns; j += width_) {
          const packed_t* b = shared_ ? shared_panel(block, part.column + j, k) : of_b;
          const Tile<float> tile{result.data + i * result.pitch + j, result.pitch};
          add_tile(tile, rows, std::min(width_, part.columns - j), depth, a, b,
                   accumulate || part.k + k > 0);
        }
      }
    }
  }

  void add_tile(const Tile<float>& tile, int64_t rows, int64_t columns, int64_t depth,
                const Tile<const packed_t>& a, const packed_t* b, bool accumulate) const {
    for (int64_t k = 0; k < depth; k += tiles_.summed) {
      at::native::cpublas::brgemm(rows, columns, even(std::min(tiles_.summed, depth - k)), a.pitch,
                                  width_, tile.pitch, accumulate || k > 0, a.data + k,
                                  b + k * width_, tile.data, /*is_vnni=*/kPairs);
    }
  }

  Tile<const packed_t> left(int64_t row, int64_t rows, int64_t k, int64_t depth,
                            packed_t* room) const {
    if (direct_) {
      const int64_t pitch = a_.stride(0);
      return {a_.template const_data_ptr<packed_t>() + row * pitch + k, std::max(pitch, depth)};
    }
    pack(a_, row, k, rows, depth, room, pitch());
    for (int64_t i = 0; even(depth) != depth && i < rows; ++i) {
      room[i * pitch() + depth] = packed_t(0);
    }
    return {room, pitch()};
  }

  /// The depth in pairs: one more is of zeros.
  static int64_t even(int64_t depth) { return kPairs ? (depth + 1) / 2 * 2 : depth; }

  const Tiles tiles_;
  const at::Tensor out_, a_, b_;
  const bool accumulate_;
  const bool direct_;  // the left operand is read where it lies
  const bool exact_;   // the result can hold the sums
  decltype(&write_sums<at::Half>) const write_;
  const int64_t width_;                  // of a panel
  const int64_t enough_;                 // parts for all threads
  const bool shared_;                    // panels serve all threads, not the one that packs them
  int64_t block_columns_, block_depth_;  // of the right operand, at a time
  at::Tensor panels_;
};

}  // namespace torchsoftmax::cpu
