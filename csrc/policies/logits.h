#pragma once
// From a row's input x to its logits z: nothing, temperature, or softcap and temperature.
//
// All are monotonic, so a row's maximum is taken of x, and z(x) - z(max x) is what the policies
// work with. A transform is asked for the row's own (`of_row`) once the maximum is known:
// `value(x)` is what is left of a softcap, `shifted(value)` the difference, and
// `exponential(value)` its exponential.
// `term(value)` is the same for a sum: it may be 0 where it is below the smallest normal number.
// `rescaling(max)` is what terms of another row, with that maximum, are multiplied with to be terms
// of this one.
// `exactly_shifted(value)` is `shifted(value)` in two parts, as far as the second is known.
// `differences()` is what a row takes for all of them but exponentials.
// `of_ratio` is `of_row` where only the ratio of exponentials matters: all may have a factor that
// is the row's own.

#include <cmath>

#include "exact.h"

namespace torchsoftmax::TORCHSOFTMAX_DEVICE {

#if defined(TORCHSOFTMAX_ON_CUDA)
template <typename V>
struct PlainRow {
  V max;

  PlainRow() = default;
  TORCHSOFTMAX_FN explicit PlainRow(const V& max) : max(max) {}

  TORCHSOFTMAX_FN V value(const V& x) const { return x; }
  TORCHSOFTMAX_FN V shifted(const V& value) const { return value - max; }
  TORCHSOFTMAX_FN TwoParts<V> exactly_shifted(const V& value) const {
    return TwoParts<V>::sum(value, V(0) - max);
  }
  TORCHSOFTMAX_FN V exponential(const V& value) const { return exp_nonpositive(shifted(value)); }
  TORCHSOFTMAX_FN V term(const V& value) const { return exp_term(shifted(value)); }
  TORCHSOFTMAX_FN V rescaling(const V& max_value) const { return exponential(max_value); }
  TORCHSOFTMAX_FN V times_slope(const V& gradient, const V&) const { return gradient; }
  TORCHSOFTMAX_FN PlainRow differences() const { return *this; }
};

/// Of 16-bit data, up to a factor: exp(x - max) as 2^(x log2(e) - base), an operation less. base is
/// max log2(e) but for a rounding, which all terms of the row have in common.
struct NarrowRatioRow {
  using V = Lane<float, true>;
  // From here on the rounding would be no small factor; but two different numbers of 16 bits, one
  // of which is as large, are so far apart that any base of the exponential tells them apart.
  static constexpr float kHuge = 1e8f;

  float scale, base;

  TORCHSOFTMAX_FN explicit NarrowRatioRow(const V& max)
      : scale(std::fabs(max.number) < kHuge ? kLog2E : 1.0f),
        base(rounded_product(max.number, scale)) {}

  TORCHSOFTMAX_FN V value(const V& x) const { return x; }
  TORCHSOFTMAX_FN V exponential(const V& value) const {
    return power_of_2(std::fma(value.number, scale, -base));
  }
  TORCHSOFTMAX_FN V rescaling(const V& max_value) const {
    return power_of_2(NarrowRatioRow(max_value).base - base);
  }
};
#else
/// With x - max and its exponential in one.
template <typename V>
struct PlainRow {
  V max;
  ExpLess<V> exp_less;

  PlainRow() = default;
  explicit PlainRow(const V& max) : max(max), exp_less(max) {}

  /// With map(member) for every member.
  template <typename Map>
  PlainRow each(Map&& map) const {
    PlainRow result;
    result.max = map(max);
    result.exp_less = exp_less.each(map);
    return result;
  }

  V value(const V& x) const { return x; }
  V shifted(const V& value) const { return value - max; }
  V exponential(const V& value) const { return exp_less(value); }
  V term(const V& value) const { return exp_less(value); }
  V times_slope(const V& gradient, const V&) const { return gradient; }

  struct Differences {
    V max;

    template <typename Map>
    Differences each(Map&& map) const {
      return {map(max)};
    }
    V value(const V& x) const { return x; }
    V shifted(const V& value) const { return value - max; }
    TwoParts<V> exactly_shifted(const V& value) const {
      return TwoParts<V>::sum(value, V(0) - max);
    }
    V times_slope(const V& gradient, const V&) const { return gradient; }
  };
  Differences differences() const { return {max}; }
};

/// For ratios of exponentials: RatioExp tells what the maximum may be.
template <typename V>
struct PlainRatioRow {
  RatioExp<V> exp;

