"""What callers do beside the usual.

Infinite, sparse and dual upstream gradients, ignored rows that hold nan, shared memory, a default
device, sizes that torch.export does not know, and options that are not numbers.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.autograd.forward_ad as fw
import torch.nn.functional as F
from torch import Tensor

import torchsoftmax

pytestmark = pytest.mark.once

LOSSES = [torchsoftmax.cross_entropy, F.cross_entropy]


def logits() -> Tensor:
    return torch.randn(4, 5, dtype=torch.float64)


def linear(loss: Callable[..., Tensor], input: Tensor, weight: Tensor, **options: object) -> Tensor:
    """The output layer: ours, or native's two steps."""
    if loss is torchsoftmax.cross_entropy:
        return torchsoftmax.linear_cross_entropy(input, weight, **options)
    return loss(F.linear(input, weight), **options)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("compiled", [False, True])
def test_nothing_but_ignored_rows_over_their_number(dtype: torch.dtype, compiled: bool) -> None:
    """A sum over no rows, divided by their number: the upstream gradient is infinite."""
    target = torch.full((4,), -100)

    def mean(loss: Callable[..., Tensor], input: Tensor) -> Tensor:
        return loss(input, target, reduction="sum") / (target != -100).sum()

    for loss in LOSSES:
        input = logits().to(dtype).requires_grad_()
        call = torch.compile(mean, fullgraph=True) if compiled else mean
        call(loss, input).backward()
        assert not input.grad.any(), loss


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_infinite_upstream_gradient_leaves_ignored_rows_alone(
    reduction: str, loss: Callable[..., Tensor]
) -> None:
    target = torch.tensor([0, -100, 2, 3])
    input, hidden, weight = (logits().requires_grad_() for _ in range(3))
    (loss(input, target, reduction=reduction) * torch.inf).backward()
    (linear(loss, hidden, weight, target=target, reduction=reduction) * torch.inf).backward()
    for gradient in (input.grad, hidden.grad):
        assert not gradient[1].any()
        assert not gradient[[0, 2, 3]].isfinite().any()
    assert not weight.grad.isfinite().any()


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("inplace_backward", [False, True])
def test_upstream_gradient_with_a_tangent(reduction: str, inplace_backward: bool) -> None:
    target = torch.tensor([0, 1, -100, 3])
    given, tangents = logits(), []
    for loss, options in zip(LOSSES, [{"inplace_backward": inplace_backward}, {}], strict=True):
        input = given.clone().requires_grad_()
        value = loss(input * 1, target, reduction=reduction, **options)
        with fw.dual_level():
            upstream = fw.make_dual(torch.full_like(value, 2.0), torch.full_like(value, 3.0))
            (gradient,) = torch.autograd.grad(value, input, upstream)
            tangents.append(fw.unpack_dual(gradient).tangent)
    torch.testing.assert_close(*tangents)


def test_linear_layer_with_an_upstream_gradient_with_a_tangent() -> None:
    hidden, weight = logits().requires_grad_(), logits()
    value = torchsoftmax.linear_cross_entropy(hidden, weight, torch.tensor([0, 1, 2, 3]))
    with fw.dual_level():
        upstream = fw.make_dual(torch.full_like(value, 2.0), torch.full_like(value, 3.0))
        primal, tangent = fw.unpack_dual(*torch.autograd.grad(value, hidden, upstream))
    torch.testing.assert_close(tangent, 1.5 * primal)


SPARSE = {
    "softmax": lambda x: torchsoftmax.softmax(x, 1),
    "softmax, mask": lambda x: torchsoftmax.softmax(x, 1, mask=x.detach() > 0),
    "log_softmax": lambda x: torchsoftmax.log_softmax(x, 1),
    "log_softmax, temperature": lambda x: torchsoftmax.log_softmax(x, 1, temperature=0.7),
    "selective_log_softmax": lambda x: torchsoftmax.selective_log_softmax(
        x, torch.tensor([[0, 1]] * 4)
    ),
    "cross_entropy": lambda x: torchsoftmax.cross_entropy(
        x, torch.tensor([0, 1, 2, 3]), reduction="none"
    ),
    "kl_div_with_logits": lambda x: torchsoftmax.kl_div_with_logits(
        x, x.detach().flip(0), reduction="none"
    ),
}


@pytest.mark.parametrize("name", SPARSE)
def test_sparse_upstream_gradient(name: str) -> None:
    """As gather leaves it with sparse_grad."""
    given, gradients = logits(), []
    for sparse_grad in (False, True):
        input = given.clone().requires_grad_()
        value = SPARSE[name](input)
        index = torch.zeros(value.shape, dtype=torch.long).narrow(-1, 0, 1)
        value.gather(-1, index, sparse_grad=sparse_grad).sum().backward()
        gradients.append(input.grad)
    torch.testing.assert_close(*gradients)


