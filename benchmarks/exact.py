"""The operators whose errors are measured, and their exact results.

The exact result of a rounded input is computed in float64; that of a float64 input with mpmath, in
30 digits. An operator of the family is compared with what a user of PyTorch would write for it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import mpmath
import torch
import torch.nn.functional as F
from torch import Tensor

import torchsoftmax
from benchmarks import cases

DIGITS = 30
TEMPERATURE = 0.7


@dataclass(frozen=True)
class Operator:
    """Ours and PyTorch's function of (logits, target).

    ``magnitude(exact)`` is what an error is relative to, beside eps.
    """

    ours: Callable[[Tensor, Tensor], Tensor]
    native: Callable[[Tensor, Tensor], Tensor]
    magnitude: Callable[[Tensor], Tensor]


def own(exact: Tensor) -> Tensor:
    """Of the entry itself: for probabilities."""
    return exact.abs()


def at_least_one(exact: Tensor) -> Tensor:
    """At least 1 nat: for log-probabilities, losses and entropies."""
    return exact.abs().clamp(min=1.0)


def one(exact: Tensor) -> Tensor:
    """For a gradient p - y, whose small entries are differences of large ones."""
    return torch.ones_like(exact)


def gradient(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    """Of the sum over the rows with respect to the logits."""

    def of(logits: Tensor, target: Tensor) -> Tensor:
        leaf = logits.detach().requires_grad_()
        return torch.autograd.grad(function(leaf, target).sum(), leaf)[0]

    return of


def pair(name: str, ours: Callable[..., Tensor], native: Callable[..., Tensor]) -> dict:
    """The losses of the rows and the gradient of their sum."""
    return {
        name: Operator(ours, native, at_least_one),
        f"{name} gradient": Operator(gradient(ours), gradient(native), one),
    }


def every_second(logits: Tensor) -> Tensor:
    """A mask of (C): one for all rows, with the first class in it."""
    return torch.arange(logits.shape[1]) % 2 == 0


def losses(function: Callable[..., Tensor], **options: object) -> Callable[..., Tensor]:
    """Cross-entropy of each row."""
    return lambda x, target: function(x, target, reduction="none", **options)


def capped(x: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy of each row, with softcap and z-loss."""
    z = 30 * torch.tanh(x / 30)
    return F.cross_entropy(z, target, reduction="none") + 1e-4 * z.logsumexp(1).square()


def divergence(x: Tensor, _: Tensor) -> Tensor:
    """Of each row from the softmax of the row at the other end, with temperature."""
    log_p = F.log_softmax(x / TEMPERATURE, 1)
    log_q = F.log_softmax(x.detach().flip(0) / TEMPERATURE, 1)
    return TEMPERATURE**2 * F.kl_div(log_p, log_q, reduction="none", log_target=True).sum(1)


OPERATORS: dict[str, Operator] = {
    "softmax": Operator(lambda x, _: torchsoftmax.softmax(x, 1), lambda x, _: F.softmax(x, 1), own),
    "log_softmax": Operator(
        lambda x, _: torchsoftmax.log_softmax(x, 1), lambda x, _: F.log_softmax(x, 1), at_least_one
    ),
    **pair("cross_entropy", losses(torchsoftmax.cross_entropy), losses(F.cross_entropy)),
}
FAMILY: dict[str, Operator] = {
    "softmax, temperature": Operator(
        lambda x, _: torchsoftmax.softmax(x, 1, temperature=TEMPERATURE),
        lambda x, _: F.softmax(x / TEMPERATURE, 1),
        own,
    ),
    "softmax, mask": Operator(
        lambda x, _: torchsoftmax.softmax(x, 1, mask=every_second(x)),
        lambda x, _: cases.eager_softmax(x, 1, every_second(x)),
        own,
    ),
    "log_softmax, mask": Operator(
        lambda x, _: torchsoftmax.log_softmax(x, 1, mask=every_second(x)),
        lambda x, _: cases.eager_log_softmax(x, 1, every_second(x)),
        at_least_one,
    ),
    **pair(
        "cross_entropy, label smoothing",
        losses(torchsoftmax.cross_entropy, label_smoothing=0.1),
        losses(F.cross_entropy, label_smoothing=0.1),
    ),
    **pair(
        "cross_entropy, softcap and z-loss",
        losses(torchsoftmax.cross_entropy, softcap=30.0, z_loss=1e-4),
        capped,
    ),
    **pair(
        "kl_div_with_logits",
        lambda x, _: torchsoftmax.kl_div_with_logits(
            x, x.detach().flip(0), temperature=TEMPERATURE, reduction="none"
        ),
        divergence,
    ),
    **pair(
        "entropy_with_logits",
        lambda x, _: torchsoftmax.entropy_with_logits(x, 1),
        lambda x, _: cases.eager_entropy_with_logits(x, 1),
    ),
    **pair(
        "softmax_statistics, lse",
        lambda x, target: torchsoftmax.softmax_statistics(x, target).lse,
        lambda x, _: x.logsumexp(1),
    ),
}


def with_mpmath(logits: Tensor, target: Tensor) -> dict[str, Tensor]:
    """The first operators on float64 logits, rounded once."""
    rows: dict[str, list] = {name: [] for name in OPERATORS}
    with mpmath.workdps(DIGITS):
        for row, index in zip(logits.tolist(), target.tolist(), strict=True):
            powers = [mpmath.exp(x) for x in row]
            total = mpmath.fsum(powers)
            log_total = mpmath.log(total)
            probabilities = [power / total for power in powers]
            rows["softmax"].append([float(p) for p in probabilities])
            rows["log_softmax"].append([float(x - log_total) for x in row])
            rows["cross_entropy"].append(float(log_total - row[index]))
            probabilities[index] -= 1
            rows["cross_entropy gradient"].append([float(p) for p in probabilities])
    return {name: torch.tensor(values, dtype=torch.float64) for name, values in rows.items()}


def results(operators: dict[str, Operator], logits: Tensor, target: Tensor) -> dict[str, Tensor]:
    """The exact result of each operator, in float64."""
    if logits.dtype == torch.float64:
        return with_mpmath(logits, target)
    wide = logits.double()
    return {name: operator.native(wide, target) for name, operator in operators.items()}
