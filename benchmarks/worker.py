"""The process that computes: one JSON request per line on stdin, one JSON reply on stdout.

    {"do": "hello", "threads": 2}
        sets the process up; replies how much of a tensor is in huge pages
    {"do": "open", "case": "softmax forward ...", "peers": ["ours", "eager"], "expected": "/tmp/x"}
        makes the inputs, checks the peers; replies each one's error against float64, which the
        first process writes to the file and the others read
    {"do": "peak", "peer": "eager"}
        replies by how many bytes a call makes the process grow
    {"do": "calibrate", "peer": "eager", "seconds": 0.05}
        replies about how many calls take that long
    {"do": "time", "peer": "eager", "calls": 12}
        replies the seconds per call
    {"do": "close"}
        frees everything

Between requests it waits in a read, so an idle worker leaves the machine to the busy one.
"""

from __future__ import annotations

import gc
import json
import os
import re
import sys
from functools import partial
from importlib import import_module
from pathlib import Path
from timeit import Timer

import torch

from benchmarks.cases import OPS, least_bytes
from benchmarks.check import checked_rows, error, reference, results, tolerance
from benchmarks.memory import peak_growth
from benchmarks.peers import Peer, Step
from benchmarks.table import BY_NAME

COPY = "copy"  # of the logits, into memory that is there
FRESH = "fresh copy"  # into a new tensor: the least that making a result of that size takes


def huge_page_share() -> float:
    """The part of a fresh 64 MiB tensor that the system backs with huge pages."""
    smaps = Path("/proc/self/smaps_rollup")
    if not smaps.exists():
        return 0.0

    def huge_bytes() -> int:
        return 1024 * int(re.search(r"AnonHugePages:\s+(\d+)", smaps.read_text())[1])

    before = huge_bytes()
    tensor = torch.empty(2**24).fill_(1.0)
    return (huge_bytes() - before) / tensor.nbytes


def seconds_of(step: Step, calls: int) -> float:
    """The time of that many calls, without what is prepared before each."""
    timer = Timer(step.run)
    if step.prepare is None:
        return timer.timeit(calls)
    total = 0.0
    for _ in range(calls):
        step.prepare()
        total += timer.timeit(1)
    return total


class Worker:
    """Holds the inputs and the steps of the open case; each method answers one request."""

    def __init__(self, peers: list[Peer]) -> None:
        self.peers = {peer.name: peer for peer in peers}
        self.steps: dict[str, Step] = {}

    def hello(self, threads: int) -> dict:
        """Sets the process up; tells whether its tensors are in huge pages."""
        torch.set_num_threads(threads)
        return {"huge_page_share": huge_page_share()}

    def open(self, case: str, peers: list[str], expected: str) -> dict:
        """Each peer's error against float64; a peer that cannot do the case is left out."""
        this, file = BY_NAME[case], Path(expected)
        torch.manual_seed(0)
        inputs = OPS[this.op].inputs(this)
        rows = checked_rows(this)
        if not file.exists():
            torch.save(reference(this, inputs, rows), file)
        exact = torch.load(file)
        errors = {}
        for name in peers:
            step = self.peers[name].build(this, inputs)
            if step is not None:
                self.steps[name] = step
                errors[name] = error(this, results(step()), exact, rows)
        source = inputs.arguments["input"]
        self.steps[COPY] = Step(partial(torch.empty_like(source).copy_, source))
        self.steps[FRESH] = Step(source.clone)
        return {
            "errors": errors,
            "tolerance": tolerance(this, inputs),
            "least_bytes": least_bytes(this, inputs),
            "logits_bytes": source.nbytes,
        }

    def peak(self, peer: str) -> dict:
        """By how many bytes a call makes the process grow; None where the system cannot tell."""
        return {"bytes": peak_growth(self.steps[peer])}

    def calibrate(self, peer: str, seconds: float) -> dict:
        """About how many calls, at least one, take that long; the first may be far slower."""
        step, calls = self.steps[peer], 1
        if seconds_of(step, 1) > 10 * seconds:
            return {"calls": 1}
        while (taken := seconds_of(step, calls)) < seconds / 4:
            calls *= 4
        return {"calls": max(1, round(calls * seconds / taken))}

    def time(self, peer: str, calls: int) -> dict:
        """The faster of two blocks, after a shorter one that warms up.

        Another process has used the caches since; and a virtual machine may have given the memory
        that a call left back to its host, for which the next call waits.
        """
        step = self.steps[peer]
        seconds_of(step, max(1, calls // 4))
        return {"seconds": min(seconds_of(step, calls) for _ in range(2)) / calls}

    def close(self) -> dict:
        """Lets go of inputs, graphs and compiled code."""
        self.steps.clear()
        if "torch._dynamo" in sys.modules:  # a reset would spend seconds on importing it
            torch.compiler.reset()
        if "jax" in sys.modules:
            sys.modules["jax"].clear_caches()
        gc.collect()
        return {}


def main() -> None:
    """Answers requests until stdin ends; whatever libraries print goes to stderr."""
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    worker = Worker(import_module(sys.argv[1]).PEERS)
    for line in sys.stdin:
        request = json.loads(line)
        answer = getattr(worker, request.pop("do"))
        print(json.dumps(answer(**request)), file=replies)


if __name__ == "__main__":
    main()
