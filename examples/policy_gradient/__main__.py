"""Train agents without and with an entropy bonus; compare them with the optimal policy.

Exits with status 1 where those with an entropy bonus do not come near it.
"""

import sys
from collections.abc import Sequence
from functools import partial

from examples.command import finish, parser
from examples.policy_gradient.comparison import compare
from examples.policy_gradient.grid_world import grid_world
from examples.policy_gradient.picture import save_picture
from examples.policy_gradient.report import markdown


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the example and return its exit status."""
    options = parser("policy_gradient", __doc__, steps=250, seeds=10)
    options.add_argument(
        "--entropy-bonus",
        type=float,
        default=0.1,
        help="at the start of the training, compared with 0 (default: %(default)s)",
    )
    chosen = options.parse_args(arguments)
    comparison = compare(grid_world(), (0.0, chosen.entropy_bonus), chosen.steps, chosen.seeds)
    return finish(
        "policy_gradient",
        chosen.output,
        markdown(comparison),
        partial(save_picture, comparison),
        comparison.failures(),
    )


if __name__ == "__main__":
    sys.exit(main())
