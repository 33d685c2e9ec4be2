"""What is linear_cross_entropy's own: chunks, which gradients are computed, and what is not."""

from __future__ import annotations

import copy
import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import reference
import torch
from cases import DTYPES, class_indices, class_weights, extended, linear_layer, logits, on
from test_contract import assert_near
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile, record_function

import torchsoftmax
from examples.demo.memory import peak_bytes
from torchsoftmax.nn import _LinearLayerAndLoss

of_2_13 = pytest.mark.skipif(
    not hasattr(nn, "LinearCrossEntropyLoss"), reason="PyTorch has the module from 2.13 on"
)
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype)[6:])


def problem(
    device: str,
    rows: int = 70,
    classes: int = 90,
    features: int = 40,
    dtype: torch.dtype = torch.float64,
) -> tuple[Tensor, Tensor, Tensor]:
    """Leaves of an input and a weight, and targets of which a third is ignored."""
    input, weight = on(device, linear_layer((rows,), (classes,), features, dtype))
    target = on(device, class_indices(rows, classes=classes, ignore_index=-100))
    return input.requires_grad_(), weight.requires_grad_(), target


# Features, and the chunk size for 70 rows of which 46 take part. Tiles of the vocabulary serve
# where there are more features than rows.
WAYS = {"one chunk": (40, None), "chunks of rows": (40, 16), "tiles of classes": (100, 16)}
every_way = pytest.mark.parametrize("features, size", WAYS.values(), ids=WAYS)


def gradients(
    function: Callable[..., Tensor], *leaves: Tensor, upstream: float = 1.0
) -> tuple[Tensor, ...]:
    return torch.autograd.grad(function(*leaves), leaves, torch.tensor(upstream).to(leaves[0]))


# Chunks.


@pytest.mark.kernels
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@every_dtype
def test_results_do_not_depend_on_chunks_but_by_rounding(
    dtype: torch.dtype, reduction: str, device: str
) -> None:
    input, weight, target = problem(device, dtype=dtype)

    def results(size: int | None) -> list[Tensor]:
        loss = torchsoftmax.linear_cross_entropy(
            input, weight, target, reduction=reduction, chunk_size=size
        )
        upstream = torch.linspace(0.5, 1.5, loss.numel()).bfloat16().to(loss).view_as(loss)
        return [loss.detach(), *torch.autograd.grad(loss, (input, weight), upstream)]

    whole = results(1000)
    for size in (None, 1, 7, 16, 46, 47):
        for mine, expected in zip(results(size), whole, strict=True):
            # One rounding of either, and of its largest value.
            eps = torch.finfo(dtype).eps
            torch.testing.assert_close(
                mine, expected, rtol=4 * eps, atol=4 * eps * expected.abs().max().item()
            )


@pytest.mark.kernels
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_results_do_not_depend_on_threads(dtype: torch.dtype) -> None:
    input, weight, target = problem("cpu", 300, 517, 96, dtype)
    results = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            loss = torchsoftmax.linear_cross_entropy(input, weight, target, chunk_size=100)
            results.append((loss.detach(), *torch.autograd.grad(loss, (input, weight))))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert torch.equal(other[0], results[0][0])
        if dtype != torch.bfloat16:  # whose logits are PyTorch's product
            assert all(map(torch.equal, other, results[0]))


# Which gradients are computed, and what they cost.


def products(call: Callable[[], object]) -> int:
    """Multiplications in all products of matrices that the call makes: counted on the CPU."""
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as profiler:
        call()
    shapes = [e.input_shapes for e in profiler.events() if e.name == "torchsoftmax::gemm_"]
    return sum(out[0] * out[1] * left[1] for out, left, *_ in shapes)


