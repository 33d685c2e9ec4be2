// Matrix products with float32 sums, in tiles by oneDNN's micro-kernel, which libtorch exports.
//
// at::mm has no product of bfloat16 matrices with a float32 result, nor one that adds to it, which
// the gradient of a weight that is summed over chunks of rows needs. It is also slow for float16,
// and for float32 on processors of AMD, where its library takes AVX2 (docs/design.md has figures).
//
// A tile of the result is summed over the inner dimension by one thread, in one order: results do
// not depend on the number of threads.

#include "gemm.h"

#include <ATen/ops/addmm.h>
#include <ATen/ops/mm.h>
#include <torch/library.h>

#include "../linear_checks.h"

namespace torchsoftmax::cpu {
namespace {

template <typename packed_t, typename scalar_t, typename out_t>
void tiled(const at::Tensor& out, const at::Tensor& a, const at::Tensor& b, bool accumulate) {
  TiledProduct<packed_t, scalar_t, out_t>(out, a, b, accumulate).run();
}

/// Whether the micro-kernel takes pairs of bfloat16 on this processor.
bool has_pairs() {
  static const bool has = [] {
    const std::array<at::BFloat16, 4> ones{1, 1, 1, 1};
    std::array<float, 4> sums{};
    try {
      at::native::cpublas::brgemm(2, 2, 2, 2, 2, 2, false, ones.data(), ones.data(), sums.data(),
                                  /*is_vnni=*/true);
      at::native::cpublas::brgemm_release(true);
      return sums[0] == 2;
    } catch (const c10::Error&) {
      return false;
    }
  }();
  return has;
}

/// Rows, or columns, one after the other in memory.
bool is_dense(const at::Tensor& matrix) {
  return (matrix.stride(1) == 1 && matrix.stride(0) >= matrix.size(1)) ||
         (matrix.stride(0) == 1 && matrix.stride(1) >= matrix.size(0));
}

void gemm_(const at::Tensor& out, const at::Tensor& a, const at::Tensor& b, bool accumulate) {
  checks::gemm(out, a, b);
  const auto dtype = a.scalar_type();
  const bool wide = out.scalar_type() == at::kFloat;
  // at::mm is as fast for bfloat16 where the left matrix is row-major, there is no micro-kernel for
  // float64, and a few rows are bound by memory.
  constexpr int64_t kFew = 16;
  const bool small = out.size(0) < kFew || out.size(1) < kFew || a.size(1) < kFew;
  const bool as_fast = dtype == at::kBFloat16 && !wide && (a.stride(1) == 1 || !has_pairs());
  const bool native = dtype == at::kDouble || as_fast || (small && out.scalar_type() == dtype) ||
                      out.stride(1) != 1 || out.stride(0) < out.size(1);
  if (native) {
    at::Tensor result = out;
    if (accumulate) {
      at::addmm_out(result, out, a.to(out.scalar_type()), b.to(out.scalar_type()));
    } else {
      at::mm_out(result, a.to(out.scalar_type()), b.to(out.scalar_type()));
    }
    return;
  }
  if (out.numel() == 0) {
    return;
  }
  if (a.size(1) == 0) {
    if (!accumulate) {
      out.zero_();
    }
    return;
  }
  const at::Tensor left = is_dense(a) ? a : a.contiguous();
  at::Tensor right = is_dense(b) ? b : b.contiguous();
  if (dtype == at::kFloat) {
    tiled<float, float, float>(out, left, right, accumulate);
  } else if (dtype == at::kBFloat16 && has_pairs()) {
    right = in_pairs(right.stride(1) == 1 ? right : right.contiguous());
    if (wide) {
      tiled<at::BFloat16, at::BFloat16, float>(out, left, right, accumulate);
    } else {
      tiled<at::BFloat16, at::BFloat16, at::BFloat16>(out, left, right, accumulate);
    }
  } else if (dtype == at::kBFloat16) {
    tiled<float, at::BFloat16, float>(out, left, right, accumulate);
  } else if (wide) {
    tiled<float, at::Half, float>(out, left, right, accumulate);
  } else {
    tiled<float, at::Half, at::Half>(out, left, right, accumulate);
  }
}

}  // namespace

TORCH_LIBRARY_IMPL(torchsoftmax, CPU, m) { m.impl("gemm_", &gemm_); }

}  // namespace torchsoftmax::cpu
