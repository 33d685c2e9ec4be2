"""Modules, with the constructor arguments and the state of ``torch.nn``'s of the same name.

They are subclasses, so that ``isinstance`` checks and ``state_dict`` work as with PyTorch's own.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from torchsoftmax import functional as F

__all__ = [
    "CrossEntropyLoss",
    "KLDivWithLogitsLoss",
    "LinearCrossEntropyLoss",
    "LogSoftmax",
    "Softmax",
]


def _implicit_dim(name: str, ndim: int) -> int:
    """The dimension that PyTorch's modules take where none was given, with its warning."""
    return torch.nn.functional._get_softmax_dim(name, ndim, 4)


class _TemperatureAndMask(torch.nn.Module):
    """A softmax module with the extensions of its function."""

    def __init__(self, dim: int | None = None, *, temperature: float = 1.0) -> None:
        super().__init__(dim)
        self.temperature = temperature

    def extra_repr(self) -> str:
        temperature = "" if self.temperature == 1 else f", temperature={self.temperature}"
        return f"{super().extra_repr()}{temperature}"


class Softmax(_TemperatureAndMask, torch.nn.Softmax):
    """:func:`torchsoftmax.softmax` along ``dim``. See :class:`torch.nn.Softmax`.

    Args:
        dim, temperature: as in the function.

    A ``mask``, which differs from call to call, is an argument of the call.

    Example:
        >>> torchsoftmax.Softmax(dim=1)(torch.zeros(1, 4))
        tensor([[0.2500, 0.2500, 0.2500, 0.2500]])
    """

    def forward(self, input: Tensor, *, mask: Tensor | None = None) -> Tensor:
        dim = self.dim if self.dim is not None else _implicit_dim("softmax", input.dim())
        return F.softmax(input, dim, temperature=self.temperature, mask=mask)


class LogSoftmax(_TemperatureAndMask, torch.nn.LogSoftmax):
    """:func:`torchsoftmax.log_softmax` along ``dim``. See :class:`torch.nn.LogSoftmax`.

    Args:
        dim, temperature: as in the function.

    A ``mask``, which differs from call to call, is an argument of the call.

    Example:
        >>> torchsoftmax.LogSoftmax(dim=1)(torch.zeros(1, 4))
        tensor([[-1.3863, -1.3863, -1.3863, -1.3863]])
    """

    def forward(self, input: Tensor, *, mask: Tensor | None = None) -> Tensor:
        dim = self.dim if self.dim is not None else _implicit_dim("log_softmax", input.dim())
        return F.log_softmax(input, dim, temperature=self.temperature, mask=mask)


class CrossEntropyLoss(torch.nn.CrossEntropyLoss):
    """:func:`torchsoftmax.cross_entropy` as a module. See :class:`torch.nn.CrossEntropyLoss`.

    Args:
        weight, ignore_index, reduction, label_smoothing, temperature, softcap, z_loss,
            inplace_backward: as in :func:`torchsoftmax.cross_entropy`.
        size_average, reduce: deprecated, as in :class:`torch.nn.CrossEntropyLoss`.

    ``weight`` is a buffer, as it is there. ``sample_weight`` and ``normalizer``, which differ from
    call to call, are arguments of the call.

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


class _LinearLayerAndLoss(torch.nn.modules.loss._WeightedLoss):
    """What torch.nn.LinearCrossEntropyLoss constructs, for PyTorch releases before it, 2.13."""

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        *,
        out_features: tuple[int, ...],
        bias: bool,
        device: torch.device | str | None,
        dtype: torch.dtype | None,
        reduction: str,
        weight: Tensor | None,
        ignore_index: int | None,
        label_smoothing: float,
        options: object,
    ) -> None:
        super().__init__(weight, None, None, reduction)
        self.num_classes = num_classes
        self.out_features = out_features
        self.ignore_index = ignore_index
        self.label_smoothing = label_smoothing
        self.options = options
        rows = math.prod(out_features, start=num_classes)
        self.linear = torch.nn.Linear(in_features, rows, bias=bias, device=device, dtype=dtype)


_NativeLinearCrossEntropyLoss = getattr(torch.nn, "LinearCrossEntropyLoss", _LinearLayerAndLoss)


class LinearCrossEntropyLoss(_NativeLinearCrossEntropyLoss):
    """:func:`torchsoftmax.linear_cross_entropy` as a module that holds the linear layer.

    The layer is the submodule ``linear``, whose weight has the shape (C * d1 * … * dK,
    in_features), as in ``torch.nn.LinearCrossEntropyLoss`` of PyTorch 2.13: a checkpoint of one
    loads in the other. Its argument ``options``, which chooses how PyTorch divides the work, is
    taken and changes nothing; ``chunk_size`` is ours. ``sample_weight`` and ``normalizer``, which
    differ from call to call, are arguments of the call. All other arguments are as in
    ``torch.nn.LinearCrossEntropyLoss`` and :func:`torchsoftmax.linear_cross_entropy`.

    Example:
        >>> loss = torchsoftmax.LinearCrossEntropyLoss(16, 1000, softcap=30.0)
        >>> loss(torch.randn(8, 16), torch.randint(1000, (8,))).shape
        torch.Size([])
    """

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        *,
        out_features: tuple[int, ...] = (),
        bias: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        reduction: str = "mean",
        weight: Tensor | None = None,
        ignore_index: int | None = None,
        label_smoothing: float = 0.0,
        options: object = None,
        temperature: float = 1.0,
        softcap: float | None = None,
        z_loss: float = 0.0,
        chunk_size: int | None = None,
    ) -> None:
        super().__init__(
            in_features,
            num_classes,
            out_features=out_features,
            bias=bias,
            device=device,
            dtype=dtype,
            reduction=reduction,
            weight=weight,
            ignore_index=ignore_index,
            label_smoothing=label_smoothing,
            options=options,
        )
        self.temperature = temperature
        self.softcap = softcap
        self.z_loss = z_loss
        self.chunk_size = chunk_size

    def forward(
        self,
        input: Tensor,
        target: Tensor,
        *,
        sample_weight: Tensor | None = None,
        normalizer: Tensor | float | None = None,
    ) -> Tensor:
        shape = (self.num_classes, *self.out_features)
        bias = self.linear.bias
        return F.linear_cross_entropy(
            input,
            self.linear.weight.reshape(*shape, self.linear.in_features),
            target,
            linear_bias=None if bias is None else bias.reshape(shape),
            weight=self.weight,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
            label_smoothing=self.label_smoothing,
            temperature=self.temperature,
            softcap=self.softcap,
            z_loss=self.z_loss,
            sample_weight=sample_weight,
            normalizer=normalizer,
            chunk_size=self.chunk_size,
        )


class KLDivWithLogitsLoss(torch.nn.Module):
    """:func:`torchsoftmax.kl_div_with_logits` as a module: the loss of knowledge distillation.

    Called with the student's logits, then the teacher's.

    Args:
        reduction, temperature: as in the function.

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
