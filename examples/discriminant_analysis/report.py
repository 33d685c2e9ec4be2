"""The table of results."""

from collections.abc import Sequence

from examples.discriminant_analysis.comparison import TOLERANCE, Comparison
from examples.report import machine_line, table

HEADER = (
    "data set",
    "rows, features, classes",
    "method",
    "accuracy, %",
    "largest difference from scikit-learn",
)


def markdown(comparisons: Sequence[Comparison]) -> str:
    """The table and what it is of."""
    rows = [HEADER]
    for each in comparisons:
        count, width = each.features.shape
        rows.append(
            (
                each.data_set,
                f"{count}, {width}, {each.probabilities.size(1)}",
                each.method,
                f"{100 * each.accuracy:.1f}",
                f"{each.difference:.1e} (≤ {TOLERANCE:g})",
            )
        )
    return f"""\
{table(rows)}

Each classifier is `softmax` of its discriminant functions. *largest difference*: of a probability
from `predict_proba` of `LinearDiscriminantAnalysis` or `GaussianNB`, the tolerance in brackets.
*accuracy*: on the rows that the model was fitted to.

- linear discriminants: log π + μᵀ S⁻¹ x − μᵀ S⁻¹ μ / 2 with one covariance S for all classes
- Gaussian naive Bayes: log π − Σ (log v + (x − μ)² / v) / 2 with a variance v per class and feature
- {machine_line("torch", "scikit-learn")}
"""
