"""The table of results."""

from collections.abc import Sequence

from examples.report import machine_line, table
from examples.softmax_regression.comparison import PENALTY, TOLERANCE, Comparison

HEADER = (
    "data set",
    "rows, features, classes",
    "method",
    "steps",
    "passes over the data",
    "final loss, nats",
    "largest difference from scikit-learn",
)


def markdown(comparisons: Sequence[Comparison]) -> str:
    """The table and what it is of."""
    rows = [HEADER]
    for each in comparisons:
        count, width = each.problem.inputs.shape
        differences = each.differences()
        for method, fit in each.fits.items():
            rows.append(
                (
                    each.name,
                    f"{count:,}, {width - 1}, {each.problem.classes}",
                    method,
                    f"{fit.steps:,}",
                    f"{fit.passes[-1]:,.0f}",
                    f"{fit.losses[-1]:.6f}",
                    f"{differences[method]:.1e} (≤ {TOLERANCE:g})",
                )
            )
    return f"""\
{table(rows)}

Softmax regression on standardised features: the sum of the cross-entropy over all rows, plus \
{PENALTY:g}/2 times
the squared coefficients without intercepts. *largest difference*: of a coefficient or an intercept
from that of `LogisticRegression`, the tolerance in brackets.

- Newton's method: a step solves a system in the Hessian by conjugate gradients; each of its \
products with
  the Hessian is one `cross_entropy_hvp` between two matrix products, and one pass over the data
- SGD: batches of 16 that double with each pass until they hold all rows, a step for each batch;
  then Nesterov's momentum, a step for each pass
- {machine_line("torch", "scikit-learn")}
"""
