#pragma once
// The kernels of cross_entropy: from tensors to the policies.

#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include "../checks.h"
#include "../policies/cross_entropy.h"
#include "device.h"

namespace torchsoftmax::TORCHSOFTMAX_DEVICE {
namespace {

/// The arguments of every cross-entropy kernel in the form that the policies take.
template <typename acc_t>
struct Prepared {
  at::TensorOptions accumulated;
  at::Tensor target;         // int64 and contiguous, or class probabilities
  at::Tensor weight;         // acc_t and contiguous, or undefined
  at::Tensor sample_weight;  // acc_t and contiguous, or undefined
  RowTarget<acc_t> rows;
  Smoothing<acc_t> smoothing;
  LossRows<acc_t> loss_rows;
  bool smooth;
  bool probabilities;
  at::Tensor weight_sum;  // of the classes
  IndexRange range;

  explicit Prepared(const CrossEntropyArgs& args)
      : accumulated(args.input.options().dtype(c10::CppTypeToScalarType<acc_t>::value)) {
    probabilities = checks::has_class_probabilities(args.input, args.target);
    smooth = args.label_smoothing > 0;
    const int64_t classes = args.input.size(checks::class_dim(args.input));
    if (args.weight.defined()) {
      weight = dense<acc_t>(args.weight);
    } else if (smooth || probabilities) {
      weight = at::ones({classes}, accumulated);
    }
    const acc_t* weights = weight.defined() ? weight.const_data_ptr<acc_t>() : nullptr;
    const auto share = static_cast<acc_t>(args.label_smoothing / std::max<int64_t>(1, classes));
    smoothing = {static_cast<acc_t>(1 - args.label_smoothing), share, weights, nullptr};
    if (smooth && !probabilities) {
      weight_sum = sum_of<acc_t>(weight);
      smoothing.weight_sum = weight_sum.const_data_ptr<acc_t>();
    }
    if (args.sample_weight.defined()) {
      sample_weight = dense<acc_t>(args.sample_weight);
      loss_rows.sample_weight = sample_weight.template const_data_ptr<acc_t>();
    }
    loss_rows.z_loss = static_cast<acc_t>(args.z_loss);
    if (probabilities) {
      target = args.target;
      return;
    }
    target = dense<int64_t>(args.target);
    rows = {target.const_data_ptr<int64_t>(), args.weight.defined() ? weights : nullptr,
            args.ignore_index, classes, range.check()};
  }

  /// Raises for the first target that is out of range.
  void raise_bad_target() const {
    range.raise("cross_entropy", rows.index, rows.classes, rows.ignore_index);
  }

