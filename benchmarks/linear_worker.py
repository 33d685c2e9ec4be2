"""The process that ``benchmarks.linear`` asks: one JSON request per line, one JSON reply.

``open`` makes the inputs of a problem and replies each contender's error against float64, the
seconds of its second forward and backward, and the peak of the resident set meanwhile, beyond
inputs and gradients, in bytes. ``time`` replies the seconds of one more.
"""

from __future__ import annotations

import ctypes
import gc
import json
import math
import os
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

import torchsoftmax

Step = Callable[[Tensor, Tensor, Tensor], Tensor]


def plain(input: Tensor, weight: Tensor, target: Tensor) -> Tensor:
    """The two functions that everybody calls."""
    return F.cross_entropy(F.linear(input, weight), target)


def native(input: Tensor, weight: Tensor, target: Tensor) -> Tensor:
    """PyTorch's own loss by chunks."""
    options = torch.nn.LinearCrossEntropyOptions()
    return F.linear_cross_entropy(input, weight, target, options=options)


def ours(input: Tensor, weight: Tensor, target: Tensor) -> Tensor:
    """This package."""
    return torchsoftmax.linear_cross_entropy(input, weight, target)


IGNORED = 0.7
PARTIAL = f"ours, {IGNORED:.0%} ignored"  # of the targets
LOSSES: dict[str, Callable[[], Step]] = {
    "ours": lambda: ours,
    PARTIAL: lambda: ours,
    "plain": lambda: plain,
    "compile": lambda: torch.compile(plain, fullgraph=True, dynamic=False),
    "native chunks": lambda: native,
}
PRODUCTS = "three products"  # into memory that is there
FRESH_PRODUCTS = f"{PRODUCTS}, new gradients"


def resident(field: str) -> int:
    """Bytes of the resident set: now (VmRSS), or at most since the last reset (VmHWM)."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(re.search(rf"{field}:\s+(\d+)", status)[1])


def trim() -> None:
    """Hands memory that this package and the C library, where it is glibc, keep to the system."""
    torchsoftmax.empty_cache()
    library = ctypes.CDLL(None)
    if hasattr(library, "malloc_trim"):
        library.malloc_trim(0)


class Exact(NamedTuple):
    """In float64: the loss, and the gradients of some rows and of some classes."""

    rows: Tensor
    classes: Tensor
    loss: Tensor
    of_input: Tensor
    of_weight: Tensor


class Worker:
    """Holds one problem and its contenders."""

    def open(
        self, rows: int, features: int, classes: int, dtype: str, names: list[str]
    ) -> dict[str, dict[str, float]]:
        """Makes the inputs; replies each contender's error, seconds and peak memory of a call."""
        torch.manual_seed(0)
        kind = getattr(torch, dtype)
        self.input = torch.randn(rows, features).to(kind).requires_grad_()
        self.weight = (torch.randn(classes, features) / features**0.5).to(kind).requires_grad_()
        self.target = torch.randint(classes, (rows,))
        self.partial = self.target.masked_fill(torch.arange(rows) % 10 < 10 * IGNORED, -100)
        self.steps: dict[str, Step] = {}
        whole, replies = self.exact(self.target), {}
        for name in names:
            if name not in LOSSES:
                self.logits = torch.empty(rows, classes, dtype=kind)
                if name == PRODUCTS:
                    self.gradients = torch.empty_like(self.input), torch.empty_like(self.weight)
                self.run(name)
                replies[name] = {"seconds": self.time(name), "error": math.nan, "peak": math.nan}
                continue
            self.steps[name] = LOSSES[name]()
            self.run(name)  # compiles, and what libraries take once and keep is taken
            seconds, peak = self.memory(name)
            exact = self.exact(self.partial) if name == PARTIAL else whole
            replies[name] = {"seconds": seconds, "error": self.error(exact), "peak": peak}
        return replies

    def exact(self, target: Tensor) -> Exact:
        """Of the rows that take part; 64 of them, and 64 classes."""
        taking_part = (target != -100).nonzero().squeeze(1)
        input, target = self.input.detach()[taking_part].double(), target[taking_part]
        weight, count = self.weight.detach(), len(taking_part)
        classes = torch.cat([target[:32], torch.arange(32)])
        lse, chosen = torch.full((count, 1), -torch.inf).double(), []
        for part in weight.split(8192):
            lse = torch.logaddexp(lse, (input @ part.double().t()).logsumexp(1, keepdim=True))
        label = (input * weight[target].double()).sum(1, keepdim=True)
        for x, c in ((input[:64], weight), (input, weight[classes])):
            chosen.append((x @ c.double().t() - lse[: len(x)]).exp())
        chosen[0][torch.arange(len(chosen[0])), target[:64]] -= 1
        chosen[1][target[:, None] == classes] -= 1
        of_input = torch.zeros(len(chosen[0]), input.size(1)).double()
        for g, part in zip(chosen[0].split(8192, 1), weight.split(8192), strict=True):
            of_input += g @ part.double()
        of_weight = chosen[1].t() @ input
        loss = (lse - label).mean()
        return Exact(taking_part[:64], classes, loss, of_input / count, of_weight / count)

    def error(self, exact: Exact) -> float:
        """The largest, in units of eps of the largest value of each result."""
        got = (self.loss, self.input.grad[exact.rows], self.weight.grad[exact.classes])
        eps = torch.finfo(self.input.dtype).eps
        return max(
            ((mine.double() - true).abs().max() / (eps * true.abs().max())).item()
            for mine, true in zip(got, exact[2:], strict=True)
        )

    def run(self, name: str) -> None:
        self.input.grad = self.weight.grad = None
        if name not in LOSSES:
            input, weight = self.input.detach(), self.weight.detach()
            of_input, of_weight = self.gradients if name == PRODUCTS else (None, None)
            torch.mm(input, weight.t(), out=self.logits)
            self.input.grad = torch.mm(self.logits, weight, out=of_input)
            self.weight.grad = torch.mm(self.logits.t(), input, out=of_weight)
            return
        target = self.partial if name == PARTIAL else self.target
        self.loss = self.steps[name](self.input, self.weight, target)
        self.loss.backward()
        self.loss = self.loss.detach()

    def time(self, name: str) -> float:
        begin = time.perf_counter()
        self.run(name)
        return time.perf_counter() - begin

    def memory(self, name: str) -> tuple[float, int]:
        """Seconds, and the peak of the resident set beyond inputs and gradients."""
        self.input.grad = self.weight.grad = None
        gc.collect()
        trim()  # what was freed but kept would be taken from again, unseen
        Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM
        before = resident("VmRSS")
        seconds = self.time(name)
        return seconds, resident("VmHWM") - before - self.input.nbytes - self.weight.nbytes


def main() -> None:
    """Answers until stdin ends; whatever libraries print goes to stderr."""
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    worker = Worker()
    for line in sys.stdin:
        request = json.loads(line)
        print(json.dumps(getattr(worker, request.pop("do"))(**request)), file=replies)


if __name__ == "__main__":
    main()
