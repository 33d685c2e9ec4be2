"""Who is measured: a peer is a name and a function that builds a step for a case."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from importlib.util import find_spec

import torch
from torch import Tensor

from benchmarks.cases import BACKWARD, FORWARD, IN_PLACE, OPS, Case, Inputs

# The processes that peers run in, by their environment. Each library has one of its own: waiting
# threads of one would disturb the other. Every peer but the stock ones has its memory in huge
# pages, in the way that works for it: PyTorch's own switch, which it reads once, and the C
# library's. JAX has 64-bit types only if asked.
HUGE_PAGES = {"THP_MEM_ALLOC_ENABLE": "1"}
PROCESSES: dict[str, dict[str, str]] = {
    "stock": {},
    "tuned": HUGE_PAGES,
    "onnxruntime": HUGE_PAGES,
    "jax": {
        "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
        "JAX_ENABLE_X64": "1",
        "JAX_PLATFORMS": "cpu",
    },
}


@dataclass(frozen=True)
class Step:
    """The work: ``run`` is timed, ``prepare`` comes before each call and is not."""

    run: Callable[[], object]
    prepare: Callable[[], None] | None = None

    def __call__(self) -> object:
        """The output and/or the gradients."""
        if self.prepare:
            self.prepare()
        return self.run()


@dataclass(frozen=True)
class Peer:
    """Something that does the same work.

    ``build(case, inputs)`` returns a step, or None where the peer cannot do the case. The peer runs
    in the ``process`` of that name. ``--quick`` leaves out the ``slow_start`` ones.
    """

    name: str
    build: Callable[[Case, Inputs], Step | None]
    process: str = "stock"
    slow_start: bool = False
    available: Callable[[], bool] = lambda: True


def on_fresh_logits(function: Callable[..., Tensor], inputs: Inputs) -> Step:
    """Forward and backward of logits that are written anew, outside of the time, for each call.

    They are the result of a copy, so not a leaf, as those of a model are.
    """
    source = inputs.arguments["input"].detach().requires_grad_()
    arguments = dict(inputs.arguments)

    def prepare() -> None:
        arguments["input"] = inputs.memory.detach().copy_(source)

    def run() -> tuple[Tensor, Tensor]:
        output = function(**arguments)
        return output.detach(), *torch.autograd.grad(output, (arguments["input"],))

    return Step(run, prepare)


def torch_step(function: Callable[..., Tensor], case: Case, inputs: Inputs) -> Step:
    """The direction of the case for a differentiable PyTorch function.

    Backward alone runs on a graph that is built here, once, and kept.
    """
    if case.variant == IN_PLACE:
        return on_fresh_logits(function, inputs)
    if case.direction == FORWARD:
        return Step(partial(function, **inputs.arguments))
    leaves = {
        name: inputs.arguments[name].detach().requires_grad_()
        for name in OPS[case.op].differentiable
    }
    forward = partial(function, **(inputs.arguments | leaves))
    wanted = tuple(leaves.values())
    if case.direction == BACKWARD:
        return Step(partial(torch.autograd.grad, forward(), wanted, inputs.grad_output, True))

    def both() -> tuple[Tensor, ...]:
        output = forward()
        return (output.detach(), *torch.autograd.grad(output, wanted, inputs.grad_output))

    return Step(both)


def ours(case: Case, inputs: Inputs) -> Step:
    """The function of the same name in torchsoftmax."""
    function = getattr(import_module("torchsoftmax.functional"), case.op)
    if case.variant == IN_PLACE:
        function = partial(function, inplace_backward=True)
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


def elsewhere(module: str, case: Case, inputs: Inputs) -> Step | None:
    """The step of another library, which only its own process imports."""
    return import_module(f"benchmarks.{module}").step(case, inputs)


def installed(*packages: str) -> bool:
    """Whether all of them can be imported."""
    return all(find_spec(package) is not None for package in packages)


OURS = "ours"
PEERS = [
    Peer(OURS, ours),
    Peer("eager", eager),
    Peer("compile", compiled, slow_start=True, available=has_compiler),
    Peer("eager tuned", eager, "tuned"),
    Peer("compile tuned", compiled, "tuned", slow_start=True, available=has_compiler),
    Peer(
        "onnxruntime", partial(elsewhere, "onnxruntime_peer"), "onnxruntime", slow_start=True,
        available=partial(installed, "onnxruntime", "onnx"),
    ),
    Peer(
        "jax", partial(elsewhere, "jax_peer"), "jax", slow_start=True,
        available=partial(installed, "jax"),
    ),
]  # fmt: skip
