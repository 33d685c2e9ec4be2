"""``python -m benchmarks``: checks, measures, reports."""

from __future__ import annotations

import argparse
import re
import sys
from importlib import import_module
from pathlib import Path

import torch
from tqdm import tqdm

from benchmarks import pages, report
from benchmarks.cases import AVX2, Case
from benchmarks.machine import describe
from benchmarks.measure import CheckFailed, Figure, WorkerProcess, measure
from benchmarks.peers import PROCESSES, Peer
from benchmarks.table import BY_NAME, CASES, QUICK_CASES, SWEEP_CASES

ROUNDS, ROUNDS_LARGE, ROUNDS_QUICK = 11, 5, 2
BLOCK_S, BLOCK_S_QUICK = 0.025, 0.001


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", metavar="REGEX", default="", help="cases whose name matches")
    parser.add_argument("--quick", action="store_true", help="small shapes, PyTorch's eager alone")
    parser.add_argument(
        "--output",
        metavar="DIR",
        type=Path,
        help="where files go; without it only a run of all cases writes, to docs/results",
    )
    parser.add_argument(
        "--keep", action="store_true", help="keep what an earlier run left there of other cases"
    )
    parser.add_argument("--rounds", metavar="N", type=int, help="blocks per peer, at least 2")
    parser.add_argument("--threads", metavar="N", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args(argv)
    if arguments.rounds is not None and arguments.rounds < 2:
        parser.error(f"--rounds: a spread needs at least 2, got {arguments.rounds}")
    if not (arguments.output or arguments.quick or arguments.only):
        arguments.output = pages.RESULTS
    if arguments.keep and not arguments.output:
        parser.error("--keep: needs --output")
    return arguments


class Workers:
    """The processes, by name; the one that is held to AVX2 starts with the first case for it."""

    def __init__(self, peers_module: str, quick: bool, threads: int) -> None:
        self.peers_module, self.threads = peers_module, threads
        peers = [p for p in import_module(peers_module).PEERS if p.available()]
        self.peers = [p for p in peers if not (quick and p.slow_start)]
        self.running: dict[str, WorkerProcess] = {}
        for name, settings in PROCESSES.items():
            self.start(name, settings, [peer for peer in self.peers if peer.process == name])
        if "tuned" in self.running and self.running["tuned"].huge_page_share < 0.5:
            print("no tuned peers: this system gives no huge pages", file=sys.stderr)
            self.running.pop("tuned").stop()
        self.usual = list(self.running.values())

    def start(self, name: str, settings: dict[str, str], peers: list[Peer]) -> None:
        """Starts a process with these peers, if there are any."""
        if peers:
            self.running[name] = WorkerProcess(self.peers_module, peers, settings)
            self.running[name].hello(self.threads)

    def of(self, case: Case) -> list[WorkerProcess]:
        """Those that measure the case."""
        if case.variant != AVX2:
            return self.usual
        if AVX2 not in self.running:  # without Inductor, whose cache knows no instruction sets
            peers = [p for p in self.peers if p.process == "stock" and not p.slow_start]
            self.start(AVX2, {"ATEN_CPU_CAPABILITY": "avx2"}, peers)
        return [self.running[AVX2]]

    def stop(self) -> None:
        """Ends all."""
        for worker in self.running.values():
            worker.stop()


def can_run(case: Case) -> bool:
    """Whether AVX2 is there, and not what is measured anyway."""
    return case.variant != AVX2 or torch.backends.cpu.get_cpu_capability() == "AVX512"


def rounds_for(case: Case, arguments: argparse.Namespace) -> int:
    """As many as asked for; otherwise fewer where a call is long."""
    if arguments.rounds:
        return arguments.rounds
    if arguments.quick:
        return ROUNDS_QUICK
    return ROUNDS_LARGE if case.large else ROUNDS


def with_earlier(figures: list[Figure], earlier: list[Figure]) -> list[Figure]:
    """The figures of two runs in the order of the table; the later ones where both have a case."""
    order = list(BY_NAME.values())
    now = {figure.case for figure in figures}
    both = figures + [figure for figure in earlier if figure.case not in now]
    return sorted(both, key=lambda figure: order.index(figure.case))


def main(argv: list[str] | None = None, peers_module: str = "benchmarks.peers") -> int:
    """Runs the cases that were asked for; returns 1 where a result is wrong."""
    arguments = parse(argv)
    table = QUICK_CASES if arguments.quick else CASES + SWEEP_CASES
    cases = [case for case in table if can_run(case) and re.search(arguments.only, case.name)]
    if not cases:
        print(f"--only {arguments.only!r} matches none of {len(table)} cases", file=sys.stderr)
        return 1
    workers = Workers(peers_module, arguments.quick, arguments.threads)
    block_s = BLOCK_S_QUICK if arguments.quick else BLOCK_S
    keeps = arguments.keep and (arguments.output / f"{report.NAME}.csv").exists()
    earlier = report.read_csv(arguments.output) if keeps else []
    figures: list[Figure] = []
    failures: list[str] = []
    progress = tqdm(cases, unit="case", file=sys.stderr)
    for case in progress:
        progress.set_postfix_str(case.name)
        try:
            figures += measure(case, workers.of(case), rounds_for(case, arguments), block_s)
            if arguments.output:  # after each case, so that an interrupted run loses none
                machine = describe(workers.running, arguments.threads)
                pages.save(with_earlier(figures, earlier), machine, arguments.output)
        except CheckFailed as failure:
            failures.append(str(failure))
            progress.write(f"check failed: {failure}", file=sys.stderr)
    machine = describe(workers.running, arguments.threads)
    workers.stop()
    if figures:
        print(report.text(figures, machine))
    if figures and arguments.output:
        pages.render(arguments.output)
        pages.refresh(arguments.output)
    return 1 if failures else 0


if __name__ == "__main__":
    raise SystemExit(main())
