"""The picture: scores as arrows between features, probability against temperature, learning."""

from pathlib import Path

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from examples.picture import CLASS_COLORS, DARK, LEGEND, RED, tidy
from examples.softmax_policy.comparison import Comparison
from examples.softmax_policy.policy import probabilities, scores

# Three actions in one state, with two features each, and a direction that prefers the first.
FEATURES = torch.tensor([[2.0, 1.2], [-1.2, 1.6], [0.6, -1.6]], dtype=torch.float64)
THETA = torch.tensor([0.6, 0.4], dtype=torch.float64)
NAMES = ("a", "b", "c")


def save_picture(comparison: Comparison, path: Path) -> None:
    """The score function at two temperatures, the temperature alone, and the training."""
    figure = Figure(figsize=(11.5, 8.6), layout="constrained")
    (hot, cold), (shares, curve) = figure.subplots(2, 2, height_ratios=(1.25, 1))
    for axes, temperature in ((hot, 2.0), (cold, 0.4)):
        _draw_scores(axes, temperature)
    _draw_temperatures(shares)
    _draw_training(curve, comparison)
    figure.savefig(path, dpi=160)


def _draw_scores(axes: Axes, temperature: float) -> None:
    """Arrows from the expected features to those of each action: the scores, times T."""
    p = probabilities(FEATURES, THETA, temperature)
    expected = p @ FEATURES
    arrows = temperature * scores(FEATURES, THETA, temperature)
    for name, share, point, arrow, color in zip(
        NAMES, p.tolist(), FEATURES, arrows, CLASS_COLORS, strict=True
    ):
        axes.scatter(*point, s=60 + 1400 * share, color=color, alpha=0.35, linewidths=0)
        axes.annotate(
            "", (expected + arrow).tolist(), expected.tolist(),
            arrowprops={"arrowstyle": "-|>", "color": color, "linewidth": 2.2, "shrinkB": 0},
        )  # fmt: skip
        axes.annotate(
            rf"$\varphi(s,{name})$, $\pi$ = {share:.2f}", point.tolist(),
            textcoords="offset points", xytext=(0, 26 if point[1] > 0 else -32), ha="center",
            fontsize=11,
        )  # fmt: skip
    axes.scatter(*expected, marker="X", s=110, color=DARK, zorder=3, label=r"$E_\pi[\varphi]$")
    axes.annotate(
        "", (0.8 * THETA).tolist(), (0, 0),
        arrowprops={"arrowstyle": "->", "color": "#777777", "linewidth": 1.5},
    )  # fmt: skip
    axes.annotate(r"$\theta$", (0.8 * THETA).tolist(), (4, -12), textcoords="offset points")
    axes.set_xlim(-2.6, 3.4)
    axes.set_ylim(-2.5, 2.6)
    axes.set_aspect("equal")
    axes.set_xlabel("feature 1")
    axes.set_ylabel("feature 2")
    axes.set_title(
        f"T = {temperature:g}: arrows are "
        r"$T\,\nabla_\theta \log\pi(a|s) = \varphi(s,a) - E_\pi[\varphi]$"
    )
    axes.legend(loc="lower right", **LEGEND)
    tidy(axes)


def _draw_temperatures(axes: Axes) -> None:
    temperatures = torch.logspace(-1, 1.5, 200).tolist()
    p = torch.stack([probabilities(FEATURES, THETA, t) for t in temperatures])
    for name, share, color in zip(NAMES, p.T, CLASS_COLORS, strict=True):
        axes.plot(temperatures, share, color=color, linewidth=2.2, label=rf"$\pi({name}|s)$")
    axes.axhline(1 / len(NAMES), color="#777777", linewidth=0.8, linestyle="dashed")
    axes.set_xscale("log")
    axes.set_xlabel("temperature T")
    axes.set_ylabel("probability")
    axes.set_title("cold: the best action alone; hot: all alike")
    axes.legend(loc="upper right", **LEGEND)
    tidy(axes)


def _draw_training(axes: Axes, comparison: Comparison) -> None:
    steps = range(comparison.rewards.size(1))
    seeds = len(comparison.rewards)
    axes.plot(steps, comparison.rewards.T, color=RED, linewidth=0.7, alpha=0.4)
    axes.plot(steps, comparison.rewards.mean(0), color=RED, linewidth=2.2)
    axes.set_ylim(0, 1.03)
    axes.set_xlabel(f"step (thin: {seeds} seeds, thick: their mean)")
    axes.set_ylabel("expected reward")
    axes.set_title("learning the growers of wines by reward times score")
    tidy(axes)
