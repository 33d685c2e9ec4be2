"""What ``benchmarks.gpu`` measures: the shapes and targets, and what every work needs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from benchmarks.peers import Step

OURS, IN_PLACE = "ours", "ours in place"
EAGER, COMPILE, LIGER = "eager", "compile", "Liger"
COPY, GEMMS = "copy", "three GEMMs"
UNCHECKED = (COPY, GEMMS)

SMALL = "softmax forward, bound by the launch"
MASKED = "softmax forward, causal mask"
CROSS_ENTROPY = "cross_entropy forward + backward"
KL_DIV = "kl_div_with_logits forward + backward"
LINEAR = "linear_cross_entropy forward + backward"
BANDWIDTH = (
    "softmax forward", "log_softmax forward", "softmax backward", "log_softmax backward",
)  # fmt: skip
SHAPES = ((32768, 1024), (16384, 32768), (8192, 131072), (4096, 262144))
CHECKED_ROWS = 16
CHUNK = 2**26  # elements that the reference holds in float64 at a time


@dataclass(frozen=True)
class Wanted:
    """The time of `against` over ours is at least `limit`, or ours over theirs is at most that.

    A copy moves as many bytes as the work must, so that ratio is the part of copy bandwidth.
    """

    against: str
    limit: float
    at_most: bool = False
    of: str = OURS


@dataclass(frozen=True)
class Case:
    """A work at a shape; a time is of `calls` calls, by the host's clock where they are many."""

    work: str
    shape: tuple[int, ...]
    dtype: str
    wanted: tuple[Wanted, ...] = ()
    calls: int = 1

    @property
    def name(self) -> str:
        return f"{self.work} {'x'.join(map(str, self.shape))} {self.dtype}"

    @property
    def compiles(self) -> bool:
        """Whether a target compares with torch.compile."""
        return any(wanted.against == COMPILE for wanted in self.wanted)

    def randn(self, device: str) -> Tensor:
        return torch.randn(self.shape, device=device, dtype=getattr(torch, self.dtype))


OF_COPY = (Wanted(COPY, 0.92),)
LOSS_WANTED = (
    Wanted(EAGER, 3.0), Wanted(COMPILE, 1.2), Wanted(LIGER, 1.1), Wanted(COPY, 0.9, of=IN_PLACE),
)  # fmt: skip
# What compiles for a target comes first, and what has no target last: time may run out.
CASES = (
    Case(CROSS_ENTROPY, (8192, 32000), "bfloat16", LOSS_WANTED),
    Case(CROSS_ENTROPY, (8192, 128256), "bfloat16", LOSS_WANTED),
    Case(LINEAR, (8192, 4096, 128256), "bfloat16", (Wanted(GEMMS, 1.1, True), Wanted(LIGER, 1.5))),
    Case(SMALL, (32, 1000), "float32", (Wanted(EAGER, 1.0, True),), calls=200),
    *(
        Case(work, shape, dtype, OF_COPY)
        for work in BANDWIDTH
        for dtype in ("bfloat16", "float32")
        for shape in SHAPES
    ),
    Case(MASKED, (8, 12, 1024, 1024), "bfloat16"),
    Case(KL_DIV, (4096, 32000), "bfloat16"),
    Case(CROSS_ENTROPY, (8, 21, 512, 512), "float32"),
    Case(CROSS_ENTROPY, (8192, 50257), "bfloat16"),
)


def tiny(case: Case) -> Case:
    """The same code at a size that any machine does at once."""
    return replace(case, shape=tuple(max(3, size // 512) for size in case.shape))


@dataclass(frozen=True)
class Setup:
    """A case with its data.

    `makers` make a step each, which returns the results; `error` is the relative error of results
    against float64; `bytes` is the least traffic, where memory bounds the work.
    """

    makers: dict[str, Callable[[], Step]]
    error: Callable[[tuple[Tensor, ...]], float]
    bytes: int | None = None


def few(x: Tensor) -> Tensor:
    """Some rows from everywhere."""
    return x.detach()[:: max(1, len(x) // CHECKED_ROWS)]


def relative_error(got: Tensor, exact: Tensor) -> float:
    """By the norms: of everything, and of the entries beside the few large ones."""
    off, size = got.detach().double() - exact, exact.abs()
    small = size < size.amax() / 2
    errors = [off.norm() / exact.norm()]
    if (exact * small).any():
        errors.append((off * small).norm() / (exact * small).norm())
    return torch.stack(errors).amax().item()  # NaN where any is


def largest_error(got: tuple[Tensor, ...], exact: tuple[Tensor, ...]) -> float:
    """Of several results."""
    errors = [relative_error(*pair) for pair in zip(got, exact, strict=True)]
    return torch.tensor(errors).amax().item()


def copying(nbytes: int, device: str) -> Step:
    """A copy that reads and writes `nbytes` together."""
    source = torch.empty(nbytes // 2, dtype=torch.uint8, device=device).random_()
    target = torch.empty_like(source)
    return Step(lambda: target.copy_(source))


def compiled(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """For exactly the shapes that come."""
    return torch.compile(function, fullgraph=True, dynamic=False)


def compiled_step(function: Callable[[Tensor], Tensor], x: Tensor) -> Step:
    """Of a function of one tensor."""
    fast = compiled(function)
    return Step(lambda: (fast(x),))
