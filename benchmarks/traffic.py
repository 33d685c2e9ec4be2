"""How our time divides between memory and arithmetic."""

from __future__ import annotations

from math import prod

from benchmarks.cases import Case
from benchmarks.measure import Figure
from benchmarks.peers import OURS
from benchmarks.report import by_case, markdown_table, work_text

SMALL = 2**21  # elements: operands of all dtypes are in the caches
LARGE = 2**24
IN_CACHE_SHAPE = (1024, 1000)


def nanoseconds(case: Case, figure: Figure) -> float:
    """Per element of the logits, with all threads."""
    return figure.median_s / prod(case.shape) * 1e9


def markdown(figures: list[Figure]) -> str:
    """Cases from memory, each beside the same work in the caches."""
    ours = [(case, of[OURS]) for case, of in by_case(figures) if case.dim == len(case.shape) - 1]
    cached = {
        (case.op, case.direction, case.dtype, case.variant): nanoseconds(case, figure)
        for case, figure in ours
        if case.shape == IN_CACHE_SHAPE
    }
    lines = []
    for case, figure in ours:
        arithmetic = cached.get((case.op, case.direction, case.dtype, case.variant))
        if prod(case.shape) < LARGE or arithmetic is None:
            continue
        each = nanoseconds(case, figure)
        moved = figure.gb_per_s * figure.median_s
        lines.append(
            [
                f"{work_text(case)}, {case.shape_text}", case.dtype, f"{moved:.3g}",
                f"{figure.median_s * 1e3:.3g}", f"{figure.gb_per_s:.1f}", f"{figure.of_copy:.0%}",
                f"{each:.3f}", f"{arithmetic:.3f}", f"{arithmetic / each:.0%}",
            ]
        )  # fmt: skip
    if not lines:
        return ""
    header = [
        "work", "dtype", "least traffic, GB", "time, ms", "GB/s", "traffic at a copy's rate",
        "ns per element", "in cache", "arithmetic at its rate in cache",
    ]  # fmt: skip
    shape = "x".join(map(str, IN_CACHE_SHAPE))
    return (
        f"{markdown_table(header, lines, 2)}\n\n"
        "*Least traffic*: what the operator must read and write once, 1 GB = 10⁹ bytes. *Traffic "
        "at a copy's rate*: the part of our time in which a copy of the logits, in the same "
        "rounds, moves as many bytes. *Arithmetic at its rate in cache*: the part of our time that "
        f"the same number of elements takes in ({shape}), which stays in the caches. The two parts "
        "run side by side, so their sum may be more than 100 %.\n"
    )
