#pragma once
// The policies of the first and second derivatives of a softmax, and the first of its logarithm, in
// one pass.
//
// Along its last index, each of them is a multiple of one vector, the row of probabilities p, but
// for the entries where that index meets another:
//
//   J_ij  = a_i (delta_ij - p_j) with a_i = p_i / T, or 1 / T for the logarithm
//   H_ijk = p_i p_k (2 p_j - delta_ij) / T^2 where k is neither i nor j
//         = p_i p_j (2 p_k - 1) / T^2        where k is one of them
//         = p_i (1 - p_i) (1 - 2 p_i) / T^2  where k is both
//
// The row stays in the cache: all traffic is that of writing.

#include "device.h"

namespace torchsoftmax::TORCHSOFTMAX_DEVICE {
TORCHSOFTMAX_INTERNAL(policies) {
template <typename acc_t>
struct Jacobian {
  static constexpr int64_t kIndices = 2;

  acc_t per_temperature;
  bool log;

  template <typename Line>
  TORCHSOFTMAX_FN void operator()(const Line& line, int64_t i, int64_t /*classes*/) const {
    const acc_t a = log ? per_temperature : line.p[i] * per_temperature;
    line.write(-a);
    line.set(i, a * (1 - line.p[i]));
  }
};

template <typename acc_t>
struct Hessian {
  static constexpr int64_t kIndices = 3;

  acc_t per_temperature;

  template <typename Line>
  TORCHSOFTMAX_FN void operator()(const Line& line, int64_t index, int64_t classes) const {
    const int64_t i = index / classes, j = index % classes;
    const acc_t p_i = line.p[i], p_j = line.p[j];
    const acc_t a = p_i * per_temperature * per_temperature;
    line.write(a * (2 * p_j - (i == j ? 1 : 0)));
    if (i == j) {
      line.set(i, a * (1 - p_i) * (1 - 2 * p_i));
    } else {
      line.set(i, a * p_j * (2 * p_i - 1));
      line.set(j, a * p_j * (2 * p_j - 1));
    }
  }
};

}  // TORCHSOFTMAX_INTERNAL(policies)
}  // namespace torchsoftmax::TORCHSOFTMAX_DEVICE