  /// The sum of the weights of all rows that take part.
  Normalizer<acc_t> total_weight(int64_t row_count, bool empty) const {
    const acc_t* samples = loss_rows.sample_weight;
    if (!probabilities) {
      return Normalizer<acc_t>::sum(accumulated, row_count, IndexRowWeight<acc_t>{rows, samples});
    }
    if (empty || samples == nullptr) {
      return Normalizer<acc_t>(accumulated, empty ? 0 : static_cast<double>(row_count));
    }
    return Normalizer<acc_t>::sum(accumulated, row_count, RowValue<acc_t>{samples});
  }
};

/// Whether logits are the input itself.
inline bool has_plain_logits(const CrossEntropyArgs& args) {
  return args.softcap == 0 && args.temperature == 1;
}

/// Calls `run` with the logits' transform.
template <typename acc_t, typename Run>
void with_logits(const CrossEntropyArgs& args, Run&& run) {
  if constexpr (!kLossesByWork) {
    if (has_plain_logits(args)) {
      run(PlainLogits<acc_t>{});
      return;
    }
  }
  if (args.softcap != 0) {
    run(ScaledLogits<acc_t, true>(args.temperature, args.softcap));
  } else {
    run(ScaledLogits<acc_t, false>(args.temperature));
  }
}

/// The usual case, by kernels of its own for each kind of work.
template <Work kWork, typename scalar_t, typename acc_t>
void run_plain_rows(const Prepared<acc_t>& prepared, const RowTensor<scalar_t>& out,
                    const RowTensor<const scalar_t>& logits) {
  const LossRows<acc_t>& all = prepared.loss_rows;
  const LossRows<acc_t, kWork> loss_rows{all.loss,      all.max,           all.log_sum,
                                         all.known_max, all.known_log_sum, all.has_gradient,
                                         all.upstream,  all.sample_weight, all.z_loss};
  for_each_row<acc_t>(
      IndexRow<acc_t, PlainLogits<acc_t>, false, kWork>{
          {}, PlainLogits<acc_t>{}, prepared.rows, prepared.smoothing, loss_rows},
      out, logits);
}

/// Runs the policy for the kind of target over all rows. `out` may be without memory.
template <typename scalar_t, typename acc_t>
void run_rows(const CrossEntropyArgs& args, const Prepared<acc_t>& prepared,
              const RowTensor<scalar_t>& out, const at::Tensor& input) {
  const int64_t dim = checks::class_dim(input);
  const auto logits_rows = rows_of<const scalar_t>(input, dim);
  if constexpr (kLossesByWork) {
    if (!prepared.probabilities && !prepared.smooth && has_plain_logits(args)) {
      const LossRows<acc_t>& loss_rows = prepared.loss_rows;
      if (!loss_rows.with_gradient()) {
        run_plain_rows<Work::kLoss>(prepared, out, logits_rows);
      } else if (loss_rows.forward()) {
        run_plain_rows<Work::kLossAndGradient>(prepared, out, logits_rows);
      } else {
        run_plain_rows<Work::kGradient>(prepared, out, logits_rows);
      }
      return;
    }
  }
  with_logits<acc_t>(args, [&](const auto& logits) {
    using Logits = std::decay_t<decltype(logits)>;
    if (prepared.probabilities) {
      const ProbabilityRow<acc_t, Logits> policy{
          {}, logits, prepared.smoothing, prepared.loss_rows};
      const at::Tensor target = like_rows_of(input, prepared.target, dim);
      if (target.scalar_type() == c10::CppTypeToScalarType<scalar_t>::value) {
        for_each_row<acc_t>(policy, out, logits_rows, rows_of<const scalar_t>(target, dim));
      } else {
        const at::Tensor wide = target.to(prepared.accumulated.dtype());
        for_each_row<acc_t>(policy, out, logits_rows, rows_of<const acc_t>(wide, dim));
      }
    } else if (prepared.smooth) {
      for_each_row<acc_t>(
          IndexRow<acc_t, Logits, true>{
              {}, logits, prepared.rows, prepared.smoothing, prepared.loss_rows},
          out, logits_rows);
    } else {
      for_each_row<acc_t>(
          IndexRow<acc_t, Logits, false>{
              {}, logits, prepared.rows, prepared.smoothing, prepared.loss_rows},
          out, logits_rows);
    }
  });
}

std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor> forward(
    const CrossEntropyArgs& args, const OptionalTensor& given_normalizer,
    std::optional<at::ScalarType> dtype, bool with_gradient) {
  checks::cross_entropy(args, given_normalizer, dtype);
  if (with_gradient) {
    checks::gradient_in_forward(args);
  }
  const at::Tensor& input = args.input;
  const c10::DeviceGuard guard(input.device());
  const int64_t dim = checks::class_dim(input);
  const auto wanted = dtype.value_or(input.scalar_type());
  at::Tensor loss, statistics, normalizer, gradient;
  dispatch(input, [&](auto type) {
    using scalar_t = decltype(type);
    using acc_t = acc_type<scalar_t>;
    Prepared<acc_t> prepared(args);
    auto out = rows_of<scalar_t>(input, dim, /*data=*/nullptr);
    c10::DimVector shape(input.sizes());
    shape.erase(shape.begin() + dim);
    loss = empty_contiguous(shape, prepared.accumulated);
    shape.insert(shape.begin(), 2);
    statistics = empty_contiguous(shape, prepared.accumulated);
    const auto total = given_normalizer.has_value() && given_normalizer->defined()
                           ? Normalizer<acc_t>(prepared.accumulated, *given_normalizer)
                           : prepared.total_weight(out.rows, input.numel() == 0);
    prepared.raise_bad_target();
    normalizer = total.tensor();

    LossRows<acc_t>& loss_rows = prepared.loss_rows;
    acc_t none = 0;  // forward is told by its loss, which has no memory where there are no rows
    loss_rows.loss = out.rows == 0 ? &none : loss.mutable_data_ptr<acc_t>();
    loss_rows.max = statistics.mutable_data_ptr<acc_t>();
    loss_rows.log_sum = loss_rows.max + out.rows;
    if (with_gradient) {
      gradient = empty_gradient_like(input, input.scalar_type());
      out = rows_of<scalar_t>(gradient, dim);
      loss_rows.has_gradient = true;
      loss_rows.upstream = {total.gradient(args.reduction == checks::kMean),
                            /*of_each_row=*/false};
    } else {
      gradient = empty_contiguous({0}, input.options());
    }
    if (prepared.probabilities && out.classes == 0) {  // an empty sum, where log p is nan
      loss.zero_();
      statistics.zero_();
    } else {
      run_rows(args, prepared, out, input);
    }
    prepared.raise_bad_target();
    if (args.reduction != checks::kNone) {
      loss = total.reduced(loss, args.reduction == checks::kMean, wanted);
    }
  });
  return {loss.scalar_type() == wanted ? loss : loss.to(wanted), statistics, normalizer, gradient};
}

/// Sets what backward knows: the statistics, and the gradient of each row's loss.
template <typename acc_t>
at::Tensor prepare_backward(const CrossEntropyArgs& args, const at::Tensor& grad_output,
                            const at::Tensor& statistics, const at::Tensor& normalizer,
                            LossRows<acc_t>& loss_rows) {
  at::Tensor gradient = dense<acc_t>(grad_output);
  loss_rows.upstream = {
      gradient.template const_data_ptr<acc_t>(), args.reduction == checks::kNone,
      args.reduction == checks::kMean ? normalizer.template const_data_ptr<acc_t>() : nullptr};
  loss_rows.known_max = statistics.const_data_ptr<acc_t>();
  loss_rows.known_log_sum = loss_rows.known_max + statistics.numel() / 2;
  loss_rows.has_gradient = true;
  return gradient;
}

/// Writes the gradient of the input to `result`, which may be the input.
void backward_to(const at::Tensor& result, const CrossEntropyArgs& args,
                 const at::Tensor& grad_output, const at::Tensor& given_statistics,
                 const at::Tensor& normalizer) {
  const c10::DeviceGuard guard(args.input.device());
  const int64_t dim = checks::class_dim(args.input);
  const at::Tensor statistics = given_statistics.contiguous();
  dispatch(args.input, [&](auto type) {
    using scalar_t = decltype(type);
    using acc_t = acc_type<scalar_t>;
    Prepared<acc_t> prepared(args);
    const at::Tensor keeps_memory =
        prepare_backward(args, grad_output, statistics, normalizer, prepared.loss_rows);
    run_rows(args, prepared, rows_of<scalar_t>(result, dim), like_rows_of(result, args.input, dim));
    prepared.raise_bad_target();
  });
}

at::Tensor backward(const CrossEntropyArgs& args, const at::Tensor& grad_output,
                    const at::Tensor& statistics, const at::Tensor& normalizer) {
  checks::cross_entropy_backward(args, grad_output, statistics, normalizer);
  at::Tensor result = empty_gradient_like(args.input, args.input.scalar_type());
  backward_to(result, args, grad_output, statistics, normalizer);
  return result;
}

void backward_over_input(const CrossEntropyArgs& args, const at::Tensor& grad_output,
                         const at::Tensor& statistics, const at::Tensor& normalizer) {
  checks::cross_entropy_backward(args, grad_output, statistics, normalizer);
  backward_to(args.input, args, grad_output, statistics, normalizer);
}

std::tuple<at::Tensor, at::Tensor> with_gradient_over_input(const CrossEntropyArgs& args,
                                                            const at::Tensor& grad_output) {
  checks::cross_entropy_with_gradient(args, grad_output);
  const c10::DeviceGuard guard(args.input.device());
  const int64_t dim = checks::class_dim(args.input);
  at::Tensor loss, statistics;
  dispatch(args.input, [&](auto type) {
    using scalar_t = decltype(type);
    using acc_t = acc_type<scalar_t>;
    Prepared<acc_t> prepared(args);
    const auto rows = rows_of<scalar_t>(args.input, dim);
    const at::Tensor of_rows = dense<acc_t>(grad_output);
    c10::DimVector shape(grad_output.sizes());
    loss = at::zeros(shape, prepared.accumulated);
    shape.insert(shape.begin(), 2);
    statistics = at::zeros(shape, prepared.accumulated);
    LossRows<acc_t>& loss_rows = prepared.loss_rows;
    loss_rows.loss = loss.mutable_data_ptr<acc_t>();
    loss_rows.max = statistics.mutable_data_ptr<acc_t>();
    loss_rows.log_sum = loss_rows.max + rows.rows;
    loss_rows.has_gradient = true;
    loss_rows.upstream = {of_rows.template const_data_ptr<acc_t>(), /*of_each_row=*/true};
    if (args.input.numel() != 0) {
      run_rows(args, prepared, rows, args.input);
    }
    prepared.raise_bad_target();
  });
  return {loss, statistics};
}

at::Tensor target_backward(const CrossEntropyArgs& args, const at::Tensor& grad_output,
                           const at::Tensor& given_statistics, const at::Tensor& normalizer) {
  checks::cross_entropy_target_backward(args, grad_output, given_statistics, normalizer);
  const c10::DeviceGuard guard(args.input.device());
  const int64_t dim = checks::class_dim(args.input);
  const at::Tensor statistics = given_statistics.contiguous();
  at::Tensor result;
  dispatch(args.input, [&](auto type) {
    using scalar_t = decltype(type);
    using acc_t = acc_type<scalar_t>;
    Prepared<acc_t> prepared(args);
    const at::Tensor keeps_memory =
        prepare_backward(args, grad_output, statistics, normalizer, prepared.loss_rows);
    const bool same = args.target.scalar_type() == args.input.scalar_type();
    result = empty_gradient_like(
        args.target, same ? args.target.scalar_type() : c10::CppTypeToScalarType<acc_t>::value);
    const at::Tensor source = like_rows_of(result, args.input, dim);
    const auto input_rows = rows_of<const scalar_t>(source, dim);
    with_logits<acc_t>(args, [&](const auto& logits) {
      const TargetGradientRow<acc_t, std::decay_t<decltype(logits)>> policy{
          {}, logits, prepared.smoothing, prepared.loss_rows};
      if (same) {
        for_each_row<acc_t>(policy, rows_of<scalar_t>(result, dim), input_rows);
      } else {
        for_each_row<acc_t>(policy, rows_of<acc_t>(result, dim), input_rows);
      }
    });
  });
  return result.to(args.target.scalar_type());
}

}  // namespace

TORCH_LIBRARY_IMPL(torchsoftmax, TORCHSOFTMAX_KEY, m) {
  m.impl("cross_entropy_forward", &OfCrossEntropy<&forward>::call);
  m.impl("cross_entropy_backward", &OfCrossEntropy<&backward>::call);
  m.impl("cross_entropy_backward_", &OfCrossEntropy<&backward_over_input>::call);
  m.impl("cross_entropy_target_backward", &OfCrossEntropy<&target_backward>::call);
  m.impl("cross_entropy_with_gradient_", &OfCrossEntropy<&with_gradient_over_input>::call);
}

}  // namespace torchsoftmax::TORCHSOFTMAX_DEVICE
