#pragma once

#include <pybind11/pybind11.h>

namespace torchsoftmax {

/// Defines functions that return a call of the operator of torch.ops that they are given.
void define_calls(pybind11::module_& module);

}  // namespace torchsoftmax
