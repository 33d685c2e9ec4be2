#pragma once
// A linear layer whose logits are in memory for a chunk of rows at a time, on any device. The
// logits of a chunk are multiplied, handed to a loss that turns them into their gradient, and that
// is multiplied, all in one buffer. One product without gradients, three with all of them.

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include "cpu/memory.h"
#include "linear_layer.h"

namespace torchsoftmax {

/// Memory that is written soon, in huge pages where that is large: by all threads at once, before
/// the products. In their midst the system would fill the pages with zeros one by one, which drives
/// out of the caches what is multiplied, and on a virtual machine they may have to come from the
/// host.
inline Tensor fresh(at::IntArrayRef shape, const at::TensorOptions& options) {
  if (!options.device().is_cpu()) {
    return at::empty(shape, options);
  }
  Tensor result = cpu::empty_contiguous(shape, options);
  constexpr auto kPage = static_cast<int64_t>(cpu::kHugePage);
  auto* data = static_cast<char*>(result.mutable_data_ptr());
  const auto pages = static_cast<int64_t>(result.nbytes()) / kPage;
  at::parallel_for(0, pages, 1, [&](int64_t page, int64_t end) {
    for (; page < end; ++page) {
      data[page * kPage] = 0;
    }
  });
  return result;
}

/// logits = input weightᵀ + bias, where there is one.
inline void write_logits(const Tensor& logits, const Tensor& input, const Tensor& weight,
                         const Tensor& bias) {
  if (bias.defined()) {
    logits.copy_(bias.expand_as(logits));
  }
  ops::gemm_(logits, input, weight.t(), /*accumulate=*/bias.defined());
}

/// The rows that take part: all, or those of an index.
class Rows {
 public:
  explicit Rows(int64_t count) : count_(count) {}
  /// Those for which `valid`, of shape (N), is true.
  explicit Rows(const Tensor& valid) : count_(valid.size(0)) {
    if (!valid.all().item<bool>()) {
      index_ = valid.nonzero().squeeze(1);
      count_ = index_.size(0);
    }
  }

  int64_t count() const { return count_; }
  bool all() const { return !index_.defined(); }

  Tensor of(const Tensor& values, int64_t begin, int64_t count) const {
    return all() ? values.narrow(0, begin, count)
                 : values.index_select(0, index_.narrow(0, begin, count));
  }

  void put(const Tensor& values, const Tensor& result, int64_t begin) const {
    if (all()) {
      result.narrow(0, begin, values.size(0)).copy_(values);
    } else {
      result.index_copy_(0, index_.narrow(0, begin, values.size(0)), values);
    }
  }

 private:
  int64_t count_;
  Tensor index_;
};

class ChunkedLinear {
 public:
  ChunkedLinear(const LinearLayer& layer, Rows rows, GradientMask wanted)
      : layer_(layer),
        rows_(std::move(rows)),
        wants_weight_(wanted[1]),
        accumulated_(layer.input.options().dtype(at::toOpMathType(layer.input.scalar_type()))) {
    if (wanted[0]) {
      grad_input_ = fresh(layer.input.sizes(), layer.input.options());
      if (!rows_.all()) {
        grad_input_.zero_();
      }
    }
    if (wanted[1] && rows_.count() == 0) {
      grad_weight_ = at::zeros(layer.weight.sizes(), layer.weight.options());
    }
    if (wanted[2]) {
      grad_bias_ = at::zeros(layer.bias.sizes(), accumulated_);
    }
  }

  const Rows& rows() const { return rows_; }

  /// As many as are asked for, or as the logits may take, in chunks of equal size.
  static int64_t rows_of_chunk(const LinearLayer& layer, int64_t rows,
                               std::optional<int64_t> chunk_size) {
    if (chunk_size.has_value()) {
      return *chunk_size;
    }
    const int64_t row_bytes =
        std::max<int64_t>(1, layer.weight.size(0)) * layer.input.element_size();
    const bool narrow = layer.input.element_size() == 2;
    int64_t bytes = narrow ? kLogitsBytesOf16Bits : kLogitsBytes;
    if (!layer.input.is_cpu()) {
      // No less than the float32 sum over chunks of a gradient of the weight would take.
      const int64_t sum_bytes =
          narrow ? layer.weight.numel() * static_cast<int64_t>(sizeof(float)) : 0;
      bytes = std::max(kLogitsBytesOnDevice, sum_bytes);
    }
    const int64_t most = std::max(kFewestRows, bytes / row_bytes);
    const int64_t chunks = std::max<int64_t>(1, (rows + most - 1) / most);
    return (rows + chunks - 1) / chunks;
  }

