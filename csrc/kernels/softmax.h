#pragma once
// softmax and log_softmax, forward and backward: from tensors to the policies.

#include <ATen/WrapDimUtils.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include "../checks.h"
#include "../policies/softmax.h"
#include "device.h"

namespace torchsoftmax::TORCHSOFTMAX_DEVICE {
namespace {

template <template <typename> typename Kernel>
at::Tensor forward(const char* name, const at::Tensor& self, int64_t dim, Dtype dtype,
                   double temperature, const OptionalTensor& mask) {
  const c10::DeviceGuard guard(self.device());
  const at::Tensor input = dtype.has_value() ? self.to(*dtype) : self;
  checks::softmax(name, input, temperature, mask);
  dim = at::maybe_wrap_dim(dim, input.dim());
  at::Tensor output = empty_contiguous_like(input);
  dispatch(input, [&](auto type) {
    using scalar_t = decltype(type);
    using acc_t = acc_type<scalar_t>;
    const at::Tensor source = like_rows_of(output, input, dim);
    const auto out = rows_of<scalar_t>(output, dim);
    const auto in = rows_of<const scalar_t>(source, dim);
    const Staged plain(Kernel<PlainLogits<acc_t>>{});
    if constexpr (kPlainMasked) {
      if (temperature == 1) {
        for_each_masked_row<acc_t>(plain, mask, output, dim, out, in);
        return;
      }
    } else if (temperature == 1 && !mask.has_value()) {
      for_each_row<acc_t>(plain, out, in);
      return;
    }
    using Logits = ScaledLogits<acc_t, false>;
    for_each_masked_row<acc_t>(Staged(Kernel<Logits>{{Logits(temperature)}}), mask, output, dim,
                               out, in);
  });
  return output;
}

template <template <typename> typename Kernel>
at::Tensor backward(const char* name, const at::Tensor& grad_output, const at::Tensor& output,
                    int64_t dim, double temperature, const OptionalTensor& mask) {
  checks::softmax_backward(name, grad_output, output, temperature, mask);
  const c10::DeviceGuard guard(output.device());
  dim = at::maybe_wrap_dim(dim, output.dim());
  at::Tensor grad_input = empty_contiguous_like(output);
  dispatch(output, [&](auto type) {
    using scalar_t = decltype(type);
    using acc_t = acc_type<scalar_t>;
    const at::Tensor grad = like_rows_of(grad_input, grad_output, dim);
    const at::Tensor y = like_rows_of(grad_input, output, dim);
    const Summed policy(Kernel<acc_t>{static_cast<acc_t>(1 / temperature)});
    for_each_masked_row<acc_t>(policy, mask, output, dim, rows_of<scalar_t>(grad_input, dim),
                               rows_of<const scalar_t>(grad, dim), rows_of<const scalar_t>(y, dim));
  });
  return grad_input;
}

at::Tensor softmax(const at::Tensor& self, int64_t dim, Dtype dtype, double temperature,
                   const OptionalTensor& mask) {
  return forward<Softmax>("softmax", self, dim, dtype, temperature, mask);
}

at::Tensor log_softmax(const at::Tensor& self, int64_t dim, Dtype dtype, double temperature,
                       const OptionalTensor& mask) {
  return forward<LogSoftmax>("log_softmax", self, dim, dtype, temperature, mask);
}

at::Tensor softmax_backward(const at::Tensor& grad_output, const at::Tensor& output, int64_t dim,
                            double temperature, const OptionalTensor& mask) {
  return backward<SoftmaxBackward>("softmax_backward", grad_output, output, dim, temperature, mask);
}

at::Tensor log_softmax_backward(const at::Tensor& grad_output, const at::Tensor& output,
                                int64_t dim, double temperature, const OptionalTensor& mask) {
  return backward<LogSoftmaxBackward>("log_softmax_backward", grad_output, output, dim, temperature,
                                      mask);
}

}  // namespace

TORCH_LIBRARY_IMPL(torchsoftmax, TORCHSOFTMAX_KEY, m) {
  m.impl("softmax", &softmax);
  m.impl("log_softmax", &log_softmax);
  m.impl("softmax_backward", &softmax_backward);
  m.impl("log_softmax_backward", &log_softmax_backward);
}

}  // namespace torchsoftmax::TORCHSOFTMAX_DEVICE