@every_way
@pytest.mark.parametrize("of_input", [False, True])
@pytest.mark.parametrize("of_weight", [False, True])
@pytest.mark.parametrize("of_bias", [None, False, True])
def test_only_what_needs_a_gradient_gets_one(
    of_input: bool,
    of_weight: bool,
    of_bias: bool | None,
    features: int,
    size: int | None,
    device: str,
) -> None:
    input, weight, target = problem(device, features=features)
    bias = None if of_bias is None else on(device, logits(90, dtype=torch.float64, seed=3))
    wanted = {"input": of_input, "linear_weight": of_weight, "linear_bias": bool(of_bias)}
    given = {"input": input.detach(), "linear_weight": weight.detach(), "linear_bias": bias}
    leaves = {
        name: value.clone().requires_grad_(wanted[name])
        for name, value in given.items()
        if value is not None
    }
    loss = torchsoftmax.linear_cross_entropy(**leaves, target=target, chunk_size=size)
    assert loss.requires_grad == any(wanted.values())
    if not loss.requires_grad:
        return
    loss.backward()
    copies = {name: leaf.detach().clone().requires_grad_() for name, leaf in leaves.items()}
    reference.linear_cross_entropy(**copies, target=target).backward()
    for name, leaf in leaves.items():
        if wanted[name]:
            torch.testing.assert_close(leaf.grad, copies[name].grad, rtol=1e-12, atol=1e-14)
        else:
            assert leaf.grad is None


@every_way
@pytest.mark.parametrize("reduction", ["none", "mean"])
def test_products_are_the_least_there_are(reduction: str, features: int, size: int | None) -> None:
    """One without gradients; three with both; none for ignored rows or a frozen input."""
    input, weight, target = problem("cpu", features=features)
    taking_part = (target != -100).sum().item()
    assert taking_part < len(target)
    one = taking_part * 90 * features
    again = one if reduction == "none" else 0  # where backward computes the logits

    def run(of_input: bool, of_weight: bool) -> int:
        leaves = input.detach().requires_grad_(of_input), weight.detach().requires_grad_(of_weight)

        def call() -> None:
            loss = torchsoftmax.linear_cross_entropy(
                *leaves, target, reduction=reduction, chunk_size=size
            )
            if loss.requires_grad:
                loss.sum().backward()

        return products(call)

    assert run(False, False) == one
    assert run(True, True) == 3 * one + again
    assert run(True, False) == run(False, True) == 2 * one + again


def test_tiles_compute_the_logits_again_of_more_rows_than_features() -> None:
    """Where a float32 copy of the gradient would be beyond the budget, here 0."""
    input, weight, target = problem("cpu", dtype=torch.bfloat16)
    taking_part = (target != -100).sum().item()
    assert taking_part > 40
    count = products(lambda: forward_operator(input, weight, target, 0, chunk_size=16))
    assert count == (3 * taking_part + taking_part - 40) * 90 * 40


def test_no_rows_that_take_part_ask_for_no_product() -> None:
    input, weight, target = problem("cpu")

    def call() -> None:
        torchsoftmax.linear_cross_entropy(input, weight, target.fill_(-100)).backward()

    assert products(call) == 0
    assert (input.grad == 0).all() and (weight.grad == 0).all()


@pytest.mark.kernels
@every_dtype
@every_way
def test_ignored_rows_may_hold_nan(
    features: int, size: int | None, dtype: torch.dtype, device: str
) -> None:
    input, weight, target = problem(device, features=features, dtype=dtype)
    spoilt = input.detach().clone()
    spoilt[target == -100] = torch.nan
    for classes in ((90,), (45, 2)):
        shaped = weight.view(*classes, features)
        targets = target % 45 if len(classes) == 1 else (target % 45)[:, None].expand(70, 2)
        ignored = (target == -100).view(70, *(1 for _ in classes[1:]))
        targets = targets.masked_fill(ignored, -100)

        def loss(x: Tensor, w: Tensor, targets: Tensor = targets) -> Tensor:
            return torchsoftmax.linear_cross_entropy(x, w, targets, chunk_size=size)

        def definition(x: Tensor, w: Tensor) -> tuple[Tensor, ...]:
            return torch.func.grad(loss, argnums=(0, 1))(x, w)

        for of_both in (lambda x, w: gradients(loss, x, w), definition):
            clean = of_both(input, shaped)
            mine = of_both(spoilt.requires_grad_(), shaped)
            assert all(map(torch.equal, mine, clean))
            assert not mine[0][target == -100].any()


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32], ids=str)
@pytest.mark.parametrize("classes", [156, 157, 256, 300])
def test_targets_of_fewer_bits_are_those_of_int64(
    classes: int, dtype: torch.dtype, device: str
) -> None:
    """Neither the number of classes nor what is ignored needs to fit into their dtype."""
    input, weight, _ = problem(device, classes=classes)
    target = (torch.arange(70, device=device) * 7).clamp_max(min(classes, 256) - 1)
    ignored = -100 if dtype == torch.uint8 else 2**32 + 7

    def results(target: Tensor) -> list[Tensor]:
        def loss(x: Tensor) -> Tensor:
            return torchsoftmax.linear_cross_entropy(x, weight, target, ignore_index=ignored)

        def of_logits(x: Tensor) -> Tensor:
            return torchsoftmax.cross_entropy(x, target, ignore_index=ignored)

        def log_prob(x: Tensor) -> Tensor:
            return torchsoftmax.linear_softmax_statistics(x, weight, target).log_prob

        x = (input @ weight.t()).detach()
        return [
            loss(input),
            torch.func.grad(loss)(input),
            torch.func.grad(of_logits)(x),
            log_prob(input),
            torch.func.grad(lambda x: log_prob(x).sum())(input),
        ]

    for mine, expected in zip(results(target.to(dtype)), results(target), strict=True):
        assert torch.equal(mine, expected)


