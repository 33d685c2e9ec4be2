#pragma once
// The options of cross_entropy between forward and backward.

#include <torch/csrc/autograd/custom_function.h>

#include "../ops.h"

namespace torchsoftmax {

/// The options, and behind them what else backward needs to know: one entry of saved_data, for each
/// has its cost.
template <typename... More>
c10::IValue saved_options(const CrossEntropyArgs& args, const More&... more) {
  return c10::ivalue::Tuple::create(std::vector<c10::IValue>{args.reduction, args.ignore_index,
                                                             args.label_smoothing, args.temperature,
                                                             args.softcap, args.z_loss, more...});
}

/// What saved_options was given. The tensors of `args` are the first four that are saved.
struct SavedOptions {
  CrossEntropyArgs args;
  c10::ArrayRef<c10::IValue> more;  // of `options`, which stays

  SavedOptions(const c10::IValue& options, const torch::autograd::variable_list& saved) {
    const auto values = options.toTupleRef().elements().asArrayRef();
    args = {saved[0],
            saved[1],
            saved[2],
            saved[3],
            values[0].toInt(),
            values[1].toInt(),
            values[2].toDouble(),
            values[3].toDouble(),
            values[4].toDouble(),
            values[5].toDouble()};
    more = values.slice(6);
  }
};

}  // namespace torchsoftmax
