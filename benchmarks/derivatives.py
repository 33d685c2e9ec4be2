"""``python -m benchmarks.derivatives``: torchsoftmax.derivatives beside torch.func and formulas.

Every result is checked against float64, then all peers are timed in turn, round after round, and
compared within a round. The peers run as PyTorch comes and with its huge pages switched on
("tuned"), which takes a process of its own; ours always runs as it comes.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from functools import partial
from pathlib import Path
from statistics import median
from timeit import Timer

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import grad, hessian, jacrev, jvp, vjp, vmap
from tqdm import tqdm

from benchmarks.machine import huge_page_setting, processor
from torchsoftmax import derivatives

SWITCH = "THP_MEM_ALLOC_ENABLE"
OURS, FILL = "ours", "fill"  # fill: a fresh tensor like the result, in huge pages
TUNED = " tuned"
PEERS = ("torch.func", "formula", "compiled formula")
BLOCK_S, ROUNDS = 0.05, 9
CHECKED_ROWS = 2
TOLERANCE = 16 * torch.finfo(torch.float32).eps  # relative to the largest entry, or to 1

Function = Callable[..., Tensor]


@dataclass(frozen=True)
class Case:
    """A derivative of `shape` rows and classes; the peers' functions take the same arguments."""

    ours: Function
    by_torch_func: Function
    formula: Function
    shape: tuple[int, int]
    arguments: int = 1  # logits alone, with class indices, or with a vector besides

    @property
    def name(self) -> str:
        return f"{self.ours.__name__} {self.shape[0]}x{self.shape[1]}"

    def inputs(self) -> tuple[Tensor, ...]:
        rows, classes = self.shape
        every = (2 * torch.randn(self.shape), torch.randint(classes, (rows,)))
        if self.ours is derivatives.softmax_vjp:
            return (every[0], torch.randn(self.shape))
        return (*every, torch.randn(self.shape))[: self.arguments]


def softmax(x: Tensor) -> Tensor:
    return torch.softmax(x, -1)