def test_nothing_is_read_with_a_target_out_of_range() -> None:
    """On the CPU only: a GPU's kernel cannot raise, see test_targets_out_of_range.py."""
    input, weight, target = problem("cpu")
    target[11] = 90
    for reduction in ("none", "mean", "sum"):
        for leaf in (input, input.detach()):
            with pytest.raises(
                IndexError, match=r"linear_cross_entropy: Target 90 is out of bounds"
            ):
                torchsoftmax.linear_cross_entropy(
                    leaf, weight, target, weight=torch.ones(90).double(), reduction=reduction
                )


# Backward, as often and in whatever company it comes.


@every_way
def test_backward_twice_and_an_upstream_gradient(
    features: int, size: int | None, device: str
) -> None:
    input, weight, target = problem(device, features=features)
    loss = torchsoftmax.linear_cross_entropy(input, weight, target, chunk_size=size)
    first = torch.autograd.grad(loss, (input, weight), torch.full_like(loss, 3), True)
    second = torch.autograd.grad(loss, (input, weight), torch.full_like(loss, 3))
    expected = gradients(
        lambda x, w: reference.linear_cross_entropy(x, w, target), input, weight, upstream=3.0
    )
    for one, other, true in zip(first, second, expected, strict=True):
        torch.testing.assert_close(one, true, rtol=1e-12, atol=1e-14)
        assert torch.equal(one, other)
        assert one.data_ptr() != other.data_ptr()
    with pytest.raises(RuntimeError, match="second time"):
        loss.backward()


@every_way
def test_accumulation_over_micro_batches(features: int, size: int | None, device: str) -> None:
    input, weight, target = problem(device, features=features)
    size = None if size is None else size // 3  # of 20 rows
    total = (target != -100).sum().item()
    for part in range(0, 70, 20):
        rows = slice(part, part + 20)
        torchsoftmax.linear_cross_entropy(
            input[rows], weight, target[rows], normalizer=float(total), chunk_size=size
        ).backward()
    expected = gradients(lambda x, w: reference.linear_cross_entropy(x, w, target), input, weight)
    for leaf, true in zip((input, weight), expected, strict=True):
        torch.testing.assert_close(leaf.grad, true, rtol=1e-12, atol=1e-14)


@every_way
def test_weight_tied_to_the_embedding(features: int, size: int | None, device: str) -> None:
    tokens = torch.randint(90, (70,), device=device)
    *_, target = problem(device)

    def train(loss: Callable[..., Tensor]) -> Tensor:
        torch.manual_seed(0)
        embedding = nn.Embedding(90, features, dtype=torch.float64, device=device)
        loss(embedding(tokens).tanh(), embedding.weight, target, chunk_size=size).backward()
        return embedding.weight.grad

    torch.testing.assert_close(
        train(torchsoftmax.linear_cross_entropy),
        train(reference.linear_cross_entropy),
        rtol=1e-12,
        atol=1e-14,
    )


