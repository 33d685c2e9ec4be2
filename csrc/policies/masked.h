#pragma once
// Masks: one more operand of bool, which policies take as a last argument that may be absent.

#include "device.h"

namespace torchsoftmax::TORCHSOFTMAX_DEVICE {

/// `values`, or `otherwise` in the lanes where an entry takes no part.
template <typename V, typename Lanes, typename... Mask>
TORCHSOFTMAX_FN V where_part(const V& values, [[maybe_unused]] double otherwise,
                             [[maybe_unused]] int64_t i, [[maybe_unused]] Lanes lanes,
                             const Mask&... mask) {
  V result = values;
  ((result = mask.select(i, lanes, result, otherwise)), ...);
  return result;
}

/// 1 for rows in which something takes part, 0 for others.
template <typename Walk, typename Mask>
TORCHSOFTMAX_FN typename Walk::V some_part(const Walk& walk, const Mask& mask) {
  return walk.maximum([&](int64_t i, auto lanes) { return mask.load(i, lanes); });
}

}  // namespace torchsoftmax::TORCHSOFTMAX_DEVICE
