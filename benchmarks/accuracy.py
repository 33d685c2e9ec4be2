"""``python -m benchmarks.accuracy``: errors against an exact result, ours beside native's.

Every operator, dtype, number of classes and distribution of logits; the exact result is computed
in float64 from the same rounded input (float64 itself: with mpmath, 50 digits). An error is the
absolute difference over ``eps * scale``: ``eps`` of the dtype, ``scale`` the entry's own magnitude
for softmax, at least 1 nat for log-probabilities and losses, and 1 for a gradient ``p - y``, whose
small entries are differences of large ones. Rounding the exact result gives at most 0.5.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Callable, Iterator
from dataclasses import astuple, dataclass, fields
from itertools import product
from pathlib import Path

import mpmath
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

import torchsoftmax

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
CLASSES = (10, 1000, 32000)
ELEMENTS = 2**20
ELEMENTS_MPMATH = 2**13


def one_hot(shape: tuple[int, int]) -> Tensor:
    """20 at one class, 0 elsewhere."""
    return 20.0 * F.one_hot(torch.randint(shape[1], shape[:1]), shape[1])


def masked(shape: tuple[int, int]) -> Tensor:
    """Normal logits, half of them -inf."""
    logits = torch.randn(shape)
    return logits.masked_fill(torch.rand(shape) < 0.5, -torch.inf).index_fill(
        1, torch.zeros(1, dtype=torch.long), 0.0
    )


DISTRIBUTIONS: dict[str, Callable[[tuple[int, int]], Tensor]] = {
    "normal, σ = 1": lambda shape: torch.randn(shape),
    "normal, σ = 30": lambda shape: 30 * torch.randn(shape),
    "offset 1e4": lambda shape: torch.randn(shape) + 1e4,
    "one-hot": one_hot,
    "ties": lambda shape: torch.randint(-2, 3, shape).float(),
    "half masked": masked,
}


@dataclass(frozen=True)
class Cell:
    """One line of the results; errors in units of eps."""

    op: str
    dtype: str
    classes: int
    distribution: str
    ours_max: float
    native_max: float
    ours_p999: float
    native_p999: float

    @property
    def worse(self) -> bool:
        """Whether native's largest error is smaller."""
        return self.ours_max > self.native_max


def gradient(function: Callable[..., Tensor], logits: Tensor, target: Tensor) -> Tensor:
    """Of the summed cross-entropy with respect to the logits."""
    leaf = logits.detach().requires_grad_()
    return torch.autograd.grad(function(leaf, target, reduction="sum"), leaf)[0]


def losses(function: Callable[..., Tensor], logits: Tensor, target: Tensor) -> Tensor:
    """Of each row."""
    return function(logits, target, reduction="none").unsqueeze(1)


OPS: dict[str, Callable[..., Tensor]] = {
    "softmax": lambda module, x, target: module.softmax(x, 1),
    "log_softmax": lambda module, x, target: module.log_softmax(x, 1),
    "cross_entropy": lambda module, x, target: losses(module.cross_entropy, x, target),
    "cross_entropy gradient": lambda module, x, target: gradient(module.cross_entropy, x, target),
}


def exact_float64(logits: Tensor, target: Tensor) -> dict[str, Tensor]:
    """Every operator on float64 logits with 50 digits, rounded once."""
    rows = {name: [] for name in OPS}
    with mpmath.workdps(50):
        for row, index in zip(logits.tolist(), target.tolist(), strict=True):
            powers = [mpmath.exp(x) for x in row]
            total = mpmath.fsum(powers)
            log_total = mpmath.log(total)
            probabilities = [power / total for power in powers]
            rows["softmax"].append([float(p) for p in probabilities])
            rows["log_softmax"].append([float(x - log_total) for x in row])
            rows["cross_entropy"].append([float(log_total - row[index])])
            probabilities[index] -= 1
            rows["cross_entropy gradient"].append([float(p) for p in probabilities])
    return {name: torch.tensor(values, dtype=torch.float64) for name, values in rows.items()}


