// The first and second derivatives of a softmax, and the first of its logarithm, in one pass.
//
// Along its last index, each of them is a multiple of one vector, the row of probabilities p, but
// for the entries where that index meets another:
//
//   J_ij  = a_i (delta_ij - p_j) with a_i = p_i / T, or 1 / T for the logarithm
//   H_ijk = p_i p_k (2 p_j - delta_ij) / T^2 where k is neither i nor j
//         = p_i p_j (2 p_k - 1) / T^2        where k is one of them
//         = p_i (1 - p_i) (1 - 2 p_i) / T^2  where k is both
//
// The row stays in the cache: all traffic is that of writing.

#include <ATen/Parallel.h>
#include <torch/library.h>

#include "../checks.h"
#include "memory.h"
#include "rows.h"
#include "tensors.h"

namespace torchsoftmax::cpu {
namespace {

/// Writes `factor` times the row of probabilities.
template <typename acc_t, typename scalar_t>
struct Line {
  const Walk<acc_t, LaneOrder::kAlongRow>& walk;
  const acc_t* p;
  scalar_t* out;

  void write(acc_t factor) const {
    const View<const acc_t, acc_t> from{p, kLanes<acc_t>};
    const View<scalar_t, acc_t> to{out, kLanes<acc_t>};
    const Vec<acc_t> multiple(factor);
    walk.for_each(
        [&](int64_t v, auto lanes) { to.store(v, multiple * from.load(v, lanes), lanes); });
  }
  void set(int64_t at, acc_t value) const { out[at] = static_cast<scalar_t>(value); }
};

template <typename acc_t>
struct Jacobian {
  static constexpr int64_t kIndices = 2;

  acc_t per_temperature;
  bool log;

  template <typename Out>
  void operator()(const Line<acc_t, Out>& line, int64_t i, int64_t /*classes*/) const {
    const acc_t a = log ? per_temperature : line.p[i] * per_temperature;
    line.write(-a);
    line.set(i, a * (1 - line.p[i]));
  }
};

template <typename acc_t>
struct Hessian {
  static constexpr int64_t kIndices = 3;

  acc_t per_temperature;

  template <typename Out>
  void operator()(const Line<acc_t, Out>& line, int64_t index, int64_t classes) const {
    const int64_t i = index / classes, j = index % classes;
    const acc_t p_i = line.p[i], p_j = line.p[j];
    const acc_t a = p_i * per_temperature * per_temperature;
    line.write(a * (2 * p_j - (i == j ? 1 : 0)));
    if (i == j) {
      line.set(i, a * (1 - p_i) * (1 - 2 * p_i));
    } else {
      line.set(i, a * p_j * (2 * p_i - 1));
      line.set(j, a * p_j * (2 * p_j - 1));
    }
  }
};

/// `write(line, index, classes)` writes the line along the last of kIndices indices; `index` is
/// that of the line in its row.
template <typename acc_t, typename scalar_t, typename Write>
void write_lines(const Write& write, const acc_t* probabilities, scalar_t* derivatives,
                 int64_t rows, int64_t classes) {
  const Walk<acc_t, LaneOrder::kAlongRow> walk(classes);
  const int64_t lines_of_row = Write::kIndices == 3 ? classes * classes : classes;
  const int64_t grain = std::max<int64_t>(1, kGrain / classes);
  at::parallel_for(0, rows * lines_of_row, grain, [&](int64_t begin, int64_t end) {
    for (int64_t number = begin; number < end; ++number) {
      const Line<acc_t, scalar_t> line{walk, probabilities + number / lines_of_row * classes,
                                       derivatives + number * classes};
      write(line, number % lines_of_row, classes);
    }
  });
}

template <template <typename> typename Write, typename... Options>
at::Tensor derivatives(const at::Tensor& output, int64_t dim, double temperature,
                       Options... options) {
  const at::Tensor last = output.dim() == 0 ? output.unsqueeze(0) : output.movedim(dim, -1);
  const int64_t classes = last.size(-1);
  c10::DimVector shape(last.sizes().begin(), last.sizes().end());
  shape.append(Write<float>::kIndices - 1, classes);
  at::Tensor result = ask_for_huge_pages(at::empty(shape, output.options()));
  if (result.numel() == 0) {
    return result;
  }
  dispatch(output, [&](auto type) {
    using scalar_t = decltype(type);
    using acc_t = acc_type<scalar_t>;
    const at::Tensor probabilities = dense<acc_t>(last);
    const Write<acc_t> write{static_cast<acc_t>(1 / temperature), options...};
    write_lines(write, probabilities.const_data_ptr<acc_t>(), result.mutable_data_ptr<scalar_t>(),
                last.numel() / classes, classes);
  });
  return result;
}

at::Tensor softmax_jacobian(const at::Tensor& output, int64_t dim, double temperature, bool log) {
  dim = checks::softmax_jacobian(output, dim, temperature);
  return derivatives<Jacobian>(output, dim, temperature, log);
}

at::Tensor softmax_hessian(const at::Tensor& output, int64_t dim, double temperature) {
  dim = checks::softmax_hessian(output, dim, temperature);
  return derivatives<Hessian>(output, dim, temperature);
}

}  // namespace

TORCH_LIBRARY_IMPL(torchsoftmax, CPU, m) {
  m.impl("softmax_jacobian", &softmax_jacobian);
  m.impl("softmax_hessian", &softmax_hessian);
}

}  // namespace torchsoftmax::cpu
