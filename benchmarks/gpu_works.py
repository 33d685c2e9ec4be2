"""The works of ``benchmarks.gpu``: the data, who does them, and what is right."""

from __future__ import annotations

import sys
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

import torchsoftmax
from benchmarks.gpu_cases import (
    CHECKED_ROWS,
    CHUNK,
    COMPILE,
    COPY,
    CROSS_ENTROPY,
    EAGER,
    GEMMS,
    IN_PLACE,
    KL_DIV,
    LIGER,
    LINEAR,
    MASKED,
    OURS,
    SMALL,
    Case,
    Setup,
    compiled,
    compiled_step,
    copying,
    few,
    largest_error,
    relative_error,
)
from benchmarks.peers import Step


def softmax(case: Case, device: str) -> Setup:
    """Forward, with or without a causal mask."""
    x = case.randn(device)
    name = case.work.split()[0].rstrip(",")
    ours, native = getattr(torchsoftmax, name), getattr(torch, name)
    mask = None
    if case.work == MASKED:
        mask = torch.ones(case.shape[-2:], dtype=torch.bool, device=device).tril()

    def theirs(x: Tensor) -> Tensor:
        return native(x if mask is None else x.masked_fill(~mask, float("-inf")), -1)

    exact = theirs(few(x).double())
    if case.work == SMALL:
        nbytes = None
        makers = {
            OURS: lambda: Step(lambda: (ours(x, -1),)),
            EAGER: lambda: Step(lambda: (native(x, -1),)),
        }
    else:
        nbytes = 2 * x.nbytes + (0 if mask is None else mask.nbytes)
        makers = {
            OURS: lambda: Step(lambda: (ours(x, -1, mask=mask),)),
            EAGER: lambda: Step(lambda: (theirs(x),)),
            COMPILE: lambda: compiled_step(theirs, x),
            COPY: lambda: copying(nbytes, device),
        }
    if name == "log_softmax":  # compiles like softmax
        del makers[COMPILE]
    return Setup(makers, lambda got: relative_error(few(got[0]), exact), nbytes)


def softmax_backward(case: Case, device: str) -> Setup:
    """Of the output that the forward saves."""
    name = case.work.split()[0]
    output = getattr(torch, name)(case.randn(device), -1)
    grad = case.randn(device).add_(1)  # so that its sum counts beside single entries
    ours = getattr(torch.ops.torchsoftmax, f"{name}_backward").default
    native = getattr(torch.ops.aten, f"_{name}_backward_data").default
    g, y = few(grad).double(), few(output).double()
    if name == "softmax":
        exact = y * (g - (g * y).sum(-1, keepdim=True))
    else:
        exact = g - y.exp() * g.sum(-1, keepdim=True)
    makers = {
        OURS: lambda: Step(lambda: (ours(grad, output, -1),)),
        EAGER: lambda: Step(lambda: (native(grad, output, -1, grad.dtype),)),
        COPY: lambda: copying(3 * grad.nbytes, device),
    }
    return Setup(makers, lambda got: relative_error(few(got[0]), exact), 3 * grad.nbytes)


def liger_loss(name: str) -> torch.nn.Module:
    """A loss of Liger. It asks at its import for packages that it does without, and that take
    seconds: they are hidden from it."""
    for package in ("peft", "transformers"):
        sys.modules.setdefault(package, None)
    from liger_kernel import transformers

    return getattr(transformers, name)()


def both(loss: Callable[..., Tensor], arguments: tuple[Tensor, ...]) -> Callable[[], tuple]:
    """Forward and backward: the loss, and the gradient of each argument that has one."""
    wanted = [argument for argument in arguments if argument.requires_grad]

    def run() -> tuple[Tensor, ...]:
        value = loss(*arguments)
        return value.detach(), *torch.autograd.grad(value, wanted)

    return run


def on_fresh_logits(
    loss: Callable[[Tensor, Tensor], Tensor], x: Tensor, target: Tensor, memory: Tensor
) -> Step:
    """For a loss that overwrites its logits: they are the result of a copy that is not timed."""
    logits: list[Tensor] = []

    def prepare() -> None:
        logits[:] = [memory.detach().copy_(x)]

    return Step(lambda: both(loss, (*logits, target))(), prepare)


