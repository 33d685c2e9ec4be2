"""inplace_backward: the gradient takes the logits' memory, and nothing is ever silently wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import reference
import torch
from cases import class_indices, class_probabilities, devices, logits, on
from test_contract import every_dtype
from test_loss_family import (
    assert_near_of_logits,
    every_kind,
    every_layout,
    every_reduction,
    exact,
    narrowed,
)
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from torchsoftmax import cross_entropy

pytestmark = pytest.mark.usefixtures("one_thread")
kernels = pytest.mark.kernels

MODIFIED = "modified by an inplace operation"
TARGET = {d: on(d, class_indices(7, classes=37, ignore_index=-100)) for d in devices()}


def leaf(device: str) -> Tensor:
    return on(device, logits(7, 37, dtype=torch.float64)).requires_grad_()


def probabilities(device: str, dtype: torch.dtype = torch.float64) -> Tensor:
    return on(device, class_probabilities(7, 37, dtype=dtype))


def inplace(x: Tensor, target: Tensor | None = None, **options: Any) -> Tensor:
    target = TARGET[x.device.type] if target is None else target
    return cross_entropy(x, target, inplace_backward=True, **options)


def expected_gradient(loss: Callable[[Tensor], Tensor], device: str) -> Tensor:
    x = leaf(device)
    return torch.autograd.grad(loss(x), x)[0]


def assert_same(ours: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-14)


@contextmanager
def untouched(*tensors: Tensor) -> Iterator[None]:
    before = [(tensor.detach().clone(), tensor._version) for tensor in tensors]
    yield
    for tensor, (values, version) in zip(tensors, before, strict=True):
        assert torch.equal(tensor, values) and tensor._version == version


@kernels
@every_dtype
@every_kind
@every_layout
@every_reduction
def test_every_combination(
    kind: str, layout: tuple[int, ...], reduction: str, dtype: torch.dtype, device: str
) -> None:
    for given, (_, *true) in exact(kind, layout, reduction):
        sample = narrowed(given, dtype).to(device)
        x, *targets = (leaf * 1 for leaf in sample.leaves())
        with untouched(x, *targets):
            loss = cross_entropy(x, *targets, *sample.args, **sample.kwargs, inplace_backward=True)
        plain = cross_entropy(*sample.inputs, *sample.args, **sample.kwargs)
        assert torch.equal(loss, plain), sample.name
        generator = torch.Generator().manual_seed(3)
        upstream = torch.randn(loss.shape, generator=generator).bfloat16().to(loss)
        version = x._version
        with untouched(*targets):
            gradients = torch.autograd.grad(loss, (x, *targets), upstream)
        for what, mine, expected in zip(("d input", "d target"), gradients, true, strict=False):
            assert_near_of_logits(mine, expected, sample, what)
        assert gradients[0].data_ptr() == x.data_ptr() and x._version > version, sample.name
        assert torch.equal(gradients[0], x), sample.name


@kernels
@pytest.mark.parametrize("layout", ["transposed", "sliced", "channels last", "one row"])
def test_strides(layout: str, device: str) -> None:
    base = leaf(device)
    x = {
        "transposed": lambda: (base * 1).t()[:7, :7],
        "sliced": lambda: (base * 1)[::2, 3:36:2],
        "channels last": lambda: (
            (base[:6, :36] * 1).view(2, 3, 6, 6).contiguous(memory_format=torch.channels_last)
        ),
        "one row": lambda: (base * 1)[2],
    }[layout]()
    rows = x.shape[:1] + x.shape[2:] if x.dim() > 1 else ()
    target = on(device, class_indices(*rows, classes=3))
    (expected,) = torch.autograd.grad(cross_entropy(x, target), base, retain_graph=True)
    values = x.detach().clone()
    gradient, into_base = torch.autograd.grad(inplace(x, target), (x, base))
    assert_same(into_base, expected)
    assert gradient.data_ptr() == x.data_ptr() and gradient.stride() == x.stride()
    assert torch.equal(gradient, x) and not torch.equal(x, values)


@kernels
def test_the_gradient_of_leaves_before_the_logits(device: str) -> None:
    hidden = leaf(device)
    weight = torch.randn(37, 11, dtype=torch.float64, device=device).requires_grad_()
    results = []
    for loss in (inplace, lambda x, target: cross_entropy(x, target)):
        value = loss(hidden @ weight, TARGET[device].clamp(max=10))
        results.append(torch.autograd.grad(value, (hidden, weight)))
    for mine, expected in zip(*results, strict=True):
        assert_same(mine, expected)


# What else uses the logits


@kernels
def test_a_second_backward_raises(device: str) -> None:
    x = leaf(device) * 1
    loss = inplace(x)
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match=MODIFIED):
        loss.backward()


@kernels
def test_two_losses_of_the_same_logits_raise(device: str) -> None:
    x = leaf(device) * 1
    loss = inplace(x) + inplace(x)
    with pytest.raises(RuntimeError, match=MODIFIED):
        loss.backward()


@kernels
@pytest.mark.parametrize("reduction", ["none", "mean"])
@pytest.mark.parametrize("inplace_first", [False, True])
def test_two_losses_of_which_one_is_inplace(
    inplace_first: bool, reduction: str, device: str
) -> None:
    """The one created last is differentiated first: the other one, then, finds them overwritten."""
    start = leaf(device)
    x = start * 1
    losses = [
        cross_entropy(x, TARGET[device], reduction=reduction, inplace_backward=flag).sum()
        for flag in (inplace_first, not inplace_first)
    ]
    if not inplace_first:
        with pytest.raises(RuntimeError, match=MODIFIED):
            sum(losses).backward()
        return
    sum(losses).backward()
    plain = expected_gradient(
        lambda x: cross_entropy(x, TARGET[device], reduction=reduction).sum(), device
    )
    assert_same(start.grad, 2 * plain)


@kernels
@pytest.mark.parametrize("saved", ["its input", "its output", "a view"])
def test_another_node_that_saved_the_logits_raises(saved: str, device: str) -> None:
    start = leaf(device) / 20
    if saved == "its output":
        x = start.exp()
        loss = inplace(x)
    else:
        x = start * 1
        other = x.square() if saved == "its input" else x.view(-1)[3:9].square()
        loss = other.sum() + inplace(x)
    with pytest.raises(RuntimeError, match=MODIFIED):
        loss.backward()


@kernels
def test_views_of_one_tensor(device: str) -> None:
    """The gradient is written to the view's part; a node that saved the other part raises too."""
    start = leaf(device)
    base = start * 1
    left, right = base[:, :17], base[:, 17:]
    values = right.detach().clone()
    (gradient,) = torch.autograd.grad(inplace(left, TARGET[device] % 17), start, retain_graph=True)
    (expected,) = torch.autograd.grad(cross_entropy(start[:, :17], TARGET[device] % 17), start)
    assert_same(gradient, expected)
    assert torch.equal(right, values)
    base = start * 1
    left, right = base[:, :17], base[:, 17:]
    loss = right.square().sum() + inplace(left, TARGET[device] % 17)
    with pytest.raises(RuntimeError, match=MODIFIED):
        loss.backward()


