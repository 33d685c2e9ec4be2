"""Fused softmax, log-softmax, cross-entropy and their family for PyTorch.

Every name of :mod:`torchsoftmax.functional` and :mod:`torchsoftmax.nn` is here too; the derivatives
themselves are in :mod:`torchsoftmax.derivatives`.
"""

from torchsoftmax._load import load

load()

from torchsoftmax import derivatives, functional, nn  # noqa: E402
from torchsoftmax._memory import empty_cache  # noqa: E402
from torchsoftmax.functional import (  # noqa: E402
    SoftmaxStatistics,
    cross_entropy,
    entropy_with_logits,
    kl_div_with_logits,
    linear_cross_entropy,
    linear_softmax_statistics,
    log_softmax,
    selective_log_softmax,
    softmax,
    softmax_statistics,
)
from torchsoftmax.nn import (  # noqa: E402
    CrossEntropyLoss,
    KLDivWithLogitsLoss,
    LinearCrossEntropyLoss,
    LogSoftmax,
    Softmax,
)

__version__ = "0.1.0"

__all__ = [
    "CrossEntropyLoss",
    "KLDivWithLogitsLoss",
    "LinearCrossEntropyLoss",
    "LogSoftmax",
    "Softmax",
    "SoftmaxStatistics",
    "cross_entropy",
    "derivatives",
    "empty_cache",
    "entropy_with_logits",
    "functional",
    "kl_div_with_logits",
    "linear_cross_entropy",
    "linear_softmax_statistics",
    "log_softmax",
    "nn",
    "selective_log_softmax",
    "softmax",
    "softmax_statistics",
]
