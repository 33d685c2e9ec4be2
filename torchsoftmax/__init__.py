"""Fused softmax, log-softmax and cross-entropy for PyTorch.

Every name of :mod:`torchsoftmax.functional` and :mod:`torchsoftmax.nn` is here too.
"""

from torchsoftmax._load import load

load()

from torchsoftmax import functional, nn  # noqa: E402
from torchsoftmax.functional import cross_entropy, log_softmax, softmax  # noqa: E402
from torchsoftmax.nn import CrossEntropyLoss, LogSoftmax, Softmax  # noqa: E402

__version__ = "0.1.0"

__all__ = [
    "CrossEntropyLoss",
    "LogSoftmax",
    "Softmax",
    "cross_entropy",
    "functional",
    "log_softmax",
    "nn",
    "softmax",
]