# What cannot be written to


@kernels
@every_kind
def test_leaves_raise(kind: str, device: str) -> None:
    target = TARGET[device] if kind == "index" else probabilities(device)
    message = "a leaf Variable that requires grad.*in-place operation"
    start = leaf(device)
    detached = (leaf(device) * 1).detach().requires_grad_()
    with untouched(start, detached):
        for x in (start, detached):
            with pytest.raises(RuntimeError, match=message):
                inplace(x, target)
        for view in (start.view(7, 37), start[:, :], start.t().t()):
            with pytest.raises(RuntimeError, match=f"a view of {message}"):
                inplace(view, target)


@kernels
@pytest.mark.parametrize("shape", [(1, 37), (7, 1)])
def test_logits_that_overlap_in_memory_raise_in_forward(
    shape: tuple[int, int], device: str
) -> None:
    x = (torch.randn(shape, device=device).requires_grad_() * 1).expand(7, 37)
    with untouched(x), pytest.raises(RuntimeError, match="single memory location"):
        inplace(x)


@kernels
def test_no_gradient_is_asked_for(device: str) -> None:
    start = leaf(device)
    x = start * 1
    with untouched(start, x):
        for given in (start, x):
            with torch.no_grad():
                loss = inplace(given)
            assert torch.equal(loss, cross_entropy(given.detach(), TARGET[device]))
        assert torch.equal(inplace(x.detach()), loss)
        # of the target only
        target = probabilities(device).requires_grad_()
        for reduction in ("none", "mean"):
            value = inplace(x.detach(), target, reduction=reduction).sum()
            plain = cross_entropy(x.detach(), target, reduction=reduction).sum()
            ours, expected = (torch.autograd.grad(loss, target)[0] for loss in (value, plain))
            assert torch.equal(ours, expected)


# Where the gradient is part of another computation


