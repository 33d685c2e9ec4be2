"""The command line: ``python -m torchsoftmax info``."""

import argparse
import platform
import sys
from collections.abc import Sequence

import torch

import torchsoftmax
from torchsoftmax import _C, _load


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


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="torchsoftmax", description="Facts about this build.")
    commands = parser.add_subparsers(dest="command", required=True)
    info = commands.add_parser("info", help="versions, instruction sets, threads, what was built")
    only = info.add_mutually_exclusive_group()
    only.add_argument(
        "--instruction-sets",
        action="store_true",
        help="only the values of ATEN_CPU_CAPABILITY that this machine can run",
    )
    only.add_argument(
        "--other-instruction-sets", action="store_true", help="the same without the one in use"
    )
    options = parser.parse_args(arguments)
    if options.instruction_sets or options.other_instruction_sets:
        sets = _load.instruction_sets()
        print(*(sets[:-1] if options.other_instruction_sets else sets))
        return 0
    width = max(map(len, facts()))
    for name, value in facts().items():
        print(f"{name:<{width}}  {value}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
