"""Results before times: every peer against a float64 computation on the same input."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import prod

import torch
from torch import Tensor

from benchmarks.cases import BACKWARD, OPS, Case, Inputs
from benchmarks.peers import torch_step

CHECKED_ELEMENTS = 2**24
PER_CLASS = ("weight",)


def batch_dim(case: Case) -> int:
    """A dimension along which rows are independent."""
    return 0 if case.dim != 0 else 1


def checked_rows(case: Case) -> Tensor:
    """Evenly spaced indices, first and last included, that keep the check short."""
    rows = case.shape[batch_dim(case)]
    count = min(rows, max(1, CHECKED_ELEMENTS * rows // prod(case.shape)))
    return torch.linspace(0, rows - 1, count).long()


def wide(case: Case, inputs: Inputs, take: Callable[[Tensor], Tensor]) -> Inputs:
    """The rows that ``take`` takes from each batched tensor, and everything in float64."""

    def convert(name: str, value: object) -> object:
        if not isinstance(value, Tensor):
            return value
        dim = batch_dim(case)
        batched = name not in PER_CLASS and value.dim() > dim
        value = take(value) if batched and value.size(dim) == case.shape[dim] else value
        return value.double() if value.is_floating_point() else value

    arguments = {name: convert(name, value) for name, value in inputs.arguments.items()}
    grad_output = inputs.grad_output
    return replace(
        inputs,
        arguments=arguments,
        grad_output=None if grad_output is None else take(grad_output).double(),
    )


def reference(case: Case, inputs: Inputs, rows: Tensor) -> list[Tensor]:
    """What the step of the case returns, in float64, on the given rows.

    A mean over rows needs the loss of all rows: it is summed up in blocks, and the gradient of
    the mean over the given rows is rescaled to the mean over all.
    """
    op, dim = OPS[case.op], batch_dim(case)
    part = wide(case, inputs, lambda tensor: tensor.index_select(dim, rows))
    expected = results(torch_step(op.eager, case, part)())
    if op.denominator is None or inputs.arguments.get("reduction") == "none":
        return expected
    denominator = op.denominator(inputs.arguments)
    grads = expected if case.direction == BACKWARD else expected[1:]
    grads = [grad * (op.denominator(part.arguments) / denominator) for grad in grads]
    if case.direction == BACKWARD:
        return grads
    total = torch.zeros((), dtype=torch.float64)
    for start in range(0, case.shape[dim], len(rows)):
        length = min(len(rows), case.shape[dim] - start)
        block = wide(case, inputs, lambda t, s=start, n=length: t.narrow(dim, s, n)).arguments
        total += op.eager(**block) * op.denominator(block)
    return [total / denominator, *grads]


def results(returned: object) -> list[Tensor]:
    """What a step returned, as a list of tensors; arrays of other libraries are not copied."""
    values = returned if isinstance(returned, (tuple, list)) else [returned]
    return [v if isinstance(v, Tensor) else torch.from_dlpack(v) for v in values]


def error(case: Case, got: list[Tensor], expected: list[Tensor], rows: Tensor) -> float:
    """The largest difference, relative to the tensor's largest finite entry; nan where one is nan.

    Relative to each entry it would measure the cancellation in ``p - 1`` and not the operator.
    A result of another shape or dtype is infinitely wrong.
    """
    worst = []
    for actual, exact in zip(got, expected, strict=True):
        if exact.dim() > 0:
            actual = actual.index_select(batch_dim(case), rows)
        if actual.shape != exact.shape or actual.dtype != case.torch_dtype:
            return float("inf")
        difference = (actual.double() - exact).masked_fill_(actual == exact, 0)  # infinite ones too
        largest = exact.masked_fill(exact.isinf(), 0).abs().max()
        worst.append(difference.abs().max() / largest)
    return torch.stack(worst).max().item()


def tolerance(case: Case, inputs: Inputs) -> float:
    """How far a correct result may be from float64, relative to the largest entry.

    The result and the saved tensor that backward starts from are rounded to the dtype: 4 eps
    covers both in value and gradient. Inside, in float32 or wider, the argument ``x - max`` of
    the exponential has magnitude up to the range of the logits, so its rounding is a relative
    error of range * eps; a row's sum of n terms in at least eight lanes adds up to n / 8 roundings
    of eps / 2 (reached by label smoothing in eager, where all terms are equal).
    """
    logits = inputs.arguments["input"]
    inner = torch.promote_types(case.torch_dtype, torch.float32)
    spread = (logits.max().double() - logits.min().double()).item()
    roundings = case.shape[case.dim] / 8 / 2
    eps, inner_eps = torch.finfo(case.torch_dtype).eps, torch.finfo(inner).eps
    return 4 * eps + (spread + roundings) * inner_eps
