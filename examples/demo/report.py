"""The table of results, and the same figures as JSON."""

import json
from collections.abc import Sequence
from pathlib import Path

from examples.demo.training import Comparison, Run
from examples.report import machine, machine_line, table

PACKAGES = ("torch", "tokenizers", "scikit-learn")
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
and backward of the loss alone, from logits to their gradient; that of “torchsoftmax, linear”,
`LinearCrossEntropyLoss`, contains the output layer, which is in the *step* of the others. *step*:
the whole training step. *ms*: median time per step. *MB*: peak of allocated memory beyond what was
there at the beginning, 1 MB = 10⁶ bytes. In brackets: the reference's figure divided by this one.
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


def markdown(comparisons: Sequence[Comparison]) -> str:
    """The table, what its columns mean, the tasks, and the machine."""
    rows = [HEADER, *(row for comparison in comparisons for row in _rows(comparison))]
    lines = [table(rows), "", LEGEND]
    lines += [f"- {item.task.name}: {item.task.description}" for item in comparisons]
    lines.append("- " + machine_line(*PACKAGES))
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
    document = {"machine": machine(*PACKAGES), "tasks": tasks}
    path.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
