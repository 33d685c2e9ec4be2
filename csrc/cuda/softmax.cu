// softmax and log_softmax, forward and backward.

#include "../kernels/softmax.h"
