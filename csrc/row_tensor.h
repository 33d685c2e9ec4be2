#pragma once
// A tensor seen as rows along one dimension, in the logical order of the other dimensions.

#include <c10/util/ArrayRef.h>
#include <c10/util/SmallVector.h>

namespace torchsoftmax {

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

}  // namespace torchsoftmax
