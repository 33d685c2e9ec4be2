"""Write two generative classifiers as a softmax of their discriminant functions.

Exits with status 1 where a probability is not scikit-learn's.
"""

import sys
from collections.abc import Sequence
from functools import partial

from examples.command import finish, parser
from examples.discriminant_analysis.comparison import DATA_SETS, compare, failures
from examples.discriminant_analysis.picture import save_picture
from examples.discriminant_analysis.report import markdown


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the example and return its exit status."""
    chosen = parser("discriminant_analysis", __doc__).parse_args(arguments)
    comparisons = [each for name in DATA_SETS for each in compare(name)]
    return finish(
        "discriminant_analysis",
        chosen.output,
        markdown(comparisons),
        partial(save_picture, comparisons[:2]),
        failures(comparisons),
    )


if __name__ == "__main__":
    sys.exit(main())
