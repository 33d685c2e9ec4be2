// softmax and log_softmax, forward and backward: four policies on the loop of rows.h.

#include <ATen/Dispatch.h>
#include <ATen/WrapDimUtils.h>
#include <torch/library.h>

#include "../checks.h"
#include "memory.h"
#include "rows.h"
#include "tensors.h"

namespace torchsoftmax::cpu {
namespace {

struct Softmax {
  static constexpr bool kKeeps = true;

  template <typename Walk, typename Keep, typename Out, typename In>
  void operator()(const Walk& walk, RowRange, const Keep& keep, const Out& out,
                  const In& input) const {
    using V = typename Walk::V;
    const V max = walk.maximum([&](int64_t i, auto lanes) { return input.load(i, lanes); });
    const V sum = walk.sum([&](int64_t i, auto lanes) {
      const V e = exp_nonpositive(input.load(i, lanes) - max);
      keep.store(i, e, lanes);
      return e;
    });
    const V scale = V(1) / sum;
    walk.for_each([&](int64_t i, auto lanes) { out.store(i, keep.load(i, lanes) * scale, lanes); });
  }
};

struct LogSoftmax {
  static constexpr bool kKeeps = false;

  template <typename Walk, typename Keep, typename Out, typename In>
  void operator()(const Walk& walk, RowRange, const Keep&, const Out& out, const In& input) const {
    using V = typename Walk::V;
    const V max = walk.maximum([&](int64_t i, auto lanes) { return input.load(i, lanes); });
    const V sum = walk.sum(
        [&](int64_t i, auto lanes) { return exp_nonpositive(input.load(i, lanes) - max); });
    // max + log(sum) would lose the digits of log(sum) where max is large.
    const V log_sum = walk.log(sum);
    walk.for_each([&](int64_t i, auto lanes) {
      out.store(i, (input.load(i, lanes) - max) - log_sum, lanes);
    });
  }
};

/// grad_input = y (grad_output - <grad_output, y>) for y = softmax(input).
struct SoftmaxBackward {
  static constexpr bool kKeeps = false;

  template <typename Walk, typename Keep, typename Out, typename Grad, typename Y>
  void operator()(const Walk& walk, RowRange, const Keep&, const Out& grad_input,
                  const Grad& grad_output, const Y& output) const {
    using V = typename Walk::V;
    const V dot = walk.sum(
        [&](int64_t i, auto lanes) { return grad_output.load(i, lanes) * output.load(i, lanes); });
    walk.for_each([&](int64_t i, auto lanes) {
      const V grad = grad_output.load(i, lanes) - dot;
      grad_input.store(i, grad * output.load(i, lanes), lanes);
    });
  }
};

/// grad_input = grad_output - exp(y) sum(grad_output) for y = log_softmax(input).
struct LogSoftmaxBackward {
  static constexpr bool kKeeps = false;

  template <typename Walk, typename Keep, typename Out, typename Grad, typename Y>
  void operator()(const Walk& walk, RowRange, const Keep&, const Out& grad_input,
                  const Grad& grad_output, const Y& output) const {
    using V = typename Walk::V;
    const V sum = walk.sum([&](int64_t i, auto lanes) { return grad_output.load(i, lanes); });
    walk.for_each([&](int64_t i, auto lanes) {
      const V grad = grad_output.load(i, lanes);
      grad_input.store(i, grad - exp_nonpositive(output.load(i, lanes)) * sum, lanes);
    });
  }
};

template <typename Policy>
at::Tensor forward(const char* name, const at::Tensor& self, int64_t dim,
                   std::optional<at::ScalarType> dtype) {
  const at::Tensor input = dtype.has_value() ? self.to(*dtype) : self;
  checks::softmax(name, input);
  dim = at::maybe_wrap_dim(dim, input.dim());
  at::Tensor output = empty_contiguous_like(input);
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, input.scalar_type(), "softmax", [&] {
    const at::Tensor source = like_rows_of(output, input, dim);
    for_each_row<acc_type<scalar_t>>(Policy{}, rows_of<scalar_t>(output, dim),
                                     rows_of<const scalar_t>(source, dim));
  });
  return output;
}

template <typename Policy>
at::Tensor backward(const char* name, const at::Tensor& grad_output, const at::Tensor& output,
                    int64_t dim) {
  checks::softmax_backward(name, grad_output, output);
  dim = at::maybe_wrap_dim(dim, output.dim());
  at::Tensor grad_input = empty_contiguous_like(output);
  AT_DISPATCH_FLOATING_TYPES_AND2(
      at::kHalf, at::kBFloat16, output.scalar_type(), "softmax_backward", [&] {
        const at::Tensor grad = like_rows_of(grad_input, grad_output, dim);
        const at::Tensor y = like_rows_of(grad_input, output, dim);
        for_each_row<acc_type<scalar_t>>(Policy{}, rows_of<scalar_t>(grad_input, dim),
                                         rows_of<const scalar_t>(grad, dim),
                                         rows_of<const scalar_t>(y, dim));
      });
  return grad_input;
}

at::Tensor softmax(const at::Tensor& self, int64_t dim, std::optional<at::ScalarType> dtype) {
  return forward<Softmax>("softmax", self, dim, dtype);
}

at::Tensor log_softmax(const at::Tensor& self, int64_t dim, std::optional<at::ScalarType> dtype) {
  return forward<LogSoftmax>("log_softmax", self, dim, dtype);
}

at::Tensor softmax_backward(const at::Tensor& grad_output, const at::Tensor& output, int64_t dim) {
  return backward<SoftmaxBackward>("softmax_backward", grad_output, output, dim);
}

at::Tensor log_softmax_backward(const at::Tensor& grad_output, const at::Tensor& output,
                                int64_t dim) {
  return backward<LogSoftmaxBackward>("log_softmax_backward", grad_output, output, dim);
}

}  // namespace

TORCH_LIBRARY_IMPL(torchsoftmax, CPU, m) {
  m.impl("softmax", &softmax);
  m.impl("log_softmax", &log_softmax);
  m.impl("softmax_backward", &softmax_backward);
  m.impl("log_softmax_backward", &log_softmax_backward);
}

}  // namespace torchsoftmax::cpu
