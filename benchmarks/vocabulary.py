"""Time and peak memory of cross-entropy against the number of classes: two pictures, one table."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from benchmarks.cases import IN_PLACE
from benchmarks.measure import Figure
from benchmarks.peers import OURS
from benchmarks.picture import COLOURS
from benchmarks.report import machine_line, markdown_table
from benchmarks.table import SWEEP_CASES, SWEEP_TOKENS, VOCABULARIES
from benchmarks.worker import COPY

# What is drawn, in this order: the peer, whether in place, its name, colour and line.
LINES: dict[tuple[str, bool], tuple[str, str, str]] = {
    ("eager", False): ("eager", COLOURS[0], "-"),
    ("eager tuned", False): ("eager, huge pages", COLOURS[0], "--"),
    ("compile", False): ("compile", COLOURS[1], "-"),
    ("compile tuned", False): ("compile, huge pages", COLOURS[1], "--"),
    ("jax", False): ("JAX", COLOURS[3], "-"),
    ("jax", True): ("JAX, donated logits", COLOURS[3], "--"),
    (OURS, False): ("torchsoftmax", "black", "-"),
    (OURS, True): ("torchsoftmax, in place", "black", "--"),
}
FLOOR = "#999999"
Curve = dict[int, float]  # by number of classes
Curves = dict[tuple[str, bool], Curve]  # by peer and whether in place


def curves(figures: list[Figure], value: Callable[[Figure], float | None]) -> Curves:
    """The value at each number of classes."""
    found: Curves = {}
    for figure in figures:
        number = value(figure)
        if figure.case in SWEEP_CASES and number is not None:
            key = (figure.peer, figure.case.variant == IN_PLACE)
            found.setdefault(key, {})[figure.case.shape[1]] = number
    return found


def gigabytes(classes: int) -> float:
    """Of the logits."""
    return 4 * SWEEP_TOKENS * classes / 1e9


def spread_out(heights: list[float], gap: float) -> list[float]:
    """Ascending heights, moved apart where they are nearer than the gap, about their middle."""
    groups: list[list[float]] = []
    for height in heights:
        groups.append([height])
        while len(groups) > 1:
            below, above = groups[-2:]
            distance = sum(above) / len(above) - sum(below) / len(below)
            if distance >= gap * (len(below) + len(above)) / 2:
                break
            groups[-2:] = [below + above]
    placed = []
    for group in groups:
        middle = sum(group) / len(group)
        placed += [middle + gap * (i - (len(group) - 1) / 2) for i in range(len(group))]
    return placed


@dataclass(frozen=True)
class Line:
    """A curve, and what stands at its right end."""

    label: str
    colour: str
    style: str
    curve: Curve

    @property
    def end(self) -> float:
        return list(self.curve.values())[-1]


def draw(axes: Axes, lines: list[Line]) -> None:
    """The curves, named at their right ends in their own colours.

    The more of those to come have the same end, the wider a curve is, so that they do not hide it.
    """
    for number, line in enumerate(lines):
        later = sum(math.isclose(line.end, x.end, rel_tol=0.01) for x in lines[number + 1 :])
        axes.plot(
            list(line.curve), list(line.curve.values()), line.style, color=line.colour,
            linewidth=2 + 3 * later, marker="" if line.colour == FLOOR else "o",
            markersize=4.5 + 3 * later,
            markerfacecolor="white" if line.style == "--" else line.colour,
        )  # fmt: skip
    axes.grid(axis="y", color="#e4e4e4", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel("vocabulary size (number of classes), 1k = 1024")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda classes, _: f"{classes / 1024:g}k"))
    axes.autoscale_view()  # otherwise done when it is drawn
    to_axes = axes.transScale + axes.transLimits
    ends = []
    for line in lines:
        height = to_axes.transform((max(line.curve), line.end))[1]
        ends.append((height, line))
    ends.sort(key=lambda end: end[0])
    for (_, line), height in zip(ends, spread_out([h for h, _ in ends], 0.05), strict=True):
        axes.text(
            1.015, height, line.label, color=line.colour, va="center", transform=axes.transAxes
        )


def canvas_of(
    machine: dict[str, object], title: str, unit: str, dashed: str
) -> tuple[Canvas, Axes]:
    """An empty picture with its title, unit, what dashed lines are, and the machine."""
    canvas = Canvas(figsize=(10, 6), layout="constrained")
    axes = canvas.add_subplot()
    canvas.suptitle(
        f"Cross-entropy, forward and backward, {SWEEP_TOKENS:,} tokens, float32: {title}",
        weight="bold",
    )
    axes.set_title(f"dashed: {dashed}", fontsize=10, loc="left")
    axes.set_ylabel(unit)
    canvas.supxlabel(machine_line(machine), fontsize=8, color="#555555")
    return canvas, axes


def draw_time(times: Curves, machine: dict[str, object], file: Path) -> None:
    """Milliseconds, both axes logarithmic."""
    dashed = "in huge pages (eager, compile); gradient overwrites logits (JAX, torchsoftmax)"
    canvas, axes = canvas_of(machine, "time", "milliseconds", dashed)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_major_locator(FixedLocator(VOCABULARIES))
    lines = []
    for key, (name, colour, style) in LINES.items():
        if key in times:
            last = list(times[key].values())[-1]
            lines.append(Line(f"{name}, {last:.0f} ms", colour, style, times[key]))
    copy = times[COPY, False]
    last = list(copy.values())[-1]
    lines.append(Line(f"a copy of the logits, {last:.0f} ms", FLOOR, ":", copy))
    draw(axes, lines)
    canvas.savefig(file, dpi=110)


def draw_memory(peaks: Curves, machine: dict[str, object], file: Path) -> None:
    """Gigabytes beyond the logits on plain axes: a line's slope is how many times the logits.

    Huge pages change no peak: the stock form stands for both.
    """
    dashed = "the gradient overwrites the logits. Of lines in the same place the wider is below"
    canvas, axes = canvas_of(machine, "peak memory beyond the logits", "GB (10⁹ bytes)", dashed)
    axes.xaxis.set_major_locator(FixedLocator(VOCABULARIES))
    axes.tick_params(axis="x", labelsize=7.5)  # where 8k and 16k have room beside each other
    lines = []
    for key, (name, colour, style) in LINES.items():
        if key in peaks and not key[0].endswith(" tuned"):
            last = list(peaks[key].values())[-1]
            size = f"{last:.2f} × logits" if last >= 0.01 else "under 0.01 × logits"
            curve = {c: part * gigabytes(c) for c, part in peaks[key].items()}
            lines.append(Line(f"{name}, {size}", colour, style, curve))
    logits = {c: gigabytes(c) for c in peaks[OURS, False]}
    lines.append(Line("the logits themselves", FLOOR, ":", logits))
    axes.set_xlim(0, 1.02 * VOCABULARIES[-1])
    top = max(max(line.curve.values()) for line in lines)
    axes.set_ylim(-0.03 * top, 1.06 * top)
    draw(axes, lines)
    canvas.savefig(file, dpi=110)


def render(figures: list[Figure], machine: dict[str, object], folder: Path) -> str:
    """Writes the pictures; returns the table, empty where there was no sweep."""
    times = curves(figures, lambda figure: figure.median_s * 1e3)
    peaks = curves(figures, lambda figure: figure.peak_of_logits)
    if (OURS, False) not in times:
        return ""
    draw_time(times, machine, folder / "vocabulary-time.png")
    if (OURS, False) in peaks:
        draw_memory(peaks, machine, folder / "vocabulary-memory.png")
    return table(times, peaks)


def table(times: Curves, peaks: Curves) -> str:
    """Milliseconds and peak by peer and number of classes."""
    classes = list(times[OURS, False])
    names = {key: LINES[key][0] for key in LINES if key in times}
    lines = []
    for key, name in (names | {(COPY, False): "a copy of the logits"}).items():
        peak = peaks.get(key, {})
        cells = [
            f"{times[key][c]:.1f} ms" + (f", {peak[c]:.3f}×" if c in peak else "") for c in classes
        ]
        lines.append([name, *cells])
    return (
        f"{markdown_table(['', *(f'{c:,}' for c in classes)], lines, 1)}\n\n"
        "Time, and peak memory beyond the logits as a multiple of their size, by number of "
        f"classes; {SWEEP_TOKENS:,} tokens, float32.\n"
    )
