"""What this project set out to reach, each line beside what was measured."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.cases import AVX2, BACKWARD, BOTH, FORWARD, IN_PLACE, Case
from benchmarks.measure import Figure
from benchmarks.peers import OURS
from benchmarks.report import by_case, markdown_table
from benchmarks.worker import COPY, FRESH

IN_CACHE = "128x1000 1024x1000 4096x128 512x4096"
LARGE = "4096x32000 1024x128256"
MEMORY = "memory"


@dataclass(frozen=True)
class Target:
    """A line of the table of targets.

    ``limits`` are by what is compared with: for a peer, how many times faster ours is at least; for
    the copy, how many times its time ours takes at most; for memory, the peak beyond the input as
    a part of the logits, at most.
    """

    ops: str
    direction: str
    shapes: str
    limits: dict[str, float]
    dtypes: str = "float32"
    variants: tuple[str, ...] = ("",)


VARIANTS = ("label smoothing", "class weights", "probability targets")
TUNED = ("eager tuned", "compile tuned")
TARGETS = [
    Target("softmax", FORWARD, IN_CACHE, {"eager": 3.5, "onnxruntime": 1.4}),
    Target("softmax log_softmax", FORWARD, "4096x32000", {"eager": 3.5, COPY: 1.5}),
    Target("softmax", BACKWARD, "4096x32000", {"eager": 4, "eager tuned": 1}),
    Target("cross_entropy", BOTH, LARGE, {"eager": 10, "eager tuned": 2.4, "compile tuned": 2.1}),
    Target("cross_entropy", BOTH, LARGE, dict(zip(TUNED, (2.6, 2.3), strict=True)),
           variants=(IN_PLACE,)),
    Target("cross_entropy", BOTH, LARGE, {"eager tuned": 2.4}, "bfloat16 float16"),
    Target("cross_entropy", BOTH, LARGE, {"eager tuned": 2.6}, "bfloat16 float16", (IN_PLACE,)),
    Target("cross_entropy", FORWARD, "4096x32000", {"compile tuned": 1.6}),
    Target("cross_entropy", BOTH, "1024x32000", {"eager tuned": 2.5}, variants=VARIANTS),
    Target("softmax", FORWARD, "8x21x256x256", {"eager tuned": 2}),
    Target("cross_entropy", BOTH, "8x21x256x256", {"eager tuned": 4}),
    Target("softmax", FORWARD, "2000x4096 32x1000x49", {"eager": 2.5}),
    Target("softmax", FORWARD, "32x10", {"eager": 1}),
    Target("cross_entropy", BOTH, "32x10", {"eager": 1.3}),
    Target("softmax", FORWARD, IN_CACHE, {"eager": 2}, variants=(AVX2,)),
    Target("cross_entropy", BOTH, LARGE, {MEMORY: 1.02}),
    Target("cross_entropy", BOTH, LARGE, {MEMORY: 0.01}, variants=(IN_PLACE,)),
]  # fmt: skip


def holds(against: str, limit: float, value: float) -> bool:
    """Whether a value is within the limit: at most for a copy's time and memory, else at least."""
    return value <= limit if against in (COPY, MEMORY) else value >= limit


def compared(against: str, limit: float, of: dict[str, Figure]) -> tuple[list[str], bool] | None:
    """The columns from the limit on, and whether it is held; None where it was not measured."""
    if against == MEMORY:
        peak = of[OURS].peak_of_logits
        if peak is None:
            return None
        cells = ["memory beyond the input", f"≤ {limit:g} × logits", f"{peak:.4f}"]
        return cells, holds(MEMORY, limit, peak)
    figure = of.get(against)
    if figure is None:
        return None
    if against == COPY:  # its ratio is the copy's time over ours
        took = [1 / r for r in (figure.ratio, figure.ratio_high, figure.ratio_low)]
        cells = ["a copy's time", f"≤ {limit:g}×"]
        return [*cells, "{:.2f} ({:.2f}–{:.2f})".format(*took)], holds(COPY, limit, took[0])
    spread = f"{figure.ratio:.2f} ({figure.ratio_low:.2f}–{figure.ratio_high:.2f})"
    return [against, f"≥ {limit:g}×", spread], holds(against, limit, figure.ratio)


def of_fresh_copy(case: Case, against: str, of: dict[str, Figure]) -> float | None:
    """What making a tensor of the result's size would measure; None where the case makes none."""
    makes_one = case.variant != IN_PLACE and (case.direction, case.op) != (FORWARD, "cross_entropy")
    if against == MEMORY or not makes_one or FRESH not in of:
        return None
    ratio = of[against].ratio / of[FRESH].ratio  # both are times over ours
    return 1 / ratio if against == COPY else ratio


def markdown(figures: list[Figure]) -> str:
    """The table; empty where nothing of it was measured."""
    lines, missed, beyond = [], 0, 0
    for target in TARGETS:
        for case, of in by_case(figures):
            shape = "x".join(map(str, case.shape))
            if (
                case.op not in target.ops.split()
                or case.direction != target.direction
                or shape not in target.shapes.split()
                or case.dtype not in target.dtypes.split()
                or case.variant not in target.variants
            ):
                continue
            for against, limit in target.limits.items():
                found = compared(against, limit, of)
                if found is not None:
                    cells, held = found
                    copy = of_fresh_copy(case, against, of)
                    missed += not held
                    beyond += not held and copy is not None and not holds(against, limit, copy)
                    copy_text = "–" if copy is None else f"{copy:.2f}"
                    verdict = "held" if held else "**missed**"
                    lines.append([case.name, *cells, copy_text, verdict])
    if not lines:
        return ""
    header = ["work", "against", "target", "measured", "of a fresh copy", ""]
    table = markdown_table(header, lines, 2)
    verdict = f"{len(lines) - missed} of {len(lines)} held, {missed} missed"
    if beyond:
        verdict += f", {beyond} of which a fresh copy of the input misses too"
    return f"{table}\n\n{verdict}.\n"
