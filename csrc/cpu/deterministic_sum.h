#pragma once
// Sums in float64 over blocks of a fixed size, so that the result does not depend on the number of
// threads (at::sum splits its input by that number). Within a block and over the blocks, pairs are
// added: the rounding error grows with the logarithm of the size.

#include <ATen/Parallel.h>

#include <algorithm>
#include <array>
#include <vector>

namespace torchsoftmax::cpu {

/// The sum of term(begin) to term(end - 1), as a balanced tree above eight sums of eight each.
template <typename Term>
double pairwise_sum(int64_t begin, int64_t end, const Term& term) {
  constexpr int64_t kSums = 8;
  if (end - begin > 8 * kSums) {
    const int64_t middle = begin + (end - begin) / (2 * kSums) * kSums;
    return pairwise_sum(begin, middle, term) + pairwise_sum(middle, end, term);
  }
  std::array<double, kSums> sums{};
  int64_t i = begin;
  for (; i + kSums <= end; i += kSums) {
    for (int64_t k = 0; k < kSums; ++k) {
      sums[k] += static_cast<double>(term(i + k));
    }
  }
  for (int64_t k = 0; i + k < end; ++k) {
    sums[k] += static_cast<double>(term(i + k));
  }
  return ((sums[0] + sums[1]) + (sums[2] + sums[3])) + ((sums[4] + sums[5]) + (sums[6] + sums[7]));
}

/// The same of a block. A term that is 1 or 0 may be counted.
template <typename Term>
double sum_of_block(int64_t begin, int64_t end, const Term& term) {
  if constexpr (requires { term.counts(); }) {
    if (term.counts()) {
      return static_cast<double>(term.count(begin, end));
    }
  }
  return pairwise_sum(begin, end, term);
}

template <typename Term>
double deterministic_sum_of(int64_t size, Term&& term) {
  constexpr int64_t kBlock = 4096;
  if (size <= kBlock) {
    return sum_of_block(0, size, term);
  }
  const int64_t blocks = (size + kBlock - 1) / kBlock;
  std::vector<double> partial(static_cast<size_t>(blocks));
  at::parallel_for(0, blocks, 4, [&](int64_t begin, int64_t end) {
    for (int64_t block = begin; block < end; ++block) {
      partial[block] = sum_of_block(block * kBlock, std::min(size, (block + 1) * kBlock), term);
    }
  });
  return pairwise_sum(0, blocks, [&](int64_t block) { return partial[block]; });
}

template <typename scalar_t>
double deterministic_sum(const scalar_t* values, int64_t size) {
  return deterministic_sum_of(size, [values](int64_t i) { return values[i]; });
}

}  // namespace torchsoftmax::cpu
