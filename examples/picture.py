"""What the pictures of the examples have in common."""

from collections.abc import Callable, Sequence

import torch
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from torch import Tensor

PALE, RED, DARK = "#9ecae1", "#b30000", "#222222"
CLASS_COLORS = ("#3b6fb6", "#d9822b", "#4b9a5a")
LEGEND = {"facecolor": "white", "edgecolor": "none", "framealpha": 1}
NOTE = {"color": "#555555", "textcoords": "offset points", "va": "bottom", "fontsize": 9}


def tidy(axes: Axes) -> None:
    """A pale grid behind what is drawn, and no frame."""
    axes.set_axisbelow(True)
    axes.grid(color="#e0e0e0")
    axes.spines[["top", "right"]].set_visible(False)


def draw_regions(
    axes: Axes,
    points: Tensor,
    labels: Tensor,
    probabilities: Callable[[Tensor], Tensor],
    names: Sequence[str],
) -> None:
    """Classes of points in the plane, as regions that are the paler the less certain they are.

    points: (N, 2); labels: (N); probabilities: of (M, 2), (M, C); names: of the classes. Solid
    lines are where two are equally likely, the others where one has probability 0.9 and 0.99.
    """
    low, high = points.amin(0), points.amax(0)
    margin = 0.12 * (high - low)
    steps = [
        torch.linspace(start, end, 301, dtype=points.dtype)
        for start, end in zip(low - margin, high + margin, strict=True)
    ]
    grid = torch.cartesian_prod(*steps)
    p = probabilities(grid)
    colors = torch.tensor([to_rgb(color) for color in CLASS_COLORS[: len(names)]], dtype=p.dtype)
    certainty, winner = p.max(dim=1, keepdim=True)
    paleness = 0.75 - 0.45 * (certainty - 1 / len(names)) / (1 - 1 / len(names))
    image = colors[winner.squeeze(1)] * (1 - paleness) + paleness
    shape = (len(steps[0]), len(steps[1]))
    extent = (*steps[0][[0, -1]].tolist(), *steps[1][[0, -1]].tolist())
    picture = image.view(*shape, 3).transpose(0, 1).numpy()
    axes.imshow(picture, origin="lower", extent=extent, aspect="auto", interpolation="bilinear")
    for k in range(len(names)):
        others = p[:, torch.arange(len(names)) != k].amax(1)
        margin, share = ((p[:, k] - others).view(shape).T, p[:, k].view(shape).T)
        places = [step.numpy() for step in steps]
        axes.contour(*places, margin.numpy(), levels=(0.0,), colors=DARK, linewidths=1.2)
        axes.contour(
            *places,
            share.numpy(),
            levels=(0.9, 0.99),
            colors=DARK,
            linewidths=0.7,
            linestyles=("dashed", "dotted"),
        )
    for label, (name, color) in enumerate(zip(names, CLASS_COLORS, strict=False)):
        x, y = points[labels == label].T
        axes.scatter(x, y, s=16, color=color, edgecolors="white", linewidths=0.5, label=name)
    for level, style in ((0.9, "dashed"), (0.99, "dotted")):
        axes.plot([], [], color=DARK, linewidth=0.9, linestyle=style, label=f"probability {level}")
    axes.legend(loc="upper left", fontsize=9, **LEGEND)
