#include "../../csrc/cuda/statistics.cu"
