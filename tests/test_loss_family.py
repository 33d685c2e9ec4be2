"""Every combination of what cross_entropy takes; and that all of it stays in fused operators."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache, partial
from itertools import product
from typing import Any

import pytest
import reference
import torch
from cases import (
    Sample,
    class_indices,
    class_probabilities,
    class_weights,
    logits,
    on,
    random_mask,
)
from test_contract import every_dtype, value_and_gradients, widened
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import torchsoftmax
from torchsoftmax import cross_entropy

pytestmark = [pytest.mark.kernels, pytest.mark.usefixtures("one_thread")]

KINDS = ("index", "probability")
LAYOUTS = ((7, 37), (2, 11, 5, 7))
REDUCTIONS: dict[str, dict[str, Any]] = {
    "none": {"reduction": "none"},
    "sum": {"reduction": "sum"},
    "mean": {"reduction": "mean"},
    "mean over a number": {"normalizer": 3.5},
    "mean over a tensor": {"normalizer": torch.tensor(3.5)},
}
OPTIONS = {
    "weight": (False, True),
    "label_smoothing": (0.0, 0.1),
    "temperature": (1.0, 0.7),
    "softcap": (None, 5.0),
    "z_loss": (0.0, 1e-2),
    "sample_weight": (False, True),
}

every_kind = pytest.mark.parametrize("kind", KINDS)
every_layout = pytest.mark.parametrize("layout", LAYOUTS, ids=str)
every_reduction = pytest.mark.parametrize("reduction", REDUCTIONS)


def combinations(kind: str, layout: tuple[int, ...], reduction: str) -> Iterator[Sample]:
    """In float64, but of values that every dtype can hold, so that all have one exact result."""

    def held(values: Tensor) -> Tensor:
        return values.bfloat16().double()

    rows, classes = (layout[0], *layout[2:]), layout[1]
    x = held(logits(*layout, dtype=torch.float64))
    if kind == "index":
        inputs, args = (x,), (class_indices(*rows, classes=classes, ignore_index=-100),)
    else:
        inputs, args = (x, held(class_probabilities(*layout, dtype=torch.float64))), ()
    given = {
        "weight": held(class_weights(classes, torch.float64)),
        "sample_weight": held(logits(*rows, dtype=torch.float64, seed=5).abs()).float(),
    }
    for values in product(*OPTIONS.values()):
        options = dict(zip(OPTIONS, values, strict=True))
        name = ", ".join(f"{option}={value}" for option, value in options.items())
        options |= {option: given[option] if options[option] else None for option in given}
        yield Sample(
            f"{kind}, {layout}, {reduction}: {name}", inputs, args, options | REDUCTIONS[reduction]
        )


@cache
def exact(kind: str, layout: tuple[int, ...], reduction: str) -> list[tuple[Sample, Any]]:
    return [
        (sample, value_and_gradients(reference.cross_entropy, widened(sample)))
        for sample in combinations(kind, layout, reduction)
    ]


def narrowed(sample: Sample, dtype: torch.dtype) -> Sample:
    weight = sample.kwargs["weight"]
    kwargs = sample.kwargs | {"weight": weight if weight is None else weight.to(dtype)}
    return Sample(sample.name, tuple(x.to(dtype) for x in sample.inputs), sample.args, kwargs)


def assert_near_of_logits(ours: Tensor, true: Tensor, sample: Sample, what: str) -> None:
    """As near as assert_near asks, and by the rounding of the logits z less so.

    softcap tanh(x / softcap) / temperature is rounded three times where the sums are accumulated:
    z is off by up to 2 eps |z|, and with it everything that is of the order of its logarithms.
    """
    z = reference.transformed(
        sample.inputs[0].double(), sample.kwargs["temperature"], sample.kwargs["softcap"]
    )
    wide = torch.float64 if ours.dtype == torch.float64 else torch.float32
    eps = torch.finfo(ours.dtype).eps
    largest = max(1.0, true.abs().max().item())
    torch.testing.assert_close(
        ours.to(true.device, torch.float64),
        true,
        rtol=8 * eps,
        atol=(4 * eps + 2 * torch.finfo(wide).eps * z.abs().max().item()) * largest,
        msg=lambda message: f"{sample.name}, {what}: {message}",
    )


@every_dtype
@every_kind
@every_layout
@every_reduction
def test_every_combination(
    kind: str, layout: tuple[int, ...], reduction: str, dtype: torch.dtype, device: str
) -> None:
    for given, results in exact(kind, layout, reduction):
        sample = narrowed(given, dtype).to(device)
        ours = value_and_gradients(cross_entropy, sample)
        for what, mine, true in zip(("value", "d input", "d target"), ours, results, strict=False):
            assert mine.dtype == dtype, sample.name
            assert_near_of_logits(mine, true, sample, what)


@every_kind
@every_layout
@every_reduction
def test_gradients_of_weights_and_of_the_normalizer(
    kind: str, layout: tuple[int, ...], reduction: str, device: str
) -> None:
    """By the composite definition, and second derivatives by its own derivative."""
    for given in combinations(kind, layout, reduction):
        sample = given.to(device)
        if sample.kwargs["label_smoothing"] == 0 or sample.kwargs["z_loss"] == 0:
            continue

        def derivatives(function: Callable[..., Tensor], sample: Sample) -> list[Tensor]:
            kwargs = dict(sample.kwargs)
            leaves = list(sample.leaves())
            for name in ("sample_weight", "normalizer", "weight"):
                differentiable = isinstance(kwargs[name], Tensor) if name in kwargs else False
                if differentiable and not (name == "weight" and kind == "index"):
                    kwargs[name] = kwargs[name].double().requires_grad_()
                    leaves.append(kwargs[name])
            inputs = leaves[: len(sample.inputs)]
            value = function(*inputs, *sample.args, **kwargs)
            first = torch.autograd.grad(value.square().sum(), leaves, create_graph=True)
            second = torch.autograd.grad(sum(g.square().sum() for g in first), leaves)
            return [*first, *second]

        ours = derivatives(cross_entropy, sample)
        expected = derivatives(reference.cross_entropy, sample)
        for mine, theirs in zip(ours, expected, strict=True):
            atol = 1e-13 * theirs.abs().max().item()  # what cancels is as large as the largest
            torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=atol, msg=sample.name)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_sample_weight_of_any_floating_dtype(dtype: torch.dtype, device: str) -> None:
    x, target = on(device, (logits(7, 37, dtype=torch.float32), class_indices(7, classes=37)))
    rows = torch.tensor([0.0, 0.5, 1.0, 2.0, 3.0, 0.25, 8.0], device=device)
    results = []
    for weights in (rows, rows.to(dtype)):
        leaf = x.clone().requires_grad_()
        loss = cross_entropy(leaf, target, sample_weight=weights)
        assert loss.dtype == x.dtype
        results.append((loss, *torch.autograd.grad(loss, leaf)))
    assert all(map(torch.equal, *results))


class Calls(TorchDispatchMode):
    """Names of the operators with a result of ``numel`` elements or more that is not a view."""

    def __init__(self, numel: int) -> None:
        super().__init__()
        self.numel = numel
        self.names: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        results = func(*args, **(kwargs or {}))
        mine = {t.untyped_storage().data_ptr() for t in args if isinstance(t, Tensor)}
        large = any(
            isinstance(t, Tensor)
            and t.numel() >= self.numel
            and t.untyped_storage().data_ptr() not in mine
            for t in (results if isinstance(results, (tuple, list)) else (results,))
        )
        if func.namespace == "torchsoftmax" or large:
            self.names.append(str(func))
        return results


def assert_fused(function: Callable[..., Any], inputs: tuple[Tensor, ...], what: str) -> None:
    leaves = [x.detach().requires_grad_() for x in inputs]
    with Calls(inputs[0].numel()) as calls:
        results = function(*leaves)
    results = [t for t in (results if isinstance(results, tuple) else (results,)) if t.grad_fn]
    upstream = [torch.ones_like(t) for t in results]
    with calls:
        torch.autograd.grad(results, leaves, upstream)
    assert calls.names, what
    # These scale the gradient that forward left by the upstream one, but for zeros.
    fused = ("torchsoftmax.", "aten.mul.Tensor", "aten.eq.Scalar", "aten.where.self")
    assert all(name.startswith(fused) for name in calls.names), (what, calls.names)


@every_kind
@every_layout
@every_reduction
def test_every_combination_is_fused(
    kind: str, layout: tuple[int, ...], reduction: str, device: str
) -> None:
    for given in combinations(kind, layout, reduction):
        for dtype in (torch.float32, torch.bfloat16):
            sample = narrowed(given, dtype).to(device)
            function = partial(cross_entropy, **sample.kwargs)
            if kind == "index":
                function = partial(function, target=sample.args[0])
            assert_fused(function, sample.inputs, sample.name)


@pytest.mark.parametrize("dim", [0, 1, 2])
def test_the_others_are_fused(dim: int, device: str) -> None:
    shape = [6, 7, 35]
    x, y = (on(device, logits(*shape, dtype=torch.float32, seed=seed)) for seed in (0, 6))
    mask = on(device, random_mask(*shape)).all(dim, keepdim=True)  # never expanded in memory
    of_index = (2 if d == dim else size for d, size in enumerate(shape))
    index = on(device, class_indices(*of_index, classes=6))
    target = index.select(dim, 0)
    functions: dict[str, Callable[..., Any]] = {
        "softmax": partial(torchsoftmax.softmax, dim=dim, mask=mask, temperature=0.7),
        "log_softmax": partial(torchsoftmax.log_softmax, dim=dim, mask=mask, temperature=0.7),
        "entropy": partial(torchsoftmax.entropy_with_logits, dim=dim, mask=mask, temperature=0.7),
        "selective": partial(
            torchsoftmax.selective_log_softmax, index=index, dim=dim, temperature=0.7
        ),
        "statistics": partial(
            torchsoftmax.softmax_statistics, target=target, dim=dim, temperature=0.7
        ),
    }
    for name, function in functions.items():
        assert_fused(function, (x,), name)
    for reduction in ("none", "mean", "batchmean", "sum"):
        kl = partial(torchsoftmax.kl_div_with_logits, reduction=reduction, temperature=0.7)
        assert_fused(kl, (x, y), f"kl, {reduction}")


@every_kind
def test_no_tensor_that_is_given_is_written_to(kind: str, device: str) -> None:
    for reduction in REDUCTIONS:
        for given in combinations(kind, (7, 37), reduction):
            sample = given.to(device)
            tensors = [*sample.args, *sample.kwargs.values(), *(leaves := sample.leaves())]
            tensors = [t for t in tensors if isinstance(t, Tensor)]
            before = [(t.detach().clone(), t._version) for t in tensors]
            cross_entropy(*leaves, *sample.args, **sample.kwargs).sum().backward()
            for tensor, (values, version) in zip(tensors, before, strict=True):
                assert torch.equal(tensor, values) and tensor._version == version, sample.name
