"""The table of results, and the same figures as JSON."""

import json
import platform
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import torch

import torchsoftmax
from examples.demo.training import Comparison, Run

HEADER = (
    "task",
    "loss function",
    "final loss",
    "accuracy",
    "largest difference",
    "loss, ms",
    "step, ms",
    "loss, MB",
    "step, MB",
)
LEGEND = """\
*final loss*: of the last training step, in nats. *accuracy*: on held-out data. *largest
difference*: between the two loss curves over all steps, in nats, and the tolerance. *loss*: forward
and backward of the loss alone, from logits to their gradient. *step*: the whole training step.
*ms*: median time per step. *MB*: peak of allocated memory beyond what was there at the beginning,
1 MB = 10⁶ bytes. In brackets: the reference's figure divided by this one.
"""


def figures(comparison: Comparison, run: Run) -> dict[str, float | str]:
    """What one run came to, by name and unit."""
    return {
        "name": run.name,
        "final_loss_nats": run.losses[-1],
        "accuracy": run.accuracy,
        "largest_difference_nats": comparison.differences(run).max().item(),
        "loss_ms": run.loss_milliseconds,
        "step_ms": run.step_milliseconds,
        "loss_peak_mb": run.loss_bytes / 1e6,
        "step_peak_mb": run.step_bytes / 1e6,
    }


def machine() -> dict[str, str | int]:
    """What the figures depend on besides the code."""
    return {
        "processor": _processor(),
        "threads": torch.get_num_threads(),
        "instruction_set": torch.backends.cpu.get_cpu_capability(),
        "system": platform.system(),
        "python": platform.python_version(),
        "torchsoftmax": torchsoftmax.__version__,
        **{name: version(name) for name in ("torch", "tokenizers", "scikit-learn")},
    }


def _processor() -> str:
    """The processor's name, which `platform` does not know on Linux."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def markdown(comparisons: Sequence[Comparison]) -> str:
    """The table, what its columns mean, the tasks, and the machine."""
    rows = [HEADER, *(row for comparison in comparisons for row in _rows(comparison))]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in rows
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    lines += ["", LEGEND]
    lines += [f"- {item.task.name}: {item.task.description}" for item in comparisons]
    lines.append("- machine: " + ", ".join(f"{key} {value}" for key, value in machine().items()))
    return "\n".join(lines) + "\n"


def _rows(comparison: Comparison) -> list[tuple[str, ...]]:
    reference = figures(comparison, comparison.runs[0])
    rows = []
    for run in comparison.runs:
        row = figures(comparison, run)
        is_reference = run is comparison.runs[0]
        difference = f"{row['largest_difference_nats']:.1e} (≤ {comparison.task.tolerance:g})"
        costs = []
        for key in ("loss_ms", "step_ms", "loss_peak_mb", "step_peak_mb"):
            ratio = (
                "" if is_reference else f" ({reference[key] / row[key]:.2g}\N{MULTIPLICATION SIGN})"
            )
            costs.append(_short(row[key]) + ratio)
        rows.append(
            (
                comparison.task.name,
                run.name,
                f"{row['final_loss_nats']:.4f}",
                f"{row['accuracy']:.2%}",
                "reference" if is_reference else difference,
                *costs,
            )
        )
    return rows


def _short(number: float) -> str:
    """Three significant digits, without an exponent."""
    return f"{number:.0f}" if number >= 100 else f"{number:.3g}"


def save_figures(comparisons: Sequence[Comparison], path: Path) -> None:
    """All figures as JSON."""
    tasks = {
        comparison.task.name: {
            "description": comparison.task.description,
            "steps": len(comparison.task.batches),
            "tolerance_nats": comparison.task.tolerance,
            "runs": [figures(comparison, run) for run in comparison.runs],
        }
        for comparison in comparisons
    }
    document = {"machine": machine(), "tasks": tasks}
    path.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
