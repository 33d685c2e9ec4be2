"""The ratios as a picture."""

from __future__ import annotations

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter

from benchmarks.cases import Case
from benchmarks.measure import Figure
from benchmarks.report import NAME, by_case, machine_line, rivals

COLOURS = ("#1f77b4", "#e8710a", "#2ca02c", "#9467bd", "#8c564b")
ROW_INCHES = 0.27


def label(case: Case) -> str:
    """The row's text: what it is, then its size."""
    shape = case.shape_text.replace("x", "×")
    dtype = case.dtype.replace("bfloat", "bf").replace("float", "fp")
    words = [case.direction.replace("+", " + "), case.variant, shape, dtype]
    return " · ".join(word for word in words if word)


def styles(peers: list[str]) -> dict[str, dict[str, object]]:
    """How each peer is drawn: one colour for its two forms, hollow for the tuned one."""
    stems = dict.fromkeys(peer.removesuffix(" tuned") for peer in peers)
    colours = dict(zip(stems, COLOURS, strict=False))
    shape = {"marker": "o", "markersize": 6.5, "markeredgewidth": 1.6, "linewidth": 2}
    found = {}
    for peer in peers:
        colour = colours[peer.removesuffix(" tuned")]
        fill = "white" if peer.endswith(" tuned") else colour
        found[peer] = {**shape, "color": colour, "markerfacecolor": fill}
    return found


def draw_rows(axes: Axes, figures: list[Figure]) -> None:
    """One row per case under a heading per operator; a dot per peer, a line for its spread."""
    style = styles(rivals(figures))
    y, heights, labels, heading = 0, [], [], ""
    for case, of in by_case(figures):
        if case.op != heading:
            heading = case.op
            axes.text(
                -0.01, y, heading, weight="bold", ha="right", va="center",
                transform=axes.get_yaxis_transform(),
            )  # fmt: skip
            y += 1
        axes.axhline(y, color="#dddddd", linewidth=0.6, zorder=0)
        for peer in (peer for peer in style if peer in of):
            figure = of[peer]
            spread = [figure.ratio_low, figure.ratio, figure.ratio_high]
            axes.plot(spread, [y, y, y], markevery=[1], **style[peer])
        heights.append(y)
        labels.append(label(case))
        y += 1
    axes.set_yticks(heights, labels)
    axes.set_ylim(y - 0.4, -1.2)


def draw(figures: list[Figure], machine: dict[str, object], folder: Path) -> None:
    """Writes the picture: how many times faster ours is than each peer in each case."""
    peers = rivals(figures)
    count = len(by_case(figures)) + len({figure.case.op for figure in figures})
    canvas = Canvas(figsize=(10, ROW_INCHES * count + 2), layout="constrained")
    axes = canvas.add_subplot()
    draw_rows(axes, figures)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda ratio, _: f"{ratio:g}×"))
    low, high = axes.get_xlim()
    axes.set_xlim(min(low, 0.6), max(high, 1.5))
    axes.axvspan(axes.get_xlim()[0], 1, color="#fbeaea", zorder=-1)
    axes.axvline(1, color="black", linewidth=1.2)
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", top=True, labeltop=True)
    axes.spines[["left", "right"]].set_visible(False)
    axes.text(0.97, -0.55, "peer faster", ha="right", va="center", color="#b03030")
    axes.text(1.03, -0.55, "torchsoftmax faster", va="center")
    handles = [Line2D([], [], label=peer, **style) for peer, style in styles(peers).items()]
    canvas.legend(
        handles=handles, loc="outside upper center", ncols=len(handles), frameon=False,
        title="How many times faster torchsoftmax is than",
        title_fontproperties={"weight": "bold", "size": "large"},
    )  # fmt: skip
    canvas.supxlabel(machine_line(machine), fontsize=8, color="#555555")
    canvas.savefig(folder / f"{NAME}.png", dpi=100)
