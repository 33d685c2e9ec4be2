"""What Hypothesis draws tensors from, and how results of theirs are compared."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from hypothesis import strategies as st
from torch import Tensor

# Around the 4 to 16 lanes of the vectors, and the blocks of 4 of them.
LENGTHS = st.sampled_from((1, 7, 8, 15, 16, 17, 31, 33)) | st.integers(0, 40)
MOST_ELEMENTS = 10_000


@st.composite
def shapes(draw: st.DrawFn, fewest: int = 0, most: int = 4) -> tuple[int, ...]:
    shape: list[int] = []
    for _ in range(draw(st.integers(fewest, most))):
        shape.append(min(draw(LENGTHS), MOST_ELEMENTS // max(1, math.prod(shape))))
    return tuple(shape)


# What is done to a tensor of normal values: (values, some entries, some rows) to values.
PATTERNS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "offset": lambda x, entries, rows: x + 1e4,
    "ties": lambda x, entries, rows: x.round(),
    "one hot": lambda x, entries, rows: entries.to(x.dtype),
    "outliers": lambda x, entries, rows: torch.where(entries, 1e30 * x.sign(), x),
    "-inf": lambda x, entries, rows: torch.where(entries, -math.inf, x),
    "rows of -inf": lambda x, entries, rows: torch.where(rows, -math.inf, x),
    "nan": lambda x, entries, rows: torch.where(entries & rows, math.nan, x),
    "+inf": lambda x, entries, rows: torch.where(entries & rows, math.inf, x),
}


@st.composite
def logits(draw: st.DrawFn, shape: tuple[int, ...], dim: int, dtype: torch.dtype) -> Tensor:
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**16)))
    x = 3 * torch.randn(shape, generator=generator, dtype=torch.float64)
    for pattern in draw(st.lists(st.sampled_from(sorted(PATTERNS)), max_size=2)):
        entries = torch.rand(shape, generator=generator) < 0.2
        rows = torch.rand(shape, generator=generator) < 0.3
        rows = rows.narrow(dim, 0, 1) if shape and shape[dim] > 0 else rows
        x = PATTERNS[pattern](x, entries, rows)
    return x.to(dtype)


@dataclass(frozen=True)
class Laid:
    """A tensor as a window on a larger buffer whose other elements are nan (integers: 99)."""

    window: Tensor
    buffer: Tensor

    def to(self, device: str) -> Laid:
        window, buffer = self.window, self.buffer.to(device)
        strides = window.size(), window.stride(), window.storage_offset()
        return Laid(buffer.as_strided(*strides), buffer)

    def leaf(self) -> Tensor:
        """The window itself, in the same memory, as a leaf of autograd."""
        return self.window.detach().requires_grad_(self.window.is_floating_point())

    def exact(self) -> Tensor:
        """A dense leaf in float64 (integers: int64)."""
        floating = self.window.is_floating_point()
        dtype = torch.float64 if floating else torch.int64
        return self.window.to(dtype, copy=True).contiguous().requires_grad_(floating)


@st.composite
def laid(draw: st.DrawFn, values: Tensor) -> Laid:
    """``values`` in any order of dimensions, with gaps, an offset, or one dimension expanded."""
    order = draw(st.permutations(range(values.dim())))
    steps = [draw(st.sampled_from((1, 1, 2, 3))) for _ in order]
    starts = [draw(st.integers(0, 2)) for _ in order]
    sizes = [values.size(d) for d in order]
    ends = [start + size * step for start, size, step in zip(starts, sizes, steps, strict=True)]
    filler = math.nan if values.is_floating_point() else 99
    buffer = torch.full((*ends, 1), filler, dtype=values.dtype)
    window = buffer[..., 0][tuple(map(slice, starts, ends, steps))]
    window = window.permute([order.index(d) for d in range(values.dim())])
    window.copy_(values)
    expanded = draw(st.none() | st.sampled_from(order)) if order else None
    if expanded is not None and values.size(expanded) > 0:
        window = window.narrow(expanded, 0, 1).expand(values.shape)
    return Laid(window, buffer)


class Untouched:
    """Checks that inputs are not written to and that no result lies in their memory."""

    def __init__(self, *inputs: Laid) -> None:
        self.inputs = inputs
        self.before = [(x.buffer.clone(), x.buffer._version) for x in inputs]

    def check(self, *results: Tensor) -> None:
        for x, (copy, version) in zip(self.inputs, self.before, strict=True):
            assert x.buffer._version == version
            assert_same(x.buffer, copy)
            for result in results:  # two tensors without elements both have no memory, at 0
                memory = result.untyped_storage().data_ptr()
                assert memory == 0 or memory != x.buffer.untyped_storage().data_ptr()


def assert_same(ours: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(ours, expected, rtol=0, atol=0, equal_nan=True)


def assert_within(ours: Tensor, exact: Tensor, bound: Tensor) -> None:
    """The same nan and infinities, and all else no further away than ``bound``."""
    assert ours.shape == exact.shape
    ours, exact = ours.detach().double(), exact.detach().to(ours.dtype).double()
    good = (ours == exact) | (ours.isnan() & exact.isnan()) | ((ours - exact).abs() <= bound)
    assert good.all(), (ours[~good], exact[~good], bound.broadcast_to(good.shape)[~good])


@dataclass(frozen=True)
class Rounding:
    """Relative rounding to a dtype and to what it accumulates in, and its smallest step."""

    eps: float
    eps_wide: float
    floor: float

    @staticmethod
    def of(dtype: torch.dtype) -> Rounding:
        info = torch.finfo(dtype)
        wide = torch.finfo(torch.float64 if dtype == torch.float64 else torch.float32)
        # Subnormal numbers of the accumulation may be flushed to zero.
        return Rounding(info.eps, wide.eps, max(info.eps * info.tiny, wide.tiny))
