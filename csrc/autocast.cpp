// torch.autocast, as native does it: on a CPU softmax and log_softmax keep their input's dtype, on
// a GPU they return float32; a loss of a lower precision is returned in float32. Where native casts
// the logits first, only the result is: the kernels accumulate in float32 anyway.

#include <ATen/autocast_mode.h>
#include <torch/library.h>

#include "ops.h"

namespace torchsoftmax {
namespace {

/// float32 where nothing was asked for and `tensor` is of a lower precision.
Dtype widened(const Tensor& tensor, Dtype dtype) {
  const bool low = tensor.scalar_type() == at::kHalf || tensor.scalar_type() == at::kBFloat16;
  return low && !dtype.has_value() ? Dtype(at::kFloat) : dtype;
}

/// The dtype of a loss. Class probabilities take part in PyTorch's type promotion.
Dtype widened_loss(const CrossEntropyArgs& args, Dtype dtype) {
  const Dtype wide = widened(args.input, dtype);
  const auto target = args.target.scalar_type();
  return wide.has_value() && !dtype.has_value() && at::isFloatingType(target)
             ? at::promote_types(*wide, target)
             : wide;
}

template <c10::DeviceType kDevice>
CrossEntropyArgs with_wide_weight(CrossEntropyArgs args) {
  if (args.weight.defined()) {
    args.weight = at::autocast::cached_cast(at::kFloat, args.weight, kDevice);
  }
  return args;
}

template <c10::DeviceType kDevice>
struct Below {
  c10::impl::ExcludeDispatchKeyGuard guard{
      at::autocast::get_autocast_dispatch_key_from_device_type(kDevice)};
};

template <c10::DeviceType kDevice>
Tensor cross_entropy(const CrossEntropyArgs& args, const OptionalTensor& normalizer, Dtype dtype,
                     bool inplace_backward) {
  const Below<kDevice> below;
  return ops::cross_entropy(with_wide_weight<kDevice>(args), normalizer, widened_loss(args, dtype),
                            inplace_backward);
}

template <c10::DeviceType kDevice>
Tensor kl_div_with_logits(const Tensor& input, const Tensor& target, Dtype dtype, int64_t reduction,
                          double temperature) {
  const Below<kDevice> below;
  return ops::kl_div_with_logits(input, target, widened(input, dtype), reduction, temperature);
}

/// As native: the linear layer in autocast's dtype, the loss in float32.
template <c10::DeviceType kDevice>
Tensor linear_cross_entropy(const CrossEntropyArgs& given, const Tensor& linear_weight,
                            const OptionalTensor& linear_bias, const OptionalTensor& normalizer,
                            Dtype dtype, std::optional<int64_t> chunk_size) {
  const Below<kDevice> below;
  const auto lower = at::autocast::get_lower_precision_fp_from_device_type(kDevice);
  CrossEntropyArgs args = with_wide_weight<kDevice>(given);
  args.input = at::autocast::cached_cast(lower, given.input, kDevice);
  const Tensor weight = at::autocast::cached_cast(lower, linear_weight, kDevice);
  const OptionalTensor bias = at::autocast::cached_cast(lower, linear_bias, kDevice);
  return ops::linear_cross_entropy(args, weight, bias, normalizer, widened_loss(args, dtype),
                                   chunk_size);
}

template <c10::DeviceType kDevice>
ops::Statistics linear_softmax_statistics(const Tensor& input, const Tensor& linear_weight,
                                          const OptionalTensor& linear_bias, const Tensor& target,
                                          double temperature, double softcap,
                                          std::optional<int64_t> chunk_size, bool wide) {
  const Below<kDevice> below;
  const auto lower = at::autocast::get_lower_precision_fp_from_device_type(kDevice);
  return ops::linear_softmax_statistics(at::autocast::cached_cast(lower, input, kDevice),
                                        at::autocast::cached_cast(lower, linear_weight, kDevice),
                                        at::autocast::cached_cast(lower, linear_bias, kDevice),
                                        target, temperature, softcap, chunk_size,
                                        wide || kDevice == c10::DeviceType::CUDA);
}

template <Tensor (*kForward)(const Tensor&, int64_t, Dtype, double, const OptionalTensor&)>
Tensor in_float32(const Tensor& input, int64_t dim, Dtype dtype, double temperature,
                  const OptionalTensor& mask) {
  const Below<c10::DeviceType::CUDA> below;
  return kForward(input, dim, widened(input, dtype), temperature, mask);
}

ops::Statistics statistics_in_float32(const Tensor& input, const OptionalTensor& index,
                                      const OptionalTensor& mask, int64_t dim, double temperature,
                                      bool argmax) {
  constexpr auto kCuda = c10::DeviceType::CUDA;
  const Below<kCuda> below;
  return ops::softmax_statistics(at::autocast::cached_cast(at::kFloat, input, kCuda), index, mask,
                                 dim, temperature, argmax);
}

template <c10::DeviceType kDevice>
void register_losses(torch::Library& m) {
  m.impl("cross_entropy", &OfCrossEntropy<&cross_entropy<kDevice>>::call);
  m.impl("kl_div_with_logits", &kl_div_with_logits<kDevice>);
  m.impl("linear_softmax_statistics", &linear_softmax_statistics<kDevice>);
  m.impl("linear_cross_entropy", &OfCrossEntropy<&linear_cross_entropy<kDevice>>::call);
}

}  // namespace

TORCH_LIBRARY_IMPL(torchsoftmax, AutocastCPU, m) { register_losses<c10::DeviceType::CPU>(m); }

TORCH_LIBRARY_IMPL(torchsoftmax, AutocastCUDA, m) {
  register_losses<c10::DeviceType::CUDA>(m);
  m.impl("softmax", &in_float32<&ops::softmax>);
  m.impl("log_softmax", &in_float32<&ops::log_softmax>);
  m.impl("softmax_statistics", &statistics_in_float32);
}

}  // namespace torchsoftmax