def exact_loss(
    summed: Callable[..., Tensor], x: Tensor, target: Tensor, count: int
) -> tuple[Tensor, Tensor]:
    """In float64, row by row: the mean of `summed`, and its gradient at a few rows."""

    def double(t: Tensor) -> Tensor:
        return t.double() if t.is_floating_point() else t

    rows = max(1, CHUNK // x[0].numel())
    parts = zip(x.detach().split(rows), target.split(rows), strict=True)
    total = sum(summed(part.double(), double(t)) for part, t in parts)
    leaf = few(x).double().requires_grad_()
    (gradient,) = torch.autograd.grad(summed(leaf, double(few(target))), leaf)
    return total / count, gradient / count


def loss_of_logits(case: Case, device: str) -> Setup:
    """The logits are read twice, and their gradient is written."""
    x = case.randn(device).requires_grad_()
    if case.work == KL_DIV:
        target, ours = case.randn(device), torchsoftmax.kl_div_with_logits

        def theirs(x: Tensor, target: Tensor, reduction: str = "batchmean") -> Tensor:
            log_p, log_q = F.log_softmax(x, -1), F.log_softmax(target, -1)
            return F.kl_div(log_p, log_q, reduction=reduction, log_target=True)

        count, nbytes = len(x), 5 * x.nbytes
    else:
        shape = (case.shape[0], *case.shape[2:])
        target, ours = (
            torch.randint(case.shape[1], shape, device=device),
            torchsoftmax.cross_entropy,
        )

        def theirs(x: Tensor, target: Tensor, reduction: str = "mean") -> Tensor:
            return F.cross_entropy(x, target, reduction=reduction)

        count, nbytes = target.numel(), 3 * x.nbytes
    makers = {
        OURS: lambda: Step(both(ours, (x, target))),
        EAGER: lambda: Step(both(theirs, (x, target))),
        COMPILE: lambda: Step(both(compiled(theirs), (x, target))),
        COPY: lambda: copying(nbytes, device),
    }
    if case.work == CROSS_ENTROPY and x.dim() == 2:
        memory = torch.empty_like(x)

        def in_place(x: Tensor, target: Tensor) -> Tensor:
            return torchsoftmax.cross_entropy(x, target, inplace_backward=True)

        makers[IN_PLACE] = lambda: on_fresh_logits(in_place, x, target, memory)
        makers[LIGER] = lambda: on_fresh_logits(
            liger_loss("LigerCrossEntropyLoss"), x, target, memory
        )
    exact = exact_loss(lambda x, t: theirs(x, t, reduction="sum"), x, target, count)
    return Setup(makers, lambda got: largest_error((got[0], few(got[1])), exact), nbytes)


def exact_linear(
    x: Tensor, weight: Tensor, target: Tensor, classes: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """In float64: the loss, its gradient at a few rows of the input, and at `classes`."""
    x, weight = x.detach().double(), weight.detach().double()
    rows = max(1, CHUNK // len(weight))
    lse = torch.cat([(part @ weight.t()).logsumexp(1) for part in x.split(rows)])
    loss = (lse - (x * weight[target]).sum(1)).mean()
    some, labels = few(x), few(target)
    p = (some @ weight.t() - few(lse)[:, None]).exp()
    p[torch.arange(len(some), device=x.device), labels] -= 1
    of_classes = (x @ weight[classes].t() - lse[:, None]).exp()
    of_classes -= (target[:, None] == classes).double()
    return loss, p @ weight / len(x), of_classes.t() @ x / len(x)


def linear(case: Case, device: str) -> Setup:
    """The output layer and its loss, with the gradients of input and weight."""
    rows, features, classes = case.shape
    like = {"device": device, "dtype": getattr(torch, case.dtype)}
    x = torch.randn(rows, features, **like).requires_grad_()
    weight = torch.randn(classes, features, **like).div_(features**0.5).requires_grad_()
    target = torch.randint(classes, (rows,), device=device)
    arguments = (x, weight, target)

    def theirs(x: Tensor, weight: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(F.linear(x, weight), target)

    def liger_step() -> Step:
        loss = liger_loss("LigerFusedLinearCrossEntropyLoss")
        return Step(both(lambda x, weight, target: loss(weight, x, target), arguments))

    def gemms() -> Step:
        logits = torch.empty(rows, classes, **like)
        of_x, of_weight = torch.empty_like(x), torch.empty_like(weight)
        x_, weight_ = x.detach(), weight.detach()
        of_x.requires_grad_(False), of_weight.requires_grad_(False)

        def run() -> None:
            torch.mm(x_, weight_.t(), out=logits)
            torch.mm(logits, weight_, out=of_x)
            torch.mm(logits.t(), x_, out=of_weight)

        return Step(run)

    makers = {
        OURS: lambda: Step(both(torchsoftmax.linear_cross_entropy, arguments)),
        EAGER: lambda: Step(both(theirs, arguments)),
        COMPILE: lambda: Step(both(compiled(theirs), arguments)),
        LIGER: liger_step,
        GEMMS: gemms,
    }
    some = torch.cat([few(target), torch.arange(CHECKED_ROWS, device=device) % classes])
    exact = exact_linear(x, weight, target, some)
    return Setup(makers, lambda got: largest_error((got[0], few(got[1]), got[2][some]), exact))


def build(case: Case, device: str) -> Setup:
    """Draws the data."""
    if case.work == LINEAR:
        return linear(case, device)
    if case.work in (CROSS_ENTROPY, KL_DIV):
        return loss_of_logits(case, device)
    return softmax_backward(case, device) if "backward" in case.work else softmax(case, device)
