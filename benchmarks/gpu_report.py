"""The figures of ``benchmarks.gpu`` as JSON, as verdicts on the targets, and as tables."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from statistics import median, quantiles

from benchmarks.gpu_cases import (
    BANDWIDTH,
    COMPILE,
    COPY,
    EAGER,
    GEMMS,
    IN_PLACE,
    LIGER,
    OURS,
    SMALL,
    Case,
    Wanted,
)  # fmt: skip
from benchmarks.gpu_measure import Result
from benchmarks.report import markdown_table

NAME = "gpu"
Machine = dict[str, object]
NONE = "–"
ORDER = (OURS, IN_PLACE, EAGER, COMPILE, LIGER, GEMMS, COPY)


def rounded(value: object) -> object:
    """The same with the digits that mean something."""
    if isinstance(value, dict):
        return {key: rounded(each) for key, each in value.items()}
    if isinstance(value, list):
        return [rounded(each) for each in value]
    return float(f"{value:.5g}") if isinstance(value, float) else value


def save(machine: Machine, results: list[Result], folder: Path) -> None:
    """Everything that was measured."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = ",\n".join(json.dumps(rounded(asdict(result))) for result in results)
    text = f'{{"machine": {json.dumps(machine, indent=1)},\n"results": [\n{lines}\n]}}\n'
    (folder / f"{NAME}.json").write_text(text)


def read(folder: Path) -> tuple[Machine, list[Result]]:
    """What a run has saved."""
    path = folder / f"{NAME}.json"
    if not path.exists():
        return {}, []
    saved = json.loads(path.read_text())
    return saved["machine"], [Result(**result) for result in saved["results"]]


def ratio(result: Result, over: str, under: str) -> float | None:
    """One's time over the other's, median of the rounds."""
    if not result.seconds.get(over) or not result.seconds.get(under):
        return None
    pairs = zip(result.seconds[over], result.seconds[under], strict=True)
    return median(one / other for one, other in pairs)


def figure(wanted: Wanted, result: Result | None) -> float | None:
    """What a target speaks of, None where it is not measured."""
    if result is None:
        return None
    pair = (wanted.of, wanted.against) if wanted.at_most else (wanted.against, wanted.of)
    return ratio(result, *pair)


def verdict(wanted: Wanted, result: Result | None) -> str:
    """Held, missed, or not measured."""
    value = figure(wanted, result)
    if value is None:
        failed = result is not None and wanted.of in result.left_out
        return "missed" if failed else "not measured"
    return (
        "held" if (value <= wanted.limit if wanted.at_most else value >= wanted.limit) else "missed"
    )


def amount(wanted: Wanted, value: float | None) -> str:
    """A figure of a target, or its limit, as it is read."""
    if value is None:
        return NONE
    return f"{100 * value:.1f} %" if wanted.against == COPY else f"{value:.2f}×"


def limit(wanted: Wanted) -> str:
    return f"{'≤' if wanted.at_most else '≥'} {amount(wanted, wanted.limit)}"


def meaning(wanted: Wanted) -> str:
    """What a figure is."""
    of = "" if wanted.of == OURS else f", {wanted.of.removeprefix('ours ')}"
    if wanted.against == COPY:
        return f"of copy bandwidth{of}"
    return f"time over {wanted.against}" if wanted.at_most else f"speedup over {wanted.against}{of}"


def shape_text(case: Case) -> str:
    return "×".join(map(str, case.shape))


def targets(cases: tuple[Case, ...], results: list[Result]) -> tuple[list[str], list[list[str]]]:
    """Every target beside what was measured."""
    known = {result.name: result for result in results}
    lines = [
        [
            case.work, shape_text(case), case.dtype, meaning(wanted),
            amount(wanted, figure(wanted, known.get(case.name))), limit(wanted),
            verdict(wanted, known.get(case.name)),
        ]
        for case in cases
        for wanted in case.wanted
    ]  # fmt: skip
    return ["work", "shape", "dtype", "figure", "measured", "wanted", ""], lines


def count(lines: list[list[str]]) -> str:
    """How many targets are held."""
    verdicts = [line[-1] for line in lines]
    numbers = ", ".join(
        f"{verdicts.count(word)} {word}" for word in ("held", "missed", "not measured")
    )
    return f"{len(verdicts)} targets: {numbers}."


def milliseconds(result: Result, name: str) -> str:
    """A contender's time."""
    value = 1e3 * median(result.seconds[name])
    return f"{value:.4g} ms" if value >= 0.1 else f"{1e3 * value:.4g} µs"


def bandwidth(result: Result, name: str) -> str:
    """The least traffic over a contender's time."""
    return f"{result.bytes / median(result.seconds[name]) / 1e9:.0f} GB/s" if result.bytes else NONE


def spread(result: Result, name: str) -> float:
    """The inter-quartile range over the median."""
    seconds = result.seconds[name]
    low, _, high = quantiles(seconds, n=4) if len(seconds) > 1 else (0.0, 0.0, 0.0)
    return (high - low) / median(seconds)


