#pragma once
// Whether a tensor may be overwritten while others are read.

#include <algorithm>

#include "saved_gradient.h"

namespace torchsoftmax {

/// Whether two entries of it may lie at one place: each dimension has to step over all that the
/// ones of shorter steps reach. (There are tensors without such entries that do not.)
inline bool may_overlap_itself(const Tensor& tensor) {
  c10::SmallVector<std::pair<int64_t, int64_t>, 6> steps;  // stride and size
  for (int64_t d = 0; d < tensor.dim(); ++d) {
    if (tensor.size(d) > 1) {
      steps.emplace_back(tensor.stride(d), tensor.size(d));
    }
  }
  std::sort(steps.begin(), steps.end());
  int64_t reach = 0;
  for (const auto& [stride, size] : steps) {
    if (stride <= reach) {
      return tensor.numel() > 0;
    }
    reach += (size - 1) * stride;
  }
  return false;
}

/// Whether they lie in one stretch of memory.
inline bool may_overlap(const Tensor& a, const Tensor& b) {
  const auto begin = [](const Tensor& tensor) {
    return static_cast<const char*>(tensor.const_data_ptr());
  };
  const auto end = [&](const Tensor& tensor) {
    int64_t last = 0;
    for (int64_t d = 0; d < tensor.dim(); ++d) {
      last += (tensor.size(d) - 1) * tensor.stride(d);
    }
    return begin(tensor) + (last + 1) * static_cast<int64_t>(tensor.element_size());
  };
  return a.is_alias_of(b) && a.numel() > 0 && b.numel() > 0 && begin(a) < end(b) &&
         begin(b) < end(a);
}

/// Of the logits that the gradient is to be written over.
inline void check_own_memory(const CrossEntropyArgs& args) {
  if (!is_plain(args.input)) {
    return;  // it will not be
  }
  TORCH_CHECK(!may_overlap_itself(args.input), args.function,
              ": expected input of which no two entries refer to a single memory location, for "
              "inplace_backward writes to it, got sizes ",
              args.input.sizes(), " and strides ", args.input.strides());
  const auto apart = [&](const char* name, const Tensor& tensor) {
    TORCH_CHECK(!tensor.defined() || !is_plain(tensor) || !may_overlap(args.input, tensor),
                args.function, ": expected ", name,
                " outside of the memory of input, which inplace_backward writes to; clone one");
  };
  apart("target", args.target);
  apart("weight", args.weight);
  apart("sample_weight", args.sample_weight);
}

}  // namespace torchsoftmax