@every_way
def test_a_hook_that_keeps_what_is_saved_keeps_it(
    features: int, size: int | None, device: str
) -> None:
    input, weight, target = problem(device, features=features)
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        loss = torchsoftmax.linear_cross_entropy(input, weight, target, chunk_size=size)
    copies = [x.clone() for x in kept]
    (3 * loss).backward()
    for x, before in zip(kept, copies, strict=True):
        assert torch.equal(x, before)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_a_large_loss_scale_is_native_s(dtype: torch.dtype, device: str) -> None:
    """Gradients that would underflow before the scale is applied, in float16."""
    input, weight, target = problem(device, 512, 2000, 64, dtype)
    scale = 2.0**12
    mine = gradients(
        lambda x, w: torchsoftmax.linear_cross_entropy(x, w, target) * scale, input, weight
    )
    wide = [x.detach().double().requires_grad_() for x in (input, weight)]
    true = gradients(lambda x, w: reference.linear_cross_entropy(x, w, target) * scale, *wide)
    for got, expected in zip(mine, true, strict=True):
        assert_near(got, expected, dtype, "scaled")


# Accuracy and memory.


def forward_operator(
    input: Tensor,
    weight: Tensor,
    target: Tensor,
    accumulator_bytes: int,
    *,
    bias: Tensor | None = None,
    class_weight: Tensor | None = None,
    sample_weight: Tensor | None = None,
    reduction: int = 1,
    chunk_size: int | None = None,
    temperature: float = 1.0,
    softcap: float = 0.0,
    z_loss: float = 0.0,
    gradients: bool = True,
) -> list[Tensor]:
    """The loss and the gradients; with a budget of 0 that of the weight comes by vocabulary."""
    wanted = [gradients, gradients, gradients and bias is not None]
    options = (reduction, -100, 0.0, temperature, softcap, z_loss)
    arguments = (input, target, class_weight, sample_weight, weight, bias, None, None)
    loss, _, *results = torch.ops.torchsoftmax.linear_cross_entropy_forward(
        *(a.detach() if isinstance(a, Tensor) else a for a in arguments),
        chunk_size,
        wanted,
        accumulator_bytes,
        *options,
    )
    return [loss, *(result for result, is_wanted in zip(results, wanted, strict=True) if is_wanted)]


def of_definition(
    input: Tensor,
    weight: Tensor,
    target: Tensor,
    *,
    bias: Tensor | None = None,
    class_weight: Tensor | None = None,
    reduction: int = 1,
    softcap: float = 0.0,
    **options: object,
) -> list[Tensor]:
    """What `forward_operator` computes, of the definition in float64, on the CPU."""
    leaves = [x.detach().cpu().double().requires_grad_() for x in (input, weight)]
    rest = {"bias": bias, "class_weight": class_weight, **options}
    rest = {k: v.cpu().double() if isinstance(v, Tensor) else v for k, v in rest.items()}
    of_bias, of_classes = rest.pop("bias"), rest.pop("class_weight")
    if of_bias is not None:
        leaves.append(of_bias.requires_grad_())
    loss = reference.linear_cross_entropy(
        *leaves[:2],
        target.cpu(),
        linear_bias=of_bias,
        weight=of_classes,
        reduction=("none", "mean", "sum")[reduction],
        softcap=softcap or None,
        **rest,
    )
    return [loss.detach(), *torch.autograd.grad(loss.sum(), leaves)]


# What tiles of the vocabulary serve, for 70 rows of 90 classes.
OPTIONS = {
    "plain": {},
    "softcap": {"reduction": 2, "softcap": 5.0, "temperature": 0.7},
    "row weights": {"z_loss": 0.01, "sample_weight": torch.linspace(0, 2, 70)},
    "class weights": {"class_weight": class_weights(90, torch.float64)},
    "bias": {"bias": logits(90, dtype=torch.float64, seed=3) / 4},
}
WITH_INFINITE = OPTIONS | {
    "tiles of -inf": {
        "bias": torch.full((90,), -torch.inf).index_fill(0, torch.arange(60), 0.0).double()
    },
}

every_budget = pytest.mark.parametrize(
    "budget", [0, 2**31], ids=["by vocabulary", "float32 accumulator"]
)
low_precision = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)


