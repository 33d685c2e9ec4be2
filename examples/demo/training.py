"""Training one network per loss in lockstep, and what is measured on the way."""

import math
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.profiler import record_function
from tqdm import tqdm

from examples.demo.memory import peak_bytes

SEED = 0
WARM_UP = 5
LOSS_REGION = "loss forward and backward"

Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Task:
    """A network, the data of every step, and how far two loss curves may be apart (in nats)."""

    name: str
    description: str
    network: Callable[[], nn.Sequential]
    optimizer: Callable[[Iterable[nn.Parameter]], Optimizer]
    batches: Sequence[Batch]
    held_out: Sequence[Batch]
    tolerance: float


@dataclass(frozen=True)
class Contender:
    """A loss to compare.

    `split` cuts a network, the last module of which is its output layer, into a body and a loss
    module: `loss(body(input), target)`. A loss that contains the output layer takes it from there.
    """

    name: str
    split: Callable[[nn.Sequential], tuple[nn.Module, nn.Module]]


def on_logits(name: str, loss: Callable[[], nn.Module]) -> Contender:
    """A contender that takes logits, as `torch.nn.CrossEntropyLoss` does."""
    return Contender(name, lambda network: (network, loss()))


class Run:
    """One network in training with one loss."""

    def __init__(self, task: Task, contender: Contender) -> None:
        torch.manual_seed(SEED)
        self.name = contender.name
        self.network = task.network()
        self.body, self.loss = contender.split(self.network)
        parameters = nn.ModuleList([self.body, self.loss]).parameters()
        self.optimizer = task.optimizer(parameters)
        self.losses: list[float] = []
        self._loss_seconds: list[float] = []
        self._step_seconds: list[float] = []
        self.loss_bytes = self.step_bytes = 0
        self.accuracy = math.nan

    def step(self, input: Tensor, target: Tensor) -> None:
        """One step, cut at the input of the loss so that the loss is timed on its own."""
        begin = time.perf_counter()
        output = self.body(input)
        cut = output.detach().requires_grad_()
        begin_loss = time.perf_counter()
        with record_function(LOSS_REGION):
            loss = self.loss(cut, target)
            loss.backward()
        end_loss = time.perf_counter()
        if output.requires_grad:  # not where all parameters belong to the loss
            output.backward(cut.grad)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self._step_seconds.append(time.perf_counter() - begin)
        self._loss_seconds.append(end_loss - begin_loss)
        self.losses.append(loss.item())

    def measured_step(self, input: Tensor, target: Tensor) -> None:
        """A step under the profiler, which makes it slow and says how much memory it took."""
        self.step_bytes, self.loss_bytes = peak_bytes(lambda: self.step(input, target), LOSS_REGION)

    @torch.no_grad()
    def evaluate(self, batches: Sequence[Batch]) -> None:
        """Accuracy of the likeliest class on held-out batches."""
        hits = [self.network(input).argmax(-1).eq(target) for input, target in batches]
        self.accuracy = torch.cat(hits).double().mean().item()

    @property
    def loss_milliseconds(self) -> float:
        """Median over the steps after warm-up, without the last one, which is profiled."""
        return 1e3 * statistics.median(self._loss_seconds[WARM_UP:-1])

    @property
    def step_milliseconds(self) -> float:
        """As `loss_milliseconds`, of the whole step with the network and the optimizer."""
        return 1e3 * statistics.median(self._step_seconds[WARM_UP:-1])


@dataclass(frozen=True)
class Comparison:
    """A task and its finished runs; the first is the reference."""

    task: Task
    runs: Sequence[Run]

    def differences(self, run: Run) -> Tensor:
        """Distance of a run's loss from the reference's at every step, in nats."""
        curves = torch.tensor([run.losses, self.runs[0].losses], dtype=torch.float64)
        return (curves[0] - curves[1]).abs()

    def disagreements(self) -> list[str]:
        """A line for every run whose loss curve is not the reference's, or not finite."""
        lines = []
        for run in self.runs:
            largest = self.differences(run).max().item()
            # A nan is not within the tolerance.
            if not largest <= self.task.tolerance:
                lines.append(
                    f"{self.task.name}: the loss of {run.name} differs from {self.runs[0].name}'s "
                    f"by up to {largest:.2g} nats, tolerance {self.task.tolerance:g}"
                )
        return lines


def compare(task: Task, contenders: Sequence[Contender]) -> Comparison:
    """Train all contenders on the same batches, step by step in turns.

    Their steps alternate, and so does which one goes first, so that a busy machine slows them
    alike.
    """
    runs = [Run(task, contender) for contender in contenders]
    progress = tqdm(task.batches, desc=task.name, unit="step")
    for index, batch in enumerate(progress):
        first = index % len(runs)
        for run in runs[first:] + runs[:first]:
            last = index == len(task.batches) - 1
            (run.measured_step if last else run.step)(*batch)
        progress.set_postfix({run.name: f"{run.losses[-1]:.3f}" for run in runs}, refresh=False)
    for run in runs:
        run.evaluate(task.held_out)
    return Comparison(task, runs)
