"""What is measured: the operators and the shapes, as two tables."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor

FORWARD, BACKWARD, BOTH = "forward", "backward", "forward+backward"


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
    """Logits and class indices, with what the variant adds or replaces."""
    classes = case.shape[1]
    target_shape = (case.shape[0], *case.shape[2:])
    arguments: dict[str, object] = {"input": normal(case, 4.0)}
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

# Operators, directions, shape, dim, dtypes, what the shape stands for, variant.
# fmt: off
TABLE = [
    ("softmax", FORWARD, (32, 10), 1, "float32", "tiny classifier", ""),
    ("softmax log_softmax", FORWARD, (128, 1000), 1, "float32", "ImageNet head, batch 128", ""),
    ("softmax log_softmax", FORWARD, (1024, 1000), 1, "float32", "ImageNet head, batch 1024", ""),
    ("softmax", FORWARD, (1024, 1000), 1, "bfloat16 float16 float64", "ImageNet head, batch 1024",
     ""),
    ("softmax log_softmax", FORWARD, (4096, 128), 1, "float32", "attention rows, 128 keys", ""),
    ("softmax log_softmax", FORWARD, (512, 4096), 1, "float32", "attention rows, 4096 keys", ""),
    ("softmax", f"{FORWARD} {BACKWARD}", (8, 12, 512, 512), 3, "float32 bfloat16",
     "attention, 12 heads, 512 keys", ""),
    ("softmax", BOTH, (8, 12, 512, 512), 3, "float32", "attention, 12 heads, 512 keys", ""),
    ("log_softmax", f"{FORWARD} {BOTH}", (8, 12, 512, 512), 3, "float32",
     "attention, 12 heads, 512 keys", ""),
    ("softmax", FORWARD, (8, 12, 512, 512), 3, "float16", "attention, 12 heads, 512 keys", ""),
    ("softmax log_softmax", f"{FORWARD} {BACKWARD}", (4096, 32000), 1, "float32",
     "LM head, 32k vocabulary", ""),
    ("softmax", f"{FORWARD} {BACKWARD}", (4096, 32000), 1, "bfloat16", "LM head, 32k vocabulary",
     ""),
    ("log_softmax", FORWARD, (4096, 32000), 1, "bfloat16", "LM head, 32k vocabulary", ""),
    ("softmax", f"{FORWARD} {BACKWARD}", (8, 21, 256, 256), 1, "float32", "segmentation map", ""),
    ("softmax", FORWARD, (2000, 4096), 0, "float32", "assignment over the rows", ""),
    ("softmax", FORWARD, (32, 1000, 49), 1, "float32", "class map of 7x7", ""),
    ("cross_entropy", BOTH, (32, 10), 1, "float32", "tiny classifier", ""),
    ("cross_entropy", FORWARD, (4096, 32000), 1, "float32", "LM head, 32k vocabulary", ""),
    ("cross_entropy", BOTH, (4096, 32000), 1, "float32 bfloat16", "LM head, 32k vocabulary", ""),
    ("cross_entropy", BOTH, (1024, 128256), 1, "float32 bfloat16", "LM head, 128k vocabulary", ""),
    # Not 4096 rows in float16: there the sum of the losses overflows in eager, whose mean is inf.
    ("cross_entropy", BOTH, (1024, 32000), 1, "float16 float64", "LM head, 32k vocabulary", ""),
    ("cross_entropy", BOTH, (1024, 32000), 1, "float32", "LM head, 32k vocabulary",
     "label smoothing"),
    ("cross_entropy", BOTH, (1024, 32000), 1, "float32", "LM head, 32k vocabulary",
     "class weights"),
    ("cross_entropy", BOTH, (1024, 32000), 1, "float32", "distillation, 32k vocabulary",
     "probability targets"),
    ("cross_entropy", BOTH, (1024, 32000), 1, "float32", "LM head, 32k vocabulary",
     "softcap and z-loss"),
    ("cross_entropy", BOTH, (1024, 32000), 1, "float32", "LM head, 32k vocabulary",
     "reduction none"),
    ("cross_entropy", BOTH, (8, 21, 256, 256), 1, "float32 bfloat16", "segmentation map", ""),
    ("softmax log_softmax", f"{FORWARD} {BOTH}", (8, 12, 512, 512), 3, "float32",
     "attention, 12 heads, 512 keys", "causal mask"),
    ("softmax log_softmax", FORWARD, (8, 12, 512, 512), 3, "float32",
     "attention, 12 heads, 512 keys", "padding mask"),
    ("kl_div_with_logits", BOTH, (1024, 32000), 1, "float32 bfloat16",
     "distillation, 32k vocabulary", ""),
    ("selective_log_softmax", BOTH, (1024, 32000), 1, "float32 bfloat16",
     "policy gradient, 32k vocabulary", ""),
    ("entropy_with_logits", BOTH, (1024, 32000), 1, "float32", "policy gradient, 32k vocabulary",
     ""),
]

QUICK_TABLE = [
    ("softmax log_softmax", f"{FORWARD} {BACKWARD}", (16, 100), 1, "float32", "quick", ""),
    ("softmax", f"{FORWARD} {BACKWARD}", (2, 21, 8, 8), 1, "float32 bfloat16", "quick", ""),
    ("softmax", BOTH, (30, 40), 0, "float64", "quick", ""),
    ("cross_entropy", f"{FORWARD} {BOTH}", (16, 100), 1, "float32 bfloat16", "quick", ""),
    ("cross_entropy", BOTH, (2, 21, 8, 8), 1, "float32", "quick", ""),
    ("cross_entropy", BOTH, (16, 100), 1, "float32", "quick", "label smoothing"),
    ("cross_entropy", BOTH, (16, 100), 1, "float32", "quick", "class weights"),
    ("cross_entropy", BOTH, (16, 100), 1, "float32", "quick", "probability targets"),
    ("cross_entropy", BOTH, (16, 100), 1, "float32", "quick", "softcap and z-loss"),
    ("softmax", BOTH, (2, 3, 16, 16), 3, "float32", "quick", "causal mask"),
    ("softmax", BOTH, (2, 3, 16, 16), 3, "float32", "quick", "padding mask"),
    ("kl_div_with_logits", BOTH, (16, 100), 1, "float32", "quick", ""),
    ("selective_log_softmax", BOTH, (16, 100), 1, "float32", "quick", ""),
    ("entropy_with_logits", BOTH, (16, 100), 1, "float32", "quick", ""),
]
# fmt: on


def expand(table: list[tuple]) -> list[Case]:
    """One case per operator, direction and dtype of each line; operators stay together."""
    cases = [
        Case(op, direction, shape, dim, dtype, stands_for, variant)
        for ops, directions, shape, dim, dtypes, stands_for, variant in table
        for op, dtype, direction in product(ops.split(), dtypes.split(), directions.split())
    ]
    return sorted(cases, key=lambda case: list(OPS).index(case.op))


CASES = expand(TABLE)
QUICK_CASES = expand(QUICK_TABLE)


def least_bytes(case: Case, inputs: Inputs) -> int:
    """The least memory traffic of a case in bytes, by the rule at ``Op``."""
    others = (value for name, value in inputs.arguments.items() if name != "input")
    extra = sum(value.nbytes for value in others if isinstance(value, Tensor))
    return OPS[case.op].passes[case.direction] * inputs.arguments["input"].nbytes + extra
