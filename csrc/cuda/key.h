#pragma once

// The dispatch key that kernels are registered for. Tests that run them on the CPU have another.
#if !defined(TORCHSOFTMAX_KEY)
#define TORCHSOFTMAX_KEY CUDA
#endif