@pytest.mark.kernels
@low_precision
@every_budget
def test_weight_gradient_is_summed_in_float32(dtype: torch.dtype, budget: int, device: str) -> None:
    """As one product of the same matrices in full precision that is rounded once.

    Logits of 0 have the gradient 1/64, less 1 at the target: exact in both dtypes. A sum in `dtype`
    over chunks of one row would lose every term after the first, which is 256 times as large.
    """
    rows, classes, features = 512, 64, 32
    input = torch.ones(rows, features, dtype=dtype, device=device)
    input[0] = 256
    weight = torch.zeros(classes, features, dtype=dtype, device=device)
    target = torch.zeros(rows, dtype=torch.int64, device=device)
    mine = forward_operator(input, weight, target, budget, reduction=2, chunk_size=1)[2]
    exact = torch.full((classes, features), (256 + rows - 1) / classes, dtype=torch.float64)
    exact[0] -= 256 + rows - 1
    assert torch.equal(mine.cpu(), exact.to(dtype))


@pytest.mark.kernels
@low_precision
@every_budget
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_both_ways_to_the_weight_gradient_are_those_of_float64(
    dtype: torch.dtype, budget: int, options: dict[str, object], device: str
) -> None:
    input, weight, target = problem(device, dtype=dtype)
    given = {k: v.to(dtype) if isinstance(v, Tensor) else v for k, v in options.items()}
    given = on(device, given)
    mine = forward_operator(input, weight, target, budget, **given)
    exact = of_definition(input, weight, target, **given)
    for got, true in zip(mine, exact, strict=True):
        assert_near(got, true, dtype, "result", inner=true.abs().max().item())


@pytest.mark.kernels
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("options", WITH_INFINITE.values(), ids=WITH_INFINITE)
@pytest.mark.parametrize("features", [40, 100], ids=["some logits again", "logits kept"])
def test_tiles_of_the_vocabulary_are_float64_s_whole(
    dtype: torch.dtype, options: dict[str, object], features: int, device: str
) -> None:
    """Chunks of 7 rows, of 46 that take part, are tiles of 13 classes of 90, where tiles serve."""
    input, weight, target = problem(device, rows=70, features=features, dtype=dtype)
    target[target >= 60] %= 60
    given = {k: v.to(dtype) if isinstance(v, Tensor) else v for k, v in options.items()}
    given = on(device, given)
    mine = forward_operator(input, weight, target, 0, chunk_size=7, **given)
    exact = of_definition(input, weight, target, **given)
    for got, true in zip(mine, exact, strict=True):
        assert_near(got, true, dtype, "result", inner=true.abs().max().item())
    alone = forward_operator(input, weight, target, 0, chunk_size=7, gradients=False, **given)
    assert_near(alone[0], exact[0], dtype, "loss", inner=1)


# Of 90 classes in tiles of 13: some that hold nothing but -inf and nan, with targets in and out of
# them, logits of +inf, and no finite ones at all.
NOT_FINITE = {
    "nan": {5: torch.nan},
    "nan in a tile of -inf": {**dict.fromkeys(range(78, 90), -torch.inf), 85: torch.nan},
    "targets of -inf": dict.fromkeys(range(45, 90), -torch.inf),
    "+inf": {88: torch.inf},
    "+inf and -inf": {**dict.fromkeys(range(78, 90), -torch.inf), 3: torch.inf},
    "-inf alone": dict.fromkeys(range(90), -torch.inf),
}


@pytest.mark.kernels
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("softcap", [0.0, 5.0])
@pytest.mark.parametrize("logits_of_classes", NOT_FINITE.values(), ids=NOT_FINITE)
def test_tiles_with_logits_that_are_not_finite(
    logits_of_classes: dict[int, float], softcap: float, dtype: torch.dtype, device: str
) -> None:
    input, weight, target = problem(device, features=100, dtype=dtype)
    bias = torch.zeros(90, dtype=dtype, device=device)
    bias[list(logits_of_classes)] = torch.tensor(list(logits_of_classes.values())).to(bias)

    def results(size: int) -> tuple[Tensor, list[Tensor]]:
        given = {"chunk_size": size, "bias": bias, "softcap": softcap}
        (loss,) = forward_operator(input, weight, target, 0, reduction=0, gradients=False, **given)
        return loss, forward_operator(input, weight, target, 0, reduction=2, **given)[1:]

    (loss, of_sum), (chunk_loss, of_chunks) = results(7), results(1000)
    capped = input.double() @ weight.double().t() + bias.double()
    capped = softcap * (capped / softcap).tanh() if softcap else capped
    exact = nn.functional.cross_entropy(capped, target, reduction="none").detach()
    for mine in (loss, chunk_loss):
        assert_near(mine, exact, dtype, "loss", inner=8)
    # The definition's gradient of an ignored row is nan; ours is 0.
    rows = target != -100
    given = {"bias": bias, "softcap": softcap, "reduction": 2}
    _, of_rows, *others = of_definition(input[rows], weight, target[rows], **given)
    for mine in (of_sum, of_chunks):
        assert not mine[0][~rows].any()
        for found, true in zip((mine[0][rows], *mine[1:]), (of_rows, *others), strict=True):
            assert torch.equal(found.cpu().isnan(), true.isnan())


