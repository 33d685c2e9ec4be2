"""The picture: what a soft target is, and what it does to the student."""

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

import torchsoftmax
from examples.distillation.comparison import Comparison
from examples.distillation.data import CLASSES
from examples.picture import DARK, LEGEND, NOTE, PALE, RED, tidy


def save_picture(comparison: Comparison, held_out: str, path: Path) -> None:
    """An image, the teacher's probabilities of it, and the students' accuracies."""
    figure = Figure(figsize=(11, 4), layout="constrained")
    image, probabilities, curves = figure.subplots(1, 3, width_ratios=(1, 2.2, 4))
    _draw_soft_target(comparison, image, probabilities)
    _draw_curves(comparison, held_out, curves)
    figure.savefig(path, dpi=160)


def _draw_soft_target(comparison: Comparison, image: Axes, probabilities: Axes) -> None:
    """Of the training image of which the teacher's soft target has the median entropy."""
    logits, temperature = comparison.teacher_logits, comparison.settings.temperature
    hard = torchsoftmax.softmax(logits, dim=1)
    soft = torchsoftmax.softmax(logits, dim=1, temperature=temperature)
    entropies = torchsoftmax.entropy_with_logits(logits, dim=1, temperature=temperature)
    chosen = entropies.median(dim=0).indices

    image.imshow(comparison.train.pixels[chosen].view(8, 8).numpy(), cmap="gray_r")
    image.set_title(f"labelled {comparison.train.labels[chosen].item()}")
    image.set_axis_off()
    classes = range(CLASSES)
    for shift, rows, color, name in ((-0.2, hard, PALE, 1), (0.2, soft, RED, temperature)):
        places = [label + shift for label in classes]
        probabilities.bar(places, rows[chosen].tolist(), 0.4, color=color, label=f"T = {name:g}")
    probabilities.set_title("what the teacher says")
    probabilities.set_xlabel("digit")
    probabilities.set_ylabel("probability")
    probabilities.set_xticks(classes)
    probabilities.set_ylim(0, 1.2)
    probabilities.legend(loc="upper right", ncols=2, **LEGEND)
    tidy(probabilities)
    probabilities.grid(visible=False, axis="x")


def _draw_curves(comparison: Comparison, held_out: str, axes: Axes) -> None:
    students = (
        (comparison.distilled, RED, "student, labels and soft targets"),
        (comparison.on_labels, DARK, "student, labels alone"),
    )
    for scores, color, name in students:
        final = 100 * scores.accuracy[:, -1].mean().item()
        _band(axes, 100 * scores.accuracy, color, f"{name}: {final:.1f} %")
    teacher = 100 * comparison.teacher.accuracy.item()
    axes.axhline(teacher, color=PALE, linewidth=3, zorder=0)
    axes.set_ylim(60, 100)
    axes.set_title(f"students: mean ± standard deviation of {comparison.settings.seeds} seeds")
    axes.set_xlabel("training step")
    axes.set_ylabel(f"accuracy on {held_out}, %")
    axes.legend(loc="lower right", **LEGEND)
    place = {"xycoords": ("axes fraction", "data"), **NOTE}
    axes.annotate(f"teacher: {teacher:.1f} %", (0, teacher), (4, 3), **place)
    tidy(axes)


def _band(axes: Axes, curves: Tensor, color: str, label: str) -> None:
    """Mean over seeds as a line, ± one standard deviation as a band; curves: (seeds, steps)."""
    steps = range(1, curves.size(1) + 1)
    mean, deviation = curves.mean(0), curves.std(0)
    axes.fill_between(steps, mean - deviation, mean + deviation, color=color, alpha=0.2, lw=0)
    axes.plot(steps, mean, color=color, linewidth=1.8, label=label)
