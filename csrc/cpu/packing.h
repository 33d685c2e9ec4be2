#pragma once
// Rows that are copied to packed memory, classes outermost, and back.

#include "tiles.h"

namespace torchsoftmax::cpu {

/// For how many classes packed memory has room.
template <typename acc_t>
int64_t packed_classes(int64_t classes) {
  return std::max(classes, kHasTiles<acc_t> ? kLanes<acc_t> : 1);
}

/// Copies `count` rows from `first` on to `packed`, classes outermost at a distance of `pitch`.
/// Lanes from `count` to `pitch` are set to 0.
template <typename acc_t, typename scalar_t>
[[gnu::noinline]] void pack(const RowTensor<scalar_t>& from, int64_t first, int64_t count,
                            int64_t pitch, acc_t* packed) {
  if (count < pitch) {
    std::fill(packed, packed + from.classes * pitch, acc_t(0));
  }
  if constexpr (kHasTiles<acc_t>) {
    if (Tiles<acc_t>::fit(from, first, count)) {
      Tiles<acc_t>(from.classes, count, pitch).pack(from.row(first), packed, is_large(from));
      return;
    }
  }
  const int64_t stride = from.row_stride();
  for (int64_t lane = 0; lane < count;) {
    const int64_t run = std::min(from.run(first + lane), count - lane);
    const scalar_t* source = from.row(first + lane);
    acc_t* target = packed + lane;
    for (int64_t c = 0; c < from.classes; ++c, source += from.class_stride, target += pitch) {
      if (stride == 1) {
        copy_lanes<acc_t>(source, target, run);
      } else {
#pragma GCC unroll 4  // the time of a loop over one element depends on its place in the code
        for (int64_t j = 0; j < run; ++j) {
          target[j] = static_cast<acc_t>(source[j * stride]);
        }
      }
    }
    lane += run;
  }
}

/// The reverse of pack. `streamed`: past the caches, where tiles are copied.
template <typename acc_t, typename scalar_t>
[[gnu::noinline]] void unpack(const acc_t* packed, const RowTensor<scalar_t>& to, int64_t first,
                              int64_t count, int64_t pitch, bool streamed) {
  if constexpr (kHasTiles<acc_t>) {
    if (Tiles<acc_t>::fit(to, first, count)) {
      Tiles<acc_t>(to.classes, count, pitch).unpack(packed, to.row(first), streamed);
      return;
    }
  }
  const int64_t stride = to.row_stride();
  for (int64_t lane = 0; lane < count;) {
    const int64_t run = std::min(to.run(first + lane), count - lane);
    scalar_t* target = to.row(first + lane);
    const acc_t* source = packed + lane;
    for (int64_t c = 0; c < to.classes; ++c, target += to.class_stride, source += pitch) {
      if (stride == 1) {
        copy_lanes<acc_t>(source, target, run);
      } else {
#pragma GCC unroll 4
        for (int64_t j = 0; j < run; ++j) {
          target[j * stride] = static_cast<scalar_t>(source[j]);
        }
      }
    }
    lane += run;
  }
}

}  // namespace torchsoftmax::cpu
