#pragma once
// From tensors to policies, written once for every device: what follows is compiled in the
// namespace of a device, with its loops over rows and its fresh memory.

#include <c10/core/DeviceGuard.h>

#include "../policies/device.h"
#include "../tensors.h"

#if defined(TORCHSOFTMAX_ON_CUDA)
#include "../cuda/key.h"
#include "../cuda/memory.h"
#include "../cuda/row_sums.h"
#include "../cuda/rows.h"
#else
#include "../cpu/memory.h"
#include "../cpu/row_sums.h"
#include "../cpu/rows.h"
#define TORCHSOFTMAX_KEY CPU
#endif

namespace torchsoftmax::TORCHSOFTMAX_DEVICE {

/// Calls for_each_row with the rows of the mask as a last operand, where there is one. `like` has
/// the shape that the mask is broadcast to.
template <typename acc_t, typename RowPolicy, typename Out, typename... In>
void for_each_masked_row(const RowPolicy& policy, const std::optional<at::Tensor>& mask,
                         const at::Tensor& like, int64_t dim, const RowTensor<Out>& out,
                         const RowTensor<const In>&... in) {
  if (mask.has_value() && mask->defined()) {
    for_each_row<acc_t>(policy, out, in..., rows_of<const bool>(mask->expand_as(like), dim));
  } else {
    for_each_row<acc_t>(policy, out, in...);
  }
}

}  // namespace torchsoftmax::TORCHSOFTMAX_DEVICE
