"""Hypothesis looks for a shape, a stride or a value for which ours is not native's in float64."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from cases import DTYPES
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import Laid, Rounding, Untouched, assert_same, assert_within, laid, logits, shapes
from torch import Tensor

import torchsoftmax

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
@settings(max_examples=200)
def test_softmax(
    ours: Callable[..., Tensor], native: Callable[..., Tensor], data: st.DataObject
) -> None:
    dtype, shape = data.draw(DTYPE), data.draw(shapes())
    dim = data.draw(st.integers(-max(1, len(shape)), max(0, len(shape) - 1)))
    x = data.draw(laid(data.draw(logits(shape, dim, dtype))))
    grad = data.draw(laid(upstream(shape, dtype)))

    untouched = Untouched(x, grad)
    leaf = x.leaf()
    y = ours(leaf, dim)
    (dx,) = torch.autograd.grad(y, leaf, grad.window)
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
        assert_within(y, exact, error)
        dot, dot_error = ((g.abs() * each).sum(dim, keepdim=True) for each in (p, error))
        assert_within(dx, exact_dx, error * (g.abs() + dot) + p * dot_error + r.floor)
    else:
        assert_within(y, exact, 8 * r.eps_wide + r.eps * exact.abs())
        total = g.abs().sum(dim, keepdim=True)
        assert_within(dx, exact_dx, error * total + r.eps * g.abs() + r.floor)

    dense = x.window.contiguous().requires_grad_()
    dense_y = ours(dense, dim)
    assert_same(y, dense_y)
    assert_same(dx, torch.autograd.grad(dense_y, dense, grad.window.contiguous())[0])


def check_loss(x: Laid, target: Laid, weight: Laid | None, ignore_index: int, **options) -> None:
    options["ignore_index"] = ignore_index
    untouched = Untouched(*filter(None, (x, target, weight)))
    leaves = (x.leaf(), target.leaf())
    given_weight = None if weight is None else weight.window
    loss = torchsoftmax.cross_entropy(*leaves, given_weight, **options)
    g = upstream(loss.shape, loss.dtype)
    gradients = torch.autograd.grad(loss, [leaf for leaf in leaves if leaf.requires_grad], g)
    untouched.check(loss, *gradients)

    z, t = x.exact(), target.exact()
    w = torch.ones(x.window.size(dim), dtype=torch.float64) if weight is None else weight.exact().detach()