  template <typename Map>
  PlainRatioRow each(Map&& map) const {
    return {exp.each(map)};
  }
  V value(const V& x) const { return x; }
  V exponential(const V& value) const { return exp(value); }
  /// Of a guess.
  int misfits(const V& max, const V& sum) const { return exp.misfits(max, sum); }
};
#endif

/// z = x.
template <typename acc_t>
struct PlainLogits {
  static constexpr bool kPlain = true;
  static constexpr bool kCapped = false;

#if defined(TORCHSOFTMAX_ON_CUDA)
  template <typename V>
  TORCHSOFTMAX_FN PlainRow<V> of_row(const V& max_input) const {
    return PlainRow<V>(max_input);
  }
  template <typename V>
  TORCHSOFTMAX_FN auto of_ratio(const V& max_input) const {
    if constexpr (V::kNarrow) {
      return NarrowRatioRow(max_input);
    } else {
      return of_row(max_input);
    }
  }
#else
  template <typename V>
  auto of_row(const V& max_input) const {
    return PlainRow<V>(max_input);
  }
  template <typename V>
  auto of_ratio(const V& max_input) const {
    return PlainRatioRow<V>{RatioExp<V>(max_input)};
  }
  template <typename V>
  auto guess_of(const V& max_input) const
    requires requires { RatioExp<V>::guess(max_input); }
  {
    return PlainRatioRow<V>{RatioExp<V>::guess(max_input)};
  }
#endif
  TORCHSOFTMAX_FN acc_t per_temperature() const { return 1; }
};

/// z = c tanh(x / c) / T with a softcap c, otherwise x / T.
template <typename acc_t, bool kHasSoftcap>
struct ScaledLogits {
  static constexpr bool kPlain = false;
  static constexpr bool kCapped = kHasSoftcap;

  template <typename V>
  struct Row {
    V max;  // z of the row's maximum
    V half_max_value;
    V double_scale;
    V double_scale_rest;  // what the scale's own rounding left of it
    V per_softcap;
    bool unit;  // z = x: the usual case, with less arithmetic

    template <typename Map>
    Row each(Map&& map) const {
      return {map(max),          map(half_max_value),
              map(double_scale), map(double_scale_rest),
              map(per_softcap),  unit};
    }

    /// tanh(x / c), or x.
    TORCHSOFTMAX_FN V value(const V& x) const {
      if constexpr (kCapped) {
        return (x * per_softcap).tanh();
      } else {
        return x;
      }
    }
    /// `half` times twice the scale. The rest may be 0, which -inf must not be multiplied with.
    TORCHSOFTMAX_FN V scaled(const V& half) const {
      const V finite = maximum_dropping_nan(half, V(acc_t(-1e30)));
      return fmadd(half, double_scale, finite * double_scale_rest);
    }
    /// Of halves, for the difference of finite values may overflow where it is then divided by T.
    TORCHSOFTMAX_FN V shifted(const V& value) const {
      return scaled(fmsub(value, V(acc_t(0.5)), half_max_value));
    }
    TORCHSOFTMAX_FN TwoParts<V> exactly_shifted(const V& value) const {
      return {shifted(value), V(0)};
    }
    TORCHSOFTMAX_FN V exponential(const V& value) const { return exp_nonpositive(shifted(value)); }
    TORCHSOFTMAX_FN V term(const V& value) const { return exp_term(shifted(value)); }
    TORCHSOFTMAX_FN V rescaling(const V& max_input) const { return exponential(value(max_input)); }
    /// `gradient` of z times T dz / dx.
    TORCHSOFTMAX_FN V times_slope(const V& gradient, const V& value) const {
      if constexpr (kCapped) {
        return gradient * (V(1) - value * value);
      } else {
        return gradient;
      }
    }
    TORCHSOFTMAX_FN Row differences() const { return *this; }
  };
#if !defined(TORCHSOFTMAX_ON_CUDA)
  template <typename V>
  struct RatioRow : Row<V> {
    template <typename Map>
    RatioRow each(Map&& map) const {
      return {Row<V>::each(map)};
    }
    V exponential(const V& value) const { return exp_nonpositive<true>(this->shifted(value)); }
  };
#endif

  explicit ScaledLogits(double temperature, double softcap = 0)
      : softcap_(static_cast<acc_t>(softcap)),
        per_temperature_(static_cast<acc_t>(1 / temperature)),
        unit_(!kCapped && temperature == 1) {
    const double scale = (kCapped ? softcap : 1.0) / temperature;
    scale_ = static_cast<acc_t>(scale);
    const double rest =
        std::fma(-static_cast<double>(scale_), temperature, kCapped ? softcap : 1.0);
    scale_rest_ = static_cast<acc_t>(rest / temperature);
  }

  template <typename V>
  TORCHSOFTMAX_FN Row<V> of_row(const V& max_input) const {
    Row<V> row{V(0), V(0), V(2 * scale_), V(2 * scale_rest_), V(kCapped ? 1 / softcap_ : acc_t(0)),
               unit_};
    row.half_max_value = row.value(max_input) * V(acc_t(0.5));
    row.max = row.unit ? max_input : row.scaled(row.half_max_value);
    return row;
  }
  template <typename V>
  TORCHSOFTMAX_FN auto of_ratio(const V& max_input) const {
#if defined(TORCHSOFTMAX_ON_CUDA)
    return of_row(max_input);
#else
    return RatioRow<V>{of_row(max_input)};
#endif
  }
  TORCHSOFTMAX_FN acc_t per_temperature() const { return per_temperature_; }

 private:
  acc_t softcap_;
  acc_t per_temperature_;
  bool unit_;
  acc_t scale_;  // of the value: softcap over temperature
  acc_t scale_rest_;
};

}  // namespace torchsoftmax::TORCHSOFTMAX_DEVICE
