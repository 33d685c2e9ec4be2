#pragma once
// Sums in float64 over blocks of a fixed size, so that the result does not depend on the number of
// threads (at::sum splits its input by that number).

#include <ATen/Parallel.h>

#include <vector>

namespace torchsoftmax::cpu {

template <typename Term>
double deterministic_sum_of(int64_t size, Term&& term) {
  constexpr int64_t kBlock = 4096;
  const int64_t blocks = (size + kBlock - 1) / kBlock;
  std::vector<double> partial(static_cast<size_t>(blocks), 0.0);
  at::parallel_for(0, blocks, 4, [&](int64_t begin, int64_t end) {
    for (int64_t block = begin; block < end; ++block) {
      const int64_t last = std::min(size, (block + 1) * kBlock);
      for (int64_t i = block * kBlock; i < last; ++i) {
        partial[block] += static_cast<double>(term(i));
      }
    }
  });
  double sum = 0;
  for (const double each : partial) {
    sum += each;
  }
  return sum;
}

template <typename scalar_t>
double deterministic_sum(const scalar_t* values, int64_t size) {
  return deterministic_sum_of(size, [values](int64_t i) { return values[i]; });
}

}  // namespace torchsoftmax::cpu
