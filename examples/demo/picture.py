"""The picture of all loss curves and of how far they are apart."""

from collections.abc import Sequence
from itertools import cycle
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from examples.demo.training import Comparison
from examples.picture import DARK, NOTE, PALE, RED, tidy

REFERENCE = {"color": PALE, "linewidth": 6, "solid_capstyle": "round"}
OTHERS = (
    {"color": RED, "linewidth": 1.6, "linestyle": (0, (4, 2))},
    {"color": DARK, "linewidth": 1.6, "linestyle": (0, (1, 2))},
)


def save_picture(comparisons: Sequence[Comparison], path: Path) -> None:
    """One column per task: the curves, and below them their differences on a log scale."""
    figure = Figure(figsize=(10, 5), layout="constrained")
    axes = figure.subplots(2, len(comparisons), sharex="col", squeeze=False, height_ratios=(2, 1))
    for comparison, (curves, differences) in zip(comparisons, axes.T, strict=True):
        _draw(comparison, curves, differences)
    axes[0, 0].set_ylabel("training loss, nats")
    axes[1, 0].set_ylabel("|difference|, nats")
    figure.savefig(path, dpi=160)


def _draw(comparison: Comparison, curves: Axes, differences: Axes) -> None:
    reference, *others = comparison.runs
    tolerance = comparison.task.tolerance
    steps = range(1, len(reference.losses) + 1)
    curves.plot(steps, reference.losses, label=reference.name, **REFERENCE)
    for run, style in zip(others, cycle(OTHERS)):
        curves.plot(steps, run.losses, label=run.name, **style)
        differences.plot(steps, comparison.differences(run), ".", color=style["color"])
    differences.axhline(tolerance, color=NOTE["color"], linewidth=1)
    place = {"xycoords": ("axes fraction", "data"), **NOTE}
    differences.annotate("tolerance", (1, tolerance), (-4, 2), ha="right", **place)
    differences.annotate("no dot: equal to the last bit", (0, tolerance), (4, 2), **place)
    differences.set_yscale("log", nonpositive="mask")
    differences.set_ylim(1e-9, 20 * tolerance)
    differences.set_xlabel("training step")
    curves.set_title(comparison.task.name)
    curves.legend(frameon=False)
    for axis in (curves, differences):
        tidy(axis)