WHERE_THE_DEFINITION_RUNS = {
    "sample_weight that requires grad": lambda x, t: torchsoftmax.cross_entropy(
        x, t, sample_weight=torch.ones(4, dtype=torch.float64, requires_grad=True)
    ),
    "normalizer that requires grad": lambda x, t: torchsoftmax.cross_entropy(
        x, t, normalizer=torch.tensor(3.0, dtype=torch.float64, requires_grad=True)
    ),
    "usual": torchsoftmax.cross_entropy,
    "extensions": lambda x, t: torchsoftmax.cross_entropy(
        x, t, z_loss=0.1, softcap=3.0, label_smoothing=0.1
    ),
}


@pytest.mark.parametrize("value", [float("nan"), -float("inf"), float("inf")])
@pytest.mark.parametrize("name", WHERE_THE_DEFINITION_RUNS)
def test_gradients_of_ignored_rows_are_0_wherever_they_are_computed(
    name: str, value: float
) -> None:
    function, target = WHERE_THE_DEFINITION_RUNS[name], torch.tensor([0, 1, -100, 3])
    input = logits()
    input[2] = value
    given = input.requires_grad_()
    (gradient,) = torch.autograd.grad(function(given, target), given, create_graph=True)
    (second,) = torch.autograd.grad(gradient[:2].square().sum(), given, allow_unused=True)
    by_func = torch.func.grad(lambda x: function(x, target))(input.detach())
    for found in (gradient, second, by_func):
        assert not found[2].any() and found.isfinite().all() and found[0].any()


def test_weight_of_an_ignored_row_has_no_gradient() -> None:
    input, weight = logits(), torch.ones(4, dtype=torch.float64, requires_grad=True)
    input[2] = torch.nan
    torchsoftmax.cross_entropy(
        input, torch.tensor([0, 1, -100, 3]), sample_weight=weight
    ).backward()
    assert weight.grad[2] == 0 and weight.grad.isfinite().all()


@pytest.mark.parametrize("loss", LOSSES)
def test_no_classes_and_nothing_but_ignored_rows(loss: Callable[..., Tensor]) -> None:
    empty, target = torch.zeros(2, 0), torch.full((2,), -100)
    assert loss(empty, target, reduction="sum") == 0
    assert torch.func.grad(lambda x: loss(x, target, reduction="sum"))(empty).shape == (2, 0)


def test_no_classes_and_ignored_rows_with_weights_that_require_grad() -> None:
    weight = torch.ones(2, requires_grad=True)
    loss = torchsoftmax.cross_entropy(
        torch.zeros(2, 0), torch.full((2,), -100), reduction="sum", sample_weight=weight
    )
    loss.backward()
    assert loss == 0 and not weight.grad.any()


class TestMemoryThatIsShared:
    """The gradient must not be written where something else is still to be read."""

    def test_windows_that_overlap(self) -> None:
        windows = (torch.rand(30, requires_grad=True) * 1).unfold(0, 8, 3)
        with pytest.raises(RuntimeError, match="refer to a single memory location"):
            torchsoftmax.cross_entropy(windows, torch.arange(8), inplace_backward=True)

    def test_targets_that_lie_in_the_logits(self) -> None:
        both = torch.rand(6, 40, requires_grad=True) * 1
        with pytest.raises(RuntimeError, match="expected target outside of the memory of input"):
            torchsoftmax.cross_entropy(both[1:], both[:-1].detach(), inplace_backward=True)

    @pytest.mark.parametrize("name", ["weight", "sample_weight"])
    def test_weights_that_lie_in_the_logits(self, name: str) -> None:
        input = torch.rand(5, 5, requires_grad=True) * 1
        with pytest.raises(RuntimeError, match=f"expected {name} outside of the memory of input"):
            torchsoftmax.cross_entropy(
                input, torch.arange(5), inplace_backward=True, **{name: input.detach()[0]}
            )

    def test_upstream_gradient_that_lies_in_the_logits(self) -> None:
        target, gradients = torch.arange(5), []
        for inplace_backward in (False, True):
            torch.manual_seed(0)
            leaf = torch.rand(5, 5, requires_grad=True)
            input = leaf * 1
            loss = torchsoftmax.cross_entropy(
                input, target, reduction="none", inplace_backward=inplace_backward
            )
            gradients += torch.autograd.grad(loss, leaf, input.detach()[:, 0])
        assert torch.equal(*gradients)

    def test_parts_of_one_tensor_that_lie_apart(self) -> None:
        both = torch.rand(8, 40, requires_grad=True) * 1
        target = both[4:].detach()
        loss = torchsoftmax.cross_entropy(both[:4], target, inplace_backward=True)
        loss.backward()

    def test_strided_logits_without_shared_entries(self) -> None:
        input = (torch.rand(6, 9, 4, requires_grad=True) * 1).permute(2, 0, 1)[:, ::2]
        torchsoftmax.cross_entropy(
            input, torch.zeros(4, 9, dtype=torch.long), inplace_backward=True
        ).backward()


