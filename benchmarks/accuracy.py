"""``python -m benchmarks.accuracy``: errors against an exact result, ours beside native's.

Every operator, dtype, number of classes and distribution of logits. An error is the absolute
difference over ``eps * scale``: ``eps`` of the dtype, ``scale`` the entry's own magnitude for
softmax, at least 1 nat for log-probabilities and losses, and 1 for a gradient ``p - y``. Rounding
the exact result gives at most 0.5.

The largest error of one sample is decided by a single entry of it, so which of two functions that
round equally well has the larger one is a matter of chance. So every cell has several samples, an
odd number, and ours is *worse* in a cell where it is so, on the same inputs, in most of them: in
the largest error or in the 99.9th percentile, by 1 % or more (the percentile of a million entries
is itself known to about 1 %, for a thousand of them lie beyond it).
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Callable, Iterator
from dataclasses import astuple, dataclass, fields
from itertools import product
from pathlib import Path
from statistics import median

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from benchmarks.exact import FAMILY, OPERATORS, Operator, results
from benchmarks.report import markdown_table
from benchmarks.sections import refresh

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
CLASSES = (10, 1000, 32000)
CLEARLY = 1.01
SAMPLES, ELEMENTS = 5, 2**20
SAMPLES_MPMATH, ELEMENTS_MPMATH = 5, 2**16


def one_hot(shape: tuple[int, int]) -> Tensor:
    """20 at one class, 0 elsewhere."""
    return 20.0 * F.one_hot(torch.randint(shape[1], shape[:1]), shape[1])


def masked(shape: tuple[int, int]) -> Tensor:
    """Normal logits, half of them -inf."""
    logits = torch.randn(shape)
    return logits.masked_fill(torch.rand(shape) < 0.5, -torch.inf).index_fill(
        1, torch.zeros(1, dtype=torch.long), 0.0
    )


HALF_MASKED = "half masked"
DISTRIBUTIONS: dict[str, Callable[[tuple[int, int]], Tensor]] = {
    "normal, σ = 1": lambda shape: torch.randn(shape),
    "normal, σ = 30": lambda shape: 30 * torch.randn(shape),
    "offset 1e4": lambda shape: torch.randn(shape) + 1e4,
    "one-hot": one_hot,
    "ties": lambda shape: torch.randint(-2, 3, shape).float(),
    HALF_MASKED: masked,
}


@dataclass(frozen=True)
class Cell:
    """One line of the results, errors in units of eps.

    The largest of all samples, the median of their 99.9th percentiles, and in how many of them
    ours is clearly larger than native's.
    """

    op: str
    dtype: str
    classes: int
    distribution: str
    ours_max: float
    native_max: float
    ours_p999: float
    native_p999: float
    max_lost: int
    p999_lost: int
    samples: int

    @property
    def worse(self) -> bool:
        """Whether ours is worse in most samples."""
        return 2 * max(self.max_lost, self.p999_lost) > self.samples


def errors(operator: Operator, got: Tensor, exact: Tensor) -> tuple[float, float]:
    """The largest and the 99.9th percentile, in units of eps; infinite entries must be equal."""
    finite = exact.isfinite()
    assert torch.equal(got.double()[~finite], exact[~finite])
    magnitude = operator.magnitude(exact.masked_fill(~finite, 1.0))
    smallest = torch.finfo(got.dtype).tiny / torch.finfo(got.dtype).eps  # gradual underflow
    scale = torch.finfo(got.dtype).eps * magnitude.clamp(min=smallest)
    found = ((got.double() - exact).abs() / scale)[finite]
    return found.max().item(), found.kthvalue(max(1, int(0.999 * found.numel()))).values.item()


def sample(
    operators: dict[str, Operator], dtype: torch.dtype, classes: int, distribution: str, seed: int
) -> dict[str, tuple[float, float, float, float]]:
    """Of each operator: the largest error, ours and native's, and the 99.9th percentiles."""
    torch.manual_seed(seed)
    elements = ELEMENTS_MPMATH if dtype == torch.float64 else ELEMENTS
    shape = (max(1, elements // classes), classes)
    logits = DISTRIBUTIONS[distribution](shape).to(dtype)
    target = logits.argmax(1)  # a class that takes part; every second row another one
    target[::2] = 0
    exact = results(operators, logits, target)
    found = {}
    for name, operator in operators.items():
        ours = errors(operator, operator.ours(logits, target), exact[name])
        native = errors(operator, operator.native(logits, target), exact[name])
        found[name] = (ours[0], native[0], ours[1], native[1])
    return found


def lost(ours: tuple[float, ...], native: tuple[float, ...]) -> int:
    """In how many samples ours is clearly larger."""
    return sum(mine > CLEARLY * theirs for mine, theirs in zip(ours, native, strict=True))


def cells() -> Iterator[Cell]:
    """Every cell of the table; the family's where everything is finite, and float64 can judge."""
    for dtype, classes, distribution in tqdm(
        list(product(DTYPES, CLASSES, DISTRIBUTIONS)), unit="inputs"
    ):
        family = {} if dtype == torch.float64 or distribution == HALF_MASKED else FAMILY
        samples = SAMPLES_MPMATH if dtype == torch.float64 else SAMPLES
        inputs = (OPERATORS | family, dtype, classes, distribution)
        drawn = [sample(*inputs, seed) for seed in range(samples)]
        for name in drawn[0]:
            mine, theirs, my_p999, their_p999 = zip(*(each[name] for each in drawn), strict=True)
            yield Cell(
                name, str(dtype).removeprefix("torch."), classes, distribution,
                max(mine), max(theirs), median(my_p999), median(their_p999),
                lost(mine, theirs), lost(my_p999, their_p999), samples,
            )  # fmt: skip


def verdict(table: list[Cell]) -> str:
    """In how many cells ours is worse, and in how many its one largest error is larger."""
    worse = sum(cell.worse for cell in table)
    larger = sum(cell.ours_max > cell.native_max for cell in table)
    return (
        f"In {worse} of {len(table)} cells our error, the largest or the 99.9th percentile, "
        "exceeds PyTorch's by 1 % or more in most samples; in "
        f"{larger} the single largest error is ours."
    )


def worse_cells(table: list[Cell]) -> str:
    """A table of the cells in which ours is worse; nothing where there is none."""
    worse = [cell for cell in table if cell.worse]
    lines = [
        [
            cell.op, cell.dtype, f"{cell.classes}", cell.distribution, f"{cell.ours_max:.4g}",
            f"{cell.native_max:.4g}", f"{cell.ours_p999:.4g}", f"{cell.native_p999:.4g}",
            f"{cell.max_lost} and {cell.p999_lost} of {cell.samples}",
        ]
        for cell in worse
    ]  # fmt: skip
    header = [
        "operator", "dtype", "classes", "distribution", "ours: max", "native: max", "ours: p99.9",
        "native: p99.9", "lost",
    ]  # fmt: skip
    return f"Where it exceeds PyTorch's:\n\n{markdown_table(header, lines, 2)}\n\n" if worse else ""


def four_digits(error: float) -> str:
    """As many as the CSV has, and no more than two behind the point."""
    return f"{error:.{2 if error < 100 else 1 if error < 1000 else 0}f}"


def overview(table: list[Cell]) -> str:
    """The largest error of each operator and dtype over all classes and distributions."""
    lines = []
    for op, dtype in dict.fromkeys((cell.op, cell.dtype) for cell in table):
        group = [cell for cell in table if (cell.op, cell.dtype) == (op, dtype)]
        columns = ("ours_max", "native_max", "ours_p999", "native_p999")
        numbers = [four_digits(max(getattr(cell, each) for cell in group)) for each in columns]
        lines.append([op, dtype, *numbers])
    header = ["operator", "dtype", "ours: max", "native: max", "ours: p99.9", "native: p99.9"]
    return (
        f"{markdown_table(header, lines, 2)}\n\n"
        "Errors in units of the dtype's eps (rounding the exact result gives up to 0.5), to four "
        f"digits: the largest over {', '.join(map(str, CLASSES))} classes and {len(DISTRIBUTIONS)} "
        f"distributions of logits. {verdict(table)}\n"
    )


def by_operator(table: list[Cell]) -> str:
    """A table per operator: a row per dtype and number of classes, a column per distribution."""
    parts = []
    for op in dict.fromkeys(cell.op for cell in table):
        of = {(c.dtype, c.classes, c.distribution): c for c in table if c.op == op}
        columns = list(dict.fromkeys(distribution for _, _, distribution in of))
        lines = []
        for dtype, classes in dict.fromkeys((d, c) for d, c, _ in of):
            row = [of[dtype, classes, column] for column in columns]
            lines.append([dtype, str(classes), *map(cell_text, row)])
        parts.append(f"### {op}\n\n{markdown_table(['dtype', 'classes', *columns], lines, 2)}\n")
    return "\n".join(parts)


def cell_text(cell: Cell) -> str:
    """Largest error, ours and native's; in brackets the 99.9th percentiles; bold where worse."""
    ours = f"{cell.ours_max:.3g}"
    ours = f"**{ours}**" if cell.worse else ours
    return f"{ours} / {cell.native_max:.3g} ({cell.ours_p999:.3g} / {cell.native_p999:.3g})"


def markdown(table: list[Cell]) -> str:
    """Everything, readable."""
    first = [cell for cell in table if cell.op in OPERATORS]
    family = [cell for cell in table if cell.op in FAMILY]
    return (
        "# Errors against exact results\n\n"
        "In each cell: the largest error, ours / native's, and in brackets the 99.9th percentile, "
        "in units of the dtype's eps. An error is relative to the entry for softmax, to at least "
        "1 nat for log-probabilities and losses, and to 1 for gradients. Of "
        f"{SAMPLES} samples of {ELEMENTS:,} logits (float64, against mpmath: {SAMPLES_MPMATH} of "
        f"{ELEMENTS_MPMATH:,}) the largest of all and the median of the percentiles. Bold: ours is "
        "worse in most samples, in the one or the other, by 1 % or more. The largest error of one "
        "sample is decided by one entry, so where two functions round alike each has it in half "
        "of them.\n\n"
        f"{overview(first)}\n{worse_cells(first)}{by_operator(first)}\n"
        "## The extensions\n\n"
        "Native is what a user of PyTorch would write. In float32, bfloat16 and float16, where "
        "float64 is exact enough to judge, and on distributions without infinite logits.\n\n"
        f"{overview(family)}\n{worse_cells(family)}{by_operator(family)}"
    )


def write_csv(table: list[Cell], folder: Path) -> None:
    """The cells, with four digits of each error."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "accuracy.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([field.name for field in fields(Cell)])
        writer.writerows(
            [f"{value:.4g}" if isinstance(value, float) else value for value in astuple(cell)]
            for cell in table
        )


def read_csv(folder: Path) -> list[Cell]:
    """What `write_csv` wrote."""
    kinds = {"str": str, "int": int, "float": float}
    with (folder / "accuracy.csv").open(newline="") as file:
        return [
            Cell(**{field.name: kinds[field.type](row[field.name]) for field in fields(Cell)})
            for row in csv.DictReader(file)
        ]


def render(folder: Path) -> str:
    """Makes the tables of a folder from its CSV; returns the short one."""
    table = read_csv(folder)
    (folder / "accuracy.md").write_text(markdown(table))
    summary = overview([cell for cell in table if cell.op in OPERATORS])
    (folder / "accuracy-overview.md").write_text(summary)
    return summary


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.accuracy", description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("docs/results"), metavar="DIR")
    arguments = parser.parse_args(argv)
    write_csv(list(cells()), arguments.output)
    summary = render(arguments.output)
    refresh(arguments.output)
    print(summary)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