def of_copy(result: Result, name: str) -> str:
    value = ratio(result, COPY, name)
    return NONE if value is None else f"{100 * value:.1f} %"


def cell(result: Result, name: str) -> str:
    """A contender in the table of a work that memory bounds."""
    if not result.seconds.get(name):
        return NONE
    parts = [milliseconds(result, name), bandwidth(result, name)]
    return " · ".join(parts if name == COPY else [*parts, of_copy(result, name)])


def of_bandwidth(pairs: list[tuple[Case, Result]]) -> str:
    """The table of one such work: a line per shape."""
    peers = [p for p in (EAGER, COMPILE, COPY) if any(p in r.seconds for _, r in pairs)]
    lines = [
        [
            shape_text(case), case.dtype, cell(result, OURS), limit(case.wanted[0]),
            verdict(case.wanted[0], result), *(cell(result, peer) for peer in peers),
        ]
        for case, result in pairs
    ]  # fmt: skip
    return markdown_table(["shape", "dtype", "ours", "wanted", "", *peers], lines, 2)


def of_others(pairs: list[tuple[Case, Result]]) -> str:
    """The table of any other work: a line per contender."""
    header = [
        "shape", "dtype", "who", "time", "IQR", "bandwidth", "of copy", "time / ours",
        "wanted of ours", "", "peak memory",
    ]  # fmt: skip
    lines = []
    for case, result in pairs:
        for name in sorted(result.seconds, key=ORDER.index):
            found = [
                w for w in case.wanted
                if name == (IN_PLACE if w.of == IN_PLACE else w.against)
            ]  # fmt: skip
            times = ratio(result, name, OURS)
            peak = result.peak_bytes.get(name)
            lines.append(
                [
                    shape_text(case), case.dtype, name, milliseconds(result, name),
                    f"{100 * spread(result, name):.1f} %", bandwidth(result, name),
                    of_copy(result, name), NONE if times is None else f"{times:.2f}",
                    ", ".join(f"{meaning(w)} {limit(w)}" for w in found),
                    ", ".join(verdict(w, result) for w in found),
                    NONE if peak is None else f"{peak / 1e6:.0f} MB",
                ]
            )  # fmt: skip
    return markdown_table(header, lines, 3)


def left_out(results: list[Result]) -> str:
    """Who is missing, and why."""
    lines = [f"- {r.name}: {who}: {why}" for r in results for who, why in r.left_out.items()]
    return "\n".join(["Left out:", "", *lines]) if lines else ""


def machine_line(machine: Machine) -> str:
    return ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in machine.items())


def markdown(cases: tuple[Case, ...], machine: Machine, results: list[Result]) -> str:
    """The page."""
    header, lines = targets(cases, results)
    known = {result.name: result for result in results}
    parts = [machine_line(machine), "### Targets", markdown_table(header, lines, 4), count(lines)]
    for work in dict.fromkeys(case.work for case in cases):
        pairs = [(c, known[c.name]) for c in cases if c.work == work and c.name in known]
        pairs = [(case, result) for case, result in pairs if result.seconds]
        if pairs:
            table = of_bandwidth if work in BANDWIDTH else of_others
            parts += [f"### {work}", table(pairs)]
    spreads = [spread(r, OURS) for r in results if OURS in r.seconds]
    if spreads:
        parts.append(
            "Medians of rounds in which everybody has one call in turn, by CUDA events; ratios are "
            "medians of those within a round. *eager*: PyTorch's own operators; *compile*: the "
            "same by `torch.compile` for exactly this shape. Bandwidth: the bytes that the work "
            "must read and write "
            "(the logits of a loss are read twice and their gradient is written; kl_div reads "
            "both of its inputs twice) over the time. *of copy*: the time of a device-to-device "
            "`copy_` that moves as many bytes, over the time. *peak memory*: what a call allocates "
            "at most beyond its inputs, its results included, 1 MB = 10⁶ bytes. *in place* and "
            "Liger overwrite their logits, which are written anew before each call, outside of "
            f"its time. *{SMALL}*: per call of 200 by the host's clock. Every result was checked "
            "against float64 first. Inter-quartile range of our times over their median: "
            f"{100 * median(spreads):.1f} % in the middle, {100 * max(spreads):.1f} % at most."
        )
    return "\n\n".join(part for part in [*parts, left_out(results)] if part) + "\n"


def text(cases: tuple[Case, ...], results: list[Result]) -> str:
    """The targets for the terminal."""
    header, lines = targets(cases, results)
    widths = [max(map(len, column)) for column in zip(header, *lines, strict=True)]
    table = [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in [header, *lines]
    ]
    return "\n".join([*table, "", count(lines)])


def one_line(case: Case, result: Result) -> str:
    """A case as soon as it is measured."""
    times = [f"{name} {milliseconds(result, name)}" for name in result.seconds]
    found = [
        f"{meaning(w)} {amount(w, figure(w, result))} ({limit(w)}): {verdict(w, result)}"
        for w in case.wanted
    ]
    missing = [f"{name} left out: {why}" for name, why in result.left_out.items()]
    return f"{case.name}: " + "; ".join([", ".join(times), *found, *missing])
