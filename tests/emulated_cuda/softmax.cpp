#include "../../csrc/cuda/softmax.cu"
