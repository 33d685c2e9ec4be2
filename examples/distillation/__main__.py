"""Train a student on labels alone and on labels and a teacher's soft targets; compare them.

Exits with status 1 where the soft targets do not make the student better.
"""

import sys
from collections.abc import Sequence
from functools import partial

from examples.command import finish, parser
from examples.distillation.comparison import compare
from examples.distillation.data import digits
from examples.distillation.picture import save_picture
from examples.distillation.report import markdown
from examples.distillation.training import Settings


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the example and return its exit status."""
    options = parser("distillation", __doc__, steps=500, seeds=10)
    for name in ("learning_rate", "weight_decay", "temperature", "soft_weight"):
        options.add_argument(
            f"--{name.replace('_', '-')}",
            type=float,
            default=getattr(Settings, name),
            help="of the students (default: %(default)s)",
        )
    options.add_argument(
        "--validation", action="store_true", help="figures of the validation images, to choose by"
    )
    chosen = vars(options.parse_args(arguments))
    folder, on_validation = chosen.pop("output"), chosen.pop("validation")

    train, validation, test = digits()
    held_out = validation if on_validation else test
    name = f"{len(held_out)} {'validation' if on_validation else 'test'} images"
    comparison = compare(train, held_out, Settings(**chosen))
    return finish(
        "distillation",
        folder,
        markdown(comparison, name),
        partial(save_picture, comparison, name),
        comparison.failures(),
    )


if __name__ == "__main__":
    sys.exit(main())
