#pragma once
// Products of matrices in blocks, each by one thread with the BLAS behind at::mm.

#include <ATen/Parallel.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/empty.h>

namespace torchsoftmax::cpu {

/// Parts of a dimension of equal size, none of them larger than `most`.
struct Parts {
  int64_t count;
  int64_t size;

  Parts(int64_t whole, int64_t most)
      : count(at::divup(whole, most)), size(at::divup(whole, count)) {}
};

/// out = a b or out + a b, summed in float32.
///
/// A block is one call of the BLAS inside of a parallel region, where it runs on one thread. What
/// the blocks are depends on the shapes alone, and so do the results. There are two blocks at
/// least: one would be outside of a parallel region.
class BlockedProduct {
 public:
  BlockedProduct(const at::Tensor& out, const at::Tensor& a, const at::Tensor& b, bool accumulate)
      : out_(out),
        a_(a),
        b_(b),
        accumulate_(accumulate),
        rows_(out.size(0), kMost),
        columns_(out.size(1), std::min(kMost, (out.size(1) + 1) / 2)),
        depth_(a.size(1), is_float(a) && is_float(b) ? a.size(1) : kDepth) {}

  void run() const {
    at::parallel_for(0, rows_.count * columns_.count, 1, [&](int64_t block, int64_t end) {
      const at::AutoDispatchBelowADInplaceOrView below_autograd;  // it is of a thread
      for (; block < end; ++block) {
        // Neighbours share what is read of the larger operand.
        const bool tall = out_.size(0) > out_.size(1);
        const int64_t row = tall ? block / columns_.count : block % rows_.count;
        const int64_t column = tall ? block % columns_.count : block / rows_.count;
        multiply(row * rows_.size, column * columns_.size);
      }
    });
  }

 private:
  static constexpr int64_t kMost = 512, kDepth = 512;

  static bool is_float(const at::Tensor& matrix) { return matrix.scalar_type() == at::kFloat; }

  static at::Tensor part(const at::Tensor& matrix, int64_t dim, int64_t begin, int64_t size) {
    return matrix.narrow(dim, begin, std::min(size, matrix.size(dim) - begin));
  }

  void multiply(int64_t row, int64_t column) const {
    const at::Tensor result = part(part(out_, 0, row, rows_.size), 1, column, columns_.size);
    const at::Tensor a = part(a_, 0, row, rows_.size), b = part(b_, 1, column, columns_.size);
    const bool direct = is_float(out_);
    at::Tensor sums = direct ? result : at::empty(result.sizes(), out_.options().dtype(at::kFloat));
    for (int64_t k = 0; k < a_.size(1); k += depth_.size) {
      at::addmm_out(sums, sums, part(a, 1, k, depth_.size).to(at::kFloat),
                    part(b, 0, k, depth_.size).to(at::kFloat),
                    /*beta=*/k > 0 || (direct && accumulate_) ? 1 : 0);
    }
    if (!direct) {
      result.copy_(accumulate_ ? sums.add_(result) : sums);
    }
  }

  const at::Tensor out_, a_, b_;
  const bool accumulate_;
  const Parts rows_, columns_, depth_;
};

}  // namespace torchsoftmax::cpu
