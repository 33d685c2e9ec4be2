"""Hypothesis looks for a shape, a stride or a value for which ours is not native's in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from cases import DTYPES, on, sums_by_layout
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import Laid, Rounding, Untouched, assert_same, assert_within, laid, logits, shapes
from torch import Tensor

import torchsoftmax

pytestmark = [pytest.mark.kernels, pytest.mark.usefixtures("one_thread")]

PAIRS = ((torchsoftmax.softmax, F.softmax), (torchsoftmax.log_softmax, F.log_softmax))
DTYPE = st.sampled_from(DTYPES)
LOSS_OPTIONS = {
    "reduction": st.sampled_from(("none", "mean", "sum")),
    "label_smoothing": st.sampled_from((0.0, 0.1, 1.0)),
}


def upstream(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("ours, native", PAIRS, ids=["softmax", "log_softmax"])
@given(data=st.data())
@settings(max_examples=350)
def test_softmax(
    ours: Callable[..., Tensor],
    native: Callable[..., Tensor],
    device: str,
    data: st.DataObject,
) -> None:
    dtype, shape = data.draw(DTYPE), data.draw(shapes())
    dim = data.draw(st.integers(-max(1, len(shape)), max(0, len(shape) - 1)))
    x = data.draw(laid(data.draw(logits(shape, dim, dtype)))).to(device)
    grad = data.draw(laid(upstream(shape, dtype))).to(device)

    untouched = Untouched(x, grad)
    leaf, dense = x.leaf(), x.window.contiguous().requires_grad_()
    y, dense_y = ours(leaf, dim), ours(dense, dim)
    (dx,) = torch.autograd.grad(y, leaf, grad.window)
    (dense_dx,) = torch.autograd.grad(dense_y, dense, grad.window.contiguous())
    untouched.check(y, dx)

    exact_leaf, g = x.exact(), grad.exact().detach()
    exact = native(exact_leaf, dim)
    (exact_dx,) = torch.autograd.grad(exact, exact_leaf, g)

    # exp(x - max) is off by the rounding of x - max, which grows with it, and by a few roundings of
    # the exponential and of the sum: p (8 + |log p|) eps. entr(p) = -p log p.
    r = Rounding.of(dtype)
    p = F.softmax(exact_leaf.detach(), dim)
    error = r.eps * (8 * p + torch.special.entr(p)) + r.floor
    if native is F.softmax:
        dot, dot_error = ((g.abs() * each).sum(dim, keepdim=True) for each in (p, error))
        bound, dx_bound = error, error * (g.abs() + dot) + p * dot_error + r.floor
    else:
        total = g.abs().sum(dim, keepdim=True)
        bound = 8 * r.eps_wide + r.eps * exact.abs()
        dx_bound = error * total + r.eps * g.abs() + r.floor
    for result, gradient in ((y, dx), (dense_y, dense_dx)):
        assert_within(result, exact, bound)
        assert_within(gradient, exact_dx, dx_bound)
    if not sums_by_layout(device):
        assert_same(y, dense_y)
        assert_same(dx, dense_dx)


def check_loss(x: Laid, target: Laid, weight: Laid | None, **options: Any) -> None:
    untouched = Untouched(*filter(None, (x, target, weight)))
    leaves = (x.leaf(), target.leaf())
    loss = torchsoftmax.cross_entropy(*leaves, weight and weight.window, **options)
    grad = upstream(loss.shape, loss.dtype).to(loss)
    gradients = torch.autograd.grad(loss, [leaf for leaf in leaves if leaf.requires_grad], grad)
    untouched.check(loss, *gradients)

    # PyTorch's CPU kernel is the reference on every device: on a GPU that for a single row without
    # a batch dimension returns 0 as the mean over no row at all, where all others return nan.
    loss, gradients = loss.cpu(), [gradient.cpu() for gradient in gradients]
    z, t, g = x.to("cpu").exact(), target.to("cpu").exact(), grad.double().cpu()
    dim = min(1, z.dim() - 1)
    w = z.new_ones(z.size(dim)) if weight is None else weight.to("cpu").exact().detach()
    exact = F.cross_entropy(z, t, w, **options)
    exact_gradients = torch.autograd.grad(exact, [leaf for leaf in (z, t) if leaf.requires_grad], g)

    # A row's loss is -sum(q log p) with all terms of one sign: off by a few roundings of itself and
    # of log(sum(exp)) times the mass of q. The loss of equal logits is that mass times log C.
    r = Rounding.of(x.window.dtype)
    equal = F.cross_entropy(torch.zeros_like(z), t, w, **options)
    assert_within(loss, exact, r.eps * exact + 12 * r.eps_wide * (equal + exact))

    # d loss / d z = g (p mass - q) is off by a few roundings of two terms of at most the mass,
    # d loss / d q = -g w log p as the loss is.
    if t.is_floating_point():
        mass, rows = t.detach().sum(dim).clamp(min=1), t.numel() / max(1, t.size(dim))
    else:
        taking_part = t != options["ignore_index"]
        mass, rows = taking_part.double(), w[t[taking_part]].sum()
        # Ours: the gradient of an ignored row is 0 even where its logits hold nan.
        exact_gradients = [exact_gradients[0] * 1]
        exact_gradients[0][~taking_part.unsqueeze(dim).expand_as(z)] = 0
    scale = g.abs() * mass * max(w.tolist(), default=0)
    scale = scale / rows if options["reduction"] == "mean" else scale
    for mine, true in zip(gradients, exact_gradients, strict=True):
        bound = (r.eps + 8 * r.eps_wide) * true.abs() + 16 * r.eps_wide * scale.unsqueeze(dim)
        assert_within(mine, true, bound + r.floor)


def class_weights(
    data: st.DataObject, classes: int, dtype: torch.dtype, device: str
) -> Laid | None:
    kind = data.draw(st.sampled_from(("none", "zeros and ones", "any")))
    if kind == "none":
        return None
    values = 2 * torch.rand(classes, generator=torch.Generator().manual_seed(2))
    values = values.round() if kind == "zeros and ones" else values
    return data.draw(laid(values.to(dtype))).to(device)


def class_dim(shape: tuple[int, ...]) -> int:
    return min(1, len(shape) - 1)


@given(data=st.data(), **LOSS_OPTIONS)
@settings(max_examples=700)
def test_cross_entropy(device: str, data: st.DataObject, **options: Any) -> None:
    dtype, shape = (
        data.draw(DTYPE),
        data.draw(shapes(fewest=1).filter(lambda s: s[class_dim(s)] > 0)),
    )
    dim = class_dim(shape)
    classes = shape[dim]
    x = data.draw(laid(data.draw(logits(shape, dim, dtype)))).to(device)
    generator = torch.Generator().manual_seed(3)
    rows = shape[:dim] + shape[dim + 1 :]
    index = torch.randint(classes, rows, generator=generator)
    ignore_index = data.draw(st.sampled_from((-100, -1, 0, classes - 1, 255)))
    index_dtype = data.draw(st.sampled_from((torch.int64, torch.int32, torch.uint8)))
    if index_dtype != torch.uint8 or ignore_index >= 0:
        index[torch.rand(rows, generator=generator) < 0.3] = ignore_index
    target = data.draw(laid(index.to(index_dtype))).to(device)
    weight = class_weights(data, classes, dtype, device)
    check_loss(x, target, weight, ignore_index=ignore_index, **options)


@given(data=st.data(), **LOSS_OPTIONS)
@settings(max_examples=700)
def test_cross_entropy_of_class_probabilities(
    device: str, data: st.DataObject, **options: Any
) -> None:
    dtype, shape = data.draw(DTYPE), data.draw(shapes(fewest=1))
    dim = class_dim(shape)
    x = data.draw(laid(data.draw(logits(shape, dim, dtype)))).to(device)
    generator = torch.Generator().manual_seed(3)
    kind = data.draw(st.sampled_from(("softmax", "one hot", "any")))
    values = torch.rand(shape, generator=generator, dtype=torch.float64)
    if kind != "any":
        values = (5 * values).softmax(dim) if kind == "softmax" else (values > 0.8).double()
    target = data.draw(laid(values.to(dtype))).to(device)
    check_loss(x, target, class_weights(data, shape[dim], dtype, device), **options)


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1, 1.0])
def test_mean_over_weights_of_zero_is_nan(label_smoothing: float, device: str) -> None:
    """Found above: with label smoothing native gives 0 / 0 + x / 0, and ours gave x / 0 = inf."""
    x = torch.zeros(1, 2, device=device, requires_grad=True)
    arguments = (x, *on(device, (torch.tensor([0]), torch.tensor([0.0, 1.0]))))
    for function in (torchsoftmax.cross_entropy, F.cross_entropy):
        loss = function(*arguments, label_smoothing=label_smoothing)
        assert loss.isnan()
        assert torch.autograd.grad(loss, x)[0].isnan().all()