  /// Calls `gradient_of(begin, logits)` for every chunk of the rows that take part, the first of
  /// which is number `begin`. It returns the gradient of the logits, which may have been written
  /// over them, or nothing where none is wanted.
  template <typename GradientOf>
  void run(std::optional<int64_t> chunk_size, GradientOf&& gradient_of) {
    const int64_t chunk = rows_of_chunk(layer_, rows_.count(), chunk_size);
    if (wants_weight_ && rows_.count() > 0) {  // a sum over chunks is rounded once
      grad_weight_ = fresh(layer_.weight.sizes(),
                           chunk < rows_.count() ? accumulated_ : layer_.weight.options());
    }
    const Tensor buffer =
        fresh({std::min(chunk, rows_.count()), layer_.weight.size(0)}, layer_.input.options());
    for (int64_t begin = 0; begin < rows_.count(); begin += chunk) {
      const int64_t count = std::min(chunk, rows_.count() - begin);
      const Tensor logits = buffer.narrow(0, 0, count);
      const Tensor input = rows_.of(layer_.input, begin, count);
      write_logits(logits, input, layer_.weight, layer_.bias);
      const Tensor gradient = gradient_of(begin, logits);
      if (gradient.defined()) {
        add(begin, gradient, input);
      }
    }
  }

  /// In the dtype and the shapes of what they are of; without elements where not wanted.
  LinearGradients gradients(const Tensor& input, const Tensor& linear_weight,
                            const OptionalTensor& linear_bias) const {
    const auto finished = [&](const Tensor& gradient, const Tensor& like) {
      if (!gradient.defined()) {
        return at::empty({0}, input.options());
      }
      if (gradient.scalar_type() == like.scalar_type()) {
        return gradient.view(like.sizes());
      }
      return fresh(like.sizes(), like.options()).copy_(gradient.view(like.sizes()));
    };
    return {finished(grad_input_, input), finished(grad_weight_, linear_weight),
            finished(grad_bias_, defined_or_empty(linear_bias))};
  }

 private:
  // What the logits of a chunk may take. Every chunk reads the weight for each product and its
  // gradient once more, so chunks should be large; with the rest it is below 64 MB in all. The rest
  // is more where 16-bit operands are copied to float32 in parts.
  static constexpr int64_t kLogitsBytes = 48'000'000;
  static constexpr int64_t kLogitsBytesOf16Bits = 40'000'000;
  static constexpr int64_t kLogitsBytesOnDevice = int64_t{1} << 29;
  static constexpr int64_t kFewestRows = 16;

  /// Adds what the gradient of a chunk's logits makes of the gradients.
  void add(int64_t begin, const Tensor& gradient, const Tensor& input) {
    if (grad_input_.defined()) {
      const bool in_place = rows_.all();
      const Tensor result = in_place ? grad_input_.narrow(0, begin, input.size(0))
                                     : at::empty(input.sizes(), input.options());
      ops::gemm_(result, gradient, layer_.weight, /*accumulate=*/false);
      if (!in_place) {
        rows_.put(result, grad_input_, begin);
      }
    }
    if (grad_weight_.defined()) {
      ops::gemm_(grad_weight_, gradient.t(), input, /*accumulate=*/begin > 0);
    }
    if (grad_bias_.defined()) {
      grad_bias_ += gradient.sum(0, /*keepdim=*/false, grad_bias_.scalar_type());
    }
  }

  const LinearLayer& layer_;
  const Rows rows_;
  const bool wants_weight_;
  const at::TensorOptions accumulated_;
  Tensor grad_input_, grad_weight_, grad_bias_;
};

}  // namespace torchsoftmax
