"""Train a classifier of digits with gradients written by hand, and compare each with autograd's.

Exits with status 1 where a gradient differs, or where the network did not learn.
"""

import sys
from collections.abc import Sequence
from functools import partial

from examples.command import finish, parser
from examples.hand_written_backward.picture import save_picture
from examples.hand_written_backward.report import markdown
from examples.hand_written_backward.training import train


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the example and return its exit status."""
    chosen = parser("hand_written_backward", __doc__, steps=300).parse_args(arguments)
    training = train(chosen.steps)
    return finish(
        "hand_written_backward",
        chosen.output,
        markdown(training),
        partial(save_picture, training),
        training.failures(),
    )


if __name__ == "__main__":
    sys.exit(main())
