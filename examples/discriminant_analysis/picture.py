"""The picture: the regions of both classifiers, and the probabilities along a line through them."""

from collections.abc import Sequence
from pathlib import Path

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from examples.discriminant_analysis.comparison import Comparison
from examples.picture import CLASS_COLORS, DARK, LEGEND, draw_regions, tidy

NAMES = ("setosa", "versicolor", "virginica")
TITLES = ("one covariance for all: straight lines", "variances of each class: curves")
STYLES = ("solid", "dashed")


def save_picture(comparisons: Sequence[Comparison], path: Path) -> None:
    """Two features, petal length and width; the line goes through the means of the classes."""
    figure = Figure(figsize=(14, 4.4), layout="constrained")
    *regions, lines = figure.subplots(1, 3)
    features = comparisons[0].features
    ends = torch.tensor([[0.5, -0.1], [7.3, 2.6]], dtype=features.dtype)
    for axes, each, title, style in zip(regions, comparisons, TITLES, STYLES, strict=True):
        draw_regions(axes, each.features, each.labels, each.model.probabilities, NAMES)
        axes.plot(*ends.T, color=DARK, linewidth=1.2, linestyle=style)
        axes.set_title(f"{each.method}\n{title}")
        axes.set_xlabel("petal length, cm")
        axes.set_ylabel("petal width, cm")
        axes.set_xlim(0.4, 7.5)
        axes.set_ylim(-0.15, 2.75)
        _draw_probabilities(lines, each, ends, style)
    lines.set_title("probabilities along the line\nsolid: linear, dashed: naive Bayes")
    lines.set_xlabel("petal length, cm")
    lines.set_ylabel("probability")
    lines.legend(loc="center left", **LEGEND)
    tidy(lines)
    figure.savefig(path, dpi=160)


def _draw_probabilities(axes: Axes, each: Comparison, ends: torch.Tensor, style: str) -> None:
    share = torch.linspace(0, 1, 400, dtype=ends.dtype).unsqueeze(1)
    points = ends[0] + share * (ends[1] - ends[0])
    for p, name, color in zip(each.model.probabilities(points).T, NAMES, CLASS_COLORS, strict=True):
        label = name if style == STYLES[0] else None
        axes.plot(points[:, 0], p, color=color, linestyle=style, linewidth=2, label=label)
