"""The process that computes: one JSON request per line on stdin, one JSON reply on stdout.

    {"do": "hello", "threads": 2}
        sets the process up; replies how much of a tensor is in huge pages
    {"do": "open", "case": "softmax forward ...", "peers": ["ours", "eager"]}
        makes the inputs, checks the peers; replies each one's error against float64
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

from benchmarks.cases import CASES, OPS, QUICK_CASES, least_bytes
from benchmarks.check import checked_rows, error, reference, results, tolerance
from benchmarks.peers import Peer, Step

COPY = "copy"
ALL_CASES = {case.name: case for case in CASES + QUICK_CASES}


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


class Worker:
    """Holds the inputs and the steps of the open case; each method answers one request."""

    def __init__(self, peers: list[Peer]) -> None:
        self.peers = {peer.name: peer for peer in peers}
        self.steps: dict[str, Step] = {}

    def hello(self, threads: int) -> dict:
        """Sets the process up; tells whether its tensors are in huge pages."""
        torch.set_num_threads(threads)
        return {"huge_page_share": huge_page_share()}

    def open(self, case: str, peers: list[str]) -> dict:
        """Each peer's error against float64; a peer that cannot do the case is left out."""
        this = ALL_CASES[case]
        torch.manual_seed(0)
        inputs = OPS[this.op].inputs(this)
        rows = checked_rows(this)
        expected = reference(this, inputs, rows)
        errors = {}
        for name in peers:
            step = self.peers[name].build(this, inputs)
            if step is not None:
                self.steps[name] = step
                errors[name] = error(this, results(step()), expected, rows)
        source = inputs.arguments["input"]
        self.steps[COPY] = partial(torch.empty_like(source).copy_, source)
        return {
            "errors": errors,
            "tolerance": tolerance(this, inputs),
            "least_bytes": least_bytes(this, inputs),
            "copy_bytes": 2 * source.nbytes,
        }

    def calibrate(self, peer: str, seconds: float) -> dict:
        """About how many calls, at least one, take that long."""
        timer, calls = Timer(self.steps[peer]), 1
        while (taken := timer.timeit(calls)) < seconds / 4:
            calls *= 4
        return {"calls": max(1, round(calls * seconds / taken))}

    def time(self, peer: str, calls: int) -> dict:
        """Short calls are warmed up first, for the other process has used the caches since."""
        timer = Timer(self.steps[peer])
        timer.timeit(calls // 4)
        return {"seconds": timer.timeit(calls) / calls}

    def close(self) -> dict:
        """Lets go of inputs, graphs and compiled code."""
        self.steps.clear()
        if "torch._dynamo" in sys.modules:  # a reset would spend seconds on importing it
            torch.compiler.reset()
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
