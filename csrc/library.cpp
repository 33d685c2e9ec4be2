// Every operator's schema in one table, and the Python module with the facts of this build.

#include <pybind11/pybind11.h>
#include <torch/library.h>
#include <torch/version.h>

#include <string>

#include "cpu/kept_memory.h"
#include "python_calls.h"

namespace {

// The arguments that every operator of cross_entropy has, before and after its own.
const std::string kInputs = "Tensor input, Tensor target, Tensor? weight, Tensor? sample_weight, ";
const std::string kOptions =
    "int reduction=1, int ignore_index=-100, float label_smoothing=0.0, float temperature=1.0, "
    "float softcap=0.0, float z_loss=0.0";

std::string of_cross_entropy(const std::string& name, const std::string& own,
                             const std::string& results) {
  return name + "(" + kInputs + own + kOptions + ") -> " + results;
}

}  // namespace

TORCH_LIBRARY(torchsoftmax, m) {
  m.def(
      "softmax(Tensor input, int dim, ScalarType? dtype=None, float temperature=1.0, "
      "Tensor? mask=None) -> Tensor");
  m.def(
      "softmax_backward(Tensor grad_output, Tensor output, int dim, float temperature=1.0, "
      "Tensor? mask=None) -> Tensor");
  m.def(
      "log_softmax(Tensor input, int dim, ScalarType? dtype=None, float temperature=1.0, "
      "Tensor? mask=None) -> Tensor");
  m.def(
      "log_softmax_backward(Tensor grad_output, Tensor output, int dim, float temperature=1.0, "
      "Tensor? mask=None) -> Tensor");

  // The matrices of derivatives of softmax, or of log_softmax, and the second derivatives of
  // softmax, from the softmax.
  m.def(
      "softmax_jacobian(Tensor output, int dim, float temperature=1.0, bool log=False) -> Tensor");
  m.def("softmax_hessian(Tensor output, int dim, float temperature=1.0) -> Tensor");

  // normalizer: what `mean` divides by, where it is not the sum of the weights.
  // dtype: of the loss, where it is not that of the input (autocast).
  m.def(of_cross_entropy("cross_entropy",
                         "Tensor? normalizer, ScalarType? dtype, bool inplace_backward, ", "Tensor")
            .c_str());
  // statistics: each row's maximum of the input, and the log-sum-exp of its logits less their
  // maximum, stacked. gradient: of the input where the loss's is 1.
  m.def(of_cross_entropy("cross_entropy_forward",
                         "Tensor? normalizer, ScalarType? dtype, bool with_gradient, ",
                         "(Tensor loss, Tensor statistics, Tensor normalizer, Tensor gradient)")
            .c_str());
  const std::string saved = "Tensor grad_output, Tensor statistics, Tensor normalizer, ";
  m.def(of_cross_entropy("cross_entropy_backward", saved, "Tensor").c_str());
  m.def(("cross_entropy_backward_(Tensor(a!) input, Tensor target, Tensor? weight, "
         "Tensor? sample_weight, " +
         saved + kOptions + ") -> ()")
            .c_str());
  // The loss of each row, in the accumulation type, and the statistics, with the gradient written
  // over the input.
  m.def(("cross_entropy_with_gradient_(Tensor(a!) input, Tensor target, Tensor? weight, "
         "Tensor? sample_weight, Tensor grad_output, " +
         kOptions + ") -> (Tensor loss, Tensor statistics)")
            .c_str());
  // values *= factor, a number.
  m.def("scale_(Tensor(a!) values, Tensor factor) -> ()");
  // The gradient with respect to class probabilities.
  m.def(of_cross_entropy("cross_entropy_target_backward", saved, "Tensor").c_str());

  // input: what the logits are a linear function of. chunk_size: rows of logits at a time.
  const std::string linear = "Tensor linear_weight, Tensor? linear_bias, ";
  m.def(of_cross_entropy("linear_cross_entropy",
                         linear + "Tensor? normalizer, ScalarType? dtype, int? chunk_size, ",
                         "Tensor")
            .c_str());
  // wanted: which gradients; the others have no elements. Forward's are those for a gradient of the
  // loss of 1. accumulator_bytes: what a float32 copy of a lower gradient of linear_weight may
  // take.
  m.def(of_cross_entropy("linear_cross_entropy_forward",
                         linear + "Tensor? normalizer, ScalarType? dtype, int? chunk_size, "
                                  "bool[3] wanted, int accumulator_bytes, ",
                         "(Tensor loss, Tensor normalizer, Tensor grad_input, "
                         "Tensor grad_linear_weight, Tensor grad_linear_bias)")
            .c_str());
  m.def(of_cross_entropy("linear_cross_entropy_backward",
                         linear + "Tensor grad_output, Tensor normalizer, int? chunk_size, "
                                  "bool[3] wanted, int accumulator_bytes, ",
                         "(Tensor grad_input, Tensor grad_linear_weight, Tensor grad_linear_bias)")
            .c_str());
  // out = a b, or out + a b; out is of the dtype of both, or float32 for a lower one.
  m.def("gemm_(Tensor(a!) out, Tensor a, Tensor b, bool accumulate) -> ()");

  // index: like the input, but of any size along dim; log_prob is of its shape, and without
  // elements where there is none. argmax: without elements where not asked for. statistics: each
  // row's maximum, log-sum-exp less that maximum, and entropy, stacked.
  m.def(
      "softmax_statistics(Tensor input, Tensor? index, Tensor? mask, int dim, "
      "float temperature=1.0, bool with_argmax=False) "
      "-> (Tensor log_prob, Tensor lse, Tensor entropy, Tensor argmax, Tensor statistics)");
  m.def(
      "softmax_statistics_backward(Tensor grad_log_prob, Tensor grad_lse, Tensor grad_entropy, "
      "Tensor input, Tensor? index, Tensor? mask, Tensor statistics, int dim, "
      "float temperature=1.0) -> Tensor");

  // wide: float32 results of inputs in a lower precision, as of logits that were converted.
  m.def(
      "linear_softmax_statistics(Tensor input, Tensor linear_weight, Tensor? linear_bias, "
      "Tensor target, float temperature=1.0, float softcap=0.0, int? chunk_size=None, "
      "bool wide=False) "
      "-> (Tensor log_prob, Tensor lse, Tensor entropy, Tensor argmax, Tensor statistics)");
  m.def(
      "linear_softmax_statistics_backward(Tensor grad_log_prob, Tensor grad_lse, "
      "Tensor grad_entropy, Tensor input, Tensor linear_weight, Tensor? linear_bias, "
      "Tensor target, Tensor statistics, float temperature, float softcap, int? chunk_size, "
      "bool[3] wanted) "
      "-> (Tensor grad_input, Tensor grad_linear_weight, Tensor grad_linear_bias)");

  // reduction: as in cross_entropy, and 3, the sum over the size of the first dimension.
  m.def(
      "kl_div_with_logits(Tensor input, Tensor target, ScalarType? dtype=None, int reduction=3, "
      "float temperature=1.0) -> Tensor");
  // statistics: of the input and of the target each row's maximum and the log-sum-exp of its logits
  // less their maximum, then the mean under the target's softmax of the difference of both logits
  // less their maxima, stacked.
  m.def(
      "kl_div_with_logits_forward(Tensor input, Tensor target, ScalarType? dtype=None, "
      "int reduction=3, float temperature=1.0) -> (Tensor loss, Tensor statistics)");
  m.def(
      "kl_div_with_logits_backward(Tensor grad_output, Tensor input, Tensor target, "
      "Tensor statistics, int reduction=3, float temperature=1.0) -> Tensor");
  m.def(
      "kl_div_with_logits_target_backward(Tensor grad_output, Tensor input, Tensor target, "
      "Tensor statistics, int reduction=3, float temperature=1.0) -> Tensor");

  // int64 indices to gather with: 0 where the target is ignored; raises for one out of range.
  m.def(
      "gather_index(Tensor target, SymInt num_classes, int? ignore_index, str function) -> Tensor");
}

PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {
  m.doc() = "Schemas, autograd, autocast, Meta and composite definitions of torchsoftmax";
  m.attr("torch_version") = TORCH_VERSION;
  m.attr("compiler") = std::string(
#if defined(__clang__)
      "clang "
#elif defined(__GNUC__)
      "gcc "
#endif
      __VERSION__);
#if defined(TORCHSOFTMAX_CUDA)
  m.attr("cuda") = true;
#else
  m.attr("cuda") = false;
#endif
  m.def("release_memory", &torchsoftmax::cpu::release_kept_memory);
  torchsoftmax::define_calls(m);
}
