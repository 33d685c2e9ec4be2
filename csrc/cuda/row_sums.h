#pragma once
// What the mean of the rows' losses divides by, and sums over rows: numbers on the device.

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>

#include "sums.h"

namespace torchsoftmax::cuda {

/// Stores a sum.
struct StoreSum {
  Number sum;
  __device__ void operator()(double value) const { sum.set(value); }
};

/// Of contiguous values.
template <typename acc_t>
at::Tensor sum_of(const at::Tensor& values) {
  const at::Tensor result = at::empty({}, values.options());
  sum_and_finish(values.options(), values.numel(), LoadTerm<acc_t>{values.const_data_ptr<acc_t>()},
                 StoreSum{Number(result)});
  return result;
}

struct StoreScaled {
  Number sum;
  double factor;
  __device__ void operator()(double value) const { sum.set(factor * value); }
};

/// term(0) + ... + term(count - 1), times a factor.
template <typename acc_t, typename Term>
at::Tensor sum_of_terms(const at::TensorOptions& accumulated, int64_t count, const Term& term,
                        double factor) {
  const at::Tensor result = at::empty({}, accumulated);
  sum_and_finish(accumulated, count, term, StoreScaled{Number(result), factor});
  return result;
}

template <typename acc_t, typename Term>
__global__ void store_terms(acc_t* to, int64_t count, const Term term, double factor) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i < count) {
    to[i] = static_cast<acc_t>(factor * term(i));
  }
}

/// Each of them, times a factor.
template <typename acc_t, typename Term>
void write_terms(acc_t* to, int64_t count, const Term& term, double factor) {
  if (count > 0) {
    constexpr int kThreads = 256;
    launch(&store_terms<acc_t, Term>, Launch{divided(count, kThreads), dim3(kThreads)}, to, count,
           term, factor);
  }
}

template <typename acc_t>
class Normalizer {
 public:
  // What kernels do with a sum; public, for a kernel may not take a private type.
  struct Store {
    double* total;
    acc_t* rounded;
    acc_t* gradients;
    __device__ void operator()(double sum) const {
      *total = sum;
      *rounded = static_cast<acc_t>(sum);
      gradients[0] = 1;
      gradients[1] = over(acc_t(1), *rounded);
    }
  };
  struct StoreNumber {
    Store store;
    double number;
    __device__ void operator()() const { store(number); }
  };
  struct CopyNumber {
    Store store;
    const double* number;
    __device__ void operator()() const { store(*number); }
  };
  struct Reduce {
    Number result;
    const double* total;
    bool mean;
    __device__ void operator()(double sum) const {
      const double value = mean ? over(sum, *total) : sum;
      result.set(static_cast<double>(static_cast<acc_t>(value)));
    }
  };

  Normalizer(const at::TensorOptions& accumulated, double total) : Normalizer(accumulated) {
    once(StoreNumber{store(), total});
  }
  Normalizer(const at::TensorOptions& accumulated, const at::Tensor& given)
      : Normalizer(accumulated) {
    if (given.is_cpu()) {
      once(StoreNumber{store(), given.item<double>()});
      return;
    }
    const at::Tensor wide = given.to(accumulated.dtype(at::kDouble));
    once(CopyNumber{store(), wide.const_data_ptr<double>()});
  }

  /// Of term(0) + ... + term(count - 1).
  template <typename Term>
  static Normalizer sum(const at::TensorOptions& accumulated, int64_t count, const Term& term) {
    const Normalizer result(accumulated);
    sum_and_finish(accumulated, count, term, result.store());
    return result;
  }

  at::Tensor tensor() const { return tensor_; }
  /// d reduced / d loss of each row.
  const acc_t* gradient(bool mean) const {
    return gradients_.const_data_ptr<acc_t>() + (mean ? 1 : 0);
  }
  /// The sum or the mean of the losses, in the dtype that is wanted.
  at::Tensor reduced(const at::Tensor& losses, bool mean, at::ScalarType wanted) const {
    const at::Tensor result = at::empty({}, losses.options().dtype(wanted));
    sum_and_finish(losses.options(), losses.numel(),
                   LoadTerm<acc_t>{losses.const_data_ptr<acc_t>()},
                   Reduce{Number(result), total_.const_data_ptr<double>(), mean});
    return result;
  }

 private:
  explicit Normalizer(const at::TensorOptions& accumulated)
      : total_(at::empty({}, accumulated.dtype(at::kDouble))),
        tensor_(at::empty({}, accumulated)),
        gradients_(at::empty({2}, accumulated)) {}

  Store store() const {
    return {total_.mutable_data_ptr<double>(), tensor_.mutable_data_ptr<acc_t>(),
            gradients_.mutable_data_ptr<acc_t>()};
  }

  at::Tensor total_, tensor_, gradients_;
};

}  // namespace torchsoftmax::cuda
