#pragma once
// The options of cross_entropy between forward and backward.

#include <torch/csrc/autograd/variable.h>

#include <tuple>

#include "../checks.h"
#include "../ops.h"

namespace torchsoftmax {

/// reduction, ignore_index, label_smoothing, temperature, softcap, z_loss
using CrossEntropyOptions = std::tuple<int64_t, int64_t, double, double, double, double>;

inline constexpr CrossEntropyOptions kUsualCrossEntropy{checks::kMean, -100, 0, 1, 0, 0};

inline CrossEntropyOptions options_of(const CrossEntropyArgs& args) {
  return {args.reduction,   args.ignore_index, args.label_smoothing,
          args.temperature, args.softcap,      args.z_loss};
}

/// The arguments again: their tensors are the first four that were saved.
inline CrossEntropyArgs args_of(const torch::autograd::variable_list& saved,
                                const CrossEntropyOptions& options) {
  return std::apply(
      [&](auto... each) {
        return CrossEntropyArgs{saved[0], saved[1], saved[2], saved[3], each...};
      },
      options);
}

}  // namespace torchsoftmax