def test_a_number_as_normalizer_under_a_default_device() -> None:
    input, target = logits(), torch.tensor([0, 1, 2, 3])
    expected = torchsoftmax.cross_entropy(input, target, normalizer=2.0)
    with torch.device("meta"):
        assert torch.equal(torchsoftmax.cross_entropy(input, target, normalizer=2.0), expected)


@pytest.mark.parametrize("layer", [False, True])
def test_normalizer_on_another_device(layer: bool) -> None:
    normalizer = torch.tensor(2.0, device="meta")
    with pytest.raises(
        RuntimeError, match="expected normalizer on device cpu like input, got meta"
    ):
        if layer:
            torchsoftmax.linear_cross_entropy(
                logits(), logits(), torch.tensor([0, 1, 2, 3]), normalizer=normalizer
            )
        else:
            torchsoftmax.cross_entropy(logits(), torch.tensor([0, 1, 2, 3]), normalizer=normalizer)


@pytest.mark.parametrize(("shape", "dim"), [((3, 0), 1), ((0, 3), 0)])
def test_no_index_is_in_range_of_no_classes(shape: tuple[int, int], dim: int) -> None:
    index = torch.zeros([2 if d == dim else n for d, n in enumerate(shape)], dtype=torch.long)
    with pytest.raises(IndexError, match="selective_log_softmax: expected 1 or more classes"):
        torchsoftmax.selective_log_softmax(torch.zeros(shape), index, dim)
    nothing = index.narrow(dim, 0, 0)
    found = torchsoftmax.selective_log_softmax(torch.zeros(shape), nothing, dim)
    assert found.shape == nothing.shape


CHOSEN = {
    "cross_entropy": torchsoftmax.cross_entropy,
    "cross_entropy, weights of rows": lambda x, t: torchsoftmax.cross_entropy(
        x, t, sample_weight=x[:, 0]
    ),
    "linear_cross_entropy": lambda x, t: torchsoftmax.linear_cross_entropy(
        x, torch.ones(7, 5, dtype=x.dtype), t
    ),
    "selective_log_softmax": lambda x, t: torchsoftmax.selective_log_softmax(x, t.unsqueeze(1)),
    "softmax_statistics": lambda x, t: torchsoftmax.softmax_statistics(x, t).log_prob,
    "softmax, mask": lambda x, t: torchsoftmax.softmax(x, 1, mask=t.unsqueeze(1) > 0),
}


@pytest.mark.parametrize("name", CHOSEN)
def test_rows_chosen_twice_by_one_mask_in_export(name: str) -> None:
    """Each choice has a number of rows of its own, of which export knows nothing."""

    class Chosen(torch.nn.Module):
        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            return CHOSEN[name](x[t != -100], t[t != -100])

    arguments = (logits(), torch.tensor([0, 1, -100, 3]))
    program = torch.export.export(Chosen(), arguments)
    torch.testing.assert_close(program.module()(*arguments), Chosen()(*arguments))


AUTOCAST = {
    "bfloat16 weight": (lambda x: (x, torch.tensor([0, 1, 2, 3])), {"weight": torch.bfloat16}),
    "float32 weight": (lambda x: (x, torch.tensor([0, 1, 2, 3])), {"weight": torch.float32}),
    "float64 probabilities": (lambda x: (x.bfloat16(), x.double().softmax(1)), {}),
    "float32 probabilities": (lambda x: (x.bfloat16(), x.softmax(1)), {}),
}


@pytest.mark.parametrize("name", AUTOCAST)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dtypes_under_autocast(name: str, dtype: torch.dtype) -> None:
    arguments, options = AUTOCAST[name]
    options = {key: torch.rand(5).to(kind) for key, kind in options.items()}
    input = logits().float().to(dtype)
    with torch.autocast("cpu", torch.bfloat16):
        ours, native = (loss(*arguments(input), **options) for loss in LOSSES)
    assert ours.dtype == native.dtype
    torch.testing.assert_close(ours, native, rtol=1e-2, atol=1e-2)  # native rounds its steps


def test_weight_of_a_higher_precision_under_autocast() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        for loss in LOSSES:
            with pytest.raises(RuntimeError, match="expected"):
                loss(logits().bfloat16(), torch.tensor([0, 1, 2, 3]), torch.rand(5).double())


