// kl_div_with_logits, forward and backward.

#include "../kernels/kl_div.h"
