#pragma once
// The policies of softmax and log_softmax, forward and backward.

#include "logits.h"
#include "staged.h"
#include "summed.h"

namespace torchsoftmax::TORCHSOFTMAX_DEVICE {
TORCHSOFTMAX_INTERNAL(policies) {
/// What both have: the maximum, and what a logit is with it.
template <typename Logits>
struct ShiftedLogits {
  static constexpr bool kOften = Logits::kPlain;

  Logits logits;

  template <typename Lanes, typename In, typename... Mask>
  TORCHSOFTMAX_FN auto largest(int64_t i, Lanes lanes, const In& input, const Mask&... mask) const {
    return where_part(input.first(i, lanes), kMinusInfinity, i, lanes, mask...);
  }
  template <typename Row, typename Lanes, typename In, typename... Mask>
  TORCHSOFTMAX_FN auto value_of(const Row& row, int64_t i, Lanes lanes, const In& input,
                                const Mask&... mask) const {
    return row.value(where_part(input.load(i, lanes), kMinusInfinity, i, lanes, mask...));
  }
};

template <typename Logits>
struct Softmax : ShiftedLogits<Logits> {
  static constexpr bool kKeeps = true;
  static constexpr SumFor kSumFor = SumFor::kRatio;
  static constexpr double kNothing = 0;

  template <typename V>
  TORCHSOFTMAX_FN auto row_of(const V& max) const {
    return this->logits.of_ratio(max);
  }
#if !defined(TORCHSOFTMAX_ON_CUDA)
  /// What does for rows with a maximum near this: see cpu/guessing.h.
  template <typename V>
  auto guess_of(const V& max) const
    requires requires { this->logits.guess_of(max); }
  {
    return this->logits.guess_of(max);
  }
#endif

  template <typename Row, typename Reciprocal>
  struct Result {
    Row row;
    Reciprocal reciprocal;

    template <typename Map>
    Result each(Map&& map) const {
      return {row.each(map), reciprocal.each(map)};
    }
  };

  template <typename Row, typename Lanes, typename Keep, typename In, typename... Mask>
  TORCHSOFTMAX_FN auto add(const Row& row, int64_t i, Lanes lanes, const Keep& keep,
                           const In& input, const Mask&... mask) const {
    const auto e = row.exponential(this->value_of(row, i, lanes, input, mask...));
    if constexpr (kHasRoom<Keep>) {
      keep.store(i, e, lanes);
    }
    return e;
  }
  /// The reciprocal alone where terms are kept: what a loop carries has to fit its registers.
  template <typename Walk, typename Row, typename V, typename Keep>
  TORCHSOFTMAX_FN auto result_of(const Walk&, const Row& row, const V& sum, const Keep&) const {
    const auto reciprocal = reciprocal_of(sum);
    if constexpr (kHasRoom<Keep>) {
      return reciprocal;
    } else {
      return Result<Row, std::decay_t<decltype(reciprocal)>>{row, reciprocal};
    }
  }
  template <typename OfRow, typename Lanes, typename Keep, typename In, typename... Mask>
  TORCHSOFTMAX_FN auto value(const OfRow& result, int64_t i, Lanes lanes, const Keep& keep,
                             const In& input, const Mask&... mask) const {
    if constexpr (kHasRoom<Keep>) {
      return times(result, keep.load(i, lanes));
    } else {
      return times(result.reciprocal,
                   result.row.exponential(this->value_of(result.row, i, lanes, input, mask...)));
    }
  }
};

template <typename Logits>
struct LogSoftmax : ShiftedLogits<Logits> {
  static constexpr bool kKeeps = false;
  static constexpr SumFor kSumFor = SumFor::kLog;
  static constexpr double kNothing = kMinusInfinity;

  template <typename V>
  TORCHSOFTMAX_FN auto row_of(const V& max) const {
    return this->logits.of_row(max);
  }

  template <typename Row, typename V>
  struct Result {
    Row row;
    V log_sum;  // max + log_sum would lose its digits where max is large

    template <typename Map>
    Result each(Map&& map) const {
      return {row.each(map), map(log_sum)};
    }
  };

  template <typename Row, typename Lanes, typename Keep, typename In, typename... Mask>
  TORCHSOFTMAX_FN auto add(const Row& row, int64_t i, Lanes lanes, const Keep&, const In& input,
                           const Mask&... mask) const {
    return row.term(this->value_of(row, i, lanes, input, mask...));
  }
  template <typename Walk, typename Row, typename Sum, typename Keep>
  TORCHSOFTMAX_FN auto result_of(const Walk& walk, const Row& row, const Sum& sum,
                                 const Keep&) const {
    const auto differences = row.differences();
    const auto log_sum = walk.log(sum);
    return Result<std::decay_t<decltype(differences)>, std::decay_t<decltype(log_sum)>>{differences,
                                                                                        log_sum};
  }
  template <typename Row, typename V, typename Lanes, typename Keep, typename In, typename... Mask>
  TORCHSOFTMAX_FN V value(const Result<Row, V>& result, int64_t i, Lanes lanes, const Keep&,
                          const In& input, const Mask&... mask) const {
    return result.row.shifted(this->value_of(result.row, i, lanes, input, mask...)) -
           result.log_sum;
  }
};

/// grad_input = y (grad_output - <grad_output, y>) / T for y = softmax(input / T).
template <typename acc_t>
struct SoftmaxBackward {
  acc_t per_temperature;

  template <typename Lanes, typename Grad, typename Y, typename... Mask>
  TORCHSOFTMAX_FN auto term(int64_t i, Lanes lanes, const Grad& grad_output, const Y& output,
                            const Mask&... mask) const {
    return where_part(grad_output.first(i, lanes), 0, i, lanes, mask...) * output.first(i, lanes);
  }
  template <typename V, typename Lanes, typename Grad, typename Y, typename... Mask>
  TORCHSOFTMAX_FN V value(const V& dot, int64_t i, Lanes lanes, const Grad& grad_output,
                          const Y& output, const Mask&... mask) const {
    const V grad = where_part(grad_output.load(i, lanes), 0, i, lanes, mask...) - dot;
    return grad * output.load(i, lanes) * V(per_temperature);
  }
};

/// grad_input = (grad_output - exp(y) sum(grad_output)) / T for y = log_softmax(input / T).
template <typename acc_t>
struct LogSoftmaxBackward {
  acc_t per_temperature;

  template <typename Lanes, typename Grad, typename Y, typename... Mask>
  TORCHSOFTMAX_FN auto term(int64_t i, Lanes lanes, const Grad& grad_output, const Y&,
                            const Mask&... mask) const {
    return where_part(grad_output.first(i, lanes), 0, i, lanes, mask...);
  }
  template <typename V, typename Lanes, typename Grad, typename Y, typename... Mask>
  TORCHSOFTMAX_FN V value(const V& sum, int64_t i, Lanes lanes, const Grad& grad_output,
                          const Y& output, const Mask&... mask) const {
    V grad = where_part(grad_output.load(i, lanes), 0, i, lanes, mask...);
    grad = grad - exp_nonpositive(output.first(i, lanes)) * sum;
    return where_part(grad, 0, i, lanes, mask...) * V(per_temperature);
  }
};

}  // TORCHSOFTMAX_INTERNAL(policies)
}  // namespace torchsoftmax::TORCHSOFTMAX_DEVICE