def loss(x: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(x, target, reduction="sum")


def jacobian_formula(x: Tensor) -> Tensor:
    p = softmax(x)
    return torch.diag_embed(p) - p.unsqueeze(-1) * p.unsqueeze(-2)


def log_jacobian_formula(x: Tensor) -> Tensor:
    return torch.eye(x.size(-1), dtype=x.dtype) - softmax(x).unsqueeze(-2)


def hessian_formula(x: Tensor) -> Tensor:
    p, of_log = softmax(x), log_jacobian_formula(x)
    products = of_log.unsqueeze(-1) * of_log.unsqueeze(-2)
    return p[..., None, None] * (products - jacobian_formula(x).unsqueeze(-3))


def vjp_formula(x: Tensor, g: Tensor) -> Tensor:
    p = softmax(x)
    return p * (g - (g * p).sum(-1, keepdim=True))


def gradient_formula(x: Tensor, target: Tensor) -> Tensor:
    return softmax(x) - F.one_hot(target, x.size(-1)).to(x.dtype)


JACOBIAN = (vmap(jacrev(softmax)), jacobian_formula)
CASES = (
    Case(derivatives.softmax_jacobian, *JACOBIAN, (64, 1000)),
    Case(derivatives.softmax_jacobian, *JACOBIAN, (4096, 10)),
    Case(
        derivatives.log_softmax_jacobian,
        vmap(jacrev(lambda x: torch.log_softmax(x, -1))),
        log_jacobian_formula,
        (64, 1000),
    ),
    Case(derivatives.softmax_hessian, vmap(hessian(softmax)), hessian_formula, (8, 64)),
    Case(
        derivatives.softmax_vjp,
        lambda x, g: vjp(softmax, x)[1](g)[0],
        vjp_formula,
        (1024, 1000),
        2,
    ),
    Case(derivatives.cross_entropy_gradient, grad(loss), gradient_formula, (1024, 1000), 2),
    Case(
        derivatives.cross_entropy_hessian,
        vmap(hessian(loss)),
        lambda x, target: jacobian_formula(x),
        (64, 1000),
        2,
    ),
    Case(
        derivatives.cross_entropy_hvp,
        lambda x, target, v: jvp(lambda z: grad(loss)(z, target), (x,), (v,))[1],
        lambda x, target, v: vjp_formula(x, v),
        (1024, 1000),
        3,
    ),
)


class Worker:
    """Holds the inputs and the peers of one case."""

    def __init__(self, tuned: bool) -> None:
        self.tuned = tuned
        self.timers: dict[str, Timer] = {}

    def open(self, case: int) -> dict[str, float]:
        """Each peer's error against float64, after which it is ready to be timed."""
        this = CASES[case]
        torch.manual_seed(0)
        torch.compiler.reset()
        inputs = this.inputs()
        few = [x[:CHECKED_ROWS] for x in inputs]
        exact = this.by_torch_func(*(x.double() if x.is_floating_point() else x for x in few))
        compiled = torch.compile(this.formula, fullgraph=True, dynamic=False)
        functions = dict(zip(PEERS, (this.by_torch_func, this.formula, compiled), strict=True))
        if not self.tuned:
            functions[OURS] = this.ours
        errors = {}
        for name, function in functions.items():
            result = function(*inputs)
            off = (result[:CHECKED_ROWS].double() - exact).abs().max()
            errors[name] = (off / exact.abs().max().clamp(min=1)).item()
            self.timers[name] = Timer(partial(function, *inputs))
        if self.tuned:
            self.timers[FILL] = Timer(lambda: torch.empty_like(result).fill_(1.0))
        return errors

    def time(self, peer: str, calls: int) -> float:
        """Seconds per call."""
        return self.timers[peer].timeit(calls) / calls


def serve(tuned: bool) -> None:
    """Answers one request per line of stdin until it ends."""
    worker = Worker(tuned)
    for line in sys.stdin:
        request = json.loads(line)
        answer = getattr(worker, request.pop("do"))(**request)
        print(json.dumps(answer), flush=True)


class Process:
    """The caller's side of a worker."""

    def __init__(self, tuned: bool) -> None:
        environment = {key: value for key, value in os.environ.items() if key != SWITCH}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.derivatives", "--serve", str(int(tuned))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment | ({SWITCH: "1"} if tuned else {}),
            cwd=Path(__file__).parents[1],
        )
        self.suffix = TUNED if tuned else ""

    def ask(self, do: str, **request: object) -> dict[str, float] | float:
        self.process.stdin.write(json.dumps({"do": do, **request}) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def stop(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def measure(case: int, processes: Sequence[Process], rounds: int) -> dict[str, list[float]]:
    """Seconds per call of every peer, one per round; raises where a result is wrong."""
    turns = []
    for process in processes:
        for peer, error in process.ask("open", case=case).items():
            if not error <= TOLERANCE:
                raise ValueError(f"{CASES[case].name}: {peer} is off by {error:.1e}")
            turns.append((process, peer))
    turns.append((processes[-1], FILL))
    calls = {}
    for process, peer in turns:
        first = process.ask("time", peer=peer, calls=1)
        calls[process, peer] = max(1, round(BLOCK_S / first))
    times: dict[str, list[float]] = {peer + process.suffix: [] for process, peer in turns}
    for number in range(rounds):
        for process, peer in turns if number % 2 == 0 else turns[::-1]:
            time.sleep(0.02)  # until the threads of the other process have gone to sleep
            seconds = process.ask("time", peer=peer, calls=calls[process, peer])
            times[peer + process.suffix].append(seconds)
    return times


def ratio_to(ours: list[float], theirs: list[float]) -> float:
    """Their time over ours, median of the rounds."""
    return median(their / our for their, our in zip(theirs, ours, strict=True))


def markdown(figures: dict[str, dict[str, list[float]]]) -> str:
    """Ratios to ours by case and peer, and the speed of writing."""
    peers = [peer + suffix for peer in PEERS for suffix in ("", TUNED)]
    head = ["derivative", "ours, ms", *(f"vs {peer}" for peer in peers), "of writing"]
    lines = [f"| {' | '.join(head)} |", "|:--|" + "--:|" * (len(head) - 1)]
    for name, times in figures.items():
        ours = times[OURS]
        cells = [name, f"{1e3 * median(ours):.3g}"]
        for peer in peers:
            ratio = ratio_to(ours, times[peer])
            cells.append(f"**{ratio:.2f}**" if ratio < 1 else f"{ratio:.2f}")
        cells.append(f"{100 * ratio_to(ours, times[FILL + TUNED]):.0f}%")
        lines.append(f"| {' | '.join(cells)} |")
    rounds = len(next(iter(figures.values()))[OURS])
    return (
        "\n".join(lines)
        + f"""

How many times faster than each peer: its time over ours, median of {rounds} alternated rounds;
below 1, in bold, the peer is faster. *torch.func*: `vmap(jacrev(…))`, `vmap(hessian(…))`, `vjp`,
`grad` and `jvp` of `grad`. *formula*: the same in PyTorch's own operators, written by hand;
*compiled*: by `torch.compile` for exactly this shape. *tuned*: with `{SWITCH}=1`.
*of writing*: the time of allocating and filling a tensor of the size of the result, tuned, over
ours. float32; results checked against float64 first.

{processor()}, {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}, \
torch {torch.__version__}, transparent huge pages: {huge_page_setting()}, {date.today().isoformat()}
"""
    )


def main(argv: list[str] | None = None) -> int:
    """Runs all cases, prints the table and writes it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.derivatives", description=__doc__)
    parser.add_argument("--output", metavar="DIR", type=Path, default=Path("docs/results"))
    parser.add_argument("--rounds", metavar="N", type=int, default=ROUNDS)
    parser.add_argument("--serve", type=int, choices=(0, 1), help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.serve is not None:
        serve(bool(arguments.serve))
        return 0
    processes = [Process(tuned=False), Process(tuned=True)]
    figures = {}
    for number, case in enumerate(tqdm(CASES, unit="case")):
        figures[case.name] = measure(number, processes, arguments.rounds)
    for process in processes:
        process.stop()
    text = markdown(figures)
    arguments.output.mkdir(parents=True, exist_ok=True)
    (arguments.output / "derivatives.md").write_text(text, encoding="utf-8")
    print(text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
