// values *= factor, unless that is 1: a gradient that forward left is the result as it is then, and
// only the device knows whether the upstream gradient is 1.

#include <ATen/core/Tensor.h>
#include <c10/core/DeviceGuard.h>
#include <torch/library.h>

#include <algorithm>

#include "../checks.h"
#include "../tensors.h"
#include "key.h"
#include "lane.h"
#include "launch.h"

namespace torchsoftmax::cuda {
namespace {

template <typename scalar_t, typename factor_t>
__global__ void scale_unless_one(scalar_t* values, int64_t count, const factor_t* factor) {
  using acc_t = acc_type<scalar_t>;
  const auto by = static_cast<acc_t>(*factor);
  if (by == acc_t(1)) {
    return;
  }
  const int64_t threads = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < count;
       i += threads) {
    values[i] = static_cast<scalar_t>(static_cast<acc_t>(values[i]) * by);
  }
}

void scale_(const at::Tensor& values, const at::Tensor& factor) {
  checks::scale(values, factor);
  if (!values.is_non_overlapping_and_dense()) {
    at::Tensor(values).mul_(factor);
    return;
  }
  if (values.numel() == 0) {
    return;
  }
  const c10::DeviceGuard guard(values.device());
  dispatch(values, [&](auto value) {
    using scalar_t = decltype(value);
    dispatch(factor, [&](auto number) {
      using factor_t = decltype(number);
      constexpr int64_t kThreads = 512, kMostBlocks = 1024;
      const int64_t blocks = std::min(kMostBlocks, divided(values.numel(), kThreads));
      launch(&scale_unless_one<scalar_t, factor_t>, Launch{blocks, dim3(kThreads)},
             values.mutable_data_ptr<scalar_t>(), values.numel(),
             factor.const_data_ptr<factor_t>());
    });
  });
}

}  // namespace

TORCH_LIBRARY_IMPL(torchsoftmax, TORCHSOFTMAX_KEY, m) { m.impl("scale_", &scale_); }

}  // namespace torchsoftmax::cuda
