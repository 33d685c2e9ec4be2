"""The short way from Python to an operator takes the usual arguments, and leaves all others to
torch.ops."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

import torchsoftmax

pytestmark = pytest.mark.once

CALLS = {
    "softmax": lambda x, **options: torchsoftmax.softmax(x, 1, **options),
    "log_softmax": lambda x, **options: torchsoftmax.log_softmax(x, 1, **options),
    "cross_entropy": lambda x, **options: torchsoftmax.cross_entropy(x, torch.arange(4), **options),
}
every_call = pytest.mark.parametrize("name", CALLS)


class Marked(Tensor):
    """A subclass whose operators give a tensor of the subclass."""


class Recorded(TorchFunctionMode):
    """Notes what is called."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


@every_call
def test_numbers_of_another_type(name: str) -> None:
    x = torch.randn(4, 5)
    expected = CALLS[name](x, temperature=2.0)
    assert torch.equal(CALLS[name](x, temperature=2), expected)
    assert torch.equal(CALLS[name](x, temperature=torch.tensor(2.0).item()), expected)


@every_call
def test_a_subclass_stays_one(name: str) -> None:
    x = torch.randn(4, 5)
    marked = CALLS[name](x.as_subclass(Marked))
    assert type(marked) is Marked
    assert torch.equal(marked.as_subclass(Tensor), CALLS[name](x))


@every_call
def test_a_parameter_is_a_tensor(name: str) -> None:
    x = torch.nn.Parameter(torch.randn(4, 5))
    result = CALLS[name](x)
    assert type(result) is Tensor
    assert result.requires_grad


@every_call
def test_a_mode_sees_the_operator(name: str) -> None:
    with Recorded() as mode:
        CALLS[name](torch.ones(4, 5))
    assert any(f"torchsoftmax.{name}" in seen for seen in mode.names)


@every_call
@pytest.mark.parametrize("bad", ["1", None, [1.0]])
def test_what_is_no_tensor_and_no_number(name: str, bad: object) -> None:
    """The message names the operator, as torch.ops raises it."""
    with pytest.raises((TypeError, RuntimeError), match=name):
        CALLS[name](torch.ones(4, 5), temperature=bad)
    with pytest.raises((TypeError, RuntimeError, AttributeError)):
        CALLS[name](bad)


def test_an_error_of_the_operator_is_the_same() -> None:
    x = torch.ones(2, 3)
    with pytest.raises(IndexError, match="Dimension out of range"):
        torchsoftmax.softmax(x, 2)
    with pytest.raises(ValueError, match="^softmax: "):
        torchsoftmax.softmax(x, 1, temperature=-1.0)


def test_no_reference_is_leaked() -> None:
    import sys

    x, mask = torch.ones(4, 5), torch.ones(4, 5, dtype=torch.bool)
    before = sys.getrefcount(x), sys.getrefcount(mask), sys.getrefcount(torch.float64)
    for _ in range(100):
        torchsoftmax.softmax(x, 1, torch.float64, mask=mask)
    assert (
        sys.getrefcount(x), sys.getrefcount(mask), sys.getrefcount(torch.float64)
    ) == before  # fmt: skip
