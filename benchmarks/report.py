"""The figures as a table for the terminal, CSV, JSON and a table for the README."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from itertools import groupby
from pathlib import Path

from benchmarks.cases import Case
from benchmarks.measure import Figure
from benchmarks.peers import OURS
from benchmarks.worker import COPY

NAME = "bench-cpu"
FIGURE_COLUMNS = (
    "peer", "median_s", "iqr_s", "ratio", "ratio_low", "ratio_high", "gb_per_s", "of_copy",
    "error", "tolerance",
)  # fmt: skip
CASE_COLUMNS = ("op", "direction", "shape_text", "dtype", "variant", "stands_for")


def by_case(figures: list[Figure]) -> list[tuple[Case, dict[str, Figure]]]:
    """The figures of each case by peer, in the order they were measured."""
    groups = groupby(figures, key=lambda figure: figure.case)
    return [(case, {figure.peer: figure for figure in group}) for case, group in groups]


def rivals(figures: list[Figure]) -> list[str]:
    """The peers that ours is compared with, the tuned form of each beside its stock form."""
    peers = [p for p in dict.fromkeys(f.peer for f in figures) if p not in (OURS, COPY)]
    stems = [peer.removesuffix(" tuned") for peer in peers]
    return sorted(peers, key=lambda peer: stems.index(peer.removesuffix(" tuned")))


def ratio_text(figure: Figure | None) -> str:
    """A ratio and the inter-quartile range of its rounds."""
    if figure is None:
        return "–"
    return f"{figure.ratio:.2f} ({figure.ratio_low:.2f}–{figure.ratio_high:.2f})"


def rows(figures: list[Figure]) -> tuple[list[str], list[list[str]]]:
    """Header and lines of the table of ratios."""
    peers = rivals(figures)
    header = ["op", "shape", "dtype", *peers, "of copy speed"]
    lines = []
    for case, of in by_case(figures):
        op = f"{case.op}, {case.variant}" if case.variant else case.op
        lines.append(
            [
                f"{op}: {case.direction}",
                f"{case.shape_text} ({case.stands_for})",
                case.dtype,
                *(ratio_text(of.get(peer)) for peer in peers),
                f"{of[OURS].of_copy:.0%}",
            ]
        )
    return header, lines


def losses(figures: list[Figure]) -> str:
    """A sentence that names where a peer is faster."""
    against = [figure for figure in figures if figure.peer in rivals(figures)]
    lost = [figure for figure in against if figure.ratio < 1]
    sentence = f"A peer is faster than torchsoftmax in {len(lost)} of {len(against)} comparisons"
    places = "; ".join(f"{f.peer} in {f.case.name} ({f.ratio:.2f})" for f in lost)
    return f"{sentence}: {places}." if lost else f"{sentence}."


def relatives(figures: list[Figure]) -> str:
    """Our own times beside each other, each over that of a copy of the same size in its run."""
    ours = {case: of[OURS].median_s / of[COPY].median_s for case, of in by_case(figures)}
    pairs = [
        (case, replace(case, variant=""), f"with a {case.variant}")
        for case in ours
        if case.variant.endswith("mask")
    ] + [
        (case, replace(case, op="cross_entropy", variant="reduction none"), "")
        for case in ours
        if case.op == "selective_log_softmax"
    ]
    found = []
    for case, other, how in pairs:
        other = next((known for known in ours if same_work(known, other)), None)
        if other is not None:
            against = "without" if how else "cross_entropy with reduction none"
            what = f"{case.op} {case.direction} {case.shape_text} {case.dtype}"
            found.append(f"{what} {how} {ours[case] / ours[other]:.2f} of {against}")
    return f"Our own times: {'; '.join(' '.join(f.split()) for f in found)}." if found else ""


def same_work(one: Case, other: Case) -> bool:
    """Whether two cases are the same but for what they stand for."""
    return replace(one, stands_for="") == replace(other, stands_for="")


def machine_line(machine: dict[str, object]) -> str:
    """The machine in one line."""
    return (
        f"{machine['processor']}, {machine['threads']} threads on {machine['cores']} cores, "
        f"{machine['instruction_set']}, torch {machine['torch']}, "
        f"transparent huge pages: {machine['transparent_huge_pages']}, {machine['date']}"
    )


def text(figures: list[Figure], machine: dict[str, object]) -> str:
    """The table for the terminal."""
    header, lines = rows(figures)
    widths = [max(map(len, column)) for column in zip(header, *lines, strict=True)]
    table = [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in [header, *lines]
    ]
    return "\n".join([machine_line(machine), "", *table, "", losses(figures)])


def markdown(figures: list[Figure], machine: dict[str, object]) -> str:
    """The table for the README; what is below 1 is in bold."""
    header, lines = rows(figures)
    peers = rivals(figures)
    first, last = 3, 3 + len(peers)
    for line, (_, of) in zip(lines, by_case(figures), strict=True):
        for column, peer in zip(range(first, last), peers, strict=True):
            if peer in of and of[peer].ratio < 1:
                line[column] = f"**{line[column]}**"
    header = [f"vs {cell}" if first <= i < last else cell for i, cell in enumerate(header)]
    align = [":--" if i < first else "--:" for i in range(len(header))]
    table = "\n".join(f"| {' | '.join(line)} |" for line in [header, align, *lines])
    legend = (
        "How many times faster torchsoftmax is: the peer's time divided by ours, median over "
        "alternated rounds (inter-quartile range); below 1, in bold, the peer is faster. "
        f"“Tuned” is PyTorch with `{machine['tuned']}`. The last column is our rate of memory "
        "traffic, counted at the least that the operator must move, against a plain copy of the "
        "same tensor."
    )
    parts = [table, legend, losses(figures), relatives(figures), machine_line(machine)]
    return "\n\n".join(part for part in parts if part) + "\n"


def write(figures: list[Figure], machine: dict[str, object], folder: Path) -> None:
    """Writes the CSV of all figures, the machine beside it, and the Markdown table."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{NAME}.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*(c.removesuffix("_text") for c in CASE_COLUMNS), *FIGURE_COLUMNS])
        for figure in figures:
            numbers = [getattr(figure, column) for column in FIGURE_COLUMNS]
            writer.writerow(
                [getattr(figure.case, column) for column in CASE_COLUMNS]
                + [f"{n:.6g}" if isinstance(n, float) else n for n in numbers]
            )
    (folder / f"{NAME}.json").write_text(json.dumps(machine, indent=2) + "\n")
    (folder / f"{NAME}.md").write_text(markdown(figures, machine))
