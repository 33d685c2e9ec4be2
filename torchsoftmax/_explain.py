"""``python -m torchsoftmax explain``: the derivatives of one row of logits, with their formulas."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from torchsoftmax import derivatives, functional


def add(commands: argparse._SubParsersAction) -> None:
    """The command and its arguments."""
    explain = commands.add_parser(
        "explain",
        help="probabilities, Jacobian, loss, gradient and Hessian of logits, with formulas",
        description="Print the probabilities and the Jacobian of one row of logits; with a target "
        "the loss, its gradient and its Hessian too. All in float64, losses in nats.",
    )
    explain.add_argument("logits", nargs="+", type=_number, help="finite numbers, one per class")
    explain.add_argument(
        "--target",
        type=str.strip,
        metavar="INDEX|P,P,...",
        help="a class index from 0 on, or one probability per class, separated by commas",
    )
    explain.add_argument(
        "--temperature", type=_positive, default=1.0, metavar="T", help="positive (default: 1)"
    )
    explain.add_argument("--log", action="store_true", help="log-softmax instead of softmax")
    explain.set_defaults(run=lambda options: run(options, explain))


def run(options: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    """Print the explanation."""
    logits = torch.tensor(options.logits, dtype=torch.float64)
    target = None
    if options.target is not None:
        try:
            target = _target(options.target, len(logits))
        except ValueError as error:
            parser.error(str(error))
    sections = _of_softmax(logits, options.temperature, options.log)
    if target is not None:
        sections += _of_loss(logits, target, options.temperature)
    print("\n\n".join(sections))
    return 0


def _of_softmax(x: Tensor, temperature: float, log: bool) -> list[str]:
    """The function and its matrix of derivatives."""
    inputs = [f"x_{i}" for i in range(len(x))]
    outputs = [f"p_{i}" for i in range(len(x))]
    by_t, over_t = _temperature(temperature)
    sections = [
        _block("logits x" + (f", temperature T = {temperature:g}" if by_t else ""), inputs, x),
        _block(
            f"probabilities  p_i = exp(x_i{by_t}) / sum_k exp(x_k{by_t})",
            outputs,
            functional.softmax(x, 0, temperature=temperature),
        ),
    ]
    if not log:
        jacobian = derivatives.softmax_jacobian(x, temperature=temperature)
        formula = f"Jacobian of softmax  dp_i / dx_j = p_i (d_ij - p_j){over_t}"
        return [*sections, _block(f"{formula},  {_DELTA}", inputs, jacobian, outputs)]
    logarithms = [f"log p_{i}" for i in range(len(x))]
    jacobian = derivatives.log_softmax_jacobian(x, temperature=temperature)
    formula = f"Jacobian of log-softmax  d log p_i / dx_j = {_over('d_ij - p_j', over_t)}"
    return [
        *sections,
        _block(
            f"log-probabilities  log p_i = x_i{by_t} - log sum_k exp(x_k{by_t})",
            logarithms,
            functional.log_softmax(x, 0, temperature=temperature),
        ),
        _block(f"{formula},  {_DELTA}", inputs, jacobian, logarithms),
    ]


def _of_loss(x: Tensor, target: Tensor, temperature: float) -> list[str]:
    """Cross-entropy with a class index or with probabilities, and its derivatives."""
    inputs = [f"x_{i}" for i in range(len(x))]
    _, over_t = _temperature(temperature)
    if target.is_floating_point():
        sections = [_block("target q", [f"q_{i}" for i in range(len(x))], target)]
        formula = "loss = -sum_c q_c log p_c"
    else:
        sections = [f"target y = {target.item()},  q_j = 1 where j = y, 0 elsewhere"]
        formula = "loss = -log p_y"
    loss = functional.cross_entropy(x, target, temperature=temperature)
    gradient = derivatives.cross_entropy_gradient(x, target, temperature=temperature)
    hessian = derivatives.cross_entropy_hessian(x, target, temperature=temperature)
    over_t2 = f"{over_t}^2" if over_t else ""
    return [
        *sections,
        f"cross-entropy  {formula}\n  {_format(loss.view(1), loss)[0]} nats",
        _block(f"gradient  dloss / dx_j = {_over('p_j - q_j', over_t)}", inputs, gradient),
        _block(
            f"Hessian  d2 loss / dx_i dx_j = p_i (d_ij - p_j){over_t2},  {_DELTA}",
            inputs,
            hessian,
            inputs,
        ),
    ]


_DELTA = "d_ij = 1 where i = j, 0 elsewhere"


def _temperature(temperature: float) -> tuple[str, str]:
    """How formulas divide by T: after a name in a term, and after a product."""
    return ("", "") if temperature == 1 else ("/T", " / T")


def _over(difference: str, over_t: str) -> str:
    return f"({difference}){over_t}" if over_t else difference


def _block(
    formula: str, columns: Sequence[str], values: Tensor, rows: Sequence[str] | None = None
) -> str:
    """A line with the formula, then a vector or a matrix under and beside its labels."""
    cells = [_format(row, values) for row in values.reshape(-1, len(columns))]
    width = max(len(cell) for line in (columns, *cells) for cell in line)
    beside = max(map(len, rows)) + 2 if rows is not None else 0
    lines = [
        "  " + label.ljust(beside) + "  ".join(cell.rjust(width) for cell in line)
        for label, line in zip(["", *(rows or [""])], [columns, *cells], strict=True)
    ]
    return "\n".join([formula, *lines])


def _format(values: Tensor, together: Tensor) -> list[str]:
    """With 4 decimals; with powers of ten where those would hide a number of `together`."""
    shown = together.abs()[together != 0]
    plain = bool(((shown >= 1e-4) & (shown < 1e6)).all())
    return [format(value + 0.0, ".4f" if plain else ".3e") for value in values.tolist()]


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"expected a finite number, got {text.strip()!r}")
    return value


def _positive(text: str) -> float:
    value = _number(text)
    if value <= 0:
        raise argparse.ArgumentTypeError(f"expected a positive number, got {text.strip()!r}")
    return value


def _target(text: str, classes: int) -> Tensor:
    """A class index or probabilities; raises a ValueError that says what was expected."""
    expected = (
        f"argument --target: expected a class index from 0 to {classes - 1}, or {classes} "
        f"probabilities separated by commas that sum to 1, got {text!r}"
    )
    try:
        index = int(text)
    except ValueError:
        index = None
    if index is not None:
        if not 0 <= index < classes:
            raise ValueError(expected)
        return torch.tensor(index)
    try:
        probabilities = [float(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(expected) from None
    if len(probabilities) != classes or not all(p >= 0 for p in probabilities):
        raise ValueError(expected)
    if not math.isclose(math.fsum(probabilities), 1, abs_tol=1e-6):
        raise ValueError(f"{expected}, which sum to {math.fsum(probabilities):g}")
    return torch.tensor(probabilities, dtype=torch.float64)
