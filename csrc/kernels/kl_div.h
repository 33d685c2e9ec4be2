#pragma once
// kl_div_with_logits, forward and backward: from tensors to the policies.

#include <ATen/ops/mul.h>
#include <torch/library.h>

#include "../checks.h"
#include "../policies/kl_div.h"
#include "device.h"

namespace torchsoftmax::TORCHSOFTMAX_DEVICE {
namespace {

std::tuple<at::Tensor, at::Tensor> forward(const at::Tensor& input, const at::Tensor& target,
                                           Dtype dtype, int64_t reduction, double temperature) {
  checks::kl_div_with_logits(input, target, reduction, temperature);
  const c10::DeviceGuard guard(input.device());
  const int64_t dim = input.dim() - 1;
  at::Tensor loss, statistics;
  dispatch(input, [&](auto type) {
    using scalar_t = decltype(type);
    using acc_t = acc_type<scalar_t>;
    const auto accumulated = input.options().dtype(c10::CppTypeToScalarType<acc_t>::value);
    c10::DimVector shape(input.sizes());
    shape.pop_back();
    shape.insert(shape.begin(), 5);
    statistics = empty_contiguous(shape, accumulated);
    const auto out = rows_of<scalar_t>(input, dim, nullptr);
    auto* values = statistics.mutable_data_ptr<acc_t>();
    if (out.classes == 0) {
      statistics.zero_();
    } else {
      const at::Tensor other = like_rows_of(input, target, dim);
      for_each_row<acc_t>(
          DivergenceRow<acc_t>{{}, ScaledLogits<acc_t, false>(temperature), values, out.rows}, out,
          rows_of<const scalar_t>(input, dim), rows_of<const scalar_t>(other, dim));
    }
    const double scale = temperature * temperature;
    const RowDivergence<acc_t> divergence{values, out.rows};
    if (reduction == checks::kNone) {
      shape.erase(shape.begin());
      loss = empty_contiguous(shape, accumulated);
      write_terms(loss.mutable_data_ptr<acc_t>(), out.rows, divergence, scale);
      return;
    }
    const double divisor =
        static_cast<double>(checks::kl_div_divisor(input, reduction).expect_int());
    loss = sum_of_terms<acc_t>(accumulated, out.rows, divergence, scale / divisor);
  });
  return {loss.to(dtype.value_or(input.scalar_type())), statistics};
}

template <template <typename> typename Kernel>
at::Tensor backward(const at::Tensor& grad_output, const at::Tensor& input,
                    const at::Tensor& target, const at::Tensor& given_statistics, int64_t reduction,
                    double temperature) {
  checks::kl_div_with_logits_backward(grad_output, input, target, given_statistics, reduction,
                                      temperature);
  const c10::DeviceGuard guard(input.device());
  const int64_t dim = input.dim() - 1;
  const bool of_input = std::is_same_v<Kernel<float>, DivergenceInputGradient<float>>;
  at::Tensor result = empty_gradient_like(of_input ? input : target, input.scalar_type());
  dispatch(input, [&](auto type) {
    using scalar_t = decltype(type);
    using acc_t = acc_type<scalar_t>;
    // T^2 of the loss, over T of the logits.
    const at::Tensor statistics = given_statistics.contiguous();
    const double divisor =
        static_cast<double>(checks::kl_div_divisor(input, reduction).expect_int());
    const at::Tensor upstream = at::mul(dense<acc_t>(grad_output), temperature / divisor);
    const bool each = reduction == checks::kNone;
    const auto* gradient = upstream.const_data_ptr<acc_t>();
    const auto out = rows_of<scalar_t>(result, dim);
    const KnownRows<acc_t> known{ScaledLogits<acc_t, false>(temperature),
                                 statistics.const_data_ptr<acc_t>(),
                                 out.rows,
                                 {gradient, each}};
    const at::Tensor x = like_rows_of(result, input, dim), y = like_rows_of(result, target, dim);
    for_each_row<acc_t>(Kernel<acc_t>{{}, known}, out, rows_of<const scalar_t>(x, dim),
                        rows_of<const scalar_t>(y, dim));
  });
  return result;
}

}  // namespace

TORCH_LIBRARY_IMPL(torchsoftmax, TORCHSOFTMAX_KEY, m) {
  m.impl("kl_div_with_logits_forward", &forward);
  m.impl("kl_div_with_logits_backward", &backward<DivergenceInputGradient>);
  m.impl("kl_div_with_logits_target_backward", &backward<DivergenceTargetGradient>);
}

}  // namespace torchsoftmax::TORCHSOFTMAX_DEVICE
