// softmax_statistics, forward and backward.

#include "../kernels/statistics.h"
