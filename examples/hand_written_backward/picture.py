"""The picture: what the derivative of a softmax says about images that are hard to tell."""

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.container import BarContainer
from matplotlib.figure import Figure
from torch import Tensor

import torchsoftmax
from examples.distillation.data import CLASSES
from examples.hand_written_backward.training import Training
from examples.picture import PALE, RED, tidy
from torchsoftmax.derivatives import cross_entropy_gradient, softmax_jacobian

LIMIT = 0.25  # the largest entry that a Jacobian of softmax can have


def save_picture(training: Training, path: Path) -> None:
    """For a clear and a doubtful image: probabilities, Jacobian, and the gradient of the loss."""
    figure = Figure(figsize=(13, 6.4), layout="constrained")
    entropy = torchsoftmax.entropy_with_logits(training.logits, 1)
    doubtful = entropy.argmax().item()
    clear = entropy.kthvalue(len(entropy) // 2).indices.item()
    grid = figure.subplots(2, 4, width_ratios=(1, 1.7, 1.6, 1.7))
    for row, index, title in zip(
        grid, (clear, doubtful), ("typical", "most in doubt"), strict=True
    ):
        _draw_row(figure, row, training, index, title)
    figure.savefig(path, dpi=160)


def _draw_row(figure: Figure, row: list[Axes], training: Training, index: int, title: str) -> None:
    image, bars, matrix, gradient = row
    logits, label = training.logits[index], training.test.labels[index]
    image.imshow(training.test.pixels[index].view(8, 8).numpy(), cmap="gray_r")
    image.set_title(f"{title}\nlabelled {label.item()}")
    image.set_axis_off()

    _draw_bars(bars, torchsoftmax.softmax(logits, 0), PALE)[label].set_color(RED)
    bars.set_title("probabilities p (red: the label)")
    bars.set_ylim(0, 1.05)

    shown = matrix.imshow(softmax_jacobian(logits).numpy(), cmap="RdBu_r", vmin=-LIMIT, vmax=LIMIT)
    matrix.set_xticks(range(CLASSES))
    matrix.set_yticks(range(CLASSES))
    matrix.set_xlabel("by logit j")
    matrix.set_ylabel("of probability i")
    matrix.set_title(r"Jacobian $p_i(\delta_{ij} - p_j)$")
    figure.colorbar(shown, ax=matrix, shrink=0.85)

    _draw_bars(gradient, cross_entropy_gradient(logits, label), PALE)[label].set_color(RED)
    gradient.set_title(f"gradient of the loss, $p - e_{label.item()}$")
    gradient.set_ylim(-1.05, 1.05)
    gradient.axhline(0, color="#555555", linewidth=0.8)


def _draw_bars(axes: Axes, values: Tensor, color: str) -> BarContainer:
    bars = axes.bar(range(CLASSES), values.tolist(), 0.8, color=color)
    axes.set_xticks(range(CLASSES))
    axes.set_xlabel("digit")
    tidy(axes)
    axes.grid(visible=False, axis="x")
    return bars
