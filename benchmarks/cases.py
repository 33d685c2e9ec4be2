"""What is measured: the operators. The shapes are in ``table``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor

FORWARD, BACKWARD, BOTH = "forward", "backward", "forward+backward"
# Variants that say how a case is run. In place: the gradient is written over the logits, so every
# call needs new ones. AVX2: everybody is held to that instruction set.
IN_PLACE, AVX2 = "in place", "AVX2"


@dataclass(frozen=True)
class Case:
    """One row of the results: an operator, a direction, a shape and a dtype."""

    op: str
    direction: str
    shape: tuple[int, ...]
    dim: int
    dtype: str
    stands_for: str
    variant: str = ""

    @property
    def shape_text(self) -> str:
        """The shape, with the dimension where it is not the last one."""
        shape = "x".join(map(str, self.shape))
        return shape if self.dim == len(self.shape) - 1 else f"{shape} dim={self.dim}"

    @property
    def name(self) -> str:
        """The case in one line; ``--only`` searches in it."""
        parts = (self.op, self.direction, self.shape_text, self.dtype, self.variant)
        return " ".join(part for part in parts if part)

    @property
    def torch_dtype(self) -> torch.dtype:
        """The dtype of the logits."""
        return getattr(torch, self.dtype)

    @property
    def large(self) -> bool:
        """Whether one call takes a good part of a second."""
        return prod(self.shape) >= 2**24


@dataclass(frozen=True)
class Inputs:
    """Keyword arguments of an operator, and the gradient of its result where it is not a scalar."""

    arguments: dict[str, object]
    grad_output: Tensor | None = None

    @cached_property
    def memory(self) -> Tensor:
        """Where the logits of a case in place are written before each call: one for all peers."""
        return torch.empty_like(self.arguments["input"])


@dataclass(frozen=True)
class Op:
    """An operator.

    ``passes`` is the least traffic of a direction, in logits-sized reads and writes; every other
    tensor argument is added to it once. ``denominator`` is given where the result is a mean over
    rows: the number that the sum over those rows is divided by.
    """

    eager: Callable[..., Tensor]
    inputs: Callable[[Case], Inputs]
    passes: dict[str, int]
    denominator: Callable[[dict[str, object]], float] | None = None
    differentiable: tuple[str, ...] = ("input",)


def normal(case: Case, scale: float) -> Tensor:
    """Normal values of the case's shape and dtype, drawn in float32."""
    return torch.randn(case.shape).mul_(scale).to(case.torch_dtype)


def where_mask(input: Tensor, mask: Tensor | None) -> Tensor:
    """As users of PyTorch mask the logits of a softmax."""
    return input if mask is None else input.masked_fill(~mask, float("-inf"))


def eager_softmax(input: Tensor, dim: int, mask: Tensor | None = None) -> Tensor:
    return F.softmax(where_mask(input, mask), dim)


def eager_log_softmax(input: Tensor, dim: int, mask: Tensor | None = None) -> Tensor:
    return F.log_softmax(where_mask(input, mask), dim)


def eager_cross_entropy(
    input: Tensor, target: Tensor, softcap: float = 0.0, z_loss: float = 0.0, **options: object
) -> Tensor:
    if softcap:
        input = softcap * torch.tanh(input / softcap)
    loss = F.cross_entropy(input, target, **options)
    return loss + z_loss * input.logsumexp(1).square().mean() if z_loss else loss


def eager_kl_div_with_logits(input: Tensor, target: Tensor, temperature: float) -> Tensor:
    log_p = F.log_softmax(input / temperature, -1)
    log_q = F.log_softmax(target / temperature, -1)
    return temperature**2 * F.kl_div(log_p, log_q, reduction="batchmean", log_target=True)


def eager_selective_log_softmax(input: Tensor, index: Tensor) -> Tensor:
    return F.log_softmax(input, -1).gather(-1, index)


def eager_entropy_with_logits(input: Tensor, dim: int) -> Tensor:
    log_p = F.log_softmax(input, dim)
    return -(log_p.exp() * log_p).sum(dim)


