"""The one table of operators and of the inputs that every contract test runs them on.

To add an operator, add an entry to OPERATORS: the tests of test_contract.py then ask of it what
they ask of all others.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import reference
import torch
import torch.nn.functional as F
from torch import Tensor

import torchsoftmax
from torchsoftmax import derivatives

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def devices() -> list[str]:
    """The CPU, and the GPU where there is one and kernels for it were built."""
    return ["cpu", "cuda"] if torchsoftmax._C.cuda and torch.cuda.is_available() else ["cpu"]


def sums_by_layout(device: str) -> bool:
    """Whether the order of a sum depends on where a row lies, as it does in a GPU's kernels."""
    return device == "cuda" or os.environ.get("TORCHSOFTMAX_EMULATED_CUDA") == "1"


def others(device: str) -> list[str]:
    """The devices that a tensor may be on when it should be on this one."""
    return [other for other in ("meta", *devices()) if other != device]


def on(device: str, value: Any, elsewhere: str = "meta") -> Any:
    """A tensor on the device, with its strides; of a tuple, list or dict, all that it holds.

    A tensor on the meta device is one on the wrong device, and goes ``elsewhere``.
    """
    if isinstance(value, dict):
        return {key: on(device, each, elsewhere) for key, each in value.items()}
    if isinstance(value, (tuple, list)):
        return type(value)(on(device, each, elsewhere) for each in value)
    if not isinstance(value, Tensor) or value.device.type == device:
        return value
    if value.is_meta:
        return torch.zeros_like(value, device=elsewhere)
    # All of the memory that it lies in: gaps stay gaps, and what is expanded stays expanded.
    size = value.untyped_storage().nbytes() // value.itemsize
    memory = value.detach().as_strided((size,), (1,), 0).to(device)
    there = memory.as_strided(value.size(), value.stride(), value.storage_offset())
    return there.detach().requires_grad_(value.requires_grad)


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

    def to(self, device: str) -> Sample:
        return Sample(self.name, *on(device, (self.inputs, self.args, self.kwargs)))


@dataclass(frozen=True)
class Operator:
    """A function of ours, the native one that it must equal, and inputs for both."""

    name: str  # up to a comma: of the registered operator
    ours: Callable[..., Tensor]
    native: Callable[..., Tensor]
    samples: Callable[[torch.dtype], Iterator[Sample]]
    # How large the values are whose differences the results are: their rounding remains.
    inner: float = 1.0
    # Whether autocast rounds inputs to its dtype, as it does those of a matrix product.
    products: bool = False
    # Whether the kernel computes what is differentiated, too, and not the definition.
    one_way: bool = True
    # Whether its value alone comes from other parts of a product than with a gradient.
    tiled: bool = False

    def small(self, device: str) -> Sample:
        """A float64 sample small enough for finite differences and compilation."""
        return next(self.samples(torch.float64)).to(device)

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


