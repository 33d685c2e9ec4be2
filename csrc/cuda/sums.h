#pragma once
// Sums over rows in float64, in an order that depends on their number alone, and what is made of
// them, without the host ever waiting.

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>

#include "../policies/device.h"
#include "launch.h"

namespace torchsoftmax::cuda {

inline constexpr int64_t kTermsOfBlock = 16384;

/// finish(sum) of the terms of every block, or of all where there is one block.
template <typename Term, typename Finish>
__global__ void __launch_bounds__(kMostThreads)
    sum_terms(const Term term, const int64_t count, const Finish finish, double* partial) {
  const BlockGroup group(block_memory<BlockGroup::Shared>());
  const int64_t begin = blockIdx.x * kTermsOfBlock;
  const int64_t end = gridDim.x == 1 ? count : std::min(count, begin + kTermsOfBlock);
  std::array<double, 1> sum{0};
  const double zero = 0;
#pragma unroll 4
  for (int64_t i = begin + threadIdx.x; i < end; i += blockDim.x) {
    sum[0] += static_cast<double>(term(i));
  }
  group.reduce(sum, &zero, [](size_t, double a, double b) { return a + b; });
  if (threadIdx.x == 0) {
    if (gridDim.x == 1) {
      finish(sum[0]);
    } else {
      partial[blockIdx.x] = sum[0];
    }
  }
}

template <typename acc_t>
struct LoadTerm {
  const acc_t* values;
  __device__ acc_t operator()(int64_t i) const { return values[i]; }
};

/// Calls finish(term(0) + ... + term(count - 1)) on the device.
template <typename Term, typename Finish>
void sum_and_finish(const at::TensorOptions& options, int64_t count, const Term& term,
                    const Finish& finish) {
  const int64_t blocks = divided(count, kTermsOfBlock);
  if (blocks <= 1) {
    launch(&sum_terms<Term, Finish>, Launch{1, dim3(count <= 128 ? 128 : kMostThreads)}, term,
           count, finish, nullptr);
    return;
  }
  const at::Tensor partial = at::empty({blocks}, options.dtype(at::kDouble));
  auto* sums = partial.mutable_data_ptr<double>();
  launch(&sum_terms<Term, Finish>, Launch{blocks, dim3(kMostThreads)}, term, count, finish, sums);
  launch(&sum_terms<LoadTerm<double>, Finish>, Launch{1, dim3(kMostThreads)},
         LoadTerm<double>{sums}, blocks, finish, nullptr);
}

template <typename Run>
__global__ void run_once(const Run run) {
  run();
}

/// Calls run() on the device.
template <typename Run>
void once(const Run& run) {
  launch(&run_once<Run>, Launch{1, dim3(1)}, run);
}

/// A number on the device, of any floating-point dtype.
struct Number {
  void* data;
  at::ScalarType dtype;

  explicit Number(const at::Tensor& tensor)
      : data(tensor.mutable_data_ptr()), dtype(tensor.scalar_type()) {}

  __device__ void set(double value) const {
    if (dtype == at::kDouble) {
      *static_cast<double*>(data) = value;
      return;
    }
    const auto number = static_cast<float>(value);
    if (dtype == at::kFloat) {
      *static_cast<float*>(data) = number;
    } else if (dtype == at::kBFloat16) {
      *static_cast<at::BFloat16*>(data) = number;
    } else {
      *static_cast<at::Half*>(data) = number;
    }
  }
};

}  // namespace torchsoftmax::cuda
