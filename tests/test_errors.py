"""Every error: its type, which is PyTorch's, and a message with what was expected and what came."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import torchsoftmax

pytestmark = pytest.mark.kernels
x = torch.randn(4, 5)
t = torch.tensor([0, 1, 2, 3])
image, labels = torch.randn(2, 5, 3, 3), torch.zeros(2, 3, 3, dtype=torch.int64)


@dataclass(frozen=True)
class Wrong:
    """A call, the error's type, its text, and whether PyTorch raises that type as well."""

    name: str
    arguments: tuple[object, ...]
    options: dict[str, object]
    error: type[Exception]
    text: str
    native: bool = True


NOT_IMPLEMENTED = (
    "softmax: expected input of dtype float16, bfloat16, float32 or float64 "
    "(or the argument dtype), got "
)
WRONG = [
    Wrong("softmax", (x, 2), {}, IndexError, "Dimension out of range (expected to be in range of"),
    Wrong("softmax", (x, -3), {}, IndexError, "but got -3"),
    Wrong("log_softmax", (x, 2), {}, IndexError, "but got 2"),
    Wrong("softmax", (x.long(), 1), {}, NotImplementedError, f"{NOT_IMPLEMENTED}Long"),
    Wrong("softmax", (x > 0, 1), {}, NotImplementedError, f"{NOT_IMPLEMENTED}Bool"),
    Wrong("log_softmax", (x.int(), 1), {}, NotImplementedError, f"log_{NOT_IMPLEMENTED}Int"),
    Wrong("softmax", (x.cfloat(), 1), {}, NotImplementedError, f"{NOT_IMPLEMENTED}ComplexFloat"),
    Wrong("softmax", (x, 1), {"dtype": torch.int32}, NotImplementedError, "got Int"),
    Wrong("softmax", (x.to(torch.float8_e5m2), 1), {}, NotImplementedError, "got Float8_e5m2"),
    Wrong("cross_entropy", (x.long(), t), {}, NotImplementedError,
          f"cross_entropy: {NOT_IMPLEMENTED[9:]}Long"),
    Wrong("cross_entropy", (x, t), {"reduction": "average"}, ValueError,
          "cross_entropy: expected reduction 'none', 'mean' or 'sum', got 'average'"),
    Wrong("cross_entropy", (x, t), {"label_smoothing": 1.5}, RuntimeError,
          "cross_entropy: expected label_smoothing between 0.0 and 1.0, got 1.5"),
    Wrong("cross_entropy", (x, t), {"label_smoothing": -0.1}, RuntimeError, "got -0.1", False),
    Wrong("cross_entropy", (x, t), {"label_smoothing": float("nan")}, RuntimeError, "got nan", False),
    Wrong("cross_entropy", (torch.tensor(1.0), torch.tensor(0.0)), {}, ValueError,
          "cross_entropy: expected input of 1 or more dimensions, got a 0-d tensor", False),
    Wrong("cross_entropy", (x, t[:3]), {}, ValueError,
          "cross_entropy: expected target of batch size 4 to match input [4, 5], got target of "
          "shape [3]"),
    Wrong("cross_entropy", (x, torch.tensor(1)), {}, ValueError, "got target of shape []", False),
    Wrong("cross_entropy", (x, t.view(4, 1)), {}, RuntimeError,
          "cross_entropy: expected target of shape [4] to match input [4, 5], got [4, 1]"),
    Wrong("cross_entropy", (image, labels[:, :2]), {}, RuntimeError,
          "cross_entropy: expected target of shape [2, 3, 3] to match input [2, 5, 3, 3], got "
          "[2, 2, 3]"),
    Wrong("cross_entropy", (x[0], t), {}, RuntimeError,
          "cross_entropy: expected target of shape () to match input [5], got [4]", False),
    Wrong("cross_entropy", (x, t.float()), {}, RuntimeError,
          "cross_entropy: expected target of dtype int64, int32 or uint8, as class indices, got "
          "Float"),
    Wrong("cross_entropy", (x, t.short()), {}, RuntimeError, "as class indices, got Short"),
    Wrong("cross_entropy", (x, x.long()), {}, RuntimeError,
          "cross_entropy: expected target of a floating point dtype, as it has the shape of input "
          "and so holds class probabilities, got Long"),
    Wrong("cross_entropy", (x, x.softmax(1)), {"ignore_index": 2}, RuntimeError,
          "cross_entropy: expected no ignore_index with class probabilities, got 2"),
    Wrong("cross_entropy", (x, t, torch.rand(4)), {}, RuntimeError,
          "cross_entropy: expected weight of shape [5], one for each class, got [4]"),
    Wrong("cross_entropy", (x, t, torch.rand(5, 1)), {}, RuntimeError, "got [5, 1]"),
    Wrong("cross_entropy", (x, t, torch.rand(5).double()), {}, RuntimeError,
          "cross_entropy: expected weight of dtype Float to match input, got Double"),
    Wrong("cross_entropy", (x, x.softmax(1), torch.ones(5).long()), {}, RuntimeError,
          "cross_entropy: expected weight of a floating point dtype, got Long", False),
    Wrong("cross_entropy", (x.requires_grad_(False), t, torch.rand(5).requires_grad_()), {},
          RuntimeError, "cross_entropy: expected a weight that needs no gradient with class-index "
          "targets, got one that requires grad"),
    Wrong("cross_entropy", (x, t.to("meta")), {}, RuntimeError,
          "cross_entropy: expected target on device cpu like input, got meta", False),
    Wrong("cross_entropy", (x, t, torch.rand(5, device="meta")), {}, RuntimeError,
          "cross_entropy: expected weight on device cpu like input, got meta", False),
]  # fmt: skip


