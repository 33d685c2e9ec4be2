"""The command line: ``python -m torchsoftmax``, and what ``--help`` says of it."""

import argparse
import platform
import sys
from collections.abc import Sequence
from typing import NoReturn

import torch

import torchsoftmax
from torchsoftmax import _C, _check, _explain, _load


def facts() -> dict[str, str]:
    """What a bug report should state."""
    return {
        "torchsoftmax": torchsoftmax.__version__,
        "torch": f"{torch.__version__} (built against {_C.torch_version})",
        "python": platform.python_version(),
        "compiler": _C.compiler,
        "CPU kernels in use": _load.cpu_kernels(),
        "CPU kernels built": ", ".join(_load.built()),
        "CUDA kernels": "built" if _C.cuda else "not built",
        "threads": str(torch.get_num_threads()),
    }


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, without the usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n")


def info(options: argparse.Namespace) -> int:
    if options.instruction_sets or options.other_instruction_sets:
        sets = _load.instruction_sets()
        print(*(sets[:-1] if options.other_instruction_sets else sets))
        return 0
    width = max(map(len, facts()))
    for name, value in facts().items():
        print(f"{name:<{width}}  {value}")
    return 0


def negative_numbers_as_values(arguments: Sequence[str]) -> list[str]:
    """A space before values such as -1e-3 or -1,2, which argparse would take for options."""

    def is_negative(text: str) -> bool:
        try:
            float(text.split(",")[0])
        except ValueError:
            return False
        return text.startswith("-")

    return [f" {text}" if is_negative(text) else text for text in arguments]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = Parser(prog="torchsoftmax", description="Facts, tests and explanations.")
    commands = parser.add_subparsers(dest="command", required=True)
    about = commands.add_parser("info", help="versions, instruction sets, threads, what was built")
    only = about.add_mutually_exclusive_group()
    only.add_argument(
        "--instruction-sets",
        action="store_true",
        help="only the values of ATEN_CPU_CAPABILITY that this machine can run",
    )
    only.add_argument(
        "--other-instruction-sets", action="store_true", help="the same without the one in use"
    )
    about.set_defaults(run=info)
    _check.add(commands)
    _explain.add(commands)
    given = sys.argv[1:] if arguments is None else arguments
    options = parser.parse_args(negative_numbers_as_values(given))
    return options.run(options)


if __name__ == "__main__":
    sys.exit(main())
