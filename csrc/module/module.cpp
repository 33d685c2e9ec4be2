// The import hook of a module of kernels, which register themselves when it is loaded.

#include <Python.h>

#define TORCHSOFTMAX_JOIN(a, b) a##b
#define TORCHSOFTMAX_INIT(name) TORCHSOFTMAX_JOIN(PyInit_, name)

PyMODINIT_FUNC TORCHSOFTMAX_INIT(TORCH_EXTENSION_NAME)() {
  static PyModuleDef module{PyModuleDef_HEAD_INIT,
                            "torchsoftmax kernels for one device or instruction set",
                            nullptr,
                            -1,
                            nullptr,
                            nullptr,
                            nullptr,
                            nullptr,
                            nullptr};
  return PyModule_Create(&module);
}