def test_the_loss_of_tiles_at_an_offset(device: str) -> None:
    """Logits of 1e4, exact in float32: what is left of them in the loss is of the order of 1."""
    input, weight, target = problem(device, features=100, dtype=torch.float32)
    bias = 1e4 + torch.arange(90, device=device) % 3
    loss, *_ = forward_operator(input, 0 * weight, target, 0, bias=bias, chunk_size=7)
    exact = nn.functional.cross_entropy(bias.double().expand(70, 90), target)
    assert_near(loss, exact, torch.float32, "loss")


@pytest.mark.once
@pytest.mark.kernels
@pytest.mark.parametrize("products", ["tiles", "pairs", "blocks"])
def test_every_kind_of_products(products: str) -> None:
    """The processor decides which kind is taken; all that it can do are tested on every one, on
    its lesser instruction sets under the sanitizers alone."""
    tests = "(products_in_tiles or vocabulary or results_do_not_depend) and not cuda"
    this_build = shlex.quote(str(Path(torchsoftmax.__file__).parents[1]))
    options = ["-q", "-p", "no:cacheprovider", "-o", f"pythonpath={this_build}", "-k", tests]
    subprocess.run(
        [sys.executable, "-m", "pytest", *options, __file__],
        check=True,
        env=os.environ | {"TORCHSOFTMAX_PRODUCTS": products},
    )


@pytest.mark.kernels
def test_products_in_tiles_are_those_of_float64(device: str) -> None:
    """Every layout, dtype and edge of a tile, summed in float32 whatever the operands are."""
    shapes = [(1, 16, 17), (16, 16, 16), (70, 65, 33), (300, 67, 800), (65, 1030, 257)]
    cases = [(shape, dtype) for shape in shapes for dtype in DTYPES]
    cases.append(((200, 2050, 2100), torch.float32))  # a right operand that is packed in parts
    for (m, n, k), dtype in cases:
        a = torch.randn(m, k, device=device).to(dtype)
        b = torch.randn(k, n, device=device).to(dtype)
        true = a.double() @ b.double()
        for wide in (False, True):
            out_dtype = dtype if not wide else torch.promote_types(dtype, torch.float32)
            before = torch.randn(m, n, device=device).to(out_dtype)
            for left in (a, a.t().contiguous().t(), torch.stack([a, a], 2)[..., 0]):
                for right in (b, b.t().contiguous().t()):
                    for accumulate in (False, True):
                        out = before.clone()
                        torch.ops.torchsoftmax.gemm_(out, left, right, accumulate)
                        exact = true + before.double() if accumulate else true
                        eps = torch.finfo(out_dtype).eps
                        # sqrt(k) roundings to float32, as they are random, of sums of up to
                        # 4 sqrt(k), and those of the result to its dtype.
                        bound = 4 * eps * exact.abs().max() + 4 * k * 2**-24
                        assert (out.double() - exact).abs().max() <= bound, (m, n, k, dtype)


@pytest.mark.kernels
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_products_in_tiles_do_not_depend_on_threads(dtype: torch.dtype) -> None:
    """What a thread takes does, in either direction."""
    before = torch.get_num_threads()
    for m, n, k in ((1300, 140, 600), (400, 600, 1100)):
        a, b, start = torch.randn(m, k).to(dtype), torch.randn(k, n).to(dtype), torch.randn(m, n)
        for left in (a, a.t().contiguous().t()):
            results = []
            try:
                for threads in (1, 2, 3):
                    torch.set_num_threads(threads)
                    results.append(start.clone())
                    torch.ops.torchsoftmax.gemm_(results[-1], left, b, True)
            finally:
                torch.set_num_threads(before)
            assert all(torch.equal(other, results[0]) for other in results[1:])


