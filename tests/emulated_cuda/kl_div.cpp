#include "../../csrc/cuda/kl_div.cu"
