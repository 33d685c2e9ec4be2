#include "../../csrc/cuda/scale.cu"
