"""Who is measured: a peer is a name and a function that builds a callable for a case."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import import_module

import torch
from torch import Tensor

from benchmarks.cases import BACKWARD, FORWARD, OPS, Case, Inputs

Step = Callable[[], "Tensor | tuple[Tensor, ...]"]


@dataclass(frozen=True)
class Peer:
    """Something that does the same work.

    ``build(case, inputs)`` returns a callable that does the work once and returns the output
    and/or the gradients, or None where the peer cannot do the case. A ``tuned`` peer runs in the
    process that has PyTorch's huge pages switched on. ``--quick`` leaves out the ``slow_start``
    ones.
    """

    name: str
    build: Callable[[Case, Inputs], Step | None]
    tuned: bool = False
    slow_start: bool = False
    available: Callable[[], bool] = lambda: True


def torch_step(function: Callable[..., Tensor], case: Case, inputs: Inputs) -> Step:
    """The direction of the case for a differentiable PyTorch function.

    Backward alone runs on a graph that is built here, once, and kept.
    """
    if case.direction == FORWARD:
        return partial(function, **inputs.arguments)
    leaves = {
        name: inputs.arguments[name].detach().requires_grad_()
        for name in OPS[case.op].differentiable
    }
    forward = partial(function, **(inputs.arguments | leaves))
    wanted = tuple(leaves.values())
    if case.direction == BACKWARD:
        return partial(torch.autograd.grad, forward(), wanted, inputs.grad_output, True)

    def both() -> tuple[Tensor, ...]:
        output = forward()
        return (output.detach(), *torch.autograd.grad(output, wanted, inputs.grad_output))

    return both


def ours(case: Case, inputs: Inputs) -> Step:
    """The function of the same name in torchsoftmax."""
    function = getattr(import_module("torchsoftmax.functional"), case.op)
    return torch_step(function, case, inputs)


def eager(case: Case, inputs: Inputs) -> Step:
    """PyTorch as it is."""
    return torch_step(OPS[case.op].eager, case, inputs)


def compiled(case: Case, inputs: Inputs) -> Step:
    """``torch.compile`` of the eager function for exactly this shape."""
    function = torch.compile(OPS[case.op].eager, fullgraph=True, dynamic=False)
    return torch_step(function, case, inputs)


def has_compiler() -> bool:
    """Whether ``torch.compile`` finds the C++ compiler that it needs on a CPU."""
    return shutil.which(os.environ.get("CXX", "g++")) is not None


OURS = "ours"
PEERS = [
    Peer(OURS, ours),
    Peer("eager", eager),
    Peer("compile", compiled, slow_start=True, available=has_compiler),
    Peer("eager tuned", eager, tuned=True),
    Peer("compile tuned", compiled, tuned=True, slow_start=True, available=has_compiler),
]
