"""``python -m torchsoftmax check``: every operator against native and finite differences, here."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import nan

import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from torchsoftmax import _load
from torchsoftmax._check_operators import Operator, operators

# Errors are relative to the largest result, or to 1 where that is larger.
NATIVE_TOLERANCE = 1e-12  # some thousand roundings to float64
FLOAT32_TOLERANCE = 16 * torch.finfo(torch.float32).eps
# A central difference of step h is off by h² times a third derivative, and by a rounding over h.
STEP = 1e-5
DIFFERENCE_TOLERANCE = 1e-7
COLUMNS = {
    "value": NATIVE_TOLERANCE,
    "gradient": NATIVE_TOLERANCE,
    "second": NATIVE_TOLERANCE,
    "float32": FLOAT32_TOLERANCE,
    "gradcheck": DIFFERENCE_TOLERANCE,
    "gradgradcheck": DIFFERENCE_TOLERANCE,
}
SHAPES = ((3, 5), (2, 19), (9, 3))  # short rows, rows longer than a few vectors, many rows
LEGEND = f"""\
value, gradient, second: largest difference of the result, of its gradient and of its second
  derivative from PyTorch's own, in float64 (allowed {NATIVE_TOLERANCE:.0e})
float32: of the result in float32 from PyTorch's in float64 (allowed {FLOAT32_TOLERANCE:.0e})
gradcheck, gradgradcheck: of the gradient and of the second derivative from finite differences
  (allowed {DIFFERENCE_TOLERANCE:.0e}); torch.autograd.gradcheck and gradgradcheck have to agree