def errors(op: str, got: Tensor, exact: Tensor) -> Tensor:
    """In units of eps, by the rule at the top; entries that are infinite must be equal."""
    finite = exact.isfinite()
    assert torch.equal(got.double()[~finite], exact[~finite]), op
    magnitude = exact.abs().masked_fill(~finite, 1.0)
    if op == "cross_entropy gradient":
        magnitude = torch.ones_like(magnitude)
    elif op != "softmax":
        magnitude = magnitude.clamp(min=1.0)
    smallest = torch.finfo(got.dtype).tiny / torch.finfo(got.dtype).eps  # gradual underflow
    scale = torch.finfo(got.dtype).eps * magnitude.clamp(min=smallest)
    return ((got.double() - exact).abs() / scale)[finite]


def cells() -> Iterator[Cell]:
    """Every cell of the table."""
    combinations = list(product(DTYPES, CLASSES, DISTRIBUTIONS))
    for dtype, classes, distribution in tqdm(combinations, unit="inputs"):
        torch.manual_seed(0)
        elements = ELEMENTS_MPMATH if dtype == torch.float64 else ELEMENTS
        shape = (max(1, elements // classes), classes)
        logits = DISTRIBUTIONS[distribution](shape).to(dtype)
        target = logits.argmax(1)  # a class that takes part; every second row another one
        target[::2] = 0
        wide = logits.double()
        exact = (
            exact_float64(logits, target)
            if dtype == torch.float64
            else {name: op(F, wide, target) for name, op in OPS.items()}
        )
        for name, op in OPS.items():
            ours = errors(name, op(torchsoftmax, logits, target), exact[name])
            native = errors(name, op(F, logits, target), exact[name])
            yield Cell(
                name,
                str(dtype).removeprefix("torch."),
                classes,
                distribution,
                ours.max().item(),
                native.max().item(),
                ours.kthvalue(max(1, int(0.999 * ours.numel()))).values.item(),
                native.kthvalue(max(1, int(0.999 * native.numel()))).values.item(),
            )


def markdown(table: list[Cell]) -> str:
    """The largest error of each operator and dtype over all classes and distributions."""
    lines = [
        "| operator | dtype | ours: max | native: max | ours: p99.9 | native: p99.9 |",
        "|:--|:--|--:|--:|--:|--:|",
    ]
    for op, dtype in dict.fromkeys((cell.op, cell.dtype) for cell in table):
        group = [cell for cell in table if (cell.op, cell.dtype) == (op, dtype)]
        columns = ("ours_max", "native_max", "ours_p999", "native_p999")
        numbers = [f"{max(getattr(cell, column) for cell in group):.2f}" for column in columns]
        lines.append(f"| {op} | {dtype} | {' | '.join(numbers)} |")
    worse = [cell for cell in table if cell.worse]
    names = "; ".join(
        f"{c.op}, {c.dtype}, {c.classes} classes, {c.distribution} "
        f"({c.ours_max:.2f} against {c.native_max:.2f})"
        for c in sorted(worse, key=lambda c: c.native_max - c.ours_max)[:5]
    )
    return "\n".join(lines) + (
        f"\n\nErrors in units of the dtype's eps; the largest over {', '.join(map(str, CLASSES))} "
        f"classes and {len(DISTRIBUTIONS)} distributions of logits "
        f"({', '.join(DISTRIBUTIONS)}). Native's largest error is smaller than ours in "
        f"{len(worse)} of {len(table)} cells" + (f", most in: {names}.\n" if worse else ".\n")
    )


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.accuracy", description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("docs/results"), metavar="DIR")
    arguments = parser.parse_args(argv)
    table = list(cells())
    arguments.output.mkdir(parents=True, exist_ok=True)
    with (arguments.output / "accuracy.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([field.name for field in fields(Cell)])
        writer.writerows(
            [f"{value:.4g}" if isinstance(value, float) else value for value in astuple(cell)]
            for cell in table
        )
    text = markdown(table)
    (arguments.output / "accuracy.md").write_text(text)
    print(text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
