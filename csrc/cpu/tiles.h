#pragma once
// Rows that lie along, packed as rows across and back: square tiles of a vector's lanes are
// transposed in registers, where packing element by element takes a load and a store for each.

#include "streaming.h"

namespace torchsoftmax::cpu {

/// Whether at::vec transposes tiles of this type in registers.
#if defined(CPU_CAPABILITY_AVX512) || defined(CPU_CAPABILITY_AVX2)
template <typename acc_t>
inline constexpr bool kHasTiles = std::is_same_v<acc_t, float>;
#else
template <typename acc_t>
inline constexpr bool kHasTiles = false;
#endif

/// Copies consecutive elements and converts them. Whole vectors are streamed on demand, where `to`
/// is aligned to what a vector is stored to.
template <typename acc_t, typename From, typename To>
void copy_lanes(const From* from, To* to, int64_t count, bool streamed = false) {
  constexpr AllLanes<acc_t> all;
  int64_t i = 0;
  if (streamed && lead_of<acc_t>(to) == 0) {
    for (; i + all <= count; i += all) {
      stream<acc_t>(to + i, load<acc_t>(from + i, all));
    }
  }
  for (; i + all <= count; i += all) {
    store<acc_t>(to + i, load<acc_t>(from + i, all), all);
  }
  if (i < count) {
    store<acc_t>(to + i, load<acc_t>(from + i, count - i), count - i);
  }
}

/// One tile. Inlined as a whole: else GCC leaves out of it a function for tiles of any size, which
/// keeps them in memory.
template <typename acc_t>
[[gnu::flatten]] void transpose_tile(const acc_t* from, int64_t from_pitch, acc_t* to,
                                     int64_t to_pitch) {
  constexpr int kSide = kLanes<acc_t>;
  at::vec::transpose_mxn<acc_t, kSide, kSide>(from, from_pitch, to, to_pitch);
}

/// Some rows, one behind the other, and the same packed: classes outermost at a distance of
/// `pitch`. A tile goes over the end of a row of fewer classes than it has columns, into the next
/// row, which is written later: so packed memory has room for kSide classes at least.
template <typename acc_t>
class Tiles {
 public:
  static constexpr int64_t kSide = kLanes<acc_t>;
  /// Fewer classes are so small a part of a tile that each element for itself is faster.
  static constexpr int64_t kFewest = 5;

  template <typename scalar_t>
  static bool fit(const RowTensor<scalar_t>& tensor, int64_t first, int64_t count) {
    return !std::is_same_v<std::remove_const_t<scalar_t>, bool> && tensor.class_stride == 1 &&
           tensor.classes >= kFewest && tensor.classes <= kMost &&
           tensor.row_stride() == tensor.classes && count >= kSide && tensor.run(first) >= count;
  }

  Tiles(int64_t classes, int64_t rows, int64_t pitch)
      : classes_(classes), rows_(rows), pitch_(pitch) {}

  /// `fetches`: the rows behind them are packed next, and not in the caches.
  template <typename scalar_t>
  void pack(const scalar_t* from, acc_t* packed, bool fetches) {
    for_each_block([&](int64_t first, int64_t rows) {
      const acc_t* source = block_.data();
      if constexpr (std::is_same_v<scalar_t, acc_t>) {
        source = reads_past_a_row() ? source : from + first * classes_;
      }
      if (source == block_.data()) {
        copy_lanes<acc_t>(from + first * classes_, block_.data(), rows * classes_);
      }
      for_each_tile(rows, [&](int64_t row, int64_t c) {
        if (fetches && source != block_.data()) {
          for (int64_t k = 0; k < kSide; ++k) {
            __builtin_prefetch(source + (rows_ + row + k) * classes_ + c, 0, 2);
          }
        }
        transpose_tile(source + row * classes_ + c, classes_, packed + c * pitch_ + first + row,
                       pitch_);
      });
    });
  }

  template <typename scalar_t>
  void unpack(const acc_t* packed, scalar_t* to, bool streamed) {
    for_each_block([&](int64_t first, int64_t rows) {
      acc_t* target = block_.data();
      if constexpr (std::is_same_v<scalar_t, acc_t>) {
        target = reads_past_a_row() || streamed ? target : to + first * classes_;
      }
      for_each_tile(rows, [&](int64_t row, int64_t c) {
        transpose_tile(packed + c * pitch_ + first + row, pitch_, target + row * classes_ + c,
                       classes_);
      });
      if (target == block_.data()) {
        copy_lanes<acc_t>(block_.data(), to + first * classes_, rows * classes_, streamed);
      }
    });
  }

 private:
  static constexpr int64_t kMost = 8 * kSide;

  bool reads_past_a_row() const { return classes_ < kSide; }

  /// As many rows as fit into the block, kSide at least, of which the last may be some again.
  template <typename Body>
  void for_each_block(const Body& body) const {
    const int64_t most = kMost / classes_ * kSide;
    for (int64_t first = 0; first < rows_; first += most) {
      const int64_t rows = std::min(most, rows_ - first);
      rows >= kSide ? body(first, rows) : body(rows_ - kSide, kSide);
    }
  }
  template <typename Body>
  void for_each_tile(int64_t rows, const Body& body) const {
    for (int64_t row = 0; row < rows; row += kSide) {
      for (int64_t c = 0; c < classes_; c += kSide) {
        body(std::min(row, rows - kSide), std::max<int64_t>(0, std::min(c, classes_ - kSide)));
      }
    }
  }

  int64_t classes_, rows_, pitch_;
  union {  // without a constructor, which would write all of it
    std::array<acc_t, kMost * kSide + kSide> block_;
  };
};

}  // namespace torchsoftmax::cpu
