#pragma once
// Several vectors side by side, as one value: what policies compute with across rows. More of a
// class lies together in memory then, and there is more arithmetic that does not wait.

#include <algorithm>

#include "vec.h"

namespace torchsoftmax::cpu {

template <typename acc_t, int kCount>
struct Pack {
  using value_type = acc_t;
  using V = Vec<acc_t>;
  std::array<V, kCount> vectors;

  Pack() = default;
  Pack(acc_t value) {  // NOLINT: implicit, as a vector's
    unrolled<kCount>([&](auto k) { vectors[k] = V(value); });
  }

  /// The vectors that vector(k) returns.
  template <typename Vector>
  static Pack of(Vector&& vector) {
    Pack result;
    unrolled<kCount>([&](auto k) { result.vectors[k] = vector(k); });
    return result;
  }

  Pack tanh() const {
    return of([&](auto k) { return vectors[k].tanh(); });
  }
  Pack log() const {
    return of([&](auto k) { return vectors[k].log(); });
  }
  static Pack blendv(const Pack& a, const Pack& b, const Pack& mask) {
    return of([&](auto k) { return V::blendv(a.vectors[k], b.vectors[k], mask.vectors[k]); });
  }

  friend Pack operator+(const Pack& a, const Pack& b) {
    return of([&](auto k) { return a.vectors[k] + b.vectors[k]; });
  }
  friend Pack operator-(const Pack& a, const Pack& b) {
    return of([&](auto k) { return a.vectors[k] - b.vectors[k]; });
  }
  friend Pack operator*(const Pack& a, const Pack& b) {
    return of([&](auto k) { return a.vectors[k] * b.vectors[k]; });
  }
  friend Pack operator/(const Pack& a, const Pack& b) {
    return of([&](auto k) { return a.vectors[k] / b.vectors[k]; });
  }
  friend Pack operator!=(const Pack& a, const Pack& b) {
    return of([&](auto k) { return a.vectors[k] != b.vectors[k]; });
  }
};

/// All lanes of several vectors of neighbouring rows, of which the last begins at row `last`: it
/// may share rows with the one before, so that they need not be a whole number of vectors.
struct Overlapping {
  int64_t last;
};

template <bool kForRatio = false, typename acc_t, int kCount>
Pack<acc_t, kCount> exp_nonpositive(const Pack<acc_t, kCount>& x) {
  return Pack<acc_t, kCount>::of([&](auto k) { return exp_nonpositive<kForRatio>(x.vectors[k]); });
}

#if defined(TORCHSOFTMAX_FAST_EXP)
/// With one condition for all vectors: with one for each, softmax of (32, 1000, 49) takes 1.1 times
/// as long. In the sum of a loss the rounding of x - max matters less than what the constants of
/// several vectors cost, which are too many for the registers: there is no such ExpLess.
template <int kCount>
class RatioExp<Pack<float, kCount>> {
 public:
  using V = Pack<float, kCount>;

  RatioExp() = default;
  explicit RatioExp(const V& max) {
    unrolled<kCount>([&](auto k) {
      parts_[k] = RatioExp<Floats>(max.vectors[k]);
      large_ = large_ || parts_[k].large();
    });
  }

  V operator()(const V& x) const {
    V rest = x;
    if (large_) [[unlikely]] {
      rest = V::of([&](auto k) { return parts_[k].rest(x.vectors[k]); });
    }
    return V::of([&](auto k) { return parts_[k].of_rest(rest.vectors[k]); });
  }

 private:
  std::array<RatioExp<Floats>, kCount> parts_;
  bool large_ = false;
};
#endif

template <typename acc_t, int kCount>
Pack<acc_t, kCount> where_equal(const Pack<acc_t, kCount>& a, const Pack<acc_t, kCount>& b,
                                const Pack<acc_t, kCount>& then,
                                const Pack<acc_t, kCount>& otherwise) {
  return Pack<acc_t, kCount>::of([&](auto k) {
    return where_equal(a.vectors[k], b.vectors[k], then.vectors[k], otherwise.vectors[k]);
  });
}

/// of(vectors...), of packs for each of their vectors: one after the other.
template <typename Of, typename acc_t, typename... Vectors>
Vec<acc_t> of_vectors(const Of& of, const Vec<acc_t>& first, const Vectors&... others) {
  return of(first, others...);
}
template <typename Of, typename acc_t, int kCount, typename... Packs>
Pack<acc_t, kCount> of_vectors(const Of& of, const Pack<acc_t, kCount>& first,
                               const Packs&... others) {
  return Pack<acc_t, kCount>::of(
      [&](auto k) { return of(first.vectors[k], others.vectors[k]...); });
}

/// For a sum: see policies/logits.h.
template <typename V>
V exp_term(const V& x) {
  return exp_nonpositive(x);
}

template <typename acc_t, int kCount>
Pack<acc_t, kCount> fmadd(const Pack<acc_t, kCount>& a, const Pack<acc_t, kCount>& b,
                          const Pack<acc_t, kCount>& c) {
  return Pack<acc_t, kCount>::of(
      [&](auto k) { return fmadd(a.vectors[k], b.vectors[k], c.vectors[k]); });
}

template <typename acc_t, int kCount>
Pack<acc_t, kCount> fmsub(const Pack<acc_t, kCount>& a, const Pack<acc_t, kCount>& b,
                          const Pack<acc_t, kCount>& c) {
  return Pack<acc_t, kCount>::of(
      [&](auto k) { return fmsub(a.vectors[k], b.vectors[k], c.vectors[k]); });
}

template <typename acc_t, int kCount>
Pack<acc_t, kCount> maximum_dropping_nan(const Pack<acc_t, kCount>& value,
                                         const Pack<acc_t, kCount>& bound) {
  return Pack<acc_t, kCount>::of(
      [&](auto k) { return maximum_dropping_nan(value.vectors[k], bound.vectors[k]); });
}

}  // namespace torchsoftmax::cpu
