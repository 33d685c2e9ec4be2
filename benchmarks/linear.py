"""``python -m benchmarks.linear``: the output layer and its loss, time and peak memory.

Checks every result against float64 first: nothing is measured where ours is wrong, and a peer that
is wrong is marked. ``--only`` measures some problems and keeps what the result file has of the
others.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import os
import re
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from statistics import median

import torch
from matplotlib.figure import Figure as Picture
from tqdm import tqdm

from benchmarks.linear_worker import FRESH_PRODUCTS, LOSSES, PARTIAL, PRODUCTS
from benchmarks.machine import processor
from benchmarks.sections import refresh

SWITCH = "THP_MEM_ALLOC_ENABLE"  # PyTorch's huge pages, read once
TUNED = " tuned"
SETTLE_SECONDS = 0.1  # for the threads of the other process to fall asleep
# Rounding: of logits and gradients to the dtype, and of sums of up to 128,256 products.
TOLERANCE_EPS = 64.0
TABLE = [(2048, 768, 50257), (1024, 2048, 128256)]
SWEEP = [(1024, 768, 2**k) for k in (13, 15, 17, 18)]


@dataclass(frozen=True)
class Problem:
    rows: int
    features: int
    classes: int
    dtype: str

    @property
    def listed(self) -> bool:
        """Whether it is in the table, which has more contenders than the picture."""
        return (self.rows, self.features, self.classes) not in SWEEP

    @property
    def name(self) -> str:
        return f"{self.rows}x{self.features}->{self.classes} {self.dtype}"


PROBLEMS = [Problem(*shape, dtype) for shape in TABLE + SWEEP for dtype in ("float32", "bfloat16")]
QUICK = [Problem(64, 32, 500, "float32")]


@dataclass(frozen=True)
class Result:
    """One contender on one problem."""

    rows: int
    features: int
    classes: int
    dtype: str
    contender: str
    seconds: float
    ratio: float  # its time over ours, within a round
    peak_mb: float
    error_eps: float
    processor: str

    @property
    def wrong(self) -> bool:
        """Whether it is further from float64 than rounding takes it."""
        return not (self.contender.startswith(PRODUCTS) or self.error_eps <= TOLERANCE_EPS)


class Process:
    """The caller's side of a worker."""

    def __init__(self, tuned: bool, threads: int) -> None:
        environment = {k: v for k, v in os.environ.items() if k != SWITCH}
        environment |= {"OMP_NUM_THREADS": str(threads)} | ({SWITCH: "1"} if tuned else {})
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.linear_worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
            cwd=Path(__file__).parents[1],
        )

    def ask(self, do: str, **request: object) -> object:
        self.process.stdin.write(json.dumps({"do": do, **request}) + "\n")
        self.process.stdin.flush()
        reply = self.process.stdout.readline()
        if not reply:
            raise RuntimeError(f"a worker ended during {do!r} {request}; its error is above")
        return json.loads(reply)

    def stop(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def measure(problem: Problem, rounds: int, threads: int, compiled: bool) -> list[Result]:
    """Every contender in turns; one that takes more than three times as long as ours in the first
    round alone."""
    asked_for = {"compile": compiled, PARTIAL: problem.listed}
    names = [name for name in LOSSES if asked_for.get(name, True)]
    of_tuned = [name for name in names if name == "plain" or (name == "compile" and problem.listed)]
    processes = {"": Process(False, threads), TUNED: Process(True, threads)}
    asked = {
        "": names + [PRODUCTS] * problem.listed,
        TUNED: of_tuned + [FRESH_PRODUCTS] * problem.listed,
    }
    first: dict[str, dict[str, float]] = {}
    turns: dict[str, tuple[Process, str]] = {}
    for suffix, process in processes.items():
        for name, reply in process.ask("open", **asdict(problem), names=asked[suffix]).items():
            first[name + suffix] = reply
            turns[name + suffix] = (process, name)
    if not first["ours"]["error"] <= TOLERANCE_EPS:
        raise SystemExit(f"{problem.name}: {first['ours']['error']:.3g} eps from float64")
    slow = [name for name in first if first[name]["seconds"] > 3 * first["ours"]["seconds"]]
    times: dict[str, list[float]] = {name: [] for name in turns}
    for number in range(rounds):
        for name in list(turns) if number % 2 == 0 else list(turns)[::-1]:
            process, step = turns[name]
            if name in slow and number > 0:
                times[name].append(times[name][0])
                continue
            time.sleep(SETTLE_SECONDS)
            times[name].append(process.ask("time", name=step))
    for process in processes.values():
        process.stop()
    ratios = {
        name: [theirs / mine for theirs, mine in zip(seconds, times["ours"], strict=True)]
        for name, seconds in times.items()
    }
    return [
        Result(
            **asdict(problem),
            contender=name,
            seconds=median(times[name]),
            ratio=median(ratios[name]),
            peak_mb=first[name]["peak"] / 1e6,
            error_eps=first[name]["error"],
            processor=processor(),
        )
        for name in turns
    ]


def read(path: Path) -> list[Result]:
    """What is in a result file."""
    if not path.exists():
        return []
    types = dict.fromkeys(("contender", "dtype", "processor"), str)
    types |= dict.fromkeys(("rows", "features", "classes"), int)
    with path.open(newline="") as file:
        return [
            Result(**{key: types.get(key, float)(value) for key, value in row.items()})
            for row in csv.DictReader(file)
        ]


def in_picture(result: Result) -> bool:
    """Whether it is of the sweep over the number of classes."""
    return (result.rows, result.features, result.classes) in SWEEP


def of_processors(results: list[Result]) -> str:
    """What measured them."""
    return " and ".join(sorted({result.processor for result in results}))


def write(results: list[Result], folder: Path, threads: int) -> None:
    """The results and the machine they are of."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "linear.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, [f.name for f in fields(Result)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(
            {k: f"{v:.5g}" if isinstance(v, float) else v for k, v in asdict(result).items()}
            for result in results
        )
    machine = {
        "processor": of_processors([r for r in results if not in_picture(r)]),
        "processor of the picture": of_processors([r for r in results if in_picture(r)]),
        "threads": threads,
        "instruction_set": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
        "tuned": f"{SWITCH}=1",
    }
    machine = {key: value for key, value in machine.items() if value != ""}
    (folder / "linear.json").write_text(json.dumps(machine, indent=2) + "\n")


def render(folder: Path) -> str:
    """Makes the table and the picture of a folder from its CSV; returns the table."""
    results = read(folder / "linear.csv")
    machine = json.loads((folder / "linear.json").read_text())
    text = table(results) + "\nmachine: " + ", ".join(f"{k} {v}" for k, v in machine.items()) + "\n"
    (folder / "linear.md").write_text(text)
    draw(results, folder / "linear.png")
    return text


def table(results: list[Result]) -> str:
    lines = [
        "| problem | contender | time, s | time / ours | peak, MB | error, eps |",
        "|:--|:--|--:|--:|--:|--:|",
    ]
    for r in results:
        if Problem(r.rows, r.features, r.classes, r.dtype).listed:
            name = f"{r.rows}×{r.features} → {r.classes}, {r.dtype}"
            peak = "–" if math.isnan(r.peak_mb) else f"{r.peak_mb:.0f}"
            products = r.contender.startswith(PRODUCTS)
            error = "–" if products else f"{r.error_eps:.2g}" + ", wrong" * r.wrong
            lines.append(
                f"| {name} | {r.contender} | {r.seconds:.3g} | {r.ratio:.2f} | {peak} | {error} |"
            )
    lines += [
        "",
        "Forward and backward of the mean. *time*: median over rounds in turns, of what takes more "
        "than three times as long as ours one call, its third. *peak*: of the "
        "resident set in a second call, beyond inputs and gradients, 1 MB = 10⁶ bytes. *error*: "
        "the largest of the loss and of the gradients of 64 rows and 64 classes against float64, "
        "in units of the dtype's eps of each result's largest value, "
        f"*wrong* beyond {TOLERANCE_EPS:g}. "
        "*plain*: `F.cross_entropy(F.linear(input, weight), target)`; "
        "*compile*: the same by `torch.compile` for exactly this shape; "
        f"*tuned*: with memory in huge pages (`{SWITCH}=1`). "
        "*ignored*: of the targets, whose rows reach no product. "
        "*three products*: the matrix products of the plain form alone, into memory that is there; "
        "*new gradients tuned*: those of the gradients into new memory, in huge pages. "
        "*native chunks*: "
        "`F.linear_cross_entropy(options=LinearCrossEntropyOptions())`.",
    ]
    return "\n".join(lines) + "\n"


# Of the contenders in the picture: their colour, line and place, lowest first. What is as large as
# another is drawn under it, as a wider line.
STYLES: dict[str, dict[str, object]] = {
    "plain": {"color": "#222222", "linewidth": 4.5, "markersize": 10},
    "plain tuned": {"color": "#9a9a9a", "linestyle": "--"},
    "compile": {"color": "#3182bd"},
    "native chunks": {"color": "#e6a000"},
    "ours": {"color": "#b30000"},
}


def draw(results: list[Result], path: Path) -> None:
    """Time and peak memory over the number of classes, one column per dtype."""
    picture = Picture(figsize=(10, 7), layout="constrained")
    axes = picture.subplots(2, 2, sharex=True, sharey="row")
    for dtype, column in zip(("float32", "bfloat16"), axes.T, strict=True):
        for name, style in STYLES.items():
            line = sorted(
                (r.classes, r.seconds, r.peak_mb, r.wrong)
                for r in results
                if (r.dtype, r.contender) == (dtype, name) and in_picture(r)
            )
            wrong = [point for point in line if point[3]]
            for axis, values in zip(column, (1, 2), strict=True):
                axis.loglog(
                    [point[0] for point in line],
                    [point[values] for point in line],
                    **{"marker": "o", "linestyle": "-", "label": name} | style,
                )
                axis.loglog(
                    [point[0] for point in wrong],
                    [point[values] for point in wrong],
                    "x",
                    color="black",
                    markersize=9,
                )
        column[0].set_title(f"{dtype}, {SWEEP[0][0]} rows, {SWEEP[0][1]} features")
        column[1].set_xlabel("classes")
        for axis in column:
            axis.grid(color="#e0e0e0")
            axis.set_xticks([s[2] for s in SWEEP], [f"{s[2] // 1024}k" for s in SWEEP])
            axis.minorticks_off()
    axes[0, 0].set_ylabel("forward and backward, s")
    axes[1, 0].set_ylabel("peak beyond inputs and gradients, MB")
    if any(result.wrong for result in results if in_picture(result)):
        label = f"further than {TOLERANCE_EPS:g} eps from float64"
        axes[0, 0].plot([], [], "x", color="black", label=label)
    lines, labels = axes[0, 0].get_legend_handles_labels()
    picture.legend(lines, labels, loc="outside upper center", ncols=len(lines), frameon=False)
    picture.savefig(path, dpi=140)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.linear", description=__doc__)
    parser.add_argument("--only", metavar="REGEX", default="", help="problems whose name matches")
    parser.add_argument("--quick", action="store_true", help="one small problem, no torch.compile")
    parser.add_argument("--output", type=Path, default=Path("docs/results"), metavar="DIR")
    parser.add_argument("--rounds", type=int, default=3, metavar="N")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), metavar="N")
    options = parser.parse_args(argv)
    problems = QUICK if options.quick else PROBLEMS
    problems = [p for p in problems if re.search(options.only, p.name)]
    if not problems:
        print(f"--only {options.only!r} matches no problem", file=sys.stderr)
        return 1
    known: dict[tuple, list[Result]] = {}
    for result in [] if options.quick else read(options.output / "linear.csv"):
        known.setdefault((result.rows, result.features, result.classes, result.dtype), []).append(
            result
        )
    progress = tqdm(problems, unit="problem", file=sys.stderr)
    for problem in progress:
        progress.set_postfix_str(problem.name)
        measured = measure(problem, options.rounds, options.threads, compiled=not options.quick)
        known[tuple(asdict(problem).values())] = measured
        everything = [r for key in sorted(known) for r in known[key]]
        write(everything, options.output, options.threads)  # each time: a break loses none
    text = render(options.output)
    refresh(options.output)
    print(text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
