#pragma once
// Masks: one more operand of bool, which policies take as a last argument that may be absent.

#include <limits>

#include "../ops.h"
#include "rows.h"
#include "tensors.h"

namespace torchsoftmax::cpu {

inline constexpr double kMinusInfinity = -std::numeric_limits<double>::infinity();

/// `values`, or `otherwise` in the lanes where an entry takes no part.
template <typename V, typename Lanes, typename... Mask>
V where_part(const V& values, [[maybe_unused]] double otherwise, int64_t i, Lanes lanes,
             const Mask&... mask) {
  V result = values;
  ((result = mask.select(i, lanes, result, otherwise)), ...);
  return result;
}

/// Calls for_each_row with the rows of the mask as a last operand, where there is one. `like` has
/// the shape that the mask is broadcast to.
template <typename acc_t, typename Policy, typename Out, typename... In>
void for_each_masked_row(const Policy& policy, const OptionalTensor& mask, const at::Tensor& like,
                         int64_t dim, const RowTensor<Out>& out, const RowTensor<const In>&... in) {
  if (mask.has_value() && mask->defined()) {
    for_each_row<acc_t>(policy, out, in..., rows_of<const bool>(mask->expand_as(like), dim));
  } else {
    for_each_row<acc_t>(policy, out, in...);
  }
}

}  // namespace torchsoftmax::cpu
