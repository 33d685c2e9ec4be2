// cross_entropy, its gradients and those of class probabilities.

#include "../kernels/cross_entropy.h"
