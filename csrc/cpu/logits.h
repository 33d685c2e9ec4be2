#pragma once
// From a row's input x to its logits z: nothing, or softcap and temperature.
//
// Both are monotonic, so a row's maximum is taken of x, and z(x) - z(max x) is what the policies
// work with. A transform is asked for the row's own (`of_row`) once the maximum is known.

#include "vec.h"

namespace torchsoftmax::cpu {

/// z = x.
template <typename acc_t>
struct PlainLogits {
  using V = Vec<acc_t>;
  static constexpr bool kPlain = true;

  struct Row {
    V max;  // z of the row's maximum

    V value(const V& x) const { return x; }
    /// z - max, of value(x).
    V shifted(const V& value) const { return value - max; }
  };

  Row of_row(const V& max_input) const { return {max_input}; }
  acc_t per_temperature() const { return 1; }
};

/// z = c tanh(x / c) / T, or x / T where there is no softcap c.
template <typename acc_t>
struct TransformedLogits {
  using V = Vec<acc_t>;
  static constexpr bool kPlain = false;

  struct Row {
    V max;
    V half_max_value;
    V double_scale;
    V per_softcap;
    bool capped;

    /// tanh(x / c), or x.
    V value(const V& x) const { return capped ? (x * per_softcap).tanh() : x; }
    /// Of halves, for the difference of finite values may overflow where it is then divided by T.
    V shifted(const V& value) const {
      return at::vec::fmsub(value, V(acc_t(0.5)), half_max_value) * double_scale;
    }
    /// T dz / dx.
    V slope(const V& value) const { return capped ? V(1) - value * value : V(1); }
  };

  TransformedLogits(double temperature, double softcap)
      : temperature_(static_cast<acc_t>(temperature)), softcap_(static_cast<acc_t>(softcap)) {}

  Row of_row(const V& max_input) const {
    const bool capped = softcap_ != 0;
    const acc_t scale = (capped ? softcap_ : acc_t(1)) / temperature_;
    Row row{V(0), V(0), V(2 * scale), V(capped ? 1 / softcap_ : acc_t(0)), capped};
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

/// Calls `run` with the transform.
template <typename acc_t, typename Run>
void with_logits(double temperature, double softcap, Run&& run) {
  if (temperature == 1 && softcap == 0) {
    run(PlainLogits<acc_t>{});
  } else {
    run(TransformedLogits<acc_t>(temperature, softcap));
  }
}

}  // namespace torchsoftmax::cpu
