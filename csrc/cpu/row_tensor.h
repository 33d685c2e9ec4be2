#pragma once
// A tensor seen as rows along one dimension, in the logical order of the other dimensions.

#include <c10/util/SmallVector.h>

#include "vec.h"

namespace torchsoftmax::cpu {

template <typename scalar_t>
struct RowTensor {
  scalar_t* data = nullptr;
  int64_t rows = 0;
  int64_t classes = 0;
  int64_t class_stride = 1;

  struct Dim {
    int64_t size;
    int64_t stride;
  };
  // The other dimensions, innermost first; neighbours that can be walked as one are merged.
  c10::SmallVector<Dim, 4> dims;

  scalar_t* row(int64_t index) const { return data == nullptr ? nullptr : data + offset(index); }

  int64_t offset(int64_t index) const {
    int64_t result = 0;
    for (const auto& dim : dims) {
      if (&dim == &dims.back()) {
        return result + index * dim.stride;
      }
      result += index % dim.size * dim.stride;
      index /= dim.size;
    }
    return result;
  }

  /// The number of rows from `index` on that lie at a fixed distance, `row_stride()`.
  int64_t run(int64_t index) const {
    return dims.empty() ? 1 : dims[0].size - index % dims[0].size;
  }
  int64_t row_stride() const { return dims.empty() ? 0 : dims[0].stride; }
};

/// A tensor of `sizes` and `strides` (in elements) as rows along `dim`. A 0-d tensor is one row.
template <typename scalar_t>
RowTensor<scalar_t> make_rows(scalar_t* data, c10::ArrayRef<int64_t> sizes,
                              c10::ArrayRef<int64_t> strides, int64_t dim) {
  RowTensor<scalar_t> result;
  result.data = data;
  result.rows = 1;
  result.classes = sizes.empty() ? 1 : sizes[dim];
  result.class_stride = sizes.empty() || sizes[dim] <= 1 ? 1 : strides[dim];
  for (int64_t d = static_cast<int64_t>(sizes.size()) - 1; d >= 0; --d) {
    if (d == dim) {
      continue;
    }
    result.rows *= sizes[d];
    if (sizes[d] == 1) {
      continue;
    }
    auto& dims = result.dims;
    if (!dims.empty() && strides[d] == dims.back().stride * dims.back().size) {
      dims.back().size *= sizes[d];
    } else {
      dims.push_back({sizes[d], strides[d]});
    }
  }
  return result;
}

/// Copies `count` consecutive elements and converts them.
template <typename acc_t, typename From, typename To>
void copy_lanes(const From* from, To* to, int64_t count, bool streamed = false) {
  constexpr AllLanes<acc_t> all;
  int64_t i = 0;
  for (; i + all <= count; i += all) {
    if (streamed) {
      stream<acc_t>(to + i, load<acc_t>(from + i, all));
    } else {
      store<acc_t>(to + i, load<acc_t>(from + i, all), all);
    }
  }
  if (i < count) {
    store<acc_t>(to + i, load<acc_t>(from + i, count - i), count - i);
  }
}

/// Copies `count` rows from `first` on to `packed`, classes outermost at a distance of `pitch`.
/// Lanes from `count` to `pitch` are set to 0.
template <typename acc_t, typename scalar_t>
[[gnu::noinline]] void pack(const RowTensor<scalar_t>& from, int64_t first, int64_t count,
                            int64_t pitch, acc_t* packed) {
  if (count < pitch) {
    std::fill(packed, packed + from.classes * pitch, acc_t(0));
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
        for (int64_t j = 0; j < run; ++j) {
          target[j] = static_cast<acc_t>(source[j * stride]);
        }
      }
    }
    lane += run;
  }
}

/// The reverse of pack.
template <typename acc_t, typename scalar_t>
[[gnu::noinline]] void unpack(const acc_t* packed, const RowTensor<scalar_t>& to, int64_t first,
                              int64_t count, int64_t pitch, bool streamed) {
  const int64_t stride = to.row_stride();
  for (int64_t lane = 0; lane < count;) {
    const int64_t run = std::min(to.run(first + lane), count - lane);
    scalar_t* target = to.row(first + lane);
    const acc_t* source = packed + lane;
    for (int64_t c = 0; c < to.classes; ++c, target += to.class_stride, source += pitch) {
      if (stride == 1) {
        copy_lanes<acc_t>(source, target, run, streamed);
      } else {
        for (int64_t j = 0; j < run; ++j) {
          target[j * stride] = static_cast<scalar_t>(source[j]);
        }
      }
    }
    lane += run;
  }
}

}  // namespace torchsoftmax::cpu
