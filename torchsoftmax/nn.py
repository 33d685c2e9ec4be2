"""Modules, with the constructor arguments and the state of ``torch.nn``'s of the same name.

They are subclasses, so that ``isinstance`` checks and ``state_dict`` work as with PyTorch's own.
"""

from __future__ import annotations

import torch
from torch import Tensor

from torchsoftmax import functional as F

__all__ = ["CrossEntropyLoss", "LogSoftmax", "Softmax"]


def _implicit_dim(name: str, ndim: int) -> int:
    """The dimension that PyTorch's modules take where none was given, with its warning."""
    return torch.nn.functional._get_softmax_dim(name, ndim, 4)


class Softmax(torch.nn.Softmax):
    """:func:`torchsoftmax.softmax` along ``dim``. See :class:`torch.nn.Softmax`.

    Example:
        >>> torchsoftmax.Softmax(dim=1)(torch.zeros(1, 4))
        tensor([[0.2500, 0.2500, 0.2500, 0.2500]])
    """

    def forward(self, input: Tensor) -> Tensor:
        dim = self.dim if self.dim is not None else _implicit_dim("softmax", input.dim())
        return F.softmax(input, dim)


class LogSoftmax(torch.nn.LogSoftmax):
    """:func:`torchsoftmax.log_softmax` along ``dim``. See :class:`torch.nn.LogSoftmax`.

    Example:
        >>> torchsoftmax.LogSoftmax(dim=1)(torch.zeros(1, 4))
        tensor([[-1.3863, -1.3863, -1.3863, -1.3863]])
    """

    def forward(self, input: Tensor) -> Tensor:
        dim = self.dim if self.dim is not None else _implicit_dim("log_softmax", input.dim())
        return F.log_softmax(input, dim)


class CrossEntropyLoss(torch.nn.CrossEntropyLoss):
    """:func:`torchsoftmax.cross_entropy` as a module. See :class:`torch.nn.CrossEntropyLoss`.

    ``weight`` is a buffer, as it is there.

    Example:
        >>> loss = torchsoftmax.CrossEntropyLoss(label_smoothing=0.1)
        >>> loss(torch.zeros(2, 4), torch.tensor([0, 3]))
        tensor(1.3863)
    """

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(
            input,
            target,
            self.weight,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
            label_smoothing=self.label_smoothing,
        )
