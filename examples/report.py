"""What the reports of all examples are made of: a table, a spread, and the machine."""

import platform
from collections.abc import Sequence
from importlib.metadata import version

import torch
from torch import Tensor

import torchsoftmax
from benchmarks.machine import processor


def table(rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table of equally long rows, the first of which is the header."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in rows
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def spread(values: Tensor, form: str) -> str:
    """Mean ± standard deviation of at least two numbers, each in the format `form`."""
    return f"{values.mean().item():{form}} ± {values.std().item():{form}}"


def machine(*packages: str) -> dict[str, str | int]:
    """What figures depend on besides the code; `packages` are named with their versions."""
    return {
        "processor": processor(),
        "threads": torch.get_num_threads(),
        "instruction_set": torch.backends.cpu.get_cpu_capability(),
        "system": platform.system(),
        "python": platform.python_version(),
        "torchsoftmax": torchsoftmax.__version__,
        **{name: version(name) for name in packages},
    }


def machine_line(*packages: str) -> str:
    """`machine` in one line of text."""
    return "machine: " + ", ".join(f"{key} {value}" for key, value in machine(*packages).items())
