"""Fit multinomial logistic regression by Newton's method and by SGD, and compare with scikit-learn.

Exits with status 1 where the coefficients differ.
"""

import sys
from collections.abc import Sequence
from functools import partial

from examples.command import finish, parser
from examples.softmax_regression.comparison import DATA_SETS, compare, failures
from examples.softmax_regression.picture import save_picture
from examples.softmax_regression.report import markdown


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the example and return its exit status."""
    chosen = parser("softmax_regression", __doc__).parse_args(arguments)
    comparisons = [compare(name) for name in DATA_SETS]
    return finish(
        "softmax_regression",
        chosen.output,
        markdown(comparisons),
        partial(save_picture, comparisons[0]),
        failures(comparisons),
    )


if __name__ == "__main__":
    sys.exit(main())
