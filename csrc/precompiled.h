// What most files here include, compiled once for each module (setup.py): torch's headers take
// longer to read than the code behind them. Every file includes what it uses all the same.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/cpu/vec/vec.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>
