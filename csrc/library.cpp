// Every operator's schema in one table, and the Python module with the facts of this build.

#include <pybind11/pybind11.h>
#include <torch/library.h>
#include <torch/version.h>

#include <string>

TORCH_LIBRARY(torchsoftmax, m) {
  m.def("softmax(Tensor input, int dim, ScalarType? dtype=None) -> Tensor");
  m.def("softmax_backward(Tensor grad_output, Tensor output, int dim) -> Tensor");
  m.def("log_softmax(Tensor input, int dim, ScalarType? dtype=None) -> Tensor");
  m.def("log_softmax_backward(Tensor grad_output, Tensor output, int dim) -> Tensor");

  // dtype: of the loss, where it is not that of the input (autocast).
  m.def(
      "cross_entropy(Tensor input, Tensor target, Tensor? weight=None, ScalarType? dtype=None, "
      "int reduction=1, int ignore_index=-100, float label_smoothing=0.0) -> Tensor");
  // statistics: each row's maximum, and its log-sum-exp less that maximum, stacked.
  // normalizer: what `mean` divides by.
  m.def(
      "cross_entropy_forward(Tensor input, Tensor target, Tensor? weight, ScalarType? dtype, "
      "int reduction, int ignore_index, float label_smoothing) "
      "-> (Tensor loss, Tensor statistics, Tensor normalizer)");
  m.def(
      "cross_entropy_backward(Tensor grad_output, Tensor input, Tensor target, Tensor? weight, "
      "Tensor statistics, Tensor normalizer, int reduction, int ignore_index, "
      "float label_smoothing) -> Tensor");
  // The gradient with respect to class probabilities.
  m.def(
      "cross_entropy_target_backward(Tensor grad_output, Tensor input, Tensor target, "
      "Tensor? weight, Tensor statistics, Tensor normalizer, int reduction, int ignore_index, "
      "float label_smoothing) -> Tensor");
  // int64 indices to gather with: 0 where the target is ignored; raises for one out of range.
  m.def("gather_index(Tensor target, SymInt num_classes, int ignore_index) -> Tensor");
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
  m.attr("cuda") = false;
}
