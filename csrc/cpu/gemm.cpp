// Matrix products with float32 sums, in tiles by oneDNN's micro-kernel, which libtorch exports, or
// in blocks by the BLAS where the processor has none.
//
// at::mm has no product of bfloat16 matrices with a float32 result, nor one that adds to it, which
// the gradient of a weight that is summed over chunks of rows needs. It is also slow for float16
// and bfloat16 on processors that have no fast instructions for them, and for float32 on those of
// AMD, where its library takes AVX2; on Intel's, that library's float32 result depends on the
// number of threads (docs/design.md has figures).
//
// A tile or block of the result is summed over the inner dimension by one thread, in one order:
// these results do not depend on the number of threads.

#include <ATen/cpu/Utils.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/mm.h>
#include <torch/library.h>

#include <cstdlib>
#include <string_view>

#include "../linear_checks.h"
#include "blocked_product.h"
#include "tiled_product.h"

namespace torchsoftmax::cpu {
namespace {

/// Whether the micro-kernel multiplies float32, or pairs of bfloat16, on this processor.
template <typename packed_t>
bool has_micro_kernel() {
  static const bool has = [] {
    constexpr bool kPairs = std::is_same_v<packed_t, at::BFloat16>;
    const std::array<packed_t, 4> ones{1, 1, 1, 1};
    std::array<float, 4> sums{};
    try {
      at::native::cpublas::brgemm(2, 2, 2, 2, 2, 2, false, ones.data(), ones.data(), sums.data(),
                                  kPairs);
      at::native::cpublas::brgemm_release(kPairs);
      return sums[0] == 2;
    } catch (const c10::Error&) {
      return false;
    }
  }();
  return has;
}

/// Which products this processor has, and is fast at.
struct Processor {
  bool pairs;  // of bfloat16, more than of float32: by a matrix unit, or on AMD; Intel's AVX-512
               // takes them at a little more than half the rate
  bool matrix_unit;  // for pairs
  bool tiles;        // the micro-kernel, not the BLAS

  static const Processor& here() {
    static const Processor processor;
    return processor;
  }

 private:
  Processor() {
    const auto features = at::cpu::get_cpu_capabilities();
    const auto has = [&](const char* name) {
      const auto found = features.find(name);
      return found != features.end() && found->second.isBool() && found->second.toBool();
    };
    const char* given = std::getenv("TORCHSOFTMAX_PRODUCTS");  // for the tests
    const std::string_view chosen = given == nullptr ? "" : given;
    matrix_unit = has("amx_bf16");
    const bool faster = has("sse4a") || matrix_unit;
    pairs = (chosen.empty() ? faster : chosen == "pairs") && has_micro_kernel<at::BFloat16>();
    tiles = chosen != "blocks" && has_micro_kernel<float>();
  }
};

/// Rows, or columns, one after the other in memory.
bool is_dense(const at::Tensor& matrix) {
  return (matrix.stride(1) == 1 && matrix.stride(0) >= matrix.size(1)) ||
         (matrix.stride(0) == 1 && matrix.stride(1) >= matrix.size(0));
}

/// A small left operand, which every column reads, is converted once, to rows at a distance that
/// spreads them over the caches' sets.
at::Tensor prepared(const at::Tensor& left) {
  constexpr int64_t kMost = int64_t{4} << 20, kLine = 16;
  const bool spread = left.stride(0) * left.element_size() % 512 != 0;
  if ((left.scalar_type() == at::kFloat && spread) || left.stride(1) != 1 || left.numel() > kMost) {
    return left;
  }
  const int64_t columns = left.size(1), pitch = (columns / kLine | 1) * kLine + 2 * kLine;
  const auto room = at::empty({left.size(0), pitch}, left.options().dtype(at::kFloat));
  return room.narrow(1, 0, columns).copy_(left);
}

template <typename Product>
void multiply(const Tiles& tiles, const at::Tensor& out, const at::Tensor& a, const at::Tensor& b,
              bool accumulate) {
  if (Product::serves(tiles, out, b)) {
    Product(tiles, out, a, b, accumulate).run();
    return;
  }
  at::Tensor sums = at::empty(out.sizes(), out.options().dtype(at::kFloat));
  Product(tiles, sums, a, b, /*accumulate=*/false).run();
  out.copy_(accumulate ? sums.add_(out) : sums);
}

void gemm_(const at::Tensor& out, const at::Tensor& a, const at::Tensor& b, bool accumulate) {
  checks::gemm(out, a, b);
  const auto dtype = a.scalar_type();
  const bool wide = out.scalar_type() == at::kFloat;
  const bool pairs = dtype == at::kBFloat16 && Processor::here().pairs;
  // at::mm is as fast for pairs where the left matrix is row-major, there is no micro-kernel for
  // float64, and a few rows are bound by memory.
  constexpr int64_t kFew = 16;
  const bool small = out.size(0) < kFew || out.size(1) < kFew || a.size(1) < kFew;
  const bool as_fast = pairs && !wide && a.stride(1) == 1;
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
  const at::Tensor right = is_dense(b) ? b : b.contiguous();
  if (pairs) {
    const at::Tensor along = right.stride(1) == 1 ? right : right.contiguous();
    const Tiles& tiles = Processor::here().matrix_unit ? kTilesOfMatrixUnit : kTilesOfPairs;
    multiply<TiledProduct<at::BFloat16>>(tiles, out, left, along, accumulate);
  } else if (Processor::here().tiles) {
    multiply<TiledProduct<float>>(kTilesOfFloats, out, prepared(left), right, accumulate);
  } else {
    BlockedProduct(out, left, right, accumulate).run();
  }
}

}  // namespace

TORCH_LIBRARY_IMPL(torchsoftmax, CPU, m) { m.impl("gemm_", &gemm_); }

}  // namespace torchsoftmax::cpu
