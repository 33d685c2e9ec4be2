#pragma once
// Sums over rows in float64, in an order that depends on their number alone, and what is made of
// them, without the host ever waiting.

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAStream.h>

#include "group.h"

namespace torchsoftmax::cuda {

inline constexpr int64_t kTermsOfBlock = 16384;

/// finish(sum) of the terms of every block, or of all where there is one block.
template <typename Term, typename Finish>
__global__ void __launch_bounds__(kMostThreads)
    sum_terms(const Term term, const int64_t count, const Finish finish, double* partial) {
  __shared__ BlockGroup::Shared shared;
  const BlockGroup group(shared);
  const int64_t begin = blockIdx.x * kTermsOfBlock;
  const int64_t end = gridDim.x == 1 ? count : min(count, begin + kTermsOfBlock);
  std::array<double, 1> sum{0};
  const double zero = 0;
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

struct Loaded {
  const double* values;
  __device__ double operator()(int64_t i) const { return values[i]; }
};

/// Calls finish(term(0) + ... + term(count - 1)) on the device.
template <typename Term, typename Finish>
void sum_and_finish(const at::TensorOptions& options, int64_t count, const Term& term,
                    const Finish& finish) {
  const auto stream = c10::cuda::getCurrentCUDAStream();
  const int64_t blocks = (count + kTermsOfBlock - 1) / kTermsOfBlock;
  if (blocks <= 1) {
    const int threads = count <= 128 ? 128 : kMostThreads;
    sum_terms<<<1, threads, 0, stream>>>(term, count, finish, nullptr);
  } else {
    const at::Tensor partial = at::empty({blocks}, options.dtype(at::kDouble));
    auto* sums = partial.mutable_data_ptr<double>();
    sum_terms<<<static_cast<unsigned>(blocks), kMostThreads, 0, stream>>>(term, count, finish,
                                                                          sums);
    sum_terms<<<1, kMostThreads, 0, stream>>>(Loaded{sums}, blocks, finish, nullptr);
  }
  C10_CUDA_KERNEL_LAUNCH_CHECK();
}

template <typename Run>
__global__ void run_once(const Run run) {
  run();
}

/// Calls run() on the device.
template <typename Run>
void once(const Run& run) {
  run_once<<<1, 1, 0, c10::cuda::getCurrentCUDAStream()>>>(run);
  C10_CUDA_KERNEL_LAUNCH_CHECK();
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

/// The quotient; nan, not inf, where the weights sum to 0.
template <typename T>
__host__ __device__ T over(T value, T normalizer) {
  return value / normalizer + T(0) / normalizer;
}

}  // namespace torchsoftmax::cuda
