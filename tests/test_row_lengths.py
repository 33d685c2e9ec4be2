"""Rows of every length that a device has a way of its own for, and many rows of some of them."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from cases import devices, on, sums_by_layout
from test_contract import assert_near
from torch import Tensor

import torchsoftmax

# A thread, a warp, a block or a cluster of blocks for each row on a GPU; some one after the other.
# On a CPU across, or in a pipeline, in groups of 16 or 8 too, or one after the other.
SHAPES = (
    *((20000, 8), (20000, 10), (70, 16), (75, 29), (70, 64), (70, 512), (70, 1000)),
    *((9000, 2048), (33, 2056)),
    *((9, 8192), (9, 20000), (5, 32768), (5, 36000), (3, 50257), (9, 70000), (2, 140000)),
    *((2, 262144), (2, 600000)),
)
# Of few classes, and more than the caches hold.
MANY_ROWS = ((300007, 20), (150001, 50), (140003, 64), (40003, 128))
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
CASES = (
    *((shape, dtype) for shape in SHAPES for dtype in DTYPES),
    # float16 does not hold the sum of so many losses, and in emulation they take too long.
    *((shape, dtype) for shape in MANY_ROWS for dtype in DTYPES[:2] if not sums_by_layout("cpu")),
)
every_case = pytest.mark.parametrize(
    ("shape", "dtype"), CASES, ids=[f"{shape}-{str(dtype)[6:]}" for shape, dtype in CASES]
)


def rows(*shape: int, dtype: torch.dtype, seed: int = 0) -> Tensor:
    return (2 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))).to(dtype)


def inner_of_gradient(name: str, x: Tensor, upstream: Tensor) -> float:
    """How large the terms are that a gradient is a small difference of.

    That of log_softmax is the upstream gradient less exp(y) times its sum. y is rounded, so exp(y)
    is off by |y| eps / 2; and the sum, of terms that cancel, by eps times the root of their squares
    and, in a given number of partial sums, the root of their number.
    """
    if name == "softmax":
        return 8.0
    y, upstream = x.detach().double().log_softmax(1), upstream.double()
    of_y = y.abs() * upstream.sum(1, keepdim=True).abs()
    of_sum = upstream.square().sum(1, keepdim=True).sqrt() * x.shape[1] ** 0.5 / 32
    return (y.exp() * (of_y + of_sum)).max().item()


@pytest.mark.once
@every_case
@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_softmax(name: str, shape: tuple[int, ...], dtype: torch.dtype, device: str) -> None:
    x, upstream = rows(*shape, dtype=dtype), rows(*shape, dtype=dtype, seed=1)

    def value_and_gradient(function, x: Tensor, upstream: Tensor) -> tuple[Tensor, Tensor]:
        x = x.requires_grad_()
        value = function(x, 1)
        return value.detach(), torch.autograd.grad(value, x, upstream)[0]

    ours = value_and_gradient(getattr(torchsoftmax, name), *on(device, (x.clone(), upstream)))
    exact = value_and_gradient(getattr(F, name), x.double(), upstream.double())
    inner = 1.0, max(8.0, inner_of_gradient(name, x, upstream))
    for what, mine, true, size in zip(("value", "gradient"), ours, exact, inner, strict=True):
        assert_near(mine, true, dtype, what, size)


@pytest.mark.once
@every_case
@pytest.mark.parametrize("way", ["forward", "backward", "in place"])
def test_cross_entropy(way: str, shape: tuple[int, ...], dtype: torch.dtype, device: str) -> None:
    """The gradient of the forward pass, that of the statistics, and that over the logits."""
    x = rows(*shape, dtype=dtype)
    target = torch.arange(shape[0]) * 7919 % shape[1]
    target[::3] = -100
    reduction = "sum" if way == "forward" else "none"
    mine = on(device, x.clone()).requires_grad_()
    logits = mine * 1 if way == "in place" else mine
    loss = torchsoftmax.cross_entropy(
        logits, on(device, target), reduction=reduction, inplace_backward=way == "in place"
    )
    (gradient,) = torch.autograd.grad(loss.sum() if way != "forward" else loss, mine)
    x = x.double().requires_grad_()
    exact = F.cross_entropy(x, target, reduction=reduction)
    assert_near(loss.detach(), exact.detach(), dtype, "loss")
    assert_near(gradient, torch.autograd.grad(exact.sum(), x)[0], dtype, "gradient")


@pytest.mark.once
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype)[6:])
@pytest.mark.parametrize("classes", [8, 1024, 8192, 65536, 131072])
def test_softmax_of_large_equal_logits(classes: int, dtype: torch.dtype, device: str) -> None:
    """All parts of a row have the same maximum, and what its product with log2(e) is rounded by is
    the same in all of them."""
    values = torch.tensor([3.0, 1023.0, 9984.0, 30016.0, 50016.0, 65024.0], dtype=dtype)
    x = values.unsqueeze(1).expand(-1, classes).contiguous()
    torch.testing.assert_close(
        torchsoftmax.softmax(on(device, x), 1).cpu(),
        torch.full(x.shape, 1 / classes, dtype=torch.float64).to(dtype),
        rtol=2 * torch.finfo(torch.float32).eps if dtype == torch.float32 else 0,
        atol=0,
    )


def gradient_of_loss(x: Tensor, target: Tensor) -> Tensor:
    x = x.detach().requires_grad_()
    return torch.autograd.grad(torchsoftmax.cross_entropy(x, target), x)[0]


@pytest.mark.kernels
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype)[6:])
@pytest.mark.parametrize("count", [8, 16, 17, 31, 64, 75, 130])
def test_rows_of_few_classes_one_behind_the_other(
    count: int, dtype: torch.dtype, device: str
) -> None:
    """A CPU packs those in tiles, and rows with something in between element by element."""
    functions = {
        "softmax": lambda x, t: torchsoftmax.softmax(x, 1),
        "log_softmax": lambda x, t: torchsoftmax.log_softmax(x, 1),
        "loss": lambda x, t: torchsoftmax.cross_entropy(x, t, reduction="none"),
        "gradient": gradient_of_loss,
        "gradient of softmax": lambda x, t: torch.ops.torchsoftmax.softmax_backward(
            x, torch.ops.torchsoftmax.softmax(x, 1), 1
        ),
    }
    for classes in (*range(1, 20), 31, 32, 33, 47, 48, 50, 63, 64, 65, 80, 100, 127, 128, 129):
        behind = on(device, rows(count, classes, dtype=dtype))
        between = behind.new_full((count, classes + 3), math.nan)[:, :classes].copy_(behind)
        target = on(device, torch.arange(count) % classes)
        for name, function in functions.items():
            ours = [function(x, target) for x in (behind, between)]
            if sums_by_layout(device):
                torch.testing.assert_close(*ours)
            else:
                assert torch.equal(*ours), (name, classes)


# Of the maxima that these give to rows, what serves for one does for some of the others only.
LEVELS = (0.0, 12.0, -12.0, 24.0, -30.0, 60.0, 100.0, -100.0, 3e4, -1e5, 1e30, -math.inf)


@pytest.mark.kernels
@pytest.mark.parametrize("dtype", DTYPES[:2], ids=lambda dtype: str(dtype)[6:])
@pytest.mark.parametrize("classes", [40, 100, 1000, 5000, 40000])
def test_rows_of_different_maxima(classes: int, dtype: torch.dtype, device: str) -> None:
    """A row is what it is among others like it, whatever the rows before it are. (Alone it may be
    summed up in another order: 8 rows of few classes share vectors.)"""
    level = torch.tensor(LEVELS).repeat(4)[torch.randperm(4 * len(LEVELS))]
    spread = torch.tensor([0.1, 1.0, 10.0, 40.0]).repeat_interleave(len(LEVELS))
    x = torch.randn(len(level), classes) * spread.unsqueeze(1) + level.unsqueeze(1)
    x[3, 1], x[20, 2], x[30, 3:9] = math.nan, math.inf, -math.inf
    x = on(device, x.to(dtype))
    alone = torch.cat([torchsoftmax.softmax(row.repeat(8, 1), 1)[:1] for row in x.split(1)])
    together = torchsoftmax.softmax(x, 1)
    torch.testing.assert_close(together, alone, rtol=0, atol=0, equal_nan=True)
    exact = on("cpu", x).double().softmax(1)
    ours = together.cpu()
    assert torch.equal(ours.isnan(), exact.isnan())
    finite = ~exact.isnan().any(1)
    assert_near(ours[finite], exact[finite], dtype, "softmax")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("dim", [0, 1])
@pytest.mark.parametrize("classes", [1, 10, 100, 1000, 5000])
def test_quotients_that_are_numbers(classes: int, dim: int, dtype: torch.dtype) -> None:
    """Classes far above the others have exactly 1 together, and a half, a quarter or an eighth
    where they are as many and equal, at logits of any size."""
    for ties in (1, 2, 4, 8):
        level = 30 * torch.randn(200, 1, dtype=dtype)
        x = (level - 200).expand(-1, classes).clone()
        x[:, :ties] = level
        ties = min(ties, classes)
        y = torchsoftmax.softmax(x if dim else x.T.contiguous(), dim)
        y = y if dim else y.T
        assert torch.equal(y[:, :ties], torch.full_like(y[:, :ties], 1 / ties))
        assert (y[:, ties:] <= 1e-80).all()


@pytest.mark.once
@pytest.mark.parametrize("begin", [0, 1, 3, 8])
@pytest.mark.parametrize("classes", [37, 1003, 5001])
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype)[6:])
def test_rows_that_begin_anywhere(
    dtype: torch.dtype, classes: int, begin: int, device: str
) -> None:
    """Operands that are not aligned, nor to each other, as those that are."""
    x, y, z = (rows(7, begin + classes, dtype=dtype, seed=k)[:, begin:] for k in range(3))
    mask = (rows(7, classes + 5, dtype=torch.float32, seed=3) > -3)[:, 5:]
    index = torch.arange(7) * 31 % classes
    x, y, z, mask, index = (on(device, t) for t in (x, y, z, mask, index))

    def run(x: Tensor, y: Tensor, z: Tensor, mask: Tensor) -> list[Tensor]:
        x, y = x.detach().requires_grad_(), y.detach().requires_grad_()
        statistics = torchsoftmax.softmax_statistics(x, index)
        losses = [
            torchsoftmax.cross_entropy(x, index),
            torchsoftmax.cross_entropy(x, index, softcap=5.0),
            torchsoftmax.cross_entropy(x, index, label_smoothing=0.1),
            torchsoftmax.cross_entropy(x, y.softmax(1).float()),
            torchsoftmax.cross_entropy(x, z.softmax(1)),
            torchsoftmax.kl_div_with_logits(x, y),
            (torchsoftmax.softmax(x, 1, mask=mask) * z).sum(),
            (torchsoftmax.log_softmax(x, 1) * z).sum() / 1e3,
            *(value.sum() for value in statistics[:3]),
        ]
        total = sum(loss.float() for loss in losses)
        return [*(loss.detach() for loss in losses), *torch.autograd.grad(total, (x, y))]

    apart = [t.clone() for t in (x, y, z, mask)]
    for ours, other in zip(run(x, y, z, mask), run(*apart), strict=True):
        torch.testing.assert_close(ours, other)


@pytest.mark.once
@pytest.mark.parametrize("shape", [(600, 262144), (2100, 70000)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=lambda dtype: str(dtype)[6:])
@pytest.mark.parametrize("device", devices()[1:])
def test_rows_one_after_the_other(device: str, dtype: torch.dtype, shape: tuple[int, int]) -> None:
    """So many that every cluster of blocks works on several; compared on the device, for the CPU
    would take long."""
    x, upstream = (torch.randn(shape, device=device, dtype=dtype) for _ in range(2))
    x.requires_grad_()
    for name in ("softmax", "log_softmax"):
        value = getattr(torchsoftmax, name)(x, 1)
        (gradient,) = torch.autograd.grad(value, x, upstream)
        for some in torch.arange(shape[0], device=device).split(100):
            part = x.detach()[some].double().requires_grad_()
            exact = getattr(F, name)(part, 1)
            (true,) = torch.autograd.grad(exact, part, upstream[some].double())
            assert_near(value[some], exact.detach(), dtype, "value")
            assert_near(gradient[some], true, dtype, "gradient", max(8.0, shape[1] ** 0.5 / 32))
    target = torch.arange(shape[0], device=device) * 7919 % shape[1]
    target[::3] = -100
    for in_place in (False, True):
        logits = x * 1
        loss = torchsoftmax.cross_entropy(
            logits, target, reduction="sum", inplace_backward=in_place
        )
        (gradient,) = torch.autograd.grad(loss, x)
        total = torch.zeros((), dtype=torch.float64, device=device)
        for some in torch.arange(shape[0], device=device).split(100):
            part = x.detach()[some].double().requires_grad_()
            exact = F.cross_entropy(part, target[some], reduction="sum")
            total += exact.detach()
            (true,) = torch.autograd.grad(exact, part)
            assert_near(gradient[some], true, dtype, "gradient")
        assert_near(loss.detach(), total, dtype, "loss")


@pytest.mark.once
@pytest.mark.parametrize("device", devices()[1:])  # the CPU is not waited for
def test_nothing_waits_for_the_device(device: str) -> None:
    """No operator asks the device for a number, and all can be captured in a graph."""
    x, target = rows(64, 1000, dtype=torch.float32), torch.arange(64)
    hidden, layer = rows(64, 32, dtype=torch.float32), rows(1000, 32, dtype=torch.float32, seed=1)
    x, hidden, layer = (on(device, t).requires_grad_() for t in (x, hidden, layer))
    target, weight = on(device, target), torch.ones(1000, device=device)

    def run() -> list[Tensor]:
        statistics = torchsoftmax.softmax_statistics(x, target)
        linear = torchsoftmax.linear_softmax_statistics(hidden, layer, target)
        losses = [
            torchsoftmax.cross_entropy(x, target),
            torchsoftmax.cross_entropy(x, target, weight, label_smoothing=0.1, normalizer=3.0),
            torchsoftmax.kl_div_with_logits(x, x.detach().flip(1)),
            torchsoftmax.linear_cross_entropy(hidden, layer, target),
            torchsoftmax.linear_cross_entropy(hidden, layer, target, chunk_size=20),
            sum(value.sum() for value in statistics[:3]),
            sum(value.sum() for value in linear[:3]),
            torchsoftmax.softmax(x, 1).square().sum(),
        ]
        return [*losses, *torch.autograd.grad(sum(losses), (x, hidden, layer))]

    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        run()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        run()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = run()
    with torch.no_grad():
        for tensor in (x, hidden, layer):
            tensor.copy_(tensor.flip(0))
    graph.replay()
    for ours, expected in zip(captured, run(), strict=True):
        torch.testing.assert_close(ours, expected)
