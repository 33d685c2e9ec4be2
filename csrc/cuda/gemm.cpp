// Matrix products with float32 sums: those of PyTorch, which has them for a float32 result too.

#include <ATen/ops/addmm.h>
#include <ATen/ops/mm.h>
#include <torch/library.h>

#include "../linear_checks.h"

namespace torchsoftmax::cuda {
namespace {

void gemm_(const at::Tensor& out, const at::Tensor& a, const at::Tensor& b, bool accumulate) {
  checks::gemm(out, a, b);
  at::Tensor result = out;
  if (out.scalar_type() == a.scalar_type()) {
    accumulate ? at::addmm_out(result, out, a, b) : at::mm_out(result, a, b);
  } else {
    accumulate ? at::addmm_out(result, out, a, b, out.scalar_type())
               : at::mm_out(result, a, b, out.scalar_type());
  }
}

}  // namespace

TORCH_LIBRARY_IMPL(torchsoftmax, CUDA, m) { m.impl("gemm_", &gemm_); }

}  // namespace torchsoftmax::cuda