def softmax_inputs(case: Case) -> Inputs:
    """Logits with a spread of about 40 between the smallest and the largest."""
    grad_output = None if case.direction == FORWARD else normal(case, 1.0)
    arguments: dict[str, object] = {"input": normal(case, 4.0), "dim": case.dim}
    keys = case.shape[-1]
    if case.variant == "causal mask":
        arguments["mask"] = torch.ones(keys, keys, dtype=torch.bool).tril()
    if case.variant == "padding mask":
        lengths = torch.randint(keys // 2, keys + 1, (case.shape[0], 1, 1, 1))
        arguments["mask"] = torch.arange(keys) < lengths
    if grad_output is not None and "mask" in arguments:  # eager does not leave out what is masked
        grad_output.masked_fill_(~arguments["mask"], 0)
    return Inputs(arguments, grad_output)


def kl_div_with_logits_inputs(case: Case) -> Inputs:
    """The logits of a student and of a teacher."""
    arguments = {"input": normal(case, 4.0), "target": normal(case, 4.0), "temperature": 2.0}
    return Inputs(arguments)


def selective_log_softmax_inputs(case: Case) -> Inputs:
    """Logits, one class for each row, and an upstream gradient."""
    rows = (*case.shape[:-1], 1)
    index = torch.randint(case.shape[-1], rows)
    grad_output = torch.randn(rows).to(case.torch_dtype)
    return Inputs({"input": normal(case, 4.0), "index": index}, grad_output)


def entropy_with_logits_inputs(case: Case) -> Inputs:
    """Logits of a spread that leaves an entropy, and an upstream gradient."""
    grad_output = torch.randn(case.shape[:-1]).to(case.torch_dtype)
    return Inputs({"input": normal(case, 2.0), "dim": case.dim}, grad_output)


def cross_entropy_inputs(case: Case) -> Inputs:
    """Logits and class indices, with what the variant adds or replaces.

    In float16 eager's sum of the losses must stay below 65504, or its mean is inf: the spread of
    the logits is smaller there.
    """
    classes = case.shape[1]
    target_shape = (case.shape[0], *case.shape[2:])
    scale = 1.0 if case.dtype == "float16" else 4.0
    arguments: dict[str, object] = {"input": normal(case, scale)}
    if case.variant == "probability targets":
        arguments["target"] = normal(case, 1.0).softmax(1)
    else:
        arguments["target"] = torch.randint(classes, target_shape)
    if case.variant == "class weights":
        arguments["weight"] = torch.rand(classes).add_(0.5).to(case.torch_dtype)
    if case.variant == "label smoothing":
        arguments["label_smoothing"] = 0.1
    if case.variant == "softcap and z-loss":
        arguments |= {"softcap": 30.0, "z_loss": 1e-4}
    if case.variant == "reduction none":
        arguments["reduction"] = "none"
        return Inputs(arguments, torch.randn(target_shape).to(case.torch_dtype))
    return Inputs(arguments)


def cross_entropy_denominator(arguments: dict[str, object]) -> float:
    """The summed class weights of the targets; the number of rows where there are none."""
    logits, target = arguments["input"], arguments["target"]
    if "weight" in arguments:
        return arguments["weight"].double()[target].sum().item()
    return float(logits.numel() // logits.shape[1])


SOFTMAX_PASSES = {FORWARD: 2, BACKWARD: 3, BOTH: 5}  # in, out; out, grad_output, grad_input
LOSS_PASSES = {FORWARD: 1, BOTH: 2}  # the logits are read once; their gradient is written once
ROW_PASSES = {FORWARD: 1, BOTH: 3}  # and read again, for each row has a gradient of its own

OPS = {
    "softmax": Op(eager_softmax, softmax_inputs, SOFTMAX_PASSES),
    "log_softmax": Op(eager_log_softmax, softmax_inputs, SOFTMAX_PASSES),
    "cross_entropy": Op(
        eager_cross_entropy, cross_entropy_inputs, LOSS_PASSES, cross_entropy_denominator
    ),
    "kl_div_with_logits": Op(
        eager_kl_div_with_logits, kl_div_with_logits_inputs, LOSS_PASSES, cross_entropy_denominator
    ),
    "selective_log_softmax": Op(
        eager_selective_log_softmax, selective_log_softmax_inputs, ROW_PASSES
    ),
    "entropy_with_logits": Op(eager_entropy_with_logits, entropy_with_logits_inputs, ROW_PASSES),
}


def least_bytes(case: Case, inputs: Inputs) -> int:
    """The least memory traffic of a case in bytes, by the rule at ``Op``."""
    others = (value for name, value in inputs.arguments.items() if name != "input")
    extra = sum(value.nbytes for value in others if isinstance(value, Tensor))
    return OPS[case.op].passes[case.direction] * inputs.arguments["input"].nbytes + extra