def random_mask(*shape: int) -> Tensor:
    """True in 7 of 10 entries, and in none of the last row where there are several."""
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(4)) < 0.7
    if len(shape) > 1 and shape[0] > 1:
        mask[-1] = False
    return mask


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
    yield Sample("vectors that overlap", (logits(2, 7, 62, dtype=dtype),), (1,))
    yield Sample("long columns in vectors that overlap", (logits(97, 62, dtype=dtype),), (0,))
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
    for name, classes in (("vectors", 7), ("long columns in vectors", 97)):
        yield Sample(
            f"{name} that overlap",
            (logits(1, classes, 62, dtype=dtype),),
            (class_indices(1, 62, classes=classes, ignore_index=-1),),
            {"ignore_index": -1, "reduction": "none"},
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


def masked_samples(dtype: torch.dtype) -> Iterator[Sample]:
    """Of softmax, log_softmax and entropy_with_logits, with a mask, a temperature or both."""

    def sample(name: str, x: Tensor, dim: int, mask: Tensor | None, temperature: float) -> Sample:
        return Sample(name, (x,), (dim,), {"mask": mask, "temperature": temperature})

    yield sample("rows", logits(3, 5, dtype=dtype), 1, random_mask(3, 5), 0.7)
    for temperature in (1.5, 3.0):
        name = f"temperature {temperature}"
        yield sample(f"{name}, rows", logits(7, 37, dtype=dtype), 1, None, temperature)
        yield sample(f"{name}, map", logits(2, 7, 5, 9, dtype=dtype), 1, None, temperature)
        yield sample(f"{name}, scalar", logits(dtype=dtype), 0, None, temperature)
    rows = logits(7, 37, dtype=dtype)
    yield sample("every entry's own", rows, 1, random_mask(7, 37), 1.0)
    yield sample("classes", rows, 1, random_mask(1, 37), 1.0)
    yield sample("classes, fewer dims", rows, -1, random_mask(37), 1.0)
    yield sample("whole rows", rows, 1, random_mask(7, 1), 1.0)
    yield sample("all", rows, 1, torch.ones(7, 37, dtype=torch.bool), 1.0)
    yield sample("none", rows, 1, torch.zeros(7, 37, dtype=torch.bool), 1.0)
    yield sample("one of each row", rows, 1, torch.eye(7, 37, dtype=torch.bool), 2.0)
    causal = torch.ones(19, 19, dtype=torch.bool).tril()
    yield sample("causal", logits(2, 3, 19, 19, dtype=dtype), -1, causal, 1.0)
    yield sample("vector", logits(19, dtype=dtype), 0, random_mask(19), 1.0)
    yield sample("scalar", logits(dtype=dtype), 0, torch.tensor(True), 1.0)
    yield sample("masked scalar", logits(dtype=dtype), 0, torch.tensor(False), 1.0)
    yield sample("long rows", logits(5, 1037, dtype=dtype), 1, random_mask(5, 1037), 0.7)
    yield sample("columns", logits(33, 70, dtype=dtype), 0, random_mask(33, 70), 1.0)
    image = logits(2, 7, 5, 9, dtype=dtype)
    yield sample("middle dim", image, 1, random_mask(2, 7, 5, 9), 0.7)
    yield sample("middle dim, positions", image, 1, random_mask(5, 9), 1.0)
    yield sample("middle dim, classes", image, 1, random_mask(7, 1, 1), 1.0)
    yield sample("transposed", logits(17, 6, dtype=dtype).t(), 1, random_mask(6, 17), 1.0)
    yield sample("sliced", logits(9, 40, dtype=dtype)[::2, 3:36], 1, random_mask(5, 33), 1.0)
    expanded = logits(1, 21, dtype=dtype).expand(4, 21)
    yield sample("expanded", expanded, 1, random_mask(4, 21), 1.0)
    yield sample("no rows", logits(0, 5, dtype=dtype), 1, random_mask(1, 5), 2.0)
    yield sample("no classes", logits(5, 0, dtype=dtype), 1, random_mask(5, 1), 2.0)


def extended(*row_shape: int, **replaced: Any) -> dict[str, Any]:
    """Every extension of cross-entropy at once."""
    rows = logits(*row_shape, dtype=torch.float64, seed=5).abs()
    extensions = {"temperature": 0.7, "softcap": 5.0, "z_loss": 0.01, "sample_weight": rows}
    return extensions | {"label_smoothing": 0.1} | replaced


def extended_index_samples(dtype: torch.dtype) -> Iterator[Sample]:
    def sample(name: str, *shape: int, **kwargs: Any) -> Sample:
        target = class_indices(shape[0], *shape[2:], classes=shape[1], ignore_index=-100)
        return Sample(name, (logits(*shape, dtype=dtype),), (target,), kwargs)

    yield sample("rows", 4, 5, **extended(4))
    yield sample("temperature", 7, 37, temperature=0.7)
    yield sample("softcap", 7, 37, softcap=5.0)
    yield sample("softcap, weight", 7, 37, softcap=30.0, weight=class_weights(37, dtype))
    for reduction in ("none", "mean", "sum"):
        yield sample(f"z_loss, {reduction}", 7, 37, z_loss=0.01, reduction=reduction)
        rows = torch.linspace(0, 2, 7)  # float32 whatever the logits are
        yield sample(f"sample_weight, {reduction}", 7, 37, sample_weight=rows, reduction=reduction)
        kwargs = extended(2, 5, 7, reduction=reduction, weight=class_weights(21, dtype))
        yield sample(f"map, {reduction}", 2, 21, 5, 7, **kwargs)
        ignored, x = torch.full((4,), -100), logits(4, 5, dtype=dtype)
        kwargs = extended(4, reduction=reduction)
        yield Sample(f"ignored, {reduction}", (x,), (ignored,), kwargs)
        yield sample(f"no rows, {reduction}", 0, 5, **extended(0, reduction=reduction))
    yield sample("number as normalizer", 7, 37, normalizer=19.0)
    yield sample("tensor as normalizer", 7, 37, normalizer=torch.tensor(19.0), z_loss=0.01)
    yield sample("long rows", 3, 4099, **extended(3))
    x, kwargs = logits(19, dtype=dtype), extended()
    yield Sample("one row", (x,), (torch.tensor(7),), kwargs)
    channels_last = logits(2, 21, 4, 5, dtype=dtype).to(memory_format=torch.channels_last)
    target, kwargs = class_indices(2, 4, 5, classes=21), extended(2, 4, 5)
    yield Sample("channels last", (channels_last,), (target,), kwargs)
    x, target = logits(6, 40, dtype=dtype)[:, ::2], class_indices(6, classes=20)
    kwargs = extended(6, sample_weight=torch.linspace(0, 2, 12)[::2])
    yield Sample("strided, int32", (x,), (target.int(),), kwargs)


def extended_probability_samples(dtype: torch.dtype) -> Iterator[Sample]:
    def sample(name: str, *shape: int, **kwargs: Any) -> Sample:
        pair = (logits(*shape, dtype=dtype), class_probabilities(*shape, dtype=dtype))
        return Sample(name, pair, (), kwargs)

    yield sample("rows", 4, 5, **extended(4))
    yield sample("temperature", 7, 37, temperature=0.7)
    yield sample("softcap", 7, 37, softcap=5.0, weight=class_weights(37, dtype))
    yield sample("z_loss", 7, 37, z_loss=0.01)
    yield sample("normalizer", 7, 37, normalizer=torch.tensor(19.0))
    for reduction in ("none", "mean", "sum"):
        rows = torch.linspace(0, 2, 7)
        yield sample(f"sample_weight, {reduction}", 7, 37, sample_weight=rows, reduction=reduction)
        kwargs = extended(2, 5, 7, reduction=reduction, weight=class_weights(21, dtype))
        yield sample(f"map, {reduction}", 2, 21, 5, 7, **kwargs)
        yield sample(f"no rows, {reduction}", 0, 5, **extended(0, reduction=reduction))
    yield sample("long rows", 3, 1037, **extended(3))
    yield sample("one row", 19, **extended())
    x, y = logits(5, 6, dtype=dtype), class_probabilities(5, 6, dtype=dtype)
    yield Sample("transposed", (x.t().contiguous().t(), y), (), extended(5))


def linear_layer(
    rows: tuple[int, ...], classes: tuple[int, ...], features: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Inputs with an outlier and a weight, whose logits are of the order of 1."""
    input = logits(*rows, features, dtype=torch.float64) / max(1, features) ** 0.5
    weight = logits(*classes, features, dtype=torch.float64, seed=7) / 8
    return input.to(dtype), weight.to(dtype)


def linear_samples(dtype: torch.dtype) -> Iterator[Sample]:
    def sample(name: str, rows: int, classes: int, features: int, **kwargs: Any) -> Sample:
        target = class_indices(rows, classes=classes, ignore_index=-100)
        pair = linear_layer((rows,), (classes,), features, dtype)
        return Sample(name, pair, (target,), kwargs)

    yield sample("rows", 4, 5, 3, chunk_size=2)
    for reduction in ("none", "mean", "sum"):
        yield sample(f"{reduction}", 7, 37, 19, reduction=reduction)
        kwargs = {
            "reduction": reduction,
            "label_smoothing": 0.1,
            "weight": class_weights(37, dtype),
        }
        yield sample(f"{reduction}, weight, smoothing", 7, 37, 19, chunk_size=3, **kwargs)
        # Four rows take part, fewer than there are features.
        yield sample(f"{reduction}, tiles", 7, 37, 19, reduction=reduction, chunk_size=2)
        x, w = linear_layer((2, 3), (21,), 5, dtype)
        kwargs = {"reduction": reduction, "chunk_size": 4}
        target = class_indices(2, 3, classes=21, ignore_index=-100)
        yield Sample(f"leading dimensions, {reduction}", (x, w), (target,), kwargs)
        x, w = linear_layer((6,), (5, 3, 2), 7, dtype)
        target = class_indices(6, 3, 2, classes=5, ignore_index=-100)
        target[1] = -100
        yield Sample(f"map, {reduction}", (x, w), (target,), kwargs)
        x, w = linear_layer((), (21,), 5, dtype)
        yield Sample(f"one row, {reduction}", (x, w), (torch.tensor(7),), kwargs)
        x, w = linear_layer((4,), (5,), 3, dtype)
        kwargs = {"reduction": reduction, "label_smoothing": 0.1}
        yield Sample(f"ignored, {reduction}", (x, w), (torch.full((4,), -100),), kwargs)
        empty = torch.zeros(0, dtype=torch.int64)
        yield Sample(f"no rows, {reduction}", (x[:0], w), (empty,), kwargs)
        target = class_indices(4, classes=5, ignore_index=-100)
        yield Sample(f"no features, {reduction}", (x[:, :0], w[:, :0]), (target,), kwargs)
    yield sample("many rows", 70, 90, 40, chunk_size=32)
    x, w = linear_layer((7,), (37,), 19, dtype)
    target = class_probabilities(7, 37, dtype=dtype)
    yield Sample("class probabilities", (x, w), (target,), {"chunk_size": 3})
    target = class_indices(7, 2, classes=37).int()[:, 0]
    yield Sample("strided int32", (x, w), (target,))
    x, w = linear_layer((19,), (19,), 7, dtype)
    yield Sample(
        "transposed",
        (x.t().contiguous().t(), w.t().contiguous().t()),
        (target[:1].remainder(19).expand(19),),
    )
    yield Sample(
        "expanded", (x[:1].expand(19, 7), w[:, :1].expand(19, 7)), (class_indices(19, classes=19),)
    )


def extended_linear_samples(dtype: torch.dtype) -> Iterator[Sample]:
    """With a bias, and every extension of cross-entropy at once."""

    def sample(
        name: str, rows: tuple[int, ...], classes: tuple[int, ...], features: int, **replaced: Any
    ) -> Sample:
        pair = linear_layer(rows, classes, features, dtype)
        bias = logits(*classes, dtype=torch.float64, seed=8) / 4
        shape = (*rows, *classes[1:])
        target = class_indices(*shape, classes=classes[0], ignore_index=-100)
        return Sample(name, (*pair, bias.to(dtype)), (target,), extended(*shape, **replaced))

    yield sample("rows", (4,), (5,), 3)
    yield sample("bias alone", (7,), (37,), 19, sample_weight=None, softcap=None, z_loss=0.0)
    for reduction in ("none", "mean", "sum"):
        kwargs = {"reduction": reduction, "chunk_size": 3}
        yield sample(f"{reduction}", (7,), (37,), 19, weight=class_weights(37, dtype), **kwargs)
        yield sample(f"leading dimensions, {reduction}", (2, 3), (21,), 5, **kwargs)
        yield sample(f"map, {reduction}", (6,), (5, 3, 2), 7, **kwargs)
        yield sample(f"map, no features, {reduction}", (6,), (5, 3, 2), 0, **kwargs)
    yield sample("normalizer", (7,), (37,), 19, normalizer=torch.tensor(19.0))


def linear_probability_samples(dtype: torch.dtype) -> Iterator[Sample]:
    def sample(name: str, rows: int, classes: int, features: int, **kwargs: Any) -> Sample:
        pair = linear_layer((rows,), (classes,), features, dtype)
        return Sample(name, (*pair, class_probabilities(rows, classes, dtype=dtype)), (), kwargs)

    yield sample("rows", 4, 5, 3)
    for reduction in ("none", "mean", "sum"):
        yield sample(f"{reduction}", 7, 37, 19, reduction=reduction, label_smoothing=0.1)
    yield sample("extensions", 7, 37, 19, **extended(7))


def linear_statistics_samples(dtype: torch.dtype) -> Iterator[Sample]:
    """With a bias."""

    def sample(name: str, rows: tuple[int, ...], classes: int, features: int, **kw: Any) -> Sample:
        pair = linear_layer(rows, (classes,), features, dtype)
        bias = logits(classes, dtype=torch.float64, seed=8) / 4
        return Sample(name, (*pair, bias.to(dtype)), (class_indices(*rows, classes=classes),), kw)

    yield sample("rows", (4,), 5, 3, temperature=0.7, softcap=5.0, chunk_size=2)
    yield sample("chunks", (70,), 90, 40, chunk_size=32)
    yield sample("softcap", (7,), 37, 19, softcap=3.0)
    yield sample("leading dimensions", (2, 3), 21, 5, chunk_size=4)
    yield sample("one row", (), 21, 5)
    yield sample("no rows", (0,), 21, 5)
    yield sample("no features", (4,), 21, 0)


def with_bias(function: Callable[..., Any]) -> Callable[..., Any]:
    """The bias of a linear layer as a third input, which can be differentiated."""

    def of_three(input: Tensor, layer: Tensor, bias: Tensor, target: Tensor, **kw: Any) -> Any:
        return function(input, layer, target, linear_bias=bias, **kw)

    return of_three


def selective_samples(dtype: torch.dtype) -> Iterator[Sample]:
    def sample(name: str, x: Tensor, dim: int, count: int, temperature: float = 1.0) -> Sample:
        shape = [*x.shape]
        shape[dim] = count
        index = class_indices(*shape, classes=max(1, x.size(dim)))
        return Sample(name, (x,), (index, dim), {"temperature": temperature})

    yield sample("rows", logits(3, 5, dtype=dtype), 1, 2, 0.7)
    yield sample("one of each row", logits(7, 37, dtype=dtype), -1, 1)
    yield sample("more than classes", logits(7, 3, dtype=dtype), -1, 8)  # with duplicates
    yield sample("none of each row", logits(7, 37, dtype=dtype), -1, 0)
    yield sample("vector", logits(19, dtype=dtype), 0, 4, 3.0)
    yield sample("long rows", logits(5, 1037, dtype=dtype), 1, 3, 0.7)
    yield sample("columns", logits(33, 70, dtype=dtype), 0, 3)
    yield sample("middle dim", logits(2, 7, 5, 9, dtype=dtype), 1, 3, 0.7)
    yield sample("transposed", logits(17, 6, dtype=dtype).t(), 1, 2)
    yield sample("sliced", logits(9, 40, dtype=dtype)[::2, 3:36], 1, 2)
    yield sample("expanded", logits(1, 21, dtype=dtype).expand(4, 21), -1, 2)
    yield sample("no rows", logits(0, 5, dtype=dtype), 1, 2)
    for index_dtype in (torch.int32, torch.uint8):
        index = class_indices(7, 4, classes=37).to(index_dtype)[:, ::2]
        yield Sample(str(index_dtype), (logits(7, 37, dtype=dtype),), (index, 1))


def statistics_samples(dtype: torch.dtype) -> Iterator[Sample]:
    def sample(name: str, x: Tensor, dim: int, temperature: float = 1.0) -> Sample:
        shape = [*x.shape]
        del shape[dim]
        target = class_indices(*shape, classes=x.size(dim))
        return Sample(name, (x,), (target, dim), {"temperature": temperature})

    yield sample("rows", logits(3, 5, dtype=dtype), 1, 0.7)
    yield sample("tail", logits(7, 37, dtype=dtype), -1)
    yield sample("one class", logits(4, 1, dtype=dtype), 1)
    yield sample("vector", logits(19, dtype=dtype), 0, 3.0)
    yield sample("long rows", logits(5, 1037, dtype=dtype), 1, 0.7)
    yield sample("columns", logits(33, 70, dtype=dtype), 0)
    yield sample("middle dim", logits(2, 7, 5, 9, dtype=dtype), 1, 0.7)
    yield sample("transposed", logits(17, 6, dtype=dtype).t(), 1)
    yield sample("sliced", logits(9, 40, dtype=dtype)[::2, 3:36], 1)
    yield sample("expanded", logits(1, 21, dtype=dtype).expand(4, 21), -1)
    yield sample("no rows", logits(0, 5, dtype=dtype), 1)
    target = class_indices(7, 2, classes=37).int()[:, 0]
    yield Sample("strided int32", (logits(7, 37, dtype=dtype),), (target, 1))


def kl_samples(dtype: torch.dtype) -> Iterator[Sample]:
    def sample(name: str, *shape: int, **kwargs: Any) -> Sample:
        pair = (logits(*shape, dtype=dtype), logits(*shape, dtype=dtype, seed=6))
        return Sample(name, pair, (), kwargs)

    yield sample("rows", 3, 5, temperature=2.0)
    for reduction in ("none", "mean", "batchmean", "sum"):
        yield sample(f"{reduction}", 7, 37, reduction=reduction, temperature=0.7)
        yield sample(f"stack, {reduction}", 2, 3, 5, 19, reduction=reduction)
        yield sample(f"no rows, {reduction}", 0, 5, reduction=reduction)
    yield sample("vector", 19)
    yield sample("one class", 4, 1)
    yield sample("long rows", 5, 1037, temperature=3.0)
    x, y = logits(17, 6, dtype=dtype), logits(6, 17, dtype=dtype, seed=6)
    yield Sample("transposed", (x.t(), y))
    yield Sample("transposed target", (x, y.t()))
    x, y = logits(9, 40, dtype=dtype), logits(1, 33, dtype=dtype, seed=6)
    yield Sample("sliced, expanded", (x[::2, 3:36], y.expand(5, 33)))


def jacobian_samples(dtype: torch.dtype) -> Iterator[Sample]:
    def sample(name: str, x: Tensor, dim: int, temperature: float = 1.0) -> Sample:
        return Sample(name, (x,), (dim,), {"temperature": temperature})

    yield sample("rows", logits(3, 5, dtype=dtype), 1, 0.7)
    yield sample("vector", logits(19, dtype=dtype), 0, 3.0)
    yield sample("scalar", logits(dtype=dtype), 0)
    yield sample("one class", logits(4, 1, dtype=dtype), 1)
    yield sample("no rows", logits(0, 5, dtype=dtype), 1)
    yield sample("no classes", logits(5, 0, dtype=dtype), 1)
    yield sample("long rows", logits(2, 131, dtype=dtype), -1, 0.7)
    yield sample("columns", logits(33, 7, dtype=dtype), 0)
    yield sample("middle dim", logits(2, 7, 5, 3, dtype=dtype), 1, 0.7)
    yield sample("transposed", logits(17, 6, dtype=dtype).t(), 1)
    yield sample("sliced", logits(9, 40, dtype=dtype)[::2, 3:36], 1)
    yield sample("expanded", logits(1, 21, dtype=dtype).expand(4, 21), -1)


def hessian_samples(dtype: torch.dtype) -> Iterator[Sample]:
    def sample(name: str, *shape: int, temperature: float = 1.0) -> Sample:
        target = 2 * logits(*shape, dtype=torch.float64, seed=2).softmax(-1)  # of mass 2
        pair = (logits(*shape, dtype=dtype), target.to(dtype))
        return Sample(name, pair, (), {"temperature": temperature})

    yield sample("rows", 3, 5, temperature=2.0)
    yield sample("vector", 19, temperature=3.0)
    yield sample("one class", 4, 1)
    yield sample("no rows", 0, 5)
    yield sample("no classes", 5, 0)
    yield sample("long rows", 2, 131)
    yield sample("stack", 2, 3, 2, 7)


def visible(log_softmax: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """0 in place of the -inf of masked entries, which no finite difference can be taken of."""

    def function(x: Tensor, dim: int, *, mask: Tensor | None, temperature: float) -> Tensor:
        y = log_softmax(x, dim, mask=mask, temperature=temperature)
        return y if mask is None else torch.where(mask, y, 0)

    return function


def statistic(softmax_statistics: Callable[..., Any], name: str) -> Callable[..., Tensor]:
    return lambda *args, **kwargs: getattr(softmax_statistics(*args, **kwargs), name)


def statistics_together(softmax_statistics: Callable[..., Any]) -> Callable[..., Tensor]:
    def function(*args: Any, **kwargs: Any) -> Tensor:
        log_prob, lse, entropy, _ = softmax_statistics(*args, **kwargs)
        return log_prob - 2 * lse + 3 * entropy

    return function


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
    Operator("softmax, mask", torchsoftmax.softmax, reference.softmax, masked_samples),
    Operator(
        "log_softmax, mask",
        visible(torchsoftmax.log_softmax),
        visible(reference.log_softmax),
        masked_samples,
    ),
    Operator(
        "cross_entropy, extensions",
        torchsoftmax.cross_entropy,
        reference.cross_entropy,
        extended_index_samples,
    ),
    Operator(
        "cross_entropy, probabilities and extensions",
        torchsoftmax.cross_entropy,
        reference.cross_entropy,
        extended_probability_samples,
    ),
    Operator(
        "linear_cross_entropy",
        torchsoftmax.linear_cross_entropy,
        reference.linear_cross_entropy,
        linear_samples,
        inner=4.0,  # logits
        products=True,
        tiled=True,
    ),
    Operator(
        "linear_cross_entropy, bias and extensions",
        with_bias(torchsoftmax.linear_cross_entropy),
        with_bias(reference.linear_cross_entropy),
        extended_linear_samples,
        inner=4.0,
        products=True,
        tiled=True,
    ),
    Operator(
        "linear_cross_entropy, probabilities",
        torchsoftmax.linear_cross_entropy,
        reference.linear_cross_entropy,
        linear_probability_samples,
        inner=4.0,
        products=True,
        one_way=False,
    ),
    Operator(
        "softmax_statistics, selective_log_softmax",
        torchsoftmax.selective_log_softmax,
        reference.selective_log_softmax,
        selective_samples,
    ),
    Operator(
        "softmax_statistics, entropy_with_logits",
        torchsoftmax.entropy_with_logits,
        reference.entropy_with_logits,
        masked_samples,
        inner=4.0,  # log p and the entropy, whose sum is near 0 in a peaked row
    ),
    *(
        Operator(
            f"softmax_statistics, {name}",
            statistic(torchsoftmax.softmax_statistics, name),
            statistic(reference.softmax_statistics, name),
            statistics_samples,
            inner=4.0,
        )
        for name in ("log_prob", "lse", "entropy")
    ),
    Operator(
        "softmax_statistics, together",
        statistics_together(torchsoftmax.softmax_statistics),
        statistics_together(reference.softmax_statistics),
        statistics_samples,
        inner=4.0,
    ),
    *(
        Operator(
            f"linear_softmax_statistics, {name}",
            with_bias(make(torchsoftmax.linear_softmax_statistics)),
            with_bias(make(reference.linear_softmax_statistics)),
            linear_statistics_samples,
            inner=4.0,
            products=True,
        )
        for name, make in (
            ("log_prob", lambda function: statistic(function, "log_prob")),
            ("together", statistics_together),
        )
    ),
    Operator(
        "kl_div_with_logits",
        torchsoftmax.kl_div_with_logits,
        reference.kl_div_with_logits,
        kl_samples,
        inner=16.0,  # differences of two logits, each shifted by its row's maximum
    ),
    Operator(
        "softmax_jacobian",
        derivatives.softmax_jacobian,
        reference.softmax_jacobian,
        jacobian_samples,
        inner=8.0,  # the gradient is a difference of sums of the upstream one
    ),
    Operator(
        "softmax_jacobian, of log_softmax",
        derivatives.log_softmax_jacobian,
        reference.log_softmax_jacobian,
        jacobian_samples,
        inner=16.0,  # the same, of as many terms as there are classes
    ),
    Operator(
        "softmax_jacobian, Hessian of cross_entropy",
        derivatives.cross_entropy_hessian,
        reference.cross_entropy_hessian,
        hessian_samples,
        inner=16.0,
    ),
)
