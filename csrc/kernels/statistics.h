#pragma once
// softmax_statistics, forward and backward: from tensors to the policies.

#include <torch/library.h>

#include "../checks.h"
#include "../policies/statistics.h"
#include "device.h"

namespace torchsoftmax::TORCHSOFTMAX_DEVICE {
namespace {

/// `tensor` with its dimension `dim` last, contiguous: the values of a row side by side.
template <typename value_t>
at::Tensor row_by_row(const at::Tensor& tensor, int64_t dim) {
  return dense<value_t>(tensor.dim() == 0 ? tensor : tensor.movedim(dim, -1));
}

RowIndices indices_of(const at::Tensor& index, const at::Tensor& input, int64_t dim,
                      IndexRange& range) {
  RowIndices indices;
  indices.classes = input.dim() == 0 ? 1 : input.size(dim);
  if (index.defined()) {
    indices.index = index.const_data_ptr<int64_t>();
    indices.count = index.dim() == 0 ? 1 : index.size(-1);
    indices.check = range.check();
  }
  return indices;
}

ops::Statistics forward(const at::Tensor& input, const OptionalTensor& given_index,
                        const OptionalTensor& mask, int64_t dim, double temperature,
                        bool with_argmax) {
  const char* name = checks::statistics_name(given_index, with_argmax);
  dim = checks::softmax_statistics(name, input, given_index, mask, dim, temperature, with_argmax);
  const c10::DeviceGuard guard(input.device());
  const auto dtype = input.scalar_type();
  at::Tensor index, log_prob, statistics;
  if (given_index.has_value()) {
    index = row_by_row<int64_t>(*given_index, dim);
  }
  c10::DimVector shape(input.sizes());
  if (!shape.empty()) {
    shape.erase(shape.begin() + dim);
  }
  at::Tensor argmax = with_argmax ? empty_contiguous(shape, input.options().dtype(at::kLong))
                                  : empty_contiguous({0}, input.options().dtype(at::kLong));
  at::Tensor lse, entropy;
  dispatch(input, [&](auto type) {
    using scalar_t = decltype(type);
    using acc_t = acc_type<scalar_t>;
    const auto accumulated = input.options().dtype(c10::CppTypeToScalarType<acc_t>::value);
    IndexRange range;
    const RowIndices indices = indices_of(index, input, dim, range);
    log_prob = index.defined() ? empty_contiguous(index.sizes(), accumulated)
                               : empty_contiguous({0}, accumulated);
    lse = empty_contiguous(shape, accumulated);
    c10::DimVector stacked(shape);
    stacked.insert(stacked.begin(), 3);
    statistics = empty_contiguous(stacked, accumulated);
    const int64_t rows = lse.numel();
    auto* max = statistics.mutable_data_ptr<acc_t>();
    const StatisticsRow<acc_t> policy{{},
                                      ScaledLogits<acc_t, false>(temperature),
                                      indices,
                                      log_prob.mutable_data_ptr<acc_t>(),
                                      lse.mutable_data_ptr<acc_t>(),
                                      max + 2 * rows,
                                      with_argmax ? argmax.mutable_data_ptr<int64_t>() : nullptr,
                                      max,
                                      max + rows};
    if (indices.classes == 0) {
      lse.fill_(-std::numeric_limits<acc_t>::infinity());
      statistics.zero_();
    } else {
      for_each_masked_row<acc_t>(policy, mask, input, dim, rows_of<scalar_t>(input, dim, nullptr),
                                 rows_of<const scalar_t>(input, dim));
    }
    if (index.defined()) {
      range.raise(name, indices.index, indices.classes, std::nullopt);
      log_prob = (log_prob.dim() == 0 ? log_prob : log_prob.movedim(-1, dim)).contiguous();
    }
    entropy = statistics.select(0, 2).to(dtype, /*non_blocking=*/false, /*copy=*/true);
  });
  return {log_prob.to(dtype), lse.to(dtype), entropy, argmax, statistics};
}

at::Tensor backward(const at::Tensor& grad_log_prob, const at::Tensor& grad_lse,
                    const at::Tensor& grad_entropy, const at::Tensor& input,
                    const OptionalTensor& given_index, const OptionalTensor& mask,
                    const at::Tensor& given_statistics, int64_t dim, double temperature) {
  dim = checks::softmax_statistics_backward(grad_log_prob, grad_lse, grad_entropy, input,
                                            given_index, mask, given_statistics, dim, temperature);
  const c10::DeviceGuard guard(input.device());
  at::Tensor result = empty_gradient_like(input, input.scalar_type());
  dispatch(input, [&](auto type) {
    using scalar_t = decltype(type);
    using acc_t = acc_type<scalar_t>;
    IndexRange range;
    at::Tensor index, of_log_prob;
    if (given_index.has_value()) {
      index = row_by_row<int64_t>(*given_index, dim);
      of_log_prob = row_by_row<acc_t>(grad_log_prob, dim);
    }
    const RowIndices indices = indices_of(index, input, dim, range);
    const at::Tensor of_lse = dense<acc_t>(grad_lse), of_entropy = dense<acc_t>(grad_entropy);
    const at::Tensor statistics = given_statistics.contiguous();
    const auto* max = statistics.const_data_ptr<acc_t>();
    const int64_t rows = of_lse.numel();
    const StatisticsGradientRow<acc_t> policy{
        {},
        ScaledLogits<acc_t, false>(temperature),
        indices,
        of_log_prob.defined() ? of_log_prob.const_data_ptr<acc_t>() : nullptr,
        of_lse.const_data_ptr<acc_t>(),
        of_entropy.const_data_ptr<acc_t>(),
        max,
        max + rows,
        max + 2 * rows};
    const at::Tensor source = like_rows_of(result, input, dim);
    for_each_masked_row<acc_t>(policy, mask, input, dim, rows_of<scalar_t>(result, dim),
                               rows_of<const scalar_t>(source, dim));
    if (index.defined()) {
      range.raise("softmax_statistics_backward", indices.index, indices.classes, std::nullopt);
    }
  });
  return result;
}

}  // namespace

TORCH_LIBRARY_IMPL(torchsoftmax, TORCHSOFTMAX_KEY, m) {
  m.impl("softmax_statistics", &forward);
  m.impl("softmax_statistics_backward", &backward);
}

}  // namespace torchsoftmax::TORCHSOFTMAX_DEVICE
