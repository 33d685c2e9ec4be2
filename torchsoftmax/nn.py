"""Modules, with the constructor arguments and the state of ``torch.nn``'s of the same name.

They are subclasses, so that ``isinstance`` checks and ``state_dict`` work as with PyTorch's own.
"""

from __future__ import annotations

import torch
from torch import Tensor

from torchsoftmax import functional as F

__all__ = ["CrossEntropyLoss", "KLDivWithLogitsLoss", "LogSoftmax", "Softmax"]


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

    ``weight`` is a buffer, as it is there. The extensions of the function are keyword arguments;
    those that differ from call to call, ``sample_weight`` and ``normalizer``, are of the call.

    Example:
        >>> loss = torchsoftmax.CrossEntropyLoss(label_smoothing=0.1)
        >>> loss(torch.zeros(2, 4), torch.tensor([0, 3]))
        tensor(1.3863)
    """

    def __init__(
        self,
        weight: Tensor | None = None,
        size_average: bool | None = None,
        ignore_index: int = -100,
        reduce: bool | None = None,
        reduction: str = "mean",
        label_smoothing: float = 0.0,
        *,
        temperature: float = 1.0,
        softcap: float | None = None,
        z_loss: float = 0.0,
        inplace_backward: bool = False,
    ) -> None:
        super().__init__(weight, size_average, ignore_index, reduce, reduction, label_smoothing)
        self.temperature = temperature
        self.softcap = softcap
        self.z_loss = z_loss
        self.inplace_backward = inplace_backward

    def forward(
        self,
        input: Tensor,
        target: Tensor,
        *,
        sample_weight: Tensor | None = None,
        normalizer: Tensor | float | None = None,
    ) -> Tensor:
        return F.cross_entropy(
            input,
            target,
            self.weight,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
            label_smoothing=self.label_smoothing,
            temperature=self.temperature,
            softcap=self.softcap,
            z_loss=self.z_loss,
            sample_weight=sample_weight,
            normalizer=normalizer,
            inplace_backward=self.inplace_backward,
        )


class KLDivWithLogitsLoss(torch.nn.Module):
    """:func:`torchsoftmax.kl_div_with_logits` as a module: the loss of knowledge distillation.

    Example:
        >>> loss = torchsoftmax.KLDivWithLogitsLoss(temperature=2.0)
        >>> loss(torch.tensor([[0.0, 0.0]]), torch.tensor([[2.0, 0.0]]))
        tensor(0.4438)
    """

    def __init__(self, reduction: str = "batchmean", *, temperature: float = 1.0) -> None:
        super().__init__()
        self.reduction = reduction
        self.temperature = temperature

    def extra_repr(self) -> str:
        return f"reduction={self.reduction!r}, temperature={self.temperature}"

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return F.kl_div_with_logits(
            input, target, temperature=self.temperature, reduction=self.reduction
        )
