"""``python -m benchmarks.pages``: tables and pictures from the CSV files, and the pages with them.

Those of ``benchmarks``, ``benchmarks.accuracy`` and ``benchmarks.linear``.
"""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks import accuracy, linear, picture, report, targets, traffic, vocabulary
from benchmarks.measure import Figure
from benchmarks.sections import RESULTS, refresh


def save(figures: list[Figure], machine: dict[str, object], folder: Path) -> None:
    """Writes the figures and the machine they are of."""
    folder.mkdir(parents=True, exist_ok=True)
    report.write_csv(figures, folder)
    (folder / f"{report.NAME}.json").write_text(json.dumps(machine, indent=2) + "\n")


def render(folder: Path) -> None:
    """Makes the tables and pictures of a folder from its CSV; what was not measured has none."""
    figures, machine = report.read_csv(folder), report.read_machine(folder)
    listed = report.without_sweep(figures)
    tables = {
        report.NAME: report.markdown(listed, machine) if listed else "",
        "summary": report.summary(listed, machine),
        "targets": targets.markdown(listed),
        "traffic": traffic.markdown(listed),
        "vocabulary": vocabulary.render(figures, machine, folder),
    }
    for name, table in tables.items():
        if table:
            (folder / f"{name}.md").write_text(table)
    if listed:
        picture.draw(listed, machine, folder)


if __name__ == "__main__":
    render(RESULTS)
    accuracy.render(RESULTS)
    linear.render(RESULTS)
    refresh(RESULTS)
