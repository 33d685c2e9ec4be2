"""The picture: where the greedy policies go, and how the agents learned."""

from pathlib import Path

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from examples.picture import DARK, LEGEND, NOTE, PALE, RED, tidy
from examples.policy_gradient.comparison import Comparison, Training
from examples.policy_gradient.grid_world import MAP, REWARDS, GridWorld

COLORS = (DARK, RED)
FIELDS = {"#": "#777777", "X": "#f4b6b6", "c": "#fff2b3", "G": "#bfe3bf"}


def save_picture(comparison: Comparison, path: Path) -> None:
    """The map, the returns and the entropies; one colour for each entropy bonus."""
    figure = Figure(figsize=(12, 4), layout="constrained")
    plan, returns, entropies = figure.subplots(1, 3, width_ratios=(1.1, 1.3, 1.3))
    _draw_map(plan)
    for training, color, offset in zip(comparison.trainings, COLORS, (-0.1, 0.1), strict=True):
        _draw_paths(plan, comparison.world, training, color, offset)
        label = f"entropy bonus {training.entropy_bonus:g}"
        _draw_curves(returns, training.returns, color, label)
        _draw_curves(entropies, training.entropies, color, label)
    seeds = len(comparison.trainings[0].returns)
    plan.set_title(f"greedy paths, {seeds} seeds")
    returns.axhline(comparison.optimal_return, color=PALE, linewidth=3, zorder=0)
    place = {"xycoords": ("axes fraction", "data"), **NOTE}
    returns.annotate("optimal", (0, comparison.optimal_return), (4, 3), **place)
    returns.set_ylim(top=1.15 * comparison.optimal_return)
    returns.set_title("expected discounted return")
    returns.legend(loc="lower right", **LEGEND)
    entropies.set_title("entropy of the policy, nats")
    for axes in (returns, entropies):
        axes.set_xlabel(f"training step (thin: {seeds} seeds, thick: their mean)")
        tidy(axes)
    figure.savefig(path, dpi=160)


def _draw_curves(axes: Axes, curves: Tensor, color: str, label: str) -> None:
    """Each seed, since each finds the goal suddenly and at its own time, and their mean."""
    steps = range(1, curves.size(1) + 1)
    axes.plot(steps, curves.T, color=color, linewidth=0.7, alpha=0.35)
    axes.plot(steps, curves.mean(0), color=color, linewidth=2.2, label=label)


def _draw_map(axes: Axes) -> None:
    lines = MAP.splitlines()
    for row, line in enumerate(lines):
        for column, letter in enumerate(line):
            color = FIELDS.get(letter, "white")
            axes.fill(*_square(row, column), facecolor=color, edgecolor="#bbbbbb", linewidth=0.8)
            # Where no path is: they start and end in the middle.
            if letter in REWARDS:
                axes.text(column, row + 0.35, f"{REWARDS[letter]:+g}", ha="center", va="center")
            elif letter == "S":
                axes.text(column, row - 0.35, "start", ha="center", va="center")
    axes.set_xlim(-0.55, len(lines[0]) - 0.45)
    axes.set_ylim(len(lines) - 0.45, -0.55)
    axes.set_aspect("equal")
    axes.set_axis_off()


def _square(row: int, column: int) -> tuple[list[float], list[float]]:
    left, right, top, bottom = column - 0.5, column + 0.5, row - 0.5, row + 0.5
    return [left, right, right, left], [top, top, bottom, bottom]


def _draw_paths(
    axes: Axes, world: GridWorld, training: Training, color: str, offset: float
) -> None:
    """One line per seed, beside each other."""
    for shift, moves in zip(
        torch.linspace(-0.07, 0.07, len(training.greedy_moves)).tolist(),
        training.greedy_moves,
        strict=True,
    ):
        rows, columns = zip(*_path(world, moves), strict=True)
        shifted = [[place + offset + shift for place in places] for places in (columns, rows)]
        axes.plot(*shifted, color=color, linewidth=1.2, alpha=0.6)
        axes.plot(*(places[-1] for places in shifted), "o", color=color, markersize=3)


def _path(world: GridWorld, moves: Tensor) -> list[tuple[int, int]]:
    """The places from the start to the end, or back to a place where it was before."""
    cell, path = world.start, []
    while world.places[cell] not in path:
        path.append(world.places[cell])
        if world.ends[cell]:
            break
        cell = world.probabilities[cell, moves[cell]].argmax().item()
    return path