def raised(function: Callable[..., Tensor], wrong: Wrong) -> BaseException:
    with pytest.raises(Exception) as caught:
        function(*wrong.arguments, **wrong.options)
    return caught.value


@pytest.mark.parametrize("wrong", WRONG, ids=lambda wrong: wrong.text[-40:])
@pytest.mark.parametrize("grad", [False, True], ids=["no_grad", "grad"])
def test_wrong_call(wrong: Wrong, grad: bool) -> None:
    first, *others = wrong.arguments
    if grad and first.is_floating_point() and first.dtype != torch.float8_e5m2:
        first = first.clone().requires_grad_()
    wrong = Wrong(
        wrong.name, (first, *others), wrong.options, wrong.error, wrong.text, wrong.native
    )
    error = raised(getattr(torchsoftmax, wrong.name), wrong)
    assert type(error) is wrong.error
    assert wrong.text in str(error)
    if wrong.native:
        assert type(raised(getattr(F, wrong.name), wrong)) is wrong.error


def out_of_range(bad: int) -> list[tuple[Tensor, Tensor]]:
    """Inputs with one bad target: first, middle, last row; of each layout; beside ignored rows."""
    cases = []
    for row in (0, 2, 3):
        target = t.clone()
        target[row] = bad
        cases.append((x, target))
    with_ignored = torch.tensor([-100, bad, -100, 0])
    cases.append((torch.randn(4, 5, 100)[:, :, 0], with_ignored))
    cases.append((torch.randn(4, 300).index_select(1, torch.arange(5)), with_ignored))
    spatial = labels.clone()
    spatial[1, 2, 1] = bad
    cases.append((image, spatial))
    cases.append((image.to(memory_format=torch.channels_last), spatial))
    cases.append((x[0], torch.tensor(bad)))
    return cases


@pytest.mark.parametrize("bad", [5, -1, -101, 2**40])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_target_out_of_range(bad: int, smoothing: float) -> None:
    message = f"Target {bad} is out of bounds: expected 0 <= target < 5 or ignore_index (-100)"

    def expect(function: Callable[[Tensor], object], logits: Tensor) -> None:
        with pytest.raises(IndexError) as caught:
            function(logits)
        assert message in str(caught.value)

    for logits, target in out_of_range(bad):

        def loss(z: Tensor, target: Tensor = target) -> Tensor:
            return torchsoftmax.cross_entropy(z, target, label_smoothing=smoothing)

        expect(loss, logits)
        expect(loss, logits.clone().requires_grad_())
        expect(torch.func.grad(loss), logits)
        expect(torch.func.vmap(loss), torch.stack([logits, logits]))
        expect(lambda z, f=loss: torch.func.jvp(f, (z,), (z,)), logits)


def test_target_out_of_range_of_each_index_dtype() -> None:
    for dtype, bad in ((torch.uint8, 200), (torch.int32, -7), (torch.int64, 5)):
        with pytest.raises(IndexError, match=f"Target {bad} is out of bounds"):
            torchsoftmax.cross_entropy(x, torch.tensor([0, 1, bad, 2], dtype=dtype))


def test_backward_operator_called_with_what_does_not_fit() -> None:
    """The operator can be called by anyone: nothing is read before it is checked."""
    op = torch.ops.torchsoftmax
    loss, statistics, normalizer = op.cross_entropy_forward(x, t, None, None, 1, -100, 0.0)

    def call(grad=loss, target=t, stats=statistics, norm=normalizer, reduction=1):
        return op.cross_entropy_backward(grad, x, target, None, stats, norm, reduction, -100, 0.0)

    assert call().shape == x.shape
    with pytest.raises(IndexError, match="Target 9 is out of bounds"):
        call(target=torch.tensor([0, 9, 0, 0]))
    expected = "cross_entropy_backward: expected "
    for arguments, text in (
        ({"stats": statistics[:, :2]}, "the statistics of cross_entropy_forward, got Float"),
        ({"stats": statistics.double()}, "the statistics of cross_entropy_forward, got Double"),
        ({"norm": normalizer.expand(2)}, "the normalizer of cross_entropy_forward"),
        ({"norm": normalizer.long()}, "the normalizer of cross_entropy_forward, got Long"),
        ({"grad": torch.ones(4)}, "grad_output of the shape of the loss, got [4]"),
        ({"grad": torch.ones(3), "reduction": 0}, "grad_output of the shape of the loss, got [3]"),
    ):
        with pytest.raises(RuntimeError) as caught:
            call(**arguments)
        assert expected + text in str(caught.value)
    with pytest.raises(RuntimeError, match="expected class probabilities as target, got class ind"):
        op.cross_entropy_target_backward(loss, x, t, None, statistics, normalizer, 1, -100, 0.0)
    with pytest.raises(ValueError, match=r"expected reduction 0 \(none\), 1 \(mean\) or 2"):
        call(reduction=3)


@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_softmax_backward_operator_called_with_what_does_not_fit(name: str) -> None:
    backward = getattr(torch.ops.torchsoftmax, f"{name}_backward")
    y = x.softmax(1)
    for grad_output, text in (
        (torch.ones(4, 4), "expected grad_output of shape [4, 5] to match output, got [4, 4]"),
        (y.double(), "expected grad_output of dtype Float to match output, got Double"),
    ):
        with pytest.raises(RuntimeError) as caught:
            backward(grad_output, y, 1)
        assert f"{name}_backward: {text}" in str(caught.value)
    with pytest.raises(IndexError, match="Dimension out of range"):
        backward(y, y, 2)
