// The matrices of derivatives of softmax.

#include "../kernels/derivatives.h"
