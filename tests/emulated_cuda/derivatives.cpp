#include "../../csrc/cuda/derivatives.cu"
