#include "../../csrc/cuda/cross_entropy.cu"
