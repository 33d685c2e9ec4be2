"""What ``python -m torchsoftmax check`` checks: every operator, and the same in PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import inf

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import grad, hessian, jacrev, jvp, vjp, vmap

from torchsoftmax import derivatives, functional


@dataclass(frozen=True)
class Operator:
    """A function of float64 tensors, and the same in PyTorch."""

    name: str
    ours: Callable[..., Tensor]
    native: Callable[..., Tensor]
    inputs: tuple[Tensor, ...]


def operators(rows: int, classes: int, temperature: float) -> Iterator[Operator]:
    """Every operator, on inputs of that many rows and classes."""
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    x, y, v = 2 * random(rows, classes), 2 * random(rows, classes), random(rows, classes)
    mask = torch.rand(rows, classes, generator=generator) < 0.7
    mask[:, 0] = True
    target = torch.randint(classes, (rows,), generator=generator)
    probabilities = random(rows, classes).softmax(-1)
    t = temperature

    def log_softmax(x: Tensor) -> Tensor:
        return F.log_softmax(x / t, -1)

    def masked(native: Callable[..., Tensor]) -> Callable[[Tensor], Tensor]:
        return lambda x: native((x / t).masked_fill(~mask, -inf), -1)

    def visible(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        """-inf has no finite difference."""
        return lambda x: function(x).masked_fill(~mask, 0)

    def entropy(x: Tensor) -> Tensor:
        return -(log_softmax(x).exp() * log_softmax(x)).sum(-1)

    def picked(x: Tensor) -> Tensor:
        return log_softmax(x).gather(-1, target.unsqueeze(-1))

    yield Operator(
        "softmax",
        lambda x: functional.softmax(x, -1, temperature=t),
        lambda x: F.softmax(x / t, -1),
        (x,),
    )
    yield Operator(
        "softmax, mask",
        lambda x: functional.softmax(x, -1, temperature=t, mask=mask),
        masked(F.softmax),
        (x,),
    )
    yield Operator(
        "log_softmax", lambda x: functional.log_softmax(x, -1, temperature=t), log_softmax, (x,)
    )
    yield Operator(
        "log_softmax, mask",
        visible(lambda x: functional.log_softmax(x, -1, temperature=t, mask=mask)),
        visible(masked(F.log_softmax)),
        (x,),
    )
    yield Operator(
        "cross_entropy, indices",
        lambda x: functional.cross_entropy(x, target, temperature=t),
        lambda x: F.cross_entropy(x / t, target),
        (x,),
    )
    yield Operator(
        "cross_entropy, probabilities",
        lambda x, q: functional.cross_entropy(x, q, temperature=t, label_smoothing=0.1),
        lambda x, q: F.cross_entropy(x / t, q, label_smoothing=0.1),
        (x, probabilities),
    )
    yield _with_every_option(x, target, t)
    yield Operator(
        "kl_div_with_logits",
        lambda x, y: functional.kl_div_with_logits(x, y, temperature=t),
        lambda x, y: t**2 * F.kl_div(log_softmax(x), log_softmax(y), None, None, "batchmean", True),
        (x, y),
    )
    yield Operator(
        "entropy_with_logits",
        lambda x: functional.entropy_with_logits(x, -1, temperature=t),
        entropy,
        (x,),
    )
    yield Operator(
        "selective_log_softmax",
        lambda x: functional.selective_log_softmax(x, target.unsqueeze(-1), temperature=t),
        picked,
        (x,),
    )
    yield Operator(
        "softmax_statistics",
        lambda x: torch.stack(functional.softmax_statistics(x, target, temperature=t)[:3]),
        lambda x: torch.stack([picked(x).squeeze(-1), (x / t).logsumexp(-1), entropy(x)]),
        (x,),
    )
    hidden, weight = random(rows, 3), random(classes, 3)
    yield Operator(
        "linear_cross_entropy",
        lambda h, w: functional.linear_cross_entropy(h, w, target, temperature=t),
        lambda h, w: F.cross_entropy(F.linear(h, w) / t, target),
        (hidden, weight),
    )
    yield Operator(
        "linear_softmax_statistics",
        lambda h, w: torch.stack(
            functional.linear_softmax_statistics(h, w, target, temperature=t)[:3]
        ),
        lambda h, w: torch.stack(
            [
                picked(F.linear(h, w)).squeeze(-1),
                (F.linear(h, w) / t).logsumexp(-1),
                entropy(F.linear(h, w)),
            ]
        ),
        (hidden, weight),
    )
    yield from _derivatives(x, v, target, probabilities, t)


def _with_every_option(x: Tensor, target: Tensor, t: float) -> Operator:
    """Cross-entropy with all its extensions at once, the first row ignored."""
    rows, classes = x.shape
    cap, ignored = 5.0, target[0].item()
    weight = torch.linspace(0.5, 2, classes, dtype=x.dtype)
    of_rows = torch.linspace(0.5, 2, rows, dtype=x.dtype)
    options = {"ignore_index": ignored, "label_smoothing": 0.1}

    def ours(x: Tensor) -> Tensor:
        extensions = {"temperature": t, "softcap": cap, "z_loss": 0.01, "sample_weight": of_rows}
        return functional.cross_entropy(
            x, target, weight.to(x.dtype), reduction="sum", **options, **extensions
        )

    def native(x: Tensor) -> Tensor:
        z = cap * torch.tanh(x / cap) / t
        loss = F.cross_entropy(z, target, weight, reduction="none", **options)
        loss = of_rows * (loss + 0.01 * z.logsumexp(-1) ** 2)
        return loss.masked_fill(target == ignored, 0).sum()

    return Operator("cross_entropy, every option", ours, native, (x,))


def _derivatives(
    x: Tensor, v: Tensor, target: Tensor, probabilities: Tensor, t: float
) -> Iterator[Operator]:
    """Those of torchsoftmax.derivatives; native: torch.func."""

    def softmax(row: Tensor) -> Tensor:
        return F.softmax(row / t, -1)

    def log_softmax(row: Tensor) -> Tensor:
        return F.log_softmax(row / t, -1)

    def loss(row: Tensor, q: Tensor) -> Tensor:
        return F.cross_entropy(row / t, q, reduction="sum")

    for function, native in (
        (derivatives.softmax_jacobian, vmap(jacrev(softmax))),
        (derivatives.log_softmax_jacobian, vmap(jacrev(log_softmax))),
        (derivatives.softmax_hessian, vmap(hessian(softmax))),
    ):
        few = x[:2, :3] if function is derivatives.softmax_hessian else x[:2]
        yield Operator(
            function.__name__,
            lambda x, function=function: function(x, temperature=t),
            native,
            (few.clone(),),
        )
    yield Operator(
        "softmax_jvp",
        lambda x, v: derivatives.softmax_jvp(x, v, temperature=t),
        lambda x, v: jvp(softmax, (x,), (v,))[1],
        (x, v),
    )
    yield Operator(
        "softmax_vjp",
        lambda x, v: derivatives.softmax_vjp(x, v, temperature=t),
        lambda x, v: vjp(softmax, x)[1](v)[0],
        (x, v),
    )
    yield Operator(
        "cross_entropy_gradient",
        lambda x, q: derivatives.cross_entropy_gradient(x, q, temperature=t),
        grad(loss),
        (x, probabilities),
    )
    yield Operator(
        "cross_entropy_hessian",
        lambda x: derivatives.cross_entropy_hessian(x, target[:2], temperature=t),
        lambda x: vmap(hessian(loss))(x, target[:2]),
        (x[:2].clone(),),
    )
    yield Operator(
        "cross_entropy_hvp",
        lambda x, q, v: derivatives.cross_entropy_hvp(x, q, v, temperature=t),
        lambda x, q, v: jvp(lambda x: grad(loss)(x, q), (x,), (v,))[1],
        (x, probabilities, v),
    )
