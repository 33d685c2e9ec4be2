"""The one table of operators and of the inputs that every contract test runs them on.

To add an operator, add an entry to OPERATORS: the tests of test_contract.py then ask of it what
they ask of all others.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import torchsoftmax

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class Sample:
    """One call: tensors that can be differentiated, other positional arguments, keywords."""

    name: str
    inputs: tuple[Tensor, ...]
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)

    def leaves(self) -> tuple[Tensor, ...]:
        """Fresh copies of the inputs, with their strides, that require a gradient."""
        return tuple(copy.deepcopy(x).requires_grad_() for x in self.inputs)


@dataclass(frozen=True)
class Operator:
    """A function of ours, the native one that it must equal, and inputs for both."""

    name: str
    ours: Callable[..., Tensor]
    native: Callable[..., Tensor]
    samples: Callable[[torch.dtype], Iterator[Sample]]

    def small(self) -> Sample:
        """A float64 sample small enough for finite differences and compilation."""
        return next(self.samples(torch.float64))

    def __str__(self) -> str:
        return self.name


def logits(*shape: int, dtype: torch.dtype, seed: int = 0) -> Tensor:
    """Normal values with an outlier in the first row, an offset in the last, and ties."""
    x = 3 * torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    if x.numel() > 8:
        flat = x.view(-1)
        flat[1] += 20
        flat[-3:] += 10
        flat[4] = flat[5]
    return x.to(dtype)


def class_indices(*shape: int, classes: int, ignore_index: int | None = None) -> Tensor:
    target = torch.randint(classes, shape, generator=torch.Generator().manual_seed(1))
    if ignore_index is not None and target.dim():
        target.view(-1)[::3] = ignore_index
    return target


def class_probabilities(*shape: int, dtype: torch.dtype) -> Tensor:
    return (
        logits(*shape, dtype=torch.float64, seed=2)
        .softmax(dim=1 if len(shape) > 1 else 0)
        .to(dtype)
    )


def class_weights(classes: int, dtype: torch.dtype) -> Tensor:
    return torch.linspace(0.0, 2.0, classes, dtype=torch.float64).to(dtype)


def softmax_samples(dtype: torch.dtype) -> Iterator[Sample]:
    yield Sample("rows", (logits(3, 5, dtype=dtype),), (1,))
    yield Sample("vector", (logits(19, dtype=dtype),), (0,))
    yield Sample("scalar", (logits(dtype=dtype),), (0,))
    yield Sample("one class", (logits(4, 1, dtype=dtype),), (1,))
    yield Sample("no rows", (logits(0, 5, dtype=dtype),), (1,))
    yield Sample("no classes", (logits(5, 0, dtype=dtype),), (1,))
    yield Sample("long rows", (logits(5, 1037, dtype=dtype),), (-1,))
    yield Sample("columns", (logits(33, 70, dtype=dtype),), (0,))
    yield Sample("middle dim", (logits(2, 7, 5, 9, dtype=dtype),), (1,))
    yield Sample("transposed", (logits(17, 6, dtype=dtype).t(),), (1,))
    yield Sample("sliced", (logits(9, 40, dtype=dtype)[::2, 3:36],), (1,))
    yield Sample("every second class", (logits(9, 40, dtype=dtype)[:, ::2],), (1,))
    yield Sample("expanded", (logits(1, 21, dtype=dtype).expand(4, 21),), (-1,))
    yield Sample(
        "channels last",
        (logits(2, 21, 4, 5, dtype=dtype).to(memory_format=torch.channels_last),),
        (1,),
    )


def index_samples(dtype: torch.dtype) -> Iterator[Sample]:
    target = class_indices(4, classes=5, ignore_index=-100)
    yield Sample("rows", (logits(4, 5, dtype=dtype),), (target,))
    yield Sample("one row", (logits(19, dtype=dtype),), (torch.tensor(7),))
    for reduction in ("none", "mean", "sum"):
        for weighted in (False, True):
            for smoothing in (0.0, 0.1, 1.0):
                yield Sample(
                    f"{reduction}, weighted={weighted}, smoothing={smoothing}",
                    (logits(7, 37, dtype=dtype),),
                    (class_indices(7, classes=37, ignore_index=3),),
                    {
                        "weight": class_weights(37, dtype) if weighted else None,
                        "ignore_index": 3,
                        "reduction": reduction,
                        "label_smoothing": smoothing,
                    },
                )
        yield Sample(
            f"map, {reduction}",
            (logits(2, 21, 5, 7, dtype=dtype),),
            (class_indices(2, 5, 7, classes=21, ignore_index=-1),),
            {"ignore_index": -1, "reduction": reduction, "weight": class_weights(21, dtype)},
        )
    yield Sample(
        "map, smoothing",
        (logits(2, 21, 5, 7, dtype=dtype),),
        (class_indices(2, 5, 7, classes=21, ignore_index=-1),),
        {"ignore_index": -1, "label_smoothing": 0.2},
    )
    yield Sample(
        "channels last",
        (logits(2, 21, 4, 5, dtype=dtype).to(memory_format=torch.channels_last),),
        (class_indices(2, 4, 5, classes=21),),
    )
    yield Sample(
        "strided target",
        (logits(6, 40, dtype=dtype)[:, ::2],),
        (class_indices(6, 2, classes=20)[:, 0],),
    )
    yield Sample(
        "volume", (logits(2, 3, 2, 3, 4, dtype=dtype),), (class_indices(2, 2, 3, 4, classes=3),)
    )
    yield Sample("uint8", (logits(4, 5, dtype=dtype),), (class_indices(4, classes=5).byte(),))
    yield Sample("long rows", (logits(3, 4099, dtype=dtype),), (class_indices(3, classes=4099),))
    for reduction in ("none", "mean", "sum"):
        kwargs = {"reduction": reduction, "label_smoothing": 0.1}
        ignored = torch.full((4,), -100)
        yield Sample(f"ignored, {reduction}", (logits(4, 5, dtype=dtype),), (ignored,), kwargs)
        empty = torch.zeros(0, dtype=torch.int64)
        yield Sample(f"no rows, {reduction}", (logits(0, 5, dtype=dtype),), (empty,), kwargs)


def probability_samples(dtype: torch.dtype) -> Iterator[Sample]:
    def pair(*shape: int) -> tuple[Tensor, Tensor]:
        return logits(*shape, dtype=dtype), class_probabilities(*shape, dtype=dtype)

    yield Sample("rows", pair(4, 5))
    yield Sample("one row", pair(19))
    for reduction in ("none", "mean", "sum"):
        for weighted in (False, True):
            yield Sample(
                f"{reduction}, weighted={weighted}, smoothing",
                pair(7, 37),
                (),
                {
                    "weight": class_weights(37, dtype) if weighted else None,
                    "reduction": reduction,
                    "label_smoothing": 0.1,
                },
            )
        yield Sample(f"map, {reduction}", pair(2, 21, 5, 7), (), {"reduction": reduction})
        yield Sample(f"no rows, {reduction}", pair(0, 5), (), {"reduction": reduction})
        yield Sample(f"no classes, {reduction}", pair(3, 0), (), {"reduction": reduction})
    x, y = pair(5, 6)
    yield Sample("transposed target", (x, y.t().contiguous().t()))
    yield Sample("transposed", (x.t().contiguous().t(), y))


OPERATORS = (
    Operator("softmax", torchsoftmax.softmax, F.softmax, softmax_samples),
    Operator("log_softmax", torchsoftmax.log_softmax, F.log_softmax, softmax_samples),
    Operator("cross_entropy", torchsoftmax.cross_entropy, F.cross_entropy, index_samples),
    Operator(
        "cross_entropy, probabilities",
        torchsoftmax.cross_entropy,
        F.cross_entropy,
        probability_samples,
    ),
)
