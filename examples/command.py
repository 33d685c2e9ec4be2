"""The command line that the examples have in common."""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path


def parser(
    name: str, description: str, steps: int | None = None, seeds: int | None = None
) -> argparse.ArgumentParser:
    """Option --output of the example `name`, and --steps and --seeds where they have a default."""
    options = argparse.ArgumentParser(prog=f"python -m examples.{name}", description=description)
    shown = "(default: %(default)s)"
    if steps is not None:
        options.add_argument(
            "--steps", type=_at_least(1), default=steps, help=f"training steps {shown}"
        )
    if seeds is not None:
        options.add_argument(
            "--seeds", type=_at_least(2), default=seeds, help=f"repetitions, two or more {shown}"
        )
    options.add_argument(
        "--output",
        type=Path,
        default=Path("docs/results"),
        metavar="DIR",
        help=f"folder of {name}.md and {name}.png {shown}",
    )
    return options


def _at_least(least: int) -> Callable[[str], int]:
    def integer(text: str) -> int:
        if int(text) < least:
            raise argparse.ArgumentTypeError(f"expected at least {least}, got {text}")
        return int(text)

    return integer


def finish(
    name: str,
    folder: Path,
    text: str,
    save_picture: Callable[[Path], None],
    failures: Sequence[str],
) -> int:
    """Print and save the report, save the picture; the exit status: 1 where a claim failed."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.md").write_text(text, encoding="utf-8")
    save_picture(folder / f"{name}.png")
    print(text)
    print(f"Wrote {name}.md and {name}.png to {folder}.")
    for line in failures:
        print(f"FAILED: {line}", file=sys.stderr)
    return 1 if failures else 0