all relative to the largest entry, or to 1 where that is larger"""


@dataclass(frozen=True)
class Outcome:
    """Errors by column; `refused`: the checks of PyTorch that did not pass."""

    name: str
    errors: dict[str, float]
    refused: tuple[str, ...]

    @property
    def failures(self) -> list[str]:
        wrong = [name for name, error in self.errors.items() if not error <= COLUMNS[name]]
        return list(dict.fromkeys([*wrong, *self.refused]))


def add(commands: argparse._SubParsersAction) -> None:
    """The command and its arguments."""
    check = commands.add_parser(
        "check",
        help="every operator against PyTorch's and against finite differences on this machine",
        description="Exits with status 1 where a check fails.",
    )
    check.add_argument("--quick", action="store_true", help="one shape, in seconds")
    check.set_defaults(run=lambda options: run(options.quick))


def run(quick: bool, chosen: Callable[..., Iterator[Operator]] = operators) -> int:
    """Check the operators, print the table; 1 where one failed."""
    settings = [(SHAPES[0], 0.7)] if quick else [(s, t) for s in SHAPES for t in (1.0, 0.7)]
    outcomes = []
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # tensors are small: threads would wait for each other
    for shape, temperature in settings:
        for operator in chosen(*shape, temperature):
            name = f"{operator.name}, {shape[0]}x{shape[1]}, T={temperature:g}"
            try:
                outcomes.append(outcome(replace(operator, name=name)))
            except Exception as error:  # whatever one operator raises, the others are checked
                message, *_ = str(error).split("\n")
                raised = f"raised {type(error).__name__}: {message}"
                outcomes.append(Outcome(name, dict.fromkeys(COLUMNS, nan), (raised,)))
    torch.set_num_threads(before)
    print(f"torch {torch.__version__}, {_load.cpu_kernels()}")
    print(table(outcomes), LEGEND, sep="\n\n")
    failed = [o for o in outcomes if o.failures]
    print(f"\n{len(outcomes) - len(failed)} of {len(outcomes)} passed")
    for each in failed:
        print(f"FAILED: {each.name}: {', '.join(each.failures)}", file=sys.stderr)
    return 1 if failed else 0


def table(outcomes: Sequence[Outcome]) -> str:
    rows = [["operator", *COLUMNS, ""]]
    for each in outcomes:
        errors = [f"{each.errors[name]:.1e}" for name in COLUMNS]
        rows.append([each.name, *errors, "FAILED" if each.failures else "ok"])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            [row[0].ljust(widths[0]), *map(str.rjust, row[1:-1], widths[1:-1]), row[-1]]
        ).rstrip()
        for row in rows
    )


def outcome(operator: Operator) -> Outcome:
    """All that is asked of one operator."""
    ours, native, inputs = operator.ours, operator.native, operator.inputs
    mine, theirs = (values_and_derivatives(function, inputs) for function in (ours, native))
    names = ("value", "gradient", "second")
    errors = dict(zip(names, map(error, mine, theirs), strict=True))
    with torch.no_grad():
        errors["float32"] = error([ours(*(x.float() for x in inputs))], theirs[0])
    first, second = scalars(ours, inputs)
    errors["gradcheck"] = error(mine[1], differences(first, inputs))
    errors["gradgradcheck"] = error(mine[2][: len(inputs)], differences(second, inputs))
    leaves = leaves_of(inputs)
    refused = [
        check.__name__
        for check in (gradcheck, gradgradcheck)
        if not check(ours, leaves, raise_exception=False)
    ]
    return Outcome(operator.name, errors, tuple(refused))


def leaves_of(inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
    return tuple(x.detach().clone().requires_grad_() for x in inputs)


def upstream_of(tensor: Tensor, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype)


def gradients_of(
    function: Callable[..., Tensor], leaves: Sequence[Tensor], upstream: Tensor | None = None
) -> tuple[Tensor, tuple[Tensor, ...], Tensor]:
    """The value, its gradients, and a number that is a random projection of these."""
    value = function(*leaves)
    upstream = upstream_of(value, 0) if upstream is None else upstream
    gradients = torch.autograd.grad(value, leaves, upstream, create_graph=True)
    projections = [(g * upstream_of(g, 1 + n)).sum() for n, g in enumerate(gradients)]
    return value, gradients, torch.stack(projections).sum()


def values_and_derivatives(
    function: Callable[..., Tensor], inputs: Sequence[Tensor]
) -> tuple[Sequence[Tensor], ...]:
    """The value, the gradients, and theirs, with respect to the upstream gradient too."""
    leaves = leaves_of(inputs)
    upstream = upstream_of(function(*inputs), 0).requires_grad_()
    value, gradients, number = gradients_of(function, leaves, upstream)
    second = torch.autograd.grad(number, (*leaves, upstream), materialize_grads=True)
    return [value], gradients, second


def scalars(
    function: Callable[..., Tensor], inputs: Sequence[Tensor]
) -> tuple[Callable[..., float], Callable[..., float]]:
    """Numbers of which the gradients and the second derivatives are the derivatives."""
    upstream = upstream_of(function(*inputs), 0)

    def first(*inputs: Tensor) -> float:
        return (function(*inputs) * upstream).sum().item()

    def second(*inputs: Tensor) -> float:
        return gradients_of(function, leaves_of(inputs))[2].item()

    return first, second


def differences(function: Callable[..., float], inputs: Sequence[Tensor]) -> list[Tensor]:
    """Central differences by every entry of every input."""
    results = []
    for number, x in enumerate(inputs):
        result = torch.empty_like(x)
        for entry in range(x.numel()):
            sides = []
            for step in (STEP, -STEP):
                moved = [each.clone() for each in inputs]
                moved[number].view(-1)[entry] += step
                sides.append(function(*moved))
            result.view(-1)[entry] = (sides[0] - sides[1]) / (2 * STEP)
        results.append(result)
    return results


def error(ours: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """The largest difference, relative to the largest entry or to 1; nan where one is nan."""
    errors = [0.0]
    for mine, true in zip(ours, expected, strict=True):
        if mine.shape != true.shape:
            return nan
        if true.numel():
            scale = max(1.0, true.abs().max().item())
            errors.append((mine.detach().double() - true.detach()).abs().max().item() / scale)
    return torch.tensor(errors).max().item()
