"""``python -m benchmarks``: checks, measures, reports."""

from __future__ import annotations

import argparse
import re
import sys
from importlib import import_module
from pathlib import Path

import torch
from tqdm import tqdm

from benchmarks import picture, report
from benchmarks.cases import CASES, QUICK_CASES, Case
from benchmarks.machine import describe
from benchmarks.measure import CheckFailed, Figure, WorkerProcess, measure

ROUNDS, ROUNDS_LARGE, ROUNDS_QUICK = 15, 7, 2
BLOCK_S, BLOCK_S_QUICK = 0.05, 0.002
RESULTS = Path("docs/results")


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", metavar="REGEX", default="", help="cases whose name matches")
    parser.add_argument("--quick", action="store_true", help="small shapes, no torch.compile")
    parser.add_argument(
        "--output",
        metavar="DIR",
        type=Path,
        help=f"where files go; without it only a run of all cases writes, to {RESULTS}",
    )
    parser.add_argument("--rounds", metavar="N", type=int, help="blocks per peer, at least 2")
    parser.add_argument("--threads", metavar="N", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args(argv)
    if arguments.rounds is not None and arguments.rounds < 2:
        parser.error(f"--rounds: a spread needs at least 2, got {arguments.rounds}")
    if not (arguments.output or arguments.quick or arguments.only):
        arguments.output = RESULTS
    return arguments


def start_workers(peers_module: str, quick: bool, threads: int) -> list[WorkerProcess]:
    """The stock process and, where PyTorch's huge pages take effect, the tuned one."""
    peers = [p for p in import_module(peers_module).PEERS if p.available()]
    peers = [p for p in peers if not (quick and p.slow_start)]
    stock = WorkerProcess(peers_module, peers, tuned=False)
    tuned = WorkerProcess(peers_module, peers, tuned=True)
    stock.hello(threads)
    tuned.hello(threads)
    if tuned.huge_page_share < 0.5:
        print("no tuned peers: this system gives no huge pages", file=sys.stderr)
        tuned.stop()
        return [stock]
    return [stock, tuned]


def rounds_for(case: Case, arguments: argparse.Namespace) -> int:
    """As many as asked for; otherwise fewer where a call is long."""
    if arguments.rounds:
        return arguments.rounds
    if arguments.quick:
        return ROUNDS_QUICK
    return ROUNDS_LARGE if case.large else ROUNDS


def main(argv: list[str] | None = None, peers_module: str = "benchmarks.peers") -> int:
    """Runs the cases that were asked for; returns 1 where a result is wrong."""
    arguments = parse(argv)
    table = QUICK_CASES if arguments.quick else CASES
    cases = [case for case in table if re.search(arguments.only, case.name)]
    if not cases:
        print(f"--only {arguments.only!r} matches none of {len(table)} cases", file=sys.stderr)
        return 1
    workers = start_workers(peers_module, arguments.quick, arguments.threads)
    block_s = BLOCK_S_QUICK if arguments.quick else BLOCK_S
    figures: list[Figure] = []
    failures: list[str] = []
    progress = tqdm(cases, unit="case", file=sys.stderr)
    for case in progress:
        progress.set_postfix_str(case.name)
        try:
            figures += measure(case, workers, rounds_for(case, arguments), block_s)
        except CheckFailed as failure:
            failures.append(str(failure))
            progress.write(f"check failed: {failure}", file=sys.stderr)
    machine = describe(workers, arguments.threads)
    for worker in workers:
        worker.stop()
    if figures and arguments.output:
        report.write(figures, machine, arguments.output)
        picture.draw(figures, machine, arguments.output)
    if figures:
        print(report.text(figures, machine))
    return 1 if failures else 0


if __name__ == "__main__":
    raise SystemExit(main())
