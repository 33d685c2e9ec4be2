#include "ops.h"

#include <ATen/core/dispatch/Dispatcher.h>

namespace torchsoftmax::ops {
namespace {

using Dtype = std::optional<at::ScalarType>;
using Weight = const std::optional<Tensor>&;

template <typename Signature>
c10::TypedOperatorHandle<Signature> find(const char* name) {
  return c10::Dispatcher::singleton().findSchemaOrThrow(name, "").typed<Signature>();
}

using Softmax = Tensor(const Tensor&, int64_t, Dtype);
using SoftmaxBackward = Tensor(const Tensor&, const Tensor&, int64_t);
using CrossEntropy = Tensor(const Tensor&, const Tensor&, Weight, Dtype, int64_t, int64_t, double);
using CrossEntropyForward = std::tuple<Tensor, Tensor, Tensor>(const Tensor&, const Tensor&, Weight,
                                                               Dtype, int64_t, int64_t, double);
using CrossEntropyBackward = Tensor(const Tensor&, const Tensor&, const Tensor&, Weight,
                                    const Tensor&, const Tensor&, int64_t, int64_t, double);
using GatherIndex = Tensor(const Tensor&, c10::SymInt, int64_t);

}  // namespace

Tensor softmax(const Tensor& input, int64_t dim, Dtype dtype) {
  static const auto op = find<Softmax>("torchsoftmax::softmax");
  return op.call(input, dim, dtype);
}

Tensor softmax_backward(const Tensor& grad_output, const Tensor& output, int64_t dim) {
  static const auto op = find<SoftmaxBackward>("torchsoftmax::softmax_backward");
  return op.call(grad_output, output, dim);
}

Tensor log_softmax(const Tensor& input, int64_t dim, Dtype dtype) {
  static const auto op = find<Softmax>("torchsoftmax::log_softmax");
  return op.call(input, dim, dtype);
}

Tensor log_softmax_backward(const Tensor& grad_output, const Tensor& output, int64_t dim) {
  static const auto op = find<SoftmaxBackward>("torchsoftmax::log_softmax_backward");
  return op.call(grad_output, output, dim);
}

Tensor cross_entropy(const CrossEntropyOptions& options, const Tensor& input, const Tensor& target,
                     Weight weight, Dtype dtype) {
  static const auto op = find<CrossEntropy>("torchsoftmax::cross_entropy");
  return op.call(input, target, weight, dtype, options.reduction, options.ignore_index,
                 options.label_smoothing);
}

std::tuple<Tensor, Tensor, Tensor> cross_entropy_forward(const CrossEntropyOptions& options,
                                                         const Tensor& input, const Tensor& target,
                                                         Weight weight, Dtype dtype) {
  static const auto op = find<CrossEntropyForward>("torchsoftmax::cross_entropy_forward");
  return op.call(input, target, weight, dtype, options.reduction, options.ignore_index,
                 options.label_smoothing);
}

Tensor cross_entropy_backward(const CrossEntropyOptions& options, const Tensor& grad_output,
                              const Tensor& input, const Tensor& target, Weight weight,
                              const Tensor& statistics, const Tensor& normalizer) {
  static const auto op = find<CrossEntropyBackward>("torchsoftmax::cross_entropy_backward");
  return op.call(grad_output, input, target, weight, statistics, normalizer, options.reduction,
                 options.ignore_index, options.label_smoothing);
}

Tensor cross_entropy_target_backward(const CrossEntropyOptions& options, const Tensor& grad_output,
                                     const Tensor& input, const Tensor& target, Weight weight,
                                     const Tensor& statistics, const Tensor& normalizer) {
  static const auto op = find<CrossEntropyBackward>("torchsoftmax::cross_entropy_target_backward");
  return op.call(grad_output, input, target, weight, statistics, normalizer, options.reduction,
                 options.ignore_index, options.label_smoothing);
}

Tensor gather_index(const Tensor& target, c10::SymInt num_classes, int64_t ignore_index) {
  static const auto op = find<GatherIndex>("torchsoftmax::gather_index");
  return op.call(target, std::move(num_classes), ignore_index);
}

}  // namespace torchsoftmax::ops