@kernels
@every_kind
@pytest.mark.parametrize("reduction", ["none", "mean"])
def test_create_graph_leaves_the_logits(kind: str, reduction: str, device: str) -> None:
    target = TARGET[device] if kind == "index" else probabilities(device)
    results = []
    for options in ({"inplace_backward": True}, {}):
        x = leaf(device) * 1
        with untouched(x, target):
            loss = cross_entropy(x, target, reduction=reduction, softcap=5.0, **options)
            upstream = torch.linspace(1, 2, loss.numel(), dtype=torch.float64, device=device)
            upstream = upstream.view_as(loss)
            (first,) = torch.autograd.grad(loss, x, upstream, create_graph=True)
            results.append((first, *torch.autograd.grad(first.square().sum(), x)))
    for mine, expected in zip(*results, strict=True):
        assert_same(mine, expected)


@kernels
@pytest.mark.parametrize(
    "transform", ["grad", "jacrev", "vjp", "jvp", "hessian", "vmap", "vmap of grad"]
)
def test_torch_func_leaves_the_logits(transform: str, device: str) -> None:
    def vjp(f: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        return lambda x: torch.func.vjp(f, x)[1](x.new_ones(()))[0]

    of = {
        "grad": torch.func.grad,
        "jacrev": torch.func.jacrev,
        "vjp": vjp,
        "jvp": lambda f: lambda x: torch.func.jvp(f, (x,), (x,))[1],
        "hessian": torch.func.hessian,
        "vmap": lambda f: lambda x: torch.func.vmap(f)(torch.stack([x, 2 * x])),
        "vmap of grad": lambda f: (
            lambda x: torch.func.vmap(torch.func.grad(f))(torch.stack([x, 2 * x]))
        ),
    }[transform]
    x = leaf(device).detach()
    with untouched(x, TARGET[device]):
        ours = of(inplace)(x)
    assert_same(ours, of(lambda x: reference.cross_entropy(x, TARGET[device]))(x))


@pytest.mark.parametrize("inside", [False, True], ids=["logits given", "logits computed"])
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compile(inside: bool, backend: str, device: str) -> None:
    def loss(x: Tensor) -> Tensor:
        return inplace(x * 1) if inside else inplace(x)

    compiled = torch.compile(loss, fullgraph=True, backend=backend)
    start = leaf(device)
    x = start * 1
    with untouched(x, start):
        (gradient,) = torch.autograd.grad(compiled(x), start)
    assert_same(
        gradient, expected_gradient(lambda x: reference.cross_entropy(x, TARGET[device]), device)
    )


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpoint(reentrant: bool, device: str) -> None:
    start = leaf(device)
    checkpoint(lambda x: inplace(x * 2), start, use_reentrant=reentrant).backward()
    assert_same(
        start.grad,
        expected_gradient(lambda x: reference.cross_entropy(x * 2, TARGET[device]), device),
    )


def test_saved_tensor_hooks(device: str) -> None:
    """What a hook gave back is written over; the logits themselves are not."""
    start = leaf(device)
    x = start * 1
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t.clone(), lambda t: t):
        loss = inplace(x)
    loss.backward()
    assert_same(
        start.grad, expected_gradient(lambda x: reference.cross_entropy(x, TARGET[device]), device)
    )


@kernels
@every_kind
def test_autocast(kind: str, device: str) -> None:
    start = on(device, logits(7, 37, dtype=torch.bfloat16)).requires_grad_()
    target = TARGET[device] if kind == "index" else probabilities(device, torch.bfloat16)
    results = []
    for options in ({"inplace_backward": True}, {}):
        x = start * 1
        with torch.autocast(device, dtype=torch.bfloat16):
            loss = cross_entropy(x, target, **options)
        results.append((loss, *torch.autograd.grad(loss, x)))
    (loss, grad), (expected_loss, expected_grad) = results
    assert torch.equal(loss, expected_loss)
    if kind == "index":
        assert torch.equal(grad, expected_grad)
    else:
        # The gradient with the loss is of exp(x - max) / sum, that from the statistics of
        # exp(x - max - log(sum)): where p is nearly the target, they are not the same bit for bit.
        torch.testing.assert_close(grad, expected_grad, rtol=0.008, atol=2**-24)


@kernels
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_class_probabilities_of_another_dtype(dtype: torch.dtype, device: str) -> None:
    start = on(device, logits(7, 37, dtype=torch.float32)).requires_grad_()
    target = probabilities(device, dtype).requires_grad_()
    results = []
    for options in ({"inplace_backward": True}, {}):
        loss = cross_entropy(start * 1, target, **options)
        results.append((loss, *torch.autograd.grad(loss, (start, target))))
    for mine, expected in zip(*results, strict=True):
        torch.testing.assert_close(mine, expected)
