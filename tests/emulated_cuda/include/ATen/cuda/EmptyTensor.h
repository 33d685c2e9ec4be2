#pragma once

#include <ATen/ops/empty.h>

namespace at::detail {
inline Tensor empty_cuda(IntArrayRef size, const TensorOptions& options) {
  return at::empty(size, options);
}
}  // namespace at::detail
