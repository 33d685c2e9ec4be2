// softmax and log_softmax, forward and backward: four policies on the loop of rows.h.

#include <ATen/WrapDimUtils.h>
#include <torch/library.h>

#include "../checks.h"
#include "logits.h"
#include "masked.h"
#include "memory.h"
#include "rows.h"
#include "tensors.h"

namespace torchsoftmax::cpu {
namespace {

template <typename Logits>
struct Softmax {
  static constexpr bool kKeeps = true;

  Logits logits;

  template <typename Walk, typename Keep, typename Out, typename In, typename... Mask>
  void operator()(const Walk& walk, RowRange rows, const Keep& keep, const Out& out,
                  const In& input, const Mask&... mask) const {
    using V = typename Walk::V;
    const auto part = [&](const auto& operand, int64_t i, auto lanes) {
      return where_part(operand.load(i, lanes), kMinusInfinity, i, lanes, mask...);
    };
    const auto row =
        logits.of_row(walk.maximum([&](int64_t i, auto lanes) { return part(input, i, lanes); }));
    const V sum = walk.sum([&](int64_t i, auto lanes) {
      const V e = exp_nonpositive(row.shifted(row.value(part(input, i, lanes))));
      keep.store(i, e, lanes);
      return e;
    });
    const V scale = V(1) / sum;
    if (sizeof...(Mask) > 0 && walk.any_nan(sum, rows)) {  // nothing takes part, or a nan
      walk.for_each([&](int64_t i, auto lanes) {
        V y = keep.load(i, lanes) * scale;
        y = where_part(y, 0, i, lanes, mask...);
        out.store(i, y, lanes);
      });
      return;
    }
    walk.for_each([&](int64_t i, auto lanes) { out.store(i, keep.load(i, lanes) * scale, lanes); });
  }
};

template <typename Logits>
struct LogSoftmax {
  static constexpr bool kKeeps = false;

  Logits logits;

  template <typename Walk, typename Keep, typename Out, typename In, typename... Mask>
  void operator()(const Walk& walk, RowRange rows, const Keep&, const Out& out, const In& input,
                  const Mask&... mask) const {
    using V = typename Walk::V;
    const auto part = [&](const auto& operand, int64_t i, auto lanes) {
      return where_part(operand.load(i, lanes), kMinusInfinity, i, lanes, mask...);
    };
    const auto row =
        logits.of_row(walk.maximum([&](int64_t i, auto lanes) { return part(input, i, lanes); }));
    const auto shifted = [&](int64_t i, auto lanes) {
      return row.shifted(row.value(part(input, i, lanes)));
    };
    const V sum =
        walk.sum([&](int64_t i, auto lanes) { return exp_nonpositive(shifted(i, lanes)); });
    // max + log(sum) would lose the digits of log(sum) where max is large.
    const V log_sum = walk.log(sum);
    if (sizeof...(Mask) > 0 && walk.any_nan(sum, rows)) {  // nothing takes part, or a nan
      walk.for_each([&](int64_t i, auto lanes) {
        V y = shifted(i, lanes) - log_sum;
        y = where_part(y, kMinusInfinity, i, lanes, mask...);
        out.store(i, y, lanes);
      });
      return;
    }
    walk.for_each([&](int64_t i, auto lanes) { out.store(i, shifted(i, lanes) - log_sum, lanes); });
  }
};

/// grad_input = y (grad_output - <grad_output, y>) / T for y = softmax(input / T).
template <typename acc_t>
struct SoftmaxBackward {
  static constexpr bool kKeeps = false;

  acc_t per_temperature;

  template <typename Walk, typename Keep, typename Out, typename Grad, typename Y, typename... Mask>
  void operator()(const Walk& walk, RowRange, const Keep&, const Out& grad_input,
                  const Grad& grad_output, const Y& output, const Mask&... mask) const {
    using V = typename Walk::V;
    const auto part = [&](const auto& operand, int64_t i, auto lanes) {
      return where_part(operand.load(i, lanes), 0, i, lanes, mask...);
    };
    const V dot = walk.sum(
        [&](int64_t i, auto lanes) { return part(grad_output, i, lanes) * output.load(i, lanes); });
    const V scale(per_temperature);
    walk.for_each([&](int64_t i, auto lanes) {
      const V grad = part(grad_output, i, lanes) - dot;
      grad_input.store(i, grad * output.load(i, lanes) * scale, lanes);
    });
  }
};

/// grad_input = (grad_output - exp(y) sum(grad_output)) / T for y = log_softmax(input / T).
template <typename acc_t>
struct LogSoftmaxBackward {
  static constexpr bool kKeeps = false;

  acc_t per_temperature;

  template <typename Walk, typename Keep, typename Out, typename Grad, typename Y, typename... Mask>
  void operator()(const Walk& walk, RowRange, const Keep&, const Out& grad_input,
                  const Grad& grad_output, const Y& output, const Mask&... mask) const {
    using V = typename Walk::V;
    const auto part = [&](const auto& operand, int64_t i, auto lanes) {
      return where_part(operand.load(i, lanes), 0, i, lanes, mask...);
    };
    const V sum = walk.sum([&](int64_t i, auto lanes) { return part(grad_output, i, lanes); });
    const V scale(per_temperature);
    walk.for_each([&](int64_t i, auto lanes) {
      V grad = part(grad_output, i, lanes) - exp_nonpositive(output.load(i, lanes)) * sum;
      grad = where_part(grad, 0, i, lanes, mask...);
      grad_input.store(i, grad * scale, lanes);
    });
  }
};

template <template <typename> typename Policy>
at::Tensor forward(const char* name, const at::Tensor& self, int64_t dim, Dtype dtype,
                   double temperature, const OptionalTensor& mask) {
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
    if (temperature == 1 && !mask.has_value()) {
      for_each_row<acc_t>(Policy<PlainLogits<acc_t>>{}, out, in);
    } else {
      using Logits = ScaledLogits<acc_t, false>;
      for_each_masked_row<acc_t>(Policy<Logits>{Logits(temperature)}, mask, output, dim, out, in);
    }
  });
  return output;
}

template <template <typename> typename Policy>
at::Tensor backward(const char* name, const at::Tensor& grad_output, const at::Tensor& output,
                    int64_t dim, double temperature, const OptionalTensor& mask) {
  checks::softmax_backward(name, grad_output, output, temperature, mask);
  dim = at::maybe_wrap_dim(dim, output.dim());
  at::Tensor grad_input = empty_contiguous_like(output);
  dispatch(output, [&](auto type) {
    using scalar_t = decltype(type);
    using acc_t = acc_type<scalar_t>;
    const at::Tensor grad = like_rows_of(grad_input, grad_output, dim);
    const at::Tensor y = like_rows_of(grad_input, output, dim);
    for_each_masked_row<acc_t>(Policy<acc_t>{static_cast<acc_t>(1 / temperature)}, mask, output,
                               dim, rows_of<scalar_t>(grad_input, dim),
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

TORCH_LIBRARY_IMPL(torchsoftmax, CPU, m) {
  m.impl("softmax", &softmax);
  m.impl("log_softmax", &log_softmax);
  m.impl("softmax_backward", &softmax_backward);
  m.impl("log_softmax_backward", &log_softmax_backward);
}

}  // namespace torchsoftmax::cpu
