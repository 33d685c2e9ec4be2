#pragma once
// From tensors to the rows that kernels work on.

#include <ATen/Dispatch.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty_like.h>
#include <c10/core/ScalarTypeToTypeMeta.h>

#include "row_tensor.h"

namespace torchsoftmax {

/// Calls `body` with a value of the type of the elements of `tensor`, which the checks have
/// allowed.
template <typename Body>
void dispatch(const at::Tensor& tensor, Body&& body) {
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, tensor.scalar_type(), "torchsoftmax",
                                  [&] { body(scalar_t{}); });
}

/// `tensor` as contiguous values of that type: itself, or a copy.
template <typename value_t>
at::Tensor dense(const at::Tensor& tensor) {
  constexpr auto dtype = c10::CppTypeToScalarType<value_t>::value;
  if (tensor.scalar_type() == dtype && tensor.is_contiguous()) {
    return tensor;
  }
  return tensor.to(dtype).contiguous();
}

/// The rows along `dim` of a tensor of that shape and those strides, at `data`.
template <typename scalar_t>
RowTensor<scalar_t> rows_of(const at::Tensor& tensor, int64_t dim, scalar_t* data) {
  return make_rows(data, tensor.sizes(), tensor.strides(), dim);
}

/// The rows of `tensor` along `dim`. `scalar_t` is const for a tensor that is only read.
template <typename scalar_t>
RowTensor<scalar_t> rows_of(const at::Tensor& tensor, int64_t dim) {
  if constexpr (std::is_const_v<scalar_t>) {
    return rows_of<scalar_t>(tensor, dim, tensor.const_data_ptr<std::remove_const_t<scalar_t>>());
  } else {
    return rows_of<scalar_t>(tensor, dim, tensor.mutable_data_ptr<scalar_t>());
  }
}

/// `operand`, or a copy of it with class stride 1 where only `operand` stands in the way of working
/// along the rows of `output`.
inline at::Tensor like_rows_of(const at::Tensor& output, const at::Tensor& operand, int64_t dim) {
  const auto along = [dim](const at::Tensor& tensor) {
    return tensor.dim() == 0 || tensor.size(dim) <= 1 || tensor.stride(dim) == 1;
  };
  if (along(operand) || !along(output)) {
    return operand;
  }
  return at::empty_like(output, output.options().dtype(operand.scalar_type())).copy_(operand);
}

}  // namespace torchsoftmax
