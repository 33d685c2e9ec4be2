// Calls of operators from Python that are not worth parsing a schema for: the usual arguments are
// taken as they are, and all others go to the Python function that the call is bound to. For tiny
// inputs that is half of the time.

#include "python_calls.h"

#include <ATen/PythonTorchFunctionTLS.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/csrc/Dtype.h>
#include <torch/csrc/Exceptions.h>
#include <torch/csrc/autograd/python_variable.h>
#include <torch/csrc/utils/pybind.h>

#include <optional>
#include <tuple>

#include "ops.h"

namespace torchsoftmax {
namespace {

/// Takes a Python object as the argument of an operator; false where it is not of that very type.
bool take(PyObject* from, Tensor& to) {
  if (!THPVariable_CheckExact(from)) {
    return false;
  }
  to = THPVariable_Unpack(from);
  return true;
}

bool take(PyObject* from, OptionalTensor& to) {
  if (from == Py_None) {
    return true;
  }
  return take(from, to.emplace());
}

bool take(PyObject* from, int64_t& to) {
  if (!PyLong_CheckExact(from)) {
    return false;
  }
  int overflow = 0;
  to = PyLong_AsLongLongAndOverflow(from, &overflow);
  return overflow == 0;
}

bool take(PyObject* from, double& to) {
  if (!PyFloat_CheckExact(from)) {
    return false;
  }
  to = PyFloat_AS_DOUBLE(from);
  return true;
}

bool take(PyObject* from, bool& to) {
  to = from == Py_True;
  return to || from == Py_False;
}

bool take(PyObject* from, Dtype& to) {
  if (from == Py_None) {
    return true;
  }
  if (!THPDtype_Check(from)) {
    return false;
  }
  to = reinterpret_cast<THPDtype*>(from)->scalar_type;
  return true;
}

/// An operator: its name, and the type of its kernels.
struct SoftmaxOp {
  static constexpr const char* kName = "softmax";
  using Signature = Tensor(const Tensor&, int64_t, Dtype, double, const OptionalTensor&);
};
struct LogSoftmaxOp : SoftmaxOp {
  static constexpr const char* kName = "log_softmax";
};
struct CrossEntropyOp {
  static constexpr const char* kName = "cross_entropy";
  using Signature = Tensor(const Tensor&, const Tensor&, const OptionalTensor&,
                           const OptionalTensor&, const OptionalTensor&, Dtype, bool, int64_t,
                           int64_t, double, double, double, double);
};

template <typename Op, typename Signature = typename Op::Signature>
struct Call;

template <typename Op, typename... Args>
struct Call<Op, Tensor(Args...)> {
  using Arguments = std::tuple<std::decay_t<Args>...>;

  /// `self`: that function.
  static PyObject* run(PyObject* self, PyObject* const* args, Py_ssize_t count) {
    HANDLE_TH_ERRORS
    Arguments arguments;
    if (count != static_cast<Py_ssize_t>(sizeof...(Args)) ||
        at::impl::torch_function_mode_enabled() ||
        !take_all(args, arguments, std::index_sequence_for<Args...>())) {
      return PyObject_Vectorcall(self, args, static_cast<size_t>(count), nullptr);
    }
    static const auto op =
        c10::Dispatcher::singleton()
            .findSchemaOrThrow((std::string("torchsoftmax::") + Op::kName).c_str(), "")
            .template typed<Tensor(Args...)>();
    const Tensor result = [&] {
      const pybind11::gil_scoped_release unlocked;
      return std::apply([](const auto&... values) { return op.call(values...); }, arguments);
    }();
    return THPVariable_Wrap(result);
    END_HANDLE_TH_ERRORS
  }

  template <size_t... kAt>
  static bool take_all(PyObject* const* args, Arguments& to, std::index_sequence<kAt...>) {
    return (take(args[kAt], std::get<kAt>(to)) && ...);
  }

  static pybind11::object bound_to(const pybind11::object& op) {
    static PyMethodDef method{Op::kName, reinterpret_cast<PyCFunction>(&run), METH_FASTCALL,
                              nullptr};
    return pybind11::reinterpret_steal<pybind11::object>(PyCFunction_New(&method, op.ptr()));
  }
};

}  // namespace

void define_calls(pybind11::module_& module) {
  module.def("softmax_call", &Call<SoftmaxOp>::bound_to);
  module.def("log_softmax_call", &Call<LogSoftmaxOp>::bound_to);
  module.def("cross_entropy_call", &Call<CrossEntropyOp>::bound_to);
}

}  // namespace torchsoftmax
