#pragma once
// From a row's input x to its logits z: nothing, temperature, or softcap and temperature.
//
// All are monotonic, so a row's maximum is taken of x, and z(x) - z(max x) is what the policies
// work with. A transform is asked for the row's own (`of_row`) once the maximum is known:
// `value(x)` is what is left of a softcap, and `shifted(value)` the difference.

#include "vec.h"

namespace torchsoftmax::cpu {

/// z = x.
template <typename acc_t>
struct PlainLogits {
  using V = Vec<acc_t>;

  struct Row {
    V max;

    V value(const V& x) const { return x; }
    V shifted(const V& value) const { return value - max; }
  };

  Row of_row(const V& max_input) const { return {max_input}; }
};

/// z = c tanh(x / c) / T with a softcap c, otherwise x / T.
template <typename acc_t, bool kHasSoftcap>
struct ScaledLogits {
  using V = Vec<acc_t>;
  static constexpr bool kCapped = kHasSoftcap;

  struct Row {
    V max;  // z of the row's maximum
    V half_max_value;
    V double_scale;
    V per_softcap;

    /// tanh(x / c), or x.
    V value(const V& x) const {
      if constexpr (kCapped) {
        return (x * per_softcap).tanh();
      } else {
        return x;
      }
    }
    /// Of halves, for the difference of finite values may overflow where it is then divided by T.
    V shifted(const V& value) const {
      return at::vec::fmsub(value, V(acc_t(0.5)), half_max_value) * double_scale;
    }
    /// `gradient` of z times T dz / dx.
    V times_slope(const V& gradient, const V& value) const {
      if constexpr (kCapped) {
        return gradient * (V(1) - value * value);
      } else {
        return gradient;
      }
    }
  };

  explicit ScaledLogits(double temperature, double softcap = 0)
      : temperature_(static_cast<acc_t>(temperature)), softcap_(static_cast<acc_t>(softcap)) {}

  Row of_row(const V& max_input) const {
    const acc_t scale = (kCapped ? softcap_ : acc_t(1)) / temperature_;
    Row row{V(0), V(0), V(2 * scale), V(kCapped ? 1 / softcap_ : acc_t(0))};
    const V max_value = row.value(max_input);
    row.max = max_value * V(scale);
    row.half_max_value = max_value * V(acc_t(0.5));
    return row;
  }
  acc_t per_temperature() const { return 1 / temperature_; }

 private:
  acc_t temperature_;
  acc_t softcap_;
};

}  // namespace torchsoftmax::cpu
