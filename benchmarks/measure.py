"""Asks the workers in turn and makes figures of their answers; nothing is computed here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles

from benchmarks.cases import Case
from benchmarks.peers import OURS, PROCESSES, Peer
from benchmarks.worker import COPY, FRESH

# A waiting OpenMP thread spins for some milliseconds before it sleeps; the other process starts
# its block after that.
SETTLE_SECONDS = 0.02
# Memory is measured from this size of the logits on: below, the system's own accounting, which
# lags by some hundred KiB, would show.
SMALLEST_MEASURED = 2**24


@dataclass(frozen=True)
class Figure:
    """One line of the results: a peer in a case. A ratio is its time divided by ours.

    ``peak_of_logits`` is the memory that a call takes beyond its input, as a part of the logits.
    """

    case: Case
    peer: str
    median_s: float
    iqr_s: float
    ratio: float
    ratio_low: float
    ratio_high: float
    gb_per_s: float
    of_copy: float
    peak_of_logits: float | None
    error: float
    tolerance: float


class CheckFailed(Exception):
    """A peer's result is further from float64 than the tolerance."""


class WorkerProcess:
    """The caller's side of ``benchmarks.worker``: a process with the given peers.

    ``settings`` are set in its environment; those of other processes are not.
    """

    def __init__(self, peers_module: str, peers: list[Peer], settings: dict[str, str]) -> None:
        self.peers = [peer.name for peer in peers]
        others = {name for each in PROCESSES.values() for name in each}
        environment = {k: v for k, v in os.environ.items() if k not in others} | settings
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.worker", peers_module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
            cwd=Path(__file__).parents[1],
        )

    def hello(self, threads: int) -> None:
        """Waits until the process is up, and learns whether its tensors are in huge pages."""
        self.huge_page_share: float = self.ask("hello", threads=threads)["huge_page_share"]

    def send(self, do: str, **request: object) -> None:
        """Sends a request."""
        self.process.stdin.write(json.dumps({"do": do, **request}) + "\n")
        self.process.stdin.flush()

    def reply(self) -> dict:
        """Waits for the reply to the last request."""
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"the worker of {self.peers} ended; its error is above")
        return json.loads(line)

    def ask(self, do: str, **request: object) -> dict:
        """Sends a request and waits for the reply."""
        self.send(do, **request)
        return self.reply()

    def stop(self) -> None:
        """Ends the process."""
        self.process.stdin.close()
        self.process.wait()


def open_case(case: Case, workers: list[WorkerProcess]) -> list[dict]:
    """Has every worker set the case up and check its peers against float64.

    The first computes the exact results for all; the others then work at the same time.
    """
    for worker in workers:
        worker.ask("close")
    with tempfile.TemporaryDirectory() as folder:
        request = {"case": case.name, "expected": str(Path(folder) / "expected")}
        replies = [workers[0].ask("open", peers=workers[0].peers, **request)]
        for worker in workers[1:]:
            worker.send("open", peers=worker.peers, **request)
        replies += [worker.reply() for worker in workers[1:]]
    for reply in replies:
        for peer, error in reply["errors"].items():
            if not error <= reply["tolerance"]:
                raise CheckFailed(
                    f"{case.name}: {peer} differs from float64 by {error:.2g}, "
                    f"tolerance {reply['tolerance']:.2g}"
                )
    return replies


def time_rounds(
    turns: list[tuple[WorkerProcess, str]], rounds: int, block_s: float
) -> dict[str, list[float]]:
    """Seconds per call of each peer, once per round, over as many calls as a block takes.

    A round times each peer once, one after the other and every second round in reverse order.
    """
    calls = {}
    for worker, peer in turns:
        calls[peer] = worker.ask("calibrate", peer=peer, seconds=block_s)["calls"]
    times: dict[str, list[float]] = {peer: [] for _, peer in turns}
    for number in range(rounds):
        for worker, peer in turns if number % 2 == 0 else turns[::-1]:
            time.sleep(SETTLE_SECONDS)
            reply = worker.ask("time", peer=peer, calls=calls[peer])
            times[peer].append(reply["seconds"])
    return times


def quartiles(values: list[float]) -> tuple[float, float]:
    """The lower and the upper quartile."""
    low, _, high = quantiles(values, n=4, method="inclusive")
    return low, high


def measure(case: Case, workers: list[WorkerProcess], rounds: int, block_s: float) -> list[Figure]:
    """Checks and times every peer, and two copies of the logits: one into memory that is there, in
    the first worker, and a fresh one, in a worker that has huge pages.

    Ratios are taken within a round, where the machine was in the same state; the spread of times
    and of ratios is the inter-quartile range over the rounds.
    """
    replies = open_case(case, workers)
    stock = replies[0]
    turns = [(workers[0], COPY), (max(workers, key=lambda each: each.huge_page_share), FRESH)]
    errors = {COPY: 0.0, FRESH: 0.0}
    for worker, reply in zip(workers, replies, strict=True):
        turns += [(worker, peer) for peer in reply["errors"]]
        errors |= reply["errors"]
    logits_bytes = stock["logits_bytes"]
    peaks: dict[str, float | None] = {peer: None for _, peer in turns}
    if logits_bytes >= SMALLEST_MEASURED:
        for worker, peer in turns[2:]:
            grown = worker.ask("peak", peer=peer)["bytes"]
            peaks[peer] = None if grown is None else grown / logits_bytes
    times = time_rounds(turns, rounds, block_s)
    copy_rate = 2 * logits_bytes / median(times[COPY])
    figures = []
    for peer, seconds in times.items():
        ratios = [theirs / ours for theirs, ours in zip(seconds, times[OURS], strict=True)]
        low, high = quartiles(seconds)
        moved = 2 * logits_bytes if peer in (COPY, FRESH) else stock["least_bytes"]
        rate = moved / median(seconds)
        figures.append(
            Figure(
                case, peer, median(seconds), high - low, median(ratios), *quartiles(ratios),
                rate / 1e9, rate / copy_rate, peaks[peer], errors[peer], stock["tolerance"],
            )
        )  # fmt: skip
    return figures
