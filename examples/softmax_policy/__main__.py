"""Train a softmax policy with its score function by formula, and compare that with autograd.

Exits with status 1 where a score differs, or where the policy did not learn.
"""

import sys
from collections.abc import Sequence
from functools import partial

from examples.command import finish, parser
from examples.softmax_policy.comparison import compare
from examples.softmax_policy.picture import save_picture
from examples.softmax_policy.report import markdown


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the example and return its exit status."""
    chosen = parser("softmax_policy", __doc__, steps=300, seeds=10).parse_args(arguments)
    comparison = compare(chosen.steps, chosen.seeds)
    return finish(
        "softmax_policy",
        chosen.output,
        markdown(comparison),
        partial(save_picture, comparison),
        comparison.failures(),
    )


if __name__ == "__main__":
    sys.exit(main())
