"""The part of copy bandwidth as a picture."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure

from benchmarks.gpu_cases import BANDWIDTH, COMPILE, COPY, EAGER, OURS, Case
from benchmarks.gpu_measure import Result
from benchmarks.gpu_report import NAME, Machine, machine_line, ratio

BARS = {OURS: "#b30000", EAGER: "#888888", COMPILE: "#3182bd"}
SHORT = {"bfloat16": "bf16", "float32": "fp32"}


def draw(cases: tuple[Case, ...], machine: Machine, results: list[Result], folder: Path) -> None:
    """Bars of the part of copy bandwidth, a panel per work."""
    known = {result.name: result for result in results}
    picture = Figure(figsize=(13, 8), layout="constrained")
    for axes, work in zip(picture.subplots(2, 2, sharey=True).flat, BANDWIDTH, strict=True):
        of_work = [case for case in cases if case.work == work and case.name in known]
        who = [n for n in BARS if any(ratio(known[c.name], COPY, n) for c in of_work)]
        for number, name in enumerate(who):
            found = [(i, ratio(known[c.name], COPY, name)) for i, c in enumerate(of_work)]
            bars = axes.bar(
                [i + (number - (len(who) - 1) / 2) * 0.8 / len(who) for i, value in found if value],
                [100 * value for _, value in found if value],
                0.8 / len(who),
                color=BARS[name],
                label=name,
            )
            label = {"facecolor": "white", "edgecolor": "none", "pad": 0.6}
            axes.bar_label(bars, fmt="%.0f", fontsize=7, bbox=label)
        labels = ["\n".join([*map(str, case.shape), SHORT[case.dtype]]) for case in of_work]
        axes.set_xticks(range(len(of_work)), labels, fontsize=8)
        axes.set_title(work)
        for case in of_work[:1]:
            wanted = 100 * case.wanted[0].limit
            axes.axhline(wanted, color="black", linewidth=1, linestyle="--")
            axes.set_yticks([0, 20, 40, 60, 80, wanted, 100])
        axes.set_xlim(-0.65, max(len(of_work), 1) - 0.35)
        axes.grid(axis="y", color="#e0e0e0")
        axes.set_axisbelow(True)
    first, _, third, _ = picture.axes
    for axes in (first, third):
        axes.set_ylabel("% of copy bandwidth")
    first.set_ylim(0, 118)
    if first.containers:
        first.legend(frameon=False, ncols=3, loc="upper right")
    for axes in picture.axes:
        axes.set_xlabel("rows, classes, dtype", fontsize=8)
    picture.supxlabel(machine_line(machine), fontsize=7, color="#555555")
    picture.savefig(folder / f"{NAME}.png", dpi=110)
