#pragma once
// The matrices of derivatives of softmax: from tensors to the policies.

#include <ATen/ops/empty.h>
#include <torch/library.h>

#include "../checks.h"
#include "../policies/derivatives.h"
#include "device.h"

#if defined(TORCHSOFTMAX_ON_CUDA)
#include "../cuda/lines.h"
#else
#include "../cpu/lines.h"
#endif

namespace torchsoftmax::TORCHSOFTMAX_DEVICE {
namespace {

template <template <typename> typename Write, typename... Options>
at::Tensor derivatives(const at::Tensor& output, int64_t dim, double temperature,
                       Options... options) {
  const at::Tensor last = output.dim() == 0 ? output.unsqueeze(0) : output.movedim(dim, -1);
  const int64_t classes = last.size(-1);
  c10::DimVector shape(last.sizes().begin(), last.sizes().end());
  shape.append(Write<float>::kIndices - 1, classes);
  const c10::DeviceGuard guard(output.device());
  at::Tensor result = empty_contiguous(shape, output.options());
  if (result.numel() == 0) {
    return result;
  }
  dispatch(output, [&](auto type) {
    using scalar_t = decltype(type);
    using acc_t = acc_type<scalar_t>;
    const at::Tensor probabilities = dense<acc_t>(last);
    const Write<acc_t> write{static_cast<acc_t>(1 / temperature), options...};
    write_lines(write, probabilities.const_data_ptr<acc_t>(), result.mutable_data_ptr<scalar_t>(),
                last.numel() / classes, classes);
  });
  return result;
}

at::Tensor softmax_jacobian(const at::Tensor& output, int64_t dim, double temperature, bool log) {
  dim = checks::softmax_jacobian(output, dim, temperature);
  return derivatives<Jacobian>(output, dim, temperature, log);
}

at::Tensor softmax_hessian(const at::Tensor& output, int64_t dim, double temperature) {
  dim = checks::softmax_hessian(output, dim, temperature);
  return derivatives<Hessian>(output, dim, temperature);
}

}  // namespace

TORCH_LIBRARY_IMPL(torchsoftmax, TORCHSOFTMAX_KEY, m) {
  m.impl("softmax_jacobian", &softmax_jacobian);
  m.impl("softmax_hessian", &softmax_hessian);
}

}  // namespace torchsoftmax::TORCHSOFTMAX_DEVICE
