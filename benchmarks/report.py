"""The figures as CSV and JSON, as a table for the terminal, and as Markdown for the docs."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from itertools import groupby
from pathlib import Path

from benchmarks.cases import Case
from benchmarks.measure import Figure
from benchmarks.peers import OURS
from benchmarks.table import BY_NAME, SWEEP_CASES
from benchmarks.worker import COPY, FRESH

NAME = "bench-cpu"
NUMBER_COLUMNS = (
    "median_s", "iqr_s", "ratio", "ratio_low", "ratio_high", "gb_per_s", "of_copy",
    "peak_of_logits", "error", "tolerance",
)  # fmt: skip
CASE_COLUMNS = ("op", "direction", "shape_text", "dtype", "variant", "stands_for")
# The rows of the README's table.
SUMMARY = (
    "softmax forward 32x10 float32",
    "softmax forward 1024x1000 float32",
    "softmax forward 4096x32000 float32",
    "softmax backward 4096x32000 float32",
    "softmax forward 8x21x256x256 dim=1 float32",
    "softmax forward 8x12x512x512 float32 causal mask",
    "log_softmax forward 4096x32000 float32",
    "cross_entropy forward 4096x32000 float32",
    "cross_entropy forward+backward 4096x32000 float32",
    "cross_entropy forward+backward 4096x32000 float32 in place",
    "cross_entropy forward+backward 4096x32000 bfloat16",
    "cross_entropy forward+backward 8x21x256x256 dim=1 float32",
    "kl_div_with_logits forward+backward 1024x32000 float32",
)
NAMED_LOSSES = 5


def by_case(figures: list[Figure]) -> list[tuple[Case, dict[str, Figure]]]:
    """The figures of each case by peer, in the order they were measured."""
    groups = groupby(figures, key=lambda figure: figure.case)
    return [(case, {figure.peer: figure for figure in group}) for case, group in groups]


def without_sweep(figures: list[Figure]) -> list[Figure]:
    """The cases of the table."""
    return [figure for figure in figures if figure.case not in SWEEP_CASES]


def rivals(figures: list[Figure]) -> list[str]:
    """The peers that ours is compared with, the tuned form of each beside its stock form."""
    peers = [p for p in dict.fromkeys(f.peer for f in figures) if p not in (OURS, COPY, FRESH)]
    stems = [peer.removesuffix(" tuned") for peer in peers]
    return sorted(peers, key=lambda peer: stems.index(peer.removesuffix(" tuned")))


def ratio_text(figure: Figure | None, spread: bool = True) -> str:
    """A ratio and the inter-quartile range of its rounds."""
    if figure is None:
        return "–"
    text = f"{figure.ratio:.2f}"
    return f"{text} ({figure.ratio_low:.2f}–{figure.ratio_high:.2f})" if spread else text


def work_text(case: Case) -> str:
    """Operator, variant and direction."""
    return (
        f"{case.op}, {case.variant}: {case.direction}"
        if case.variant
        else (f"{case.op}: {case.direction}")
    )


def rows(
    figures: list[Figure], spread: bool = True, bold: bool = False
) -> tuple[list[str], list[list[str]]]:
    """Header and lines of the table of ratios; `bold` marks what is below 1."""
    peers = rivals(figures)
    header = ["op", "shape", "dtype", *peers, "of copy speed"]
    lines = []
    for case, of in by_case(figures):
        ratios = [ratio_text(of.get(peer), spread) for peer in peers]
        if bold:
            lost = [peer in of and of[peer].ratio < 1 for peer in peers]
            ratios = [f"**{r}**" if worse else r for r, worse in zip(ratios, lost, strict=True)]
        shape = f"{case.shape_text} ({case.stands_for})"
        lines.append([work_text(case), shape, case.dtype, *ratios, f"{of[OURS].of_copy:.0%}"])
    return header, lines


def markdown_table(header: list[str], lines: list[list[str]], text_columns: int) -> str:
    """The first columns to the left, the others to the right."""
    align = [":--" if i < text_columns else "--:" for i in range(len(header))]
    return "\n".join(f"| {' | '.join(line)} |" for line in [header, align, *lines])


def lost(figures: list[Figure]) -> list[Figure]:
    """Where a peer is faster, the worst first."""
    against = [figure for figure in figures if figure.peer in rivals(figures)]
    return sorted((f for f in against if f.ratio < 1), key=lambda figure: figure.ratio)


def losses(figures: list[Figure], named: int | None = None) -> str:
    """A sentence that names where a peer is faster: all of them, or the worst."""
    count = sum(figure.peer in rivals(figures) for figure in figures)
    worse = lost(figures)
    sentence = f"A peer is faster than torchsoftmax in {len(worse)} of {count} comparisons"
    places = "; ".join(f"{f.peer} in {f.case.name} ({f.ratio:.2f})" for f in worse[:named])
    most = ", most" if named is not None and named < len(worse) else ""
    return f"{sentence}{most}: {places}." if worse else f"{sentence}."


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
    libraries = ("torch", "onnxruntime", "jax")
    versions = ", ".join(f"{name} {machine[name]}" for name in libraries if name in machine)
    return (
        f"{machine['processor']}, {machine['threads']} threads on {machine['cores']} cores, "
        f"{machine['instruction_set']}, {versions}, "
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


def legend(machine: dict[str, object]) -> str:
    """What the columns are, and how each peer is run."""
    settings = machine["settings"]
    say = {name: " ".join(f"`{k}={v}`" for k, v in each.items()) for name, each in settings.items()}
    parts = [
        "How many times faster torchsoftmax is: the peer's time divided by ours, median over "
        "alternated rounds; below 1, in bold, the peer is faster."
    ]
    if "tuned" in say:
        parts.append(f"“Tuned” is PyTorch with {say['tuned']}.")
    if "onnxruntime" in say:
        parts.append(
            f"ONNX Runtime, with {say['onnxruntime']}, writes into memory that it is given once "
            "and that stays; everybody else makes a new result."
        )
    if "jax" in say:
        parts.append(f"JAX is compiled for the shape and runs with {say['jax']}.")
    parts.append(
        "“In place” is `inplace_backward=True`, in JAX a donated argument; there the logits are "
        "written anew before each call of every peer, outside of its time. “AVX2” is a process of "
        "everybody with `ATEN_CPU_CAPABILITY=avx2`. The last column is our rate of memory "
        "traffic, counted at the least that the operator must move, against a plain copy of the "
        "logits into an existing tensor: how much of our time that traffic takes at the speed of "
        "a copy."
    )
    return " ".join(parts)


def markdown(figures: list[Figure], machine: dict[str, object]) -> str:
    """The table for docs/performance.md, with the inter-quartile range of each ratio."""
    header, lines = rows(figures, bold=True)
    parts = [
        markdown_table(header, lines, 3), legend(machine), losses(figures), relatives(figures),
        machine_line(machine),
    ]  # fmt: skip
    return "\n\n".join(part for part in parts if part) + "\n"


def summary(figures: list[Figure], machine: dict[str, object]) -> str:
    """The short table for the README: some rows, and the worst of all."""
    chosen = [figure for figure in figures if figure.case.name in SUMMARY]
    if not chosen:
        return ""
    table = markdown_table(*rows(chosen, spread=False, bold=True), 3)
    return "\n\n".join([table, losses(figures, NAMED_LOSSES), machine_line(machine)]) + "\n"


def write_csv(figures: list[Figure], folder: Path) -> None:
    """Every figure with all its digits that mean something."""
    with (folder / f"{NAME}.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        names = [column.removesuffix("_text") for column in CASE_COLUMNS]
        writer.writerow([*names, "peer", *NUMBER_COLUMNS])
        for figure in figures:
            numbers = [getattr(figure, column) for column in NUMBER_COLUMNS]
            writer.writerow(
                [getattr(figure.case, column) for column in CASE_COLUMNS]
                + [figure.peer]
                + ["" if n is None else f"{n:.6g}" for n in numbers]
            )


def read_csv(folder: Path) -> list[Figure]:
    """The figures of an earlier run, those of cases that are no longer measured left out."""
    figures = []
    with (folder / f"{NAME}.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            parts = (row[name] for name in ("op", "direction", "shape", "dtype", "variant"))
            case = BY_NAME.get(" ".join(part for part in parts if part))
            numbers = {name: float(row[name]) if row[name] else None for name in NUMBER_COLUMNS}
            if case is not None:
                figures.append(Figure(case=case, peer=row["peer"], **numbers))
    return figures


def read_machine(folder: Path) -> dict[str, object]:
    """Of the run that the figures are from."""
    return json.loads((folder / f"{NAME}.json").read_text())
