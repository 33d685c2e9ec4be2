"""What is cross-entropy's own, beyond the contract of every operator."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

import torchsoftmax
from torchsoftmax import CrossEntropyLoss, cross_entropy

pytestmark = pytest.mark.kernels


@pytest.mark.parametrize("dtype", [torch.int32, torch.uint8])
@pytest.mark.parametrize("shape", [(9, 40), (2, 7, 3, 5)])
def test_other_index_dtypes_equal_int64(
    dtype: torch.dtype, shape: tuple[int, ...], device: str
) -> None:
    x = torch.randn(shape, device=device)
    target = torch.randint(shape[1], (shape[0], *shape[2:]), device=device)
    results = []
    for indices in (target, target.to(dtype)):
        leaf = x.clone().requires_grad_()
        value = cross_entropy(leaf, indices, label_smoothing=0.1)
        results.append((value, *torch.autograd.grad(value, leaf)))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_one_row_with_a_target_of_shape_one(reduction: str, device: str) -> None:
    """As PyTorch's forward takes it; PyTorch's backward raises."""
    x = torch.randn(19, dtype=torch.float64, device=device, requires_grad=True)
    target = torch.tensor([7], device=device)
    ours = cross_entropy(x, target, reduction=reduction)
    native = F.cross_entropy(x, target[0], reduction=reduction)
    assert ours.shape == F.cross_entropy(x, target, reduction=reduction).shape
    torch.testing.assert_close(ours, native)
    torch.testing.assert_close(torch.autograd.grad(ours, x), torch.autograd.grad(native, x))


@pytest.mark.parametrize("shape", [(6, 5), (6, 300), (2, 5, 3)])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_gradient_of_an_ignored_row_is_zero_whatever_it_holds(
    shape: tuple[int, ...], smoothing: float, device: str
) -> None:
    x = torch.randn(shape, device=device)
    target = torch.randint(shape[1], (shape[0], *shape[2:]), device=device)
    target[::2] = -100
    x[::2] = torch.nan
    x[-2] = -torch.inf
    x.requires_grad_()
    loss = cross_entropy(x, target, label_smoothing=smoothing)
    (grad,) = torch.autograd.grad(loss, x)
    assert loss.isfinite()
    assert torch.count_nonzero(grad[::2]) == 0
    assert grad.isfinite().all() and torch.count_nonzero(grad[1::2]) == grad[1::2].numel()


def test_offset_costs_no_digits(device: str) -> None:
    """The statistics keep the maximum and the log-sum apart.

    On a CPU, an exponential of x - max is taken from both numbers, so with an offset its rounding
    is another: up to 3 eps of a gradient. The digits that the offset could cost are 2^10 eps.
    """
    x = torch.randn(64, 1000, device=device)
    x.mul_(64).round_().div_(64)  # exact with an offset of 2^14 as well
    target = torch.randint(1000, (64,), device=device)
    results = []
    for offset in (0.0, 2.0**14):
        leaf = (x + offset).requires_grad_()
        loss = cross_entropy(leaf, target)
        results.append((loss, *torch.autograd.grad(loss, leaf)))
    for shifted, without in zip(results[1], results[0], strict=True):
        torch.testing.assert_close(shifted, without, rtol=4 * torch.finfo().eps, atol=0)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_the_sum_over_rows_costs_no_digits(reduction: str, device: str) -> None:
    """Rows were added one after the other, in float64: this was off by 83 eps."""
    rows, classes = 4096, 17
    x = torch.zeros(rows, classes, dtype=torch.float64, device=device)
    target = torch.zeros(rows, device=device).long()
    loss = cross_entropy(x, target, reduction=reduction).item()
    exact = math.log(classes) * (rows if reduction == "sum" else 1)
    assert abs(loss - exact) <= 2 * torch.finfo(torch.float64).eps * exact


@pytest.mark.parametrize("shape", [(4, 4096), (4, 16), (2, 9, 40)])
def test_the_targets_entry_is_rounded_once(shape: tuple[int, ...], device: str) -> None:
    """p - 1 is computed before it is rounded: within half an eps of the exact difference."""
    x = torch.randn(shape, device=device).mul_(2)
    x.movedim(1, -1)[..., 3] = 9.0
    x = x.bfloat16().requires_grad_()
    target = torch.full((shape[0], *shape[2:]), 3, device=device)
    (grad,) = torch.autograd.grad(cross_entropy(x, target, reduction="sum"), x)
    exact = (x.detach().double().softmax(1).movedim(1, -1)[..., 3] - 1).abs()
    error = (grad.double().movedim(1, -1)[..., 3].abs() - exact).abs()
    assert (error <= exact * torch.finfo(torch.bfloat16).eps * 0.501).all()


def test_upstream_gradient_that_is_expanded_or_strided(device: str) -> None:
    x = torch.randn(6, 50, 4, dtype=torch.float64, device=device, requires_grad=True)
    target = torch.randint(50, (6, 4), device=device)
    strided = torch.randn(4, 6, dtype=torch.float64, device=device).t()
    for upstream in (x.new_ones(()).expand(6, 4), strided):
        ours = cross_entropy(x, target, reduction="none")
        native = F.cross_entropy(x, target, reduction="none")
        torch.testing.assert_close(
            torch.autograd.grad(ours, x, upstream), torch.autograd.grad(native, x, upstream)
        )


@pytest.mark.parametrize("low", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("other", [torch.bfloat16, torch.float32, torch.float64])
def test_class_probabilities_of_another_dtype_are_promoted(
    low: torch.dtype, other: torch.dtype, device: str
) -> None:
    x = torch.randn(5, 33, device=device).to(low).requires_grad_()
    target = torch.rand(5, 33, device=device).softmax(1).to(other).requires_grad_()
    ours = cross_entropy(x, target)
    native = F.cross_entropy(x, target)
    assert ours.dtype == native.dtype
    exact = F.cross_entropy(x.double(), target.double())
    # In float64, what is exact for the other dtypes is rounded as ours is.
    eps = torch.finfo(ours.dtype).eps * (2 if ours.dtype == torch.float64 else 1)
    torch.testing.assert_close(ours.double(), exact, rtol=eps, atol=0)
    mine = torch.autograd.grad(ours, (x, target))
    assert [g.dtype for g in mine] == [low, other]
    for ours_grad, exact_grad in zip(mine, torch.autograd.grad(exact, (x, target)), strict=True):
        eps = torch.finfo(ours_grad.dtype).eps
        torch.testing.assert_close(ours_grad, exact_grad, rtol=4 * eps, atol=eps / 8)


def test_gradient_for_weights_with_class_probabilities(device: str) -> None:
    """Native differentiates the class weights there, and so does the composite definition."""
    x = torch.randn(4, 7, device=device).double()
    target, weight = (torch.rand_like(t).requires_grad_() for t in (x, x[0]))
    assert torch.autograd.gradcheck(
        lambda w, t: cross_entropy(x, t, w, label_smoothing=0.1), (weight, target)
    )


def test_module_moves_and_saves_its_weight(device: str) -> None:
    loss = CrossEntropyLoss(weight=torch.rand(5), ignore_index=2, label_smoothing=0.2)
    assert list(loss.state_dict()) == ["weight"]
    weight = loss.to(device, torch.float64).weight
    assert (weight.device.type, weight.dtype) == (device, torch.float64)
    x = torch.randn(3, 5, device=device).double()
    target = torch.tensor([0, 2, 4], device=device)
    native = torch.nn.CrossEntropyLoss(loss.weight, ignore_index=2, label_smoothing=0.2)
    torch.testing.assert_close(loss(x, target), native(x, target))


def test_the_gradient_of_forward_is_scaled_in_its_own_memory(device: str) -> None:
    """No second tensor of the size of the logits, where nobody else can see the first."""
    x = torch.randn(64, 1000, device=device, requires_grad=True)
    target = torch.randint(1000, (64,), device=device)
    loss = torchsoftmax.cross_entropy(x, target)
    kept = loss.grad_fn
    with torch.profiler.profile(profile_memory=True) as profile:
        (gradient,) = torch.autograd.grad(loss, x, torch.full_like(loss, 3))
    assert kept is not None
    usage = "cpu_memory_usage" if device == "cpu" else "device_memory_usage"
    large = [e for e in profile.events() if getattr(e, usage) >= x.nbytes]
    assert not large
    (native,) = torch.autograd.grad(3 * F.cross_entropy(x, target), x)
    torch.testing.assert_close(gradient, native)


def test_the_gradient_of_forward_that_others_see_is_left_alone(device: str) -> None:
    x = torch.randn(8, 10, device=device, requires_grad=True)
    target = torch.randint(10, (8,), device=device)
    seen: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: seen.append(t) or t, lambda t: t):
        loss = torchsoftmax.cross_entropy(x, target)
    before = [t.clone() for t in seen]
    torch.autograd.grad(loss, x, torch.full_like(loss, 3))
    assert all(map(torch.equal, seen, before))
    loss = torchsoftmax.cross_entropy(x, target)
    first, second = (
        torch.autograd.grad(loss, x, torch.full_like(loss, upstream), retain_graph=True)[0]
        for upstream in (1.0, 3.0)
    )
    torch.testing.assert_close(3 * first, second)
    first.zero_()  # as a user may do with a gradient
    assert torch.equal(torch.autograd.grad(loss, x, torch.full_like(loss, 3))[0], second)


@pytest.mark.parametrize(
    ("dtype", "arguments", "gradients"),
    [
        (torch.float32, {}, 1),
        (torch.float32, {"reduction": "none"}, 0),
        (torch.float32, {"inplace_backward": True}, 0),
        (torch.float16, {}, 0),
        (torch.float16, {"reduction": "none"}, 0),
        (torch.float16, {"inplace_backward": True}, 0),
    ],
    ids=str,
)
def test_what_is_kept_for_backward(
    dtype: torch.dtype, arguments: dict[str, object], gradients: int, device: str
) -> None:
    """Beside the logits, the gradient or nothing of their size."""
    x = torch.randn(64, 1000, device=device, dtype=dtype, requires_grad=True) * 1
    target = torch.randint(1000, (64,), device=device)
    saved: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        torchsoftmax.cross_entropy(x, target, **arguments)
    own = [t for t in saved if t.untyped_storage().data_ptr() != x.untyped_storage().data_ptr()]
    assert sum(t.numel() for t in own) <= gradients * x.numel() + 4 * 64
