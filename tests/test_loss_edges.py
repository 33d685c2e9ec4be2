"""The edges of cross_entropy and of those around it: what is masked, ignored or not finite."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import reference
import torch
from cases import class_indices, logits, on, random_mask
from test_contract import assert_near, every_dtype
from test_loss_family import (
    REDUCTIONS,
    combinations,
    every_kind,
    every_layout,
    every_reduction,
    narrowed,
)
from torch import Tensor, inf, nan

import torchsoftmax
from torchsoftmax import cross_entropy

pytestmark = [pytest.mark.kernels, pytest.mark.usefixtures("one_thread")]

# Masks


MASKED = {
    "softmax": (torchsoftmax.softmax, reference.softmax),
    "log_softmax": (torchsoftmax.log_softmax, reference.log_softmax),
    "entropy_with_logits": (torchsoftmax.entropy_with_logits, reference.entropy_with_logits),
}
every_masked = pytest.mark.parametrize("name", MASKED)
every_dim = pytest.mark.parametrize("shape, dim", [((6, 37), 1), ((37, 20), 0), ((2, 11, 35), 1)])


@every_masked
@every_dim
@every_dtype
def test_a_masked_entry_is_what_it_is_whatever_its_logit(
    name: str, shape: tuple[int, ...], dim: int, dtype: torch.dtype, device: str
) -> None:
    ours, theirs = MASKED[name]
    x, mask = on(device, (logits(*shape, dtype=dtype), random_mask(*shape)))
    results = []
    for filler in (0.0, nan, inf, -inf, torch.finfo(dtype).max):
        leaf = torch.where(mask, x, filler).requires_grad_()
        value = ours(leaf, dim, mask=mask, temperature=0.7)
        results.append((value, *torch.autograd.grad(value[..., :3].clamp(min=-1e3).sum(), leaf)))
    for result in results[1:]:
        assert all(map(torch.equal, result, results[0]))
    value, gradient = results[0]
    assert torch.count_nonzero(gradient[~mask]) == 0
    exact = theirs(x.double(), dim, mask=mask, temperature=0.7)
    assert torch.equal(value.isinf(), exact.isinf())
    assert_near(value.detach(), exact, dtype, name)


@every_masked
@every_dim
def test_a_row_in_which_nothing_takes_part(
    name: str, shape: tuple[int, ...], dim: int, device: str
) -> None:
    x, mask = on(device, (logits(*shape, dtype=torch.float32), random_mask(*shape)))
    mask.select(dim, 0).fill_(True)
    last = 1 if dim == 0 else 0
    mask.select(last, 2 % shape[last]).fill_(False)
    nothing = ~mask.any(dim, keepdim=True)
    x = torch.where(nothing, nan, x).requires_grad_()
    value = MASKED[name][0](x, dim, mask=mask)
    (gradient,) = torch.autograd.grad(value, x, torch.randn_like(value))
    rows = nothing.squeeze(dim) if name == "entropy_with_logits" else nothing.expand(shape)
    assert (value[rows] == (-inf if name == "log_softmax" else 0)).all()
    assert not value[~rows].isnan().any()
    assert (gradient[nothing.expand(shape)] == 0).all() and gradient.isfinite().all()


@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
@pytest.mark.parametrize("upstream", [inf, -inf, nan])
@every_dim
def test_the_upstream_gradient_of_a_masked_entry_is_not_read(
    name: str, upstream: float, shape: tuple[int, ...], dim: int, device: str
) -> None:
    """That of log_softmax is -inf for a loss as harmless as its square."""
    x, mask = on(device, (logits(*shape, dtype=torch.float32), random_mask(*shape)))
    x.requires_grad_()
    value = MASKED[name][0](x, dim, mask=mask)
    grad = torch.randn_like(value)
    (expected,) = torch.autograd.grad(value, x, grad, retain_graph=True)
    (gradient,) = torch.autograd.grad(value, x, torch.where(mask, grad, upstream))
    assert torch.equal(gradient, expected) and gradient.isfinite().all()


@every_masked
@every_dim
def test_masks_of_any_strides(name: str, shape: tuple[int, ...], dim: int, device: str) -> None:
    x, mask = on(device, (logits(*shape, dtype=torch.float32), random_mask(*shape)))
    order = tuple(reversed(range(len(shape))))
    transposed = mask.permute(order).contiguous().permute(order)
    gaps = torch.stack([~mask, mask], -1)[..., 1]
    expected = MASKED[name][0](x, dim, mask=mask)

    # Rows across a vector are summed in another order than rows along it: by rounding only.
    def assert_equal(value: Tensor, expected: Tensor) -> None:
        torch.testing.assert_close(value, expected, rtol=1e-6, atol=1e-6)

    for other in (transposed, gaps):
        assert_equal(MASKED[name][0](x, dim, mask=other), expected)
    for d in range(len(shape)):
        expanded = mask.narrow(d, 0, 1).expand(shape)
        for other in (mask.narrow(d, 0, 1), expanded):
            value = MASKED[name][0](x, dim, mask=other)
            assert_equal(value, MASKED[name][0](x, dim, mask=expanded.contiguous()))


# Values that are not finite, or hardly


def difficult(classes: int, dtype: torch.dtype) -> Tensor:
    """Rows with some -inf, nothing but -inf, one +inf, one nan, and without any."""
    x = logits(6, classes, dtype=dtype)
    x[0, ::2] = -inf
    x[1] = -inf
    x[2, 3] = inf
    x[3, 2] = nan
    x[4, :-1] = -inf
    return x


def cross_entropy_of_rows(module: Any, x: Tensor, **options: Any) -> Tensor:
    target = torch.tensor([1, 0, 3, 2, x.size(1) - 1, 1], device=x.device)
    return module.cross_entropy(x, target, reduction="none", **options)


def statistics_of_rows(module: Any, x: Tensor, **options: Any) -> Any:
    return module.softmax_statistics(x, torch.arange(6, device=x.device), **options)


OF_ROWS: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "softmax": lambda module, x: module.softmax(x, 1, temperature=3.0),
    "log_softmax": lambda module, x: module.log_softmax(x, 1, temperature=3.0),
    "cross_entropy": lambda module, x: cross_entropy_of_rows(module, x, temperature=3.0),
    "cross_entropy, z_loss": lambda module, x: cross_entropy_of_rows(module, x, z_loss=0.1),
    "selective": lambda module, x: module.selective_log_softmax(
        x, torch.tensor([[1, 3, 1]], device=x.device).expand(x.size(0), 3), 1, temperature=3.0
    ),
    "entropy": lambda module, x: module.entropy_with_logits(x, 1, temperature=3.0),
    "log_prob": lambda module, x: statistics_of_rows(module, x).log_prob,
    "lse": lambda module, x: statistics_of_rows(module, x).lse,
    "entropy of statistics": lambda module, x: (
        statistics_of_rows(module, x, temperature=3.0).entropy
    ),
    "kl": lambda module, x: module.kl_div_with_logits(
        x, logits(*x.shape, dtype=x.dtype, seed=6).to(x), temperature=3.0, reduction="none"
    ),
    "kl of target": lambda module, x: module.kl_div_with_logits(
        logits(*x.shape, dtype=x.dtype, seed=6).to(x), x, temperature=3.0, reduction="none"
    ),
    "kl of both": lambda module, x: module.kl_div_with_logits(
        x, x.roll(1, 1), temperature=3.0, reduction="none"
    ),
}
every_function = pytest.mark.parametrize("name", OF_ROWS)


@every_function
@every_dtype
@pytest.mark.parametrize("classes", [7, 37])
@pytest.mark.parametrize("transposed", [False, True])
def test_rows_with_values_that_are_not_finite(
    name: str, dtype: torch.dtype, classes: int, transposed: bool, device: str
) -> None:
    x = on(device, difficult(classes, dtype))
    x = x.t().contiguous().t() if transposed else x
    ours, exact = OF_ROWS[name](torchsoftmax, x), OF_ROWS[name](reference, x.double())
    assert torch.equal(ours.isinf(), exact.isinf())
    assert_near(ours, exact, dtype, name)


# Where softmaxes are 0 in the same classes: a divergence is infinite otherwise.
ZERO_IN_THE_SAME: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "kl": lambda module, x: module.kl_div_with_logits(
        x,
        logits(*x.shape, dtype=x.dtype, seed=6).to(x).masked_fill(x == -inf, -inf),
        temperature=3.0,
        reduction="none",
    ),
    "kl of both": lambda module, x: module.kl_div_with_logits(
        x, x.roll(1, 0), temperature=3.0, reduction="none"
    ),
}


@every_function
@pytest.mark.parametrize("classes", [7, 37])
def test_gradients_of_rows_with_some_of_minus_infinity(
    name: str, classes: int, device: str
) -> None:
    """0 log 0 = 0: a class that has no probability has no gradient either."""
    results = []
    for module in (torchsoftmax, reference):
        x = on(device, logits(6, classes, dtype=torch.float64))
        x[:, 4:6] = -inf
        x.requires_grad_()
        value = (OF_ROWS | ZERO_IN_THE_SAME)[name](module, x)
        # An infinite divergence, or the log-probability of what cannot be, has no gradient.
        value = value[value.isfinite()]
        results.append((value, *torch.autograd.grad(value.sum(), x)))
    (ours, gradient), (exact, exact_gradient) = results
    torch.testing.assert_close(ours, exact, rtol=1e-12, atol=1e-13)
    rows = exact_gradient.isfinite().all(1)
    assert exact.numel() > 0 and rows.any(), "nothing is compared"
    torch.testing.assert_close(gradient[rows], exact_gradient[rows], rtol=1e-12, atol=1e-13)


@every_function
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_huge_logits(name: str, dtype: torch.dtype, device: str) -> None:
    """Nothing overflows on the way: 1e30, and in float64 1e200, is not near the largest.

    The square of a log-sum-exp is infinite, and so is the loss with it.
    """
    huge = 1e200 if dtype == torch.float64 else 1e30
    x = torch.full((6, 19), -huge, dtype=dtype, device=device)
    x[:, 3], x[2:, 5], x[4, 7] = huge, huge, huge / 2
    ours, exact = OF_ROWS[name](torchsoftmax, x), OF_ROWS[name](reference, x.double())
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(ours, exact.to(dtype), rtol=8 * eps, atol=8 * eps)


@pytest.mark.parametrize("function", [torchsoftmax.softmax, torchsoftmax.log_softmax])
def test_the_largest_logits(function: Callable[..., Tensor], device: str) -> None:
    """Their difference overflows, a third of it does not; nor may their product with log2 e."""
    largest = torch.finfo(torch.float32).max
    x = torch.tensor([[largest, largest, -largest, 0.0]], device=device)
    expected = getattr(reference, function.__name__)(x.double(), 1, temperature=3.0)
    torch.testing.assert_close(function(x, 1, temperature=3.0), expected.float())


@every_dtype
@pytest.mark.parametrize("value", [1e4, inf])
def test_softcap_saturates(dtype: torch.dtype, value: float, device: str) -> None:
    x = torch.tensor([[value, 0.0, -value, 1.0]] * 5, dtype=dtype, device=device).requires_grad_()
    target = torch.tensor([0, 1, 2, 3, -100], device=device)
    loss = cross_entropy(x, target, softcap=5.0, reduction="none")
    z = torch.tensor([[5.0, 0.0, -5.0, 5 * math.tanh(0.2)]] * 5, dtype=torch.float64)
    exact = z.logsumexp(1) - torch.cat([z[0], z.new_zeros(1)])
    exact[-1] = 0
    assert_near(loss.detach(), exact, dtype, "loss")
    (gradient,) = torch.autograd.grad(loss.sum(), x)
    assert gradient.isfinite().all() and (gradient[:, ::2] == 0).all()
    assert torch.count_nonzero(gradient[:-1, 1::2]) == 8


@every_dtype
def test_a_softcap_that_is_far_away_changes_nothing(dtype: torch.dtype, device: str) -> None:
    """A hyperbolic tangent made of exponentials would have no digits left."""
    x, target = on(device, (logits(7, 37, dtype=dtype), class_indices(7, classes=37)))
    capped, plain = cross_entropy(x, target, softcap=1e12), cross_entropy(x, target)
    assert_near(capped, plain.double(), dtype, "loss")


# Nothing that takes part


@every_reduction
@every_layout
def test_every_row_is_ignored(reduction: str, layout: tuple[int, ...], device: str) -> None:
    rows = (layout[0], *layout[2:])
    for sample in combinations("index", layout, reduction):
        x = torch.full(layout, nan, device=device).requires_grad_()
        ignored = torch.full(rows, -100, device=device)
        loss = cross_entropy(x, ignored, **narrowed(sample, x.dtype).to(device).kwargs)
        if reduction == "mean":
            assert loss.isnan(), sample.name
        else:
            assert (loss == 0).all(), sample.name
        assert (torch.autograd.grad(loss.sum(), x)[0] == 0).all(), sample.name


@pytest.mark.parametrize("reduction", ["mean over a number", "mean over a tensor", "sum"])
@every_kind
def test_there_is_no_row(reduction: str, kind: str, device: str) -> None:
    x = torch.zeros(0, 5, device=device).requires_grad_()
    target = x.new_zeros(0).long() if kind == "index" else torch.zeros_like(x)
    options = on(device, REDUCTIONS[reduction])
    loss = cross_entropy(x, target, z_loss=0.1, softcap=3.0, **options)
    assert loss == 0 and torch.autograd.grad(loss, x)[0].shape == (0, 5)


@every_layout
def test_an_ignored_row_has_no_part_whatever_it_holds(layout: tuple[int, ...], device: str) -> None:
    """Its logits and its sample weight may be nan."""
    rows = (layout[0], *layout[2:])
    target = on(device, class_indices(*rows, classes=layout[1], ignore_index=-100))
    ignored = target == -100
    for reduction in REDUCTIONS:
        for given in combinations("index", layout, reduction):
            sample = narrowed(given, torch.float32).to(device)
            results = []
            for filler in (1.0, nan, inf):
                x = torch.where(ignored.unsqueeze(1), filler, sample.inputs[0]).requires_grad_()
                kwargs = dict(sample.kwargs)
                if kwargs["sample_weight"] is not None:
                    kwargs["sample_weight"] = kwargs["sample_weight"].masked_fill(ignored, filler)
                loss = cross_entropy(x, target, **kwargs)
                results.append((loss, *torch.autograd.grad(loss.sum(), x)))
            for result in results[1:]:
                assert all(map(torch.equal, result, results[0])), sample.name
            assert (results[0][1].movedim(1, -1)[ignored] == 0).all(), sample.name


# softmax_statistics and kl_div_with_logits


@every_dtype
@pytest.mark.parametrize(
    "shape, dim", [((6, 37), 1), ((6, 1037), 1), ((37, 20), 0), ((2, 9, 35), 1)]
)
def test_argmax_is_torchs(
    shape: tuple[int, ...], dim: int, dtype: torch.dtype, device: str
) -> None:
    """The first of ties, the first nan, and 0 where all are -inf."""
    rows = [size for d, size in enumerate(shape) if d != dim]
    target = torch.zeros(rows, device=device).long()
    x = logits(*shape, dtype=dtype)
    ties, some_nan, late_nan, minus_inf = (x.clone() for _ in range(4))
    ties = ties.clamp(max=2)
    some_nan[torch.rand(shape) < 0.1] = nan
    late_nan.select(dim, shape[dim] - 1).fill_(nan)
    minus_inf[torch.rand(shape) < 0.5] = -inf
    all_minus_inf, equal = torch.full(shape, -inf, dtype=dtype), torch.zeros(shape, dtype=dtype)
    plus_inf = torch.where(torch.rand(shape) < 0.2, inf, x)
    for values in (x, ties, some_nan, late_nan, minus_inf, all_minus_inf, equal, plus_inf):
        statistics = torchsoftmax.softmax_statistics(
            on(device, values), target, dim, temperature=0.7
        )
        found = statistics.argmax
        assert found.dtype == torch.int64 and not found.requires_grad
        assert torch.equal(found.cpu(), values.argmax(dim))


def test_a_mask_is_for_the_entropy_alone(device: str) -> None:
    """Of the operator: no function hands both on, and the kernels would not mask the others."""
    x, mask = torch.randn(2, 3, device=device), torch.ones(2, 3, device=device).bool()
    index = torch.zeros(2, 1, device=device).long()
    for given, argmax in ((index, False), (None, True)):
        with pytest.raises(RuntimeError, match="a mask for the entropy alone"):
            torch.ops.torchsoftmax.softmax_statistics(x, given, mask, 1, 1.0, argmax)


def test_statistics_by_name(device: str) -> None:
    x = on(device, logits(3, 5, dtype=torch.float32)).requires_grad_()
    found = torchsoftmax.softmax_statistics(x, torch.arange(3, device=device))
    assert found._fields == ("log_prob", "lse", "entropy", "argmax")
    assert isinstance(found, torchsoftmax.SoftmaxStatistics)
    assert [value.requires_grad for value in found] == [True, True, True, False]
    # Only what has an upstream gradient contributes, and a nan in another is not read.
    (gradient,) = torch.autograd.grad(found.lse.sum(), x)
    torch.testing.assert_close(gradient, x.detach().softmax(1))


@pytest.mark.parametrize("bad", [5, -1, 2**32, 2**63 - 1, -(2**63)])
@pytest.mark.parametrize("dim", [0, 1])
@pytest.mark.parametrize("position", [0, 17, -1])
def test_indices_out_of_range(bad: int, dim: int, position: int) -> None:
    """There is no index that is ignored: -100 is out of range too.

    On the CPU only: a GPU's kernel cannot raise, see test_targets_out_of_range.py.
    """
    x = logits(40, 5, dtype=torch.float32)
    x = x if dim == 1 else x.t()
    index = class_indices(40, 2, classes=5)
    index[position, 1] = bad
    for leaf in (x, x.clone().requires_grad_()):
        with pytest.raises(IndexError, match=rf"^softmax_statistics: .*{bad} is out of bounds"):
            torchsoftmax.softmax_statistics(leaf, index[:, 1], dim)
        with pytest.raises(IndexError, match=rf"^selective_log_softmax: .*{bad} is out of bounds"):
            torchsoftmax.selective_log_softmax(leaf, index if dim == 1 else index.t(), dim)


@pytest.mark.parametrize("low", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("other", [torch.bfloat16, torch.float32, torch.float64])
def test_kl_of_two_dtypes(low: torch.dtype, other: torch.dtype, device: str) -> None:
    pair = on(device, (logits(5, 33, dtype=low), logits(5, 33, dtype=other, seed=6)))
    inputs = [x.clone().requires_grad_() for x in pair]
    loss = torchsoftmax.kl_div_with_logits(*inputs)
    assert loss.dtype == torch.promote_types(low, other)
    gradients = torch.autograd.grad(loss, inputs)
    assert [g.dtype for g in gradients] == [low, other]
    true = [x.double().requires_grad_() for x in pair]
    exact = reference.kl_div_with_logits(*true)
    assert_near(loss.detach(), exact.detach(), loss.dtype, "loss")
    for mine, expected in zip(gradients, torch.autograd.grad(exact, true), strict=True):
        assert_near(mine, expected, mine.dtype, "gradient")


@every_dtype
def test_kl_of_equal_logits_is_zero(dtype: torch.dtype, device: str) -> None:
    x = on(device, logits(5, 33, dtype=dtype))
    assert (torchsoftmax.kl_div_with_logits(x, x, reduction="none") == 0).all()


def test_entropy_is_from_zero_to_log_of_the_number_of_classes(device: str) -> None:
    x = torch.zeros(2, 1000, device=device)
    x[1, 7] = 1e4
    entropy = torchsoftmax.entropy_with_logits(x, 1)
    torch.testing.assert_close(entropy, torch.tensor([math.log(1000), 0.0], device=device))


# What is kept for backward


# Of logits, other logits, a target for each row and a mask.
SAVING: dict[str, Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]] = {
    "kl_div": lambda x, y, t, m: torchsoftmax.kl_div_with_logits(x, y, temperature=2.0),
    "selective": lambda x, y, t, m: torchsoftmax.selective_log_softmax(x, t[:, None]),
    "entropy": lambda x, y, t, m: torchsoftmax.entropy_with_logits(x, 1, mask=m),
    "statistics": lambda x, y, t, m: torchsoftmax.softmax_statistics(x, t).entropy,
}


@pytest.mark.parametrize("name", SAVING)
def test_nothing_of_the_size_of_the_logits_is_saved_beside_the_inputs(
    name: str, device: str
) -> None:
    rows, classes = 64, 1000
    x, y = (torch.randn(rows, classes, device=device, requires_grad=True) for _ in range(2))
    target = torch.randint(classes, (rows,), device=device)
    mask = on(device, random_mask(rows, classes))
    saved: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        SAVING[name](x, y, target, mask)
    inputs = {t.untyped_storage().data_ptr() for t in (x, y, target, mask)}
    own = [t.numel() for t in saved if t.untyped_storage().data_ptr() not in inputs]
    assert sum(own) <= 6 * rows, own


# Modules


def test_module_of_cross_entropy(device: str) -> None:
    module = torchsoftmax.CrossEntropyLoss(
        temperature=0.7, softcap=5.0, z_loss=0.01, label_smoothing=0.1, ignore_index=3
    )
    x, target = on(device, (logits(7, 37, dtype=torch.float64), class_indices(7, classes=37)))
    rows = torch.linspace(0, 2, 7, device=device)
    options = {"temperature": 0.7, "softcap": 5.0, "z_loss": 0.01}
    options |= {"label_smoothing": 0.1, "ignore_index": 3}
    for given in ({}, {"sample_weight": rows}, {"normalizer": 5, "sample_weight": rows}):
        assert torch.equal(module(x, target, **given), cross_entropy(x, target, **given, **options))
    logit = x.clone().requires_grad_().mul(1)
    loss = torchsoftmax.CrossEntropyLoss(inplace_backward=True)(logit, target)
    (gradient,) = torch.autograd.grad(loss, logit)
    assert gradient.data_ptr() == logit.data_ptr()


def test_module_of_kl_divergence(device: str) -> None:
    pair = on(device, tuple(logits(7, 37, dtype=torch.float64, seed=seed) for seed in (0, 6)))
    for reduction in ("none", "mean", "batchmean", "sum"):
        module = torchsoftmax.KLDivWithLogitsLoss(reduction, temperature=2.0)
        expected = torchsoftmax.kl_div_with_logits(*pair, temperature=2.0, reduction=reduction)
        assert torch.equal(module(*pair), expected)
    assert torch.equal(
        torchsoftmax.KLDivWithLogitsLoss()(*pair), torchsoftmax.kl_div_with_logits(*pair)
    )


@every_dtype
def test_no_positions_beside_the_classes(dtype: torch.dtype, device: str) -> None:
    """A map without positions has no rows, and runs of rows of length 0."""
    x = torch.zeros(2, 5, 0, dtype=dtype, device=device, requires_grad=True)
    for function in (torchsoftmax.softmax, torchsoftmax.log_softmax):
        assert function(x, 1).shape == x.shape
        assert torch.autograd.grad(function(x, 1).sum(), x)[0].shape == x.shape
    target = torch.zeros(2, 0, dtype=torch.int64, device=device)
    loss = cross_entropy(x, target, reduction="sum", label_smoothing=0.1)
    assert loss == 0 and torch.autograd.grad(loss, x)[0].shape == x.shape
    assert cross_entropy(x, target).isnan()
