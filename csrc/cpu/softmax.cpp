// softmax and log_softmax, forward and backward: four policies on the loop of rows.h.

#include <ATen/WrapDimUtils.h>
#include <torch/library.h>

#include "../checks.h"
#include "logits.h"
#include "masked.h"
#include "memory.h"
#include "staged.h"
#include "tensors.h"

namespace torchsoftmax::cpu {
namespace {

/// The first two stages, which both have: the maximum, and the logits less their maximum.
template <typename Logits>
struct ShiftedLogits {
  Logits logits;

  template <typename Lanes, typename In, typename... Mask>
  auto largest(int64_t i, Lanes lanes, const In& input, const Mask&... mask) const {
    return where_part(input.first(i, lanes), kMinusInfinity, i, lanes, mask...);
  }
  template <typename V>
  auto row_of(const V& max) const {
    return logits.of_row(max);
  }
  template <typename Row, typename Lanes, typename In, typename... Mask>
  auto shifted(const Row& row, int64_t i, Lanes lanes, const In& input, const Mask&... mask) const {
    const auto x = where_part(input.load(i, lanes), kMinusInfinity, i, lanes, mask...);
    return row.shifted(row.value(x));
  }
};

template <typename Logits>
struct Softmax : ShiftedLogits<Logits> {
  static constexpr bool kKeeps = true;
  static constexpr double kNothing = 0;

  template <typename Row, typename Lanes, typename Keep, typename In, typename... Mask>
  auto add(const Row& row, int64_t i, Lanes lanes, const Keep& keep, const In& input,
           const Mask&... mask) const {
    const auto e = exp_nonpositive(this->shifted(row, i, lanes, input, mask...));
    keep.store(i, e, lanes);
    return e;
  }
  template <typename Walk, typename Row, typename V>
  V result_of(const Walk&, const Row&, const V& sum) const {
    return V(1) / sum;
  }
  template <typename V, typename Lanes, typename Keep, typename In, typename... Mask>
  V value(const V& scale, int64_t i, Lanes lanes, const Keep& keep, const In&,
          const Mask&...) const {
    return keep.load(i, lanes) * scale;
  }
};

template <typename Logits>
struct LogSoftmax : ShiftedLogits<Logits> {
  static constexpr bool kKeeps = false;
  static constexpr double kNothing = kMinusInfinity;

  template <typename Row, typename V>
  struct Result {
    Row row;
    V log_sum;  // max + log_sum would lose its digits where max is large
  };

  template <typename Row, typename Lanes, typename Keep, typename In, typename... Mask>
  auto add(const Row& row, int64_t i, Lanes lanes, const Keep&, const In& input,
           const Mask&... mask) const {
    return exp_nonpositive(this->shifted(row, i, lanes, input, mask...));
  }
  template <typename Walk, typename Row, typename V>
  Result<Row, V> result_of(const Walk& walk, const Row& row, const V& sum) const {
    return {row, walk.log(sum)};
  }
  template <typename Row, typename V, typename Lanes, typename Keep, typename In, typename... Mask>
  V value(const Result<Row, V>& result, int64_t i, Lanes lanes, const Keep&, const In& input,
          const Mask&... mask) const {
    return this->shifted(result.row, i, lanes, input, mask...) - result.log_sum;
  }
};

/// grad_input = y (grad_output - <grad_output, y>) / T for y = softmax(input / T).
template <typename acc_t>
struct SoftmaxBackward : Policy {
  static constexpr bool kDirect = true;
  static constexpr bool kAmends = false;

  acc_t per_temperature;

  template <typename Walk, typename Keep, typename Out, typename Grad, typename Y, typename... Mask>
  void operator()(const Walk& walk, RowRange, const Keep&, const Out& grad_input,
                  const Grad& grad_output, const Y& output, const Mask&... mask) const {
    using V = typename Walk::V;
    const auto part = [&](const auto& operand, int64_t i, auto lanes) {
      return where_part(operand.load(i, lanes), 0, i, lanes, mask...);
    };
    const V dot = walk.sum([&](int64_t i, auto lanes) {
      return where_part(grad_output.first(i, lanes), 0, i, lanes, mask...) * output.first(i, lanes);
    });
    const V scale(per_temperature);
    walk.for_each([&](int64_t i, auto lanes) {
      const V grad = part(grad_output, i, lanes) - dot;
      grad_input.store(i, grad * output.load(i, lanes) * scale, lanes);
    });
  }
};

/// grad_input = (grad_output - exp(y) sum(grad_output)) / T for y = log_softmax(input / T).
template <typename acc_t>
struct LogSoftmaxBackward : Policy {
  static constexpr bool kDirect = true;
  static constexpr bool kAmends = false;

  acc_t per_temperature;

  template <typename Walk, typename Keep, typename Out, typename Grad, typename Y, typename... Mask>
  void operator()(const Walk& walk, RowRange, const Keep&, const Out& grad_input,
                  const Grad& grad_output, const Y& output, const Mask&... mask) const {
    using V = typename Walk::V;
    const auto part = [&](const auto& operand, int64_t i, auto lanes) {
      return where_part(operand.load(i, lanes), 0, i, lanes, mask...);
    };
    const V sum = walk.sum([&](int64_t i, auto lanes) {
      return where_part(grad_output.first(i, lanes), 0, i, lanes, mask...);
    });
    const V scale(per_temperature);
    walk.for_each([&](int64_t i, auto lanes) {
      V grad = part(grad_output, i, lanes) - exp_nonpositive(output.first(i, lanes)) * sum;
      grad = where_part(grad, 0, i, lanes, mask...);
      grad_input.store(i, grad * scale, lanes);
    });
  }
};

template <template <typename> typename Kernel>
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
      for_each_row<acc_t>(Staged(Kernel<PlainLogits<acc_t>>{}), out, in);
    } else {
      using Logits = ScaledLogits<acc_t, false>;
      const Staged policy(Kernel<Logits>{{Logits(temperature)}});
      for_each_masked_row<acc_t>(policy, mask, output, dim, out, in);
    }
  });
  return output;
}

template <template <typename> typename Kernel>
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
    for_each_masked_row<acc_t>(Kernel<acc_t>{{}, static_cast<acc_t>(1 / temperature)}, mask, output,
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
