// The matrix of derivatives of a softmax, or of its logarithm, written in one pass.
//
// Row i of it is a_i (delta_ij - p_j) with a_i = p_i / T for softmax and 1 / T for log_softmax: a
// multiple of one vector, the row of probabilities, which stays in the cache. All traffic is that
// of writing.

#include <ATen/Parallel.h>
#include <torch/library.h>

#include "../checks.h"
#include "memory.h"
#include "rows.h"
#include "tensors.h"

namespace torchsoftmax::cpu {
namespace {

template <typename acc_t, typename scalar_t>
void write_jacobians(const acc_t* probabilities, scalar_t* jacobians, int64_t rows, int64_t classes,
                     acc_t per_temperature, bool log) {
  const Walk<acc_t, LaneOrder::kAlongRow> walk(classes);
  const int64_t grain = std::max<int64_t>(1, kGrain / std::max<int64_t>(1, classes));
  at::parallel_for(0, rows * classes, grain, [&](int64_t begin, int64_t end) {
    for (int64_t line = begin; line < end; ++line) {
      const int64_t i = line % classes;
      const acc_t* row = probabilities + (line - i);
      const View<const acc_t, acc_t> p{row, kLanes<acc_t>};
      const View<scalar_t, acc_t> out{jacobians + line * classes, kLanes<acc_t>};
      const acc_t scale = log ? per_temperature : row[i] * per_temperature;
      const Vec<acc_t> factor(-scale);
      walk.for_each([&](int64_t v, auto lanes) { out.store(v, factor * p.load(v, lanes), lanes); });
      out.data[i] = static_cast<scalar_t>(scale * (1 - row[i]));
    }
  });
}

at::Tensor softmax_jacobian(const at::Tensor& output, int64_t dim, double temperature, bool log) {
  dim = checks::softmax_jacobian(output, dim, temperature);
  const at::Tensor last = output.dim() == 0 ? output.unsqueeze(0) : output.movedim(dim, -1);
  const int64_t classes = last.size(-1);
  c10::DimVector shape(last.sizes().begin(), last.sizes().end());
  shape.push_back(classes);
  at::Tensor jacobians = ask_for_huge_pages(at::empty(shape, output.options()));
  if (jacobians.numel() == 0) {
    return jacobians;
  }
  dispatch(output, [&](auto type) {
    using scalar_t = decltype(type);
    using acc_t = acc_type<scalar_t>;
    const at::Tensor probabilities = dense<acc_t>(last);
    write_jacobians(probabilities.const_data_ptr<acc_t>(), jacobians.mutable_data_ptr<scalar_t>(),
                    last.numel() / classes, classes, static_cast<acc_t>(1 / temperature), log);
  });
  return jacobians;
}

}  // namespace

TORCH_LIBRARY_IMPL(torchsoftmax, CPU, m) { m.impl("softmax_jacobian", &softmax_jacobian); }

}  // namespace torchsoftmax::cpu