def test_a_large_vocabulary_for_more_rows_than_features() -> None:
    """Tiles by themselves: they keep the logits of 64 rows, and compute those of others again."""
    given = problem("cpu", 120, 200000, 64, torch.float32)
    assert 64 < (given[2] != -100).sum() < 120
    leaves, copies = ([x.detach().to(kind).requires_grad_() for x in given[:2]]
                      for kind in (torch.float32, torch.float64))  # fmt: skip
    mine = torchsoftmax.linear_cross_entropy(*leaves, given[2])
    exact = nn.functional.cross_entropy(copies[0] @ copies[1].t(), given[2])
    mine.backward()
    exact.backward()
    pairs = [(mine, exact), *((a.grad, b.grad) for a, b in zip(leaves, copies, strict=True))]
    for got, true in pairs:  # sums of 200,000 products: up to 12 eps of the largest; native's 20
        assert_near(got, true, torch.float32, "result", inner=8 * true.abs().max().item())


@pytest.mark.parametrize(
    "rows, classes, features",
    [(1024, 50257, 32), (128, 400000, 64)],
    ids=["chunks of rows", "tiles of the vocabulary"],
)
def test_memory_is_that_of_a_chunk(rows: int, classes: int, features: int) -> None:
    """Beyond inputs and gradients 64 MB, where the logits alone are 205 MB, of the CPU's memory."""
    input, weight, target = problem("cpu", rows, classes, features, torch.float32)

    def step() -> None:
        with record_function("step"):
            torchsoftmax.linear_cross_entropy(input, weight, target).backward()

    peak, _ = peak_bytes(step, "step")
    of_gradients = input.nbytes + weight.nbytes
    assert of_gradients < peak < of_gradients + 64e6


# The module.


@of_2_13
def test_state_dict_of_native_loads_and_the_other_way_round(device: str) -> None:
    for out_features in ((), (3, 2)):
        kwargs = {"out_features": out_features, "bias": True, "device": device}
        kwargs["weight"] = torch.rand(4, device=device)
        ours = torchsoftmax.LinearCrossEntropyLoss(5, 4, **kwargs)
        native = nn.LinearCrossEntropyLoss(5, 4, **kwargs)
        input = torch.randn(8, 5, device=device)
        target = torch.randint(4, (8, *out_features), device=device)
        for to, from_ in ((ours, native), (native, ours)):
            other = copy.deepcopy(to)
            other.load_state_dict(from_.state_dict())
            torch.testing.assert_close(other(input, target), from_(input, target))


@of_2_13
def test_what_stands_for_native_before_2_13_has_its_state() -> None:
    kwargs = {
        "out_features": (3,),
        "bias": True,
        "device": None,
        "dtype": torch.float64,
        "reduction": "sum",
        "weight": torch.rand(4),
        "ignore_index": 2,
        "label_smoothing": 0.1,
        "options": None,
    }
    native, ours = nn.LinearCrossEntropyLoss(5, 4, **kwargs), _LinearLayerAndLoss(5, 4, **kwargs)
    shapes = [{k: (v.shape, v.dtype) for k, v in m.state_dict().items()} for m in (native, ours)]
    assert shapes[0] == shapes[1]
    public = [{k: v for k, v in vars(m).items() if not k.startswith("_")} for m in (native, ours)]
    assert public[0] == public[1]


def test_the_module_hands_everything_on(device: str) -> None:
    extensions = on(device, extended(8))
    rows = extensions.pop("sample_weight")
    weight = on(device, class_weights(4, torch.float64))
    module = torchsoftmax.LinearCrossEntropyLoss(
        5, 4, bias=True, dtype=torch.float64, device=device, weight=weight, ignore_index=1,
        chunk_size=3, **extensions,
    )  # fmt: skip
    input = torch.randn(8, 5, dtype=torch.float64, device=device)
    target = torch.randint(4, (8,), device=device)
    expected = reference.linear_cross_entropy(
        input,
        module.linear.weight,
        target,
        linear_bias=module.linear.bias,
        weight=weight,
        ignore_index=1,
        sample_weight=rows,
        normalizer=3.0,
        **extensions,
    )
    mine = module(input, target, sample_weight=rows, normalizer=3.0)
    torch.testing.assert_close(mine, expected, rtol=1e-12, atol=1e-14)
