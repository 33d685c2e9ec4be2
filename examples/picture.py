"""What the pictures of the examples have in common."""

from matplotlib.axes import Axes

PALE, RED, DARK = "#9ecae1", "#b30000", "#222222"
LEGEND = {"facecolor": "white", "edgecolor": "none", "framealpha": 1}
NOTE = {"color": "#555555", "textcoords": "offset points", "va": "bottom", "fontsize": 9}


def tidy(axes: Axes) -> None:
    """A pale grid behind what is drawn, and no frame."""
    axes.set_axisbelow(True)
    axes.grid(color="#e0e0e0")
    axes.spines[["top", "right"]].set_visible(False)
