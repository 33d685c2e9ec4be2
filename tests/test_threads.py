"""Results do not depend on the number of threads, bit for bit, nor on who else is computing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
import torch
from cases import (
    DTYPES,
    class_indices,
    class_probabilities,
    class_weights,
    linear_layer,
    logits,
    random_mask,
)
from torch import Tensor

import torchsoftmax

pytestmark = pytest.mark.kernels

# Each is split: rows along the last dimension, and across it with vectors of one or of many rows.
SHAPES = {(64, 4096): 1, (3, 1000, 49): 1, (2, 21, 64, 64): 1, (20_000, 7): 1, (7, 20_000): 0}
LOSS_SHAPES = [(64, 4096), (3, 1000, 49), (2, 21, 64, 64), (20_000, 7), (70_000, 3)]

every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype)[6:])


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def value_and_gradients(
    function: Callable[..., Tensor], inputs: tuple[Tensor, ...]
) -> tuple[Tensor, ...]:
    leaves = [x.detach().requires_grad_() for x in inputs]
    value = function(*leaves)
    upstream = logits(*value.shape, dtype=value.dtype, seed=3)
    return (value.detach(), *torch.autograd.grad(value, leaves, upstream))


def assert_independent_of_threads(
    function: Callable[..., Tensor], inputs: tuple[Tensor, ...], gradients: bool = True
) -> None:
    results = []
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        found = value_and_gradients(function, inputs) if gradients else (function(*inputs),)
        results.append(found)
    for other in results[1:]:
        for mine, expected in zip(other, results[0], strict=True):
            assert torch.equal(mine, expected)


@pytest.mark.parametrize("function", [torchsoftmax.softmax, torchsoftmax.log_softmax])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@every_dtype
def test_softmax(
    function: Callable[..., Tensor], shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    assert_independent_of_threads(
        partial(function, dim=SHAPES[shape]), (logits(*shape, dtype=dtype),)
    )


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("shape", LOSS_SHAPES, ids=str)
@every_dtype
def test_cross_entropy(
    shape: tuple[int, ...], reduction: str, label_smoothing: float, dtype: torch.dtype
) -> None:
    def loss(x: Tensor) -> Tensor:
        return torchsoftmax.cross_entropy(
            x,
            class_indices(shape[0], *shape[2:], classes=shape[1], ignore_index=-100),
            class_weights(shape[1], dtype),
            reduction=reduction,
            label_smoothing=label_smoothing,
        )

    assert_independent_of_threads(loss, (logits(*shape, dtype=dtype),))


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("shape", LOSS_SHAPES, ids=str)
@every_dtype
def test_cross_entropy_of_class_probabilities(
    shape: tuple[int, ...], reduction: str, dtype: torch.dtype
) -> None:
    assert_independent_of_threads(
        partial(torchsoftmax.cross_entropy, reduction=reduction, label_smoothing=0.1),
        (logits(*shape, dtype=dtype), class_probabilities(*shape, dtype=dtype)),
    )


def family(shape: tuple[int, ...], dim: int) -> dict[str, Callable[[Tensor], Tensor]]:
    """The other functions, each with everything that it takes, of logits of this shape."""
    mask = random_mask(*shape)
    index = class_indices(*(3 if d == dim else size for d, size in enumerate(shape)), classes=3)
    other = logits(*shape, dtype=torch.float32, seed=6)
    selective = partial(torchsoftmax.selective_log_softmax, index=index, dim=dim)

    def statistics(x: Tensor) -> Tensor:
        found = torchsoftmax.softmax_statistics(x, index.select(dim, 0), dim)
        return torch.stack(found[:3]) + found.argmax

    return {
        "softmax": partial(torchsoftmax.softmax, dim=dim, mask=mask, temperature=0.7),
        "log_softmax": partial(torchsoftmax.log_softmax, dim=dim, mask=mask, temperature=0.7),
        "entropy": partial(torchsoftmax.entropy_with_logits, dim=dim, mask=mask, temperature=0.7),
        "selective_log_softmax": partial(selective, temperature=0.7),
        "softmax_statistics": statistics,
        **{
            f"kl, {reduction}": lambda x, reduction=reduction: torchsoftmax.kl_div_with_logits(
                x, other.to(x.dtype), reduction=reduction
            )
            for reduction in ("none", "mean", "sum", "batchmean")
        },
    }


@pytest.mark.parametrize("name", family((3, 3), 1))
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_family(name: str, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    assert_independent_of_threads(
        family(shape, SHAPES[shape])[name], (logits(*shape, dtype=dtype),)
    )


@pytest.mark.parametrize("probabilities", [False, True])
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("shape", LOSS_SHAPES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_cross_entropy_with_everything(
    shape: tuple[int, ...], reduction: str, probabilities: bool, dtype: torch.dtype
) -> None:
    rows = (shape[0], *shape[2:])
    indices = class_indices(*rows, classes=shape[1], ignore_index=-100)
    options = {"temperature": 0.7, "softcap": 5.0, "z_loss": 0.01, "label_smoothing": 0.1}
    options["sample_weight"] = logits(*rows, dtype=torch.float32, seed=5).abs()
    options["weight"] = class_weights(shape[1], dtype)

    def loss(x: Tensor, *target: Tensor, inplace: bool = False) -> Tensor:
        x = x * 1 if inplace else x
        given = target[0] if probabilities else indices
        return torchsoftmax.cross_entropy(
            x, given, reduction=reduction, inplace_backward=inplace, **options
        )

    inputs = [logits(*shape, dtype=dtype)]
    if probabilities:
        inputs.append(class_probabilities(*shape, dtype=dtype))
    for inplace in (False, True):
        assert_independent_of_threads(partial(loss, inplace=inplace), tuple(inputs))


def derivatives_of_rows() -> dict[str, Callable[[Tensor], Tensor]]:
    """Every function of torchsoftmax.derivatives, of as many rows as make several tasks."""
    of = torchsoftmax.derivatives
    index = class_indices(600, classes=37)
    target = class_probabilities(600, 37, dtype=torch.float32)
    vector = logits(600, 37, dtype=torch.float32, seed=7)
    return {
        "softmax_jacobian": of.softmax_jacobian,
        "softmax_jacobian, columns": lambda x: of.softmax_jacobian(x.t(), 0),
        "log_softmax_jacobian": of.log_softmax_jacobian,
        "softmax_hessian": lambda x: of.softmax_hessian(x[:, :19]),
        "softmax_jvp": lambda x: of.softmax_jvp(x, vector.to(x.dtype)),
        "softmax_vjp": lambda x: of.softmax_vjp(x, vector.to(x.dtype)),
        "cross_entropy_gradient": lambda x: of.cross_entropy_gradient(x, index),
        "cross_entropy_gradient, probabilities": lambda x: of.cross_entropy_gradient(
            x, target.to(x.dtype)
        ),
        "cross_entropy_hessian": lambda x: of.cross_entropy_hessian(x, index),
        "cross_entropy_hvp": lambda x: of.cross_entropy_hvp(x, index, vector.to(x.dtype)),
    }


@pytest.mark.parametrize("name", derivatives_of_rows())
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_derivatives(name: str, dtype: torch.dtype) -> None:
    """Of those without a kernel for their gradient it is the definition's, and PyTorch's sums."""
    function, x = derivatives_of_rows()[name], logits(600, 37, dtype=dtype)
    assert_independent_of_threads(function, (x,), gradients="jacobian" in name)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=["float32", "float16"])
def test_linear_softmax_statistics(dtype: torch.dtype) -> None:
    """Not in bfloat16, whose logits are PyTorch's product."""
    target = class_indices(300, classes=517)

    def statistics(x: Tensor, layer: Tensor) -> Tensor:
        found = torchsoftmax.linear_softmax_statistics(x, layer, target, chunk_size=100)
        return torch.stack(found[:3]) + found.argmax

    assert_independent_of_threads(statistics, linear_layer((300,), (517,), 96, dtype))


def test_two_python_threads_at_once() -> None:
    x = logits(2, 21, 64, 64, dtype=torch.float32)
    target = class_indices(2, 64, 64, classes=21)
    calls = [
        partial(torchsoftmax.softmax, dim=1),
        partial(torchsoftmax.log_softmax, dim=-1),
        partial(torchsoftmax.cross_entropy, target=target),
        partial(torchsoftmax.cross_entropy, target=target, label_smoothing=0.1, reduction="none"),
    ] * 8
    expected = [value_and_gradients(call, (x,)) for call in calls]
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda call: value_and_gradients(call, (x,)), calls))
    for mine, theirs in zip(found, expected, strict=True):
        assert all(map(torch.equal, mine, theirs))


def test_the_bad_target_that_is_named_is_the_first() -> None:
    """However many threads find others at the same time, and however far out of range they are."""
    x = logits(70_000, 3, dtype=torch.float32)
    target = class_indices(70_000, classes=3)
    target[1000:] = torch.arange(1000, 70_000)
    target[2000:3000], target[-1] = 10**12, -(10**15)
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        with pytest.raises(IndexError, match="Target 1000 is out of bounds"):
            torchsoftmax.cross_entropy(x, target)
