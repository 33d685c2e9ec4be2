"""The picture: what was learned, and how fast each method came there."""

from pathlib import Path

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import torchsoftmax
from examples.picture import DARK, LEGEND, RED, draw_regions, tidy
from examples.softmax_regression.comparison import Comparison

COLORS = (RED, DARK)
NAMES = ("setosa", "versicolor", "virginica")


def save_picture(comparison: Comparison, path: Path) -> None:
    """The decision regions of two features, and the distance from the minimum."""
    figure = Figure(figsize=(11, 4.4), layout="constrained")
    regions, curves = figure.subplots(1, 2, width_ratios=(1, 1.15))
    weights = comparison.fits["Newton's method"].weights

    def probabilities(points: torch.Tensor) -> torch.Tensor:
        return torchsoftmax.softmax(points @ weights[:, :-1].T + weights[:, -1], dim=1)

    points = comparison.problem.inputs[:, :-1]
    draw_regions(regions, points, comparison.problem.labels, probabilities, NAMES)
    regions.set_title("softmax of three linear functions")
    regions.set_xlabel("petal length, standardised")
    regions.set_ylabel("petal width, standardised")
    _draw_curves(curves, comparison)
    figure.savefig(path, dpi=160)


def _draw_curves(axes: Axes, comparison: Comparison) -> None:
    least = min(min(fit.losses) for fit in comparison.fits.values())
    for (method, fit), color in zip(comparison.fits.items(), COLORS, strict=True):
        above = [max(loss - least, 1e-12) for loss in fit.losses]
        axes.plot(
            [1 + passes for passes in fit.passes],
            above,
            "o-" if len(above) < 50 else "-",
            color=color,
            label=f"{method}: {fit.steps:,} steps, {fit.passes[-1]:,.0f} passes",
        )
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("1 + passes over the data (a product with the Hessian is one)")
    axes.set_ylabel("loss above the minimum, nats")
    axes.set_title("both come to the same minimum")
    axes.legend(loc="lower left", **LEGEND)
    tidy(axes)