LEARNED = torch.tensor(2.0, requires_grad=True)
HIDDEN = torch.zeros(4, 5)
INDICES = torch.zeros(4, dtype=torch.long)
WITH_OPTIONS = {
    "softmax": lambda o: torchsoftmax.softmax(HIDDEN, 1, temperature=o),
    "log_softmax": lambda o: torchsoftmax.log_softmax(HIDDEN, 1, temperature=o),
    "cross_entropy: temperature": lambda o: torchsoftmax.cross_entropy(
        HIDDEN, INDICES, temperature=o
    ),
    "cross_entropy: softcap": lambda o: torchsoftmax.cross_entropy(HIDDEN, INDICES, softcap=o),
    "cross_entropy: z_loss": lambda o: torchsoftmax.cross_entropy(HIDDEN, INDICES, z_loss=o),
    "linear_cross_entropy": lambda o: torchsoftmax.linear_cross_entropy(
        HIDDEN, HIDDEN, INDICES, temperature=o
    ),
    "softmax_statistics": lambda o: torchsoftmax.softmax_statistics(HIDDEN, INDICES, temperature=o),
    "entropy_with_logits": lambda o: torchsoftmax.entropy_with_logits(HIDDEN, 1, temperature=o),
    "kl_div_with_logits": lambda o: torchsoftmax.kl_div_with_logits(HIDDEN, HIDDEN, temperature=o),
    "selective_log_softmax": lambda o: torchsoftmax.selective_log_softmax(
        HIDDEN, INDICES.unsqueeze(1), temperature=o
    ),
    "linear_softmax_statistics": lambda o: torchsoftmax.linear_softmax_statistics(
        HIDDEN, HIDDEN, INDICES, temperature=o
    ),
    "softmax_jvp": lambda o: torchsoftmax.derivatives.softmax_jvp(HIDDEN, HIDDEN, temperature=o),
}


@pytest.mark.parametrize("name", WITH_OPTIONS)
def test_options_whose_gradient_would_be_lost(name: str) -> None:
    with pytest.raises(TypeError, match=f"{name.split(':')[0]}: expected options to be numbers"):
        WITH_OPTIONS[name](LEARNED)
    WITH_OPTIONS[name](LEARNED.detach())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: torchsoftmax.cross_entropy(HIDDEN, None), "target to be a tensor"),
        (lambda: torchsoftmax.linear_cross_entropy(HIDDEN, HIDDEN, None), "target to be a tensor"),
        (lambda: torchsoftmax.selective_log_softmax(HIDDEN, None), "index to be a tensor"),
        (
            lambda: torchsoftmax.cross_entropy(HIDDEN, INDICES, ignore_index=1.5),
            "ignore_index to be an int",
        ),
        (lambda: torchsoftmax.softmax(HIDDEN, 1, 6), "dtype to be a torch.dtype"),
        (lambda: torchsoftmax.log_softmax(HIDDEN, 1, 6), "dtype to be a torch.dtype"),
    ],
)
def test_arguments_of_another_type(call: Callable[[], Tensor], message: str) -> None:
    with pytest.raises(TypeError, match=f"expected {message}"):
        call()


def test_modules_of_softmax_take_temperature_and_mask() -> None:
    input = logits()
    for name in ("Softmax", "LogSoftmax"):
        module = getattr(torchsoftmax, name)(1, temperature=2.0)
        function = getattr(torchsoftmax, {"Softmax": "softmax"}.get(name, "log_softmax"))
        expected = function(input, 1, temperature=2.0, mask=input > 0)
        assert torch.equal(module(input, mask=input > 0), expected)
        assert repr(module) == f"{name}(dim=1, temperature=2.0)"
        assert repr(getattr(torchsoftmax, name)(1)) == repr(getattr(torch.nn, name)(1))


LAYOUTS = {
    "softmax": lambda x: torchsoftmax.softmax(x, 1),
    "log_softmax": lambda x: torchsoftmax.log_softmax(x, 1),
    "cross_entropy": lambda x: torchsoftmax.cross_entropy(x, INDICES),
    "entropy_with_logits": lambda x: torchsoftmax.entropy_with_logits(x, 1),
    "kl_div_with_logits": lambda x: torchsoftmax.kl_div_with_logits(x, x),
}


@pytest.mark.parametrize("requires_grad", [False, True])
@pytest.mark.parametrize("layout", [torch.sparse_coo, torch.sparse_csr])
@pytest.mark.parametrize("name", LAYOUTS)
def test_input_of_another_layout(name: str, layout: torch.layout, requires_grad: bool) -> None:
    input = torch.eye(4, 5).to_sparse(layout=layout).requires_grad_(requires_grad)
    with pytest.raises(NotImplementedError, match=f"{name}: expected input of layout strided"):
        LAYOUTS[name](input)
