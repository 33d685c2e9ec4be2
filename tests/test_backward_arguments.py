"""Backward operators called with what forward would never have given them: they raise."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from cases import class_probabilities, logits, on, others
from torch import Tensor

import torchsoftmax  # noqa: F401  (loads the operators)

pytestmark = pytest.mark.kernels

ops = torch.ops.torchsoftmax
X = logits(2, 3, dtype=torch.float32)
TARGET = torch.tensor([0, 2])
ONE = torch.ones(())
PAIR = torch.ones(2, 2)


def named(operator: str, values: dict[str, Any]) -> dict[str, Any]:
    """Those of ``values`` that the schema of the operator has arguments for."""
    schema = getattr(ops, operator).default._schema
    return {a.name: values[a.name] for a in schema.arguments if a.name in values}


def backward_of_loss(name: str, device: str, elsewhere: str = "meta", **replaced: Any) -> object:
    """Called with what forward gives, but for the arguments in ``replaced``."""
    of_target = name == "cross_entropy_target_backward"
    given = {
        "input": X.clone(),
        "target": class_probabilities(2, 3, dtype=torch.float32) if of_target else TARGET,
        **dict.fromkeys(("weight", "sample_weight", "normalizer", "dtype")),
        "with_gradient": False,
        **{"reduction": 1, "ignore_index": -100, "label_smoothing": 0.0},
        **{"temperature": 1.0, "softcap": 0.0, "z_loss": 0.0},
    }
    given, replaced = on(device, (given, replaced), elsewhere)
    returned = ops.cross_entropy_forward(**named("cross_entropy_forward", given))
    names = [result.name for result in ops.cross_entropy_forward.default._schema.returns]
    saved = dict(zip(names, returned, strict=True)) | {"grad_output": on(device, ONE)}
    return getattr(ops, name)(**named(name, given | saved | replaced))


GRAD = "cross_entropy_backward: expected grad_output of the shape of the loss, got {}"
STATISTICS = (
    "cross_entropy_backward: expected statistics of cross_entropy_forward, of dtype {} and shape "
    "[2, 2], got {}"
)
NORMALIZER = (
    "cross_entropy_backward: expected normalizer of cross_entropy_forward, of dtype Float and "
    "shape [], got {}"
)
REDUCTION = "cross_entropy: expected reduction 0 (none), 1 (mean) or 2 (sum), got {}"
POSITIVE = "cross_entropy: expected {} to be positive and finite, got {}"
SAMPLE_WEIGHT = "cross_entropy: expected sample_weight of "

LOSS_CASES: list[tuple[type[Exception], str, dict[str, Any]]] = [
    (RuntimeError, GRAD.format("[2]"), {"grad_output": torch.ones(2)}),
    (RuntimeError, GRAD.format("[3]"), {"grad_output": torch.ones(3), "reduction": 0}),
    (RuntimeError, GRAD.format("[]"), {"reduction": 0}),
    (RuntimeError, STATISTICS.format("Float", "Float of shape [1, 2]"), {"statistics": PAIR[:1]}),
    (
        RuntimeError,
        STATISTICS.format("Float", "Float of shape [0]"),
        {"statistics": torch.ones(0)},
    ),
    (
        RuntimeError,
        STATISTICS.format("Float", "Double of shape [2, 2]"),
        {"statistics": PAIR.double()},
    ),
    (RuntimeError, STATISTICS.format("Double", "Float of shape [2, 2]"), {"input": X.double()}),
    (RuntimeError, NORMALIZER.format("Double of shape []"), {"normalizer": ONE.double()}),
    (RuntimeError, NORMALIZER.format("Float of shape [1]"), {"normalizer": torch.ones(1)}),
    (RuntimeError, "cross_entropy: expected weight of shape [3]", {"weight": torch.ones(2)}),
    (ValueError, SAMPLE_WEIGHT + "shape [2]", {"sample_weight": torch.ones(3)}),
    (ValueError, SAMPLE_WEIGHT + "a floating", {"sample_weight": torch.ones(2).long()}),
    (RuntimeError, "cross_entropy: expected label_smoothing between", {"label_smoothing": 2.0}),
    (RuntimeError, "cross_entropy: expected label_smoothing between", {"label_smoothing": 3.0}),
    (ValueError, REDUCTION.format(3), {"reduction": 3}),
    (ValueError, REDUCTION.format(7), {"reduction": 7}),
    (ValueError, REDUCTION.format(-1), {"reduction": -1}),
    (ValueError, POSITIVE.format("temperature", 0), {"temperature": 0.0}),
    (ValueError, POSITIVE.format("temperature", "inf"), {"temperature": float("inf")}),
    (ValueError, POSITIVE.format("softcap", -1), {"softcap": -1.0}),
    (ValueError, "cross_entropy: expected z_loss to be", {"z_loss": -1.0}),
    (IndexError, "cross_entropy: expected input of 1 or more dimensions", {"input": X[0, 0]}),
    (ValueError, "cross_entropy: expected target of batch size 2", {"target": TARGET[:1]}),
    (RuntimeError, "cross_entropy: expected target of dtype", {"target": TARGET.float()}),
    (NotImplementedError, ": expected input of dtype", {"input": X.long()}),
    (RuntimeError, "device", {"grad_output": ONE.to("meta")}),
    (RuntimeError, "device", {"input": X.to("meta")}),
    (RuntimeError, "device", {"target": TARGET.to("meta")}),
    (RuntimeError, "device", {"weight": torch.ones(3).to("meta")}),
    (RuntimeError, "device", {"sample_weight": torch.ones(2).to("meta")}),
    (RuntimeError, "device", {"statistics": PAIR.to("meta")}),
    (RuntimeError, "device", {"normalizer": ONE.to("meta")}),
]


def raises(
    name: str, error: type[Exception], message: str, replaced: dict[str, Any], device: str
) -> None:
    for elsewhere in others(device):
        with pytest.raises(error, match=re.escape(message)) as raised:
            backward_of_loss(name, device, elsewhere, **replaced)
        assert raised.type is error


@pytest.mark.parametrize("error, message, replaced", LOSS_CASES)
@pytest.mark.parametrize(
    "name", ["cross_entropy_backward", "cross_entropy_backward_", "cross_entropy_target_backward"]
)
def test_cross_entropy(
    name: str, error: type[Exception], message: str, replaced: dict[str, Any], device: str
) -> None:
    raises(name, error, message, replaced, device)


@pytest.mark.parametrize("error, message, replaced", LOSS_CASES)
@pytest.mark.parametrize("name", ["cross_entropy_backward", "cross_entropy_target_backward"])
def test_the_composite_definition_of_cross_entropy(
    name: str, error: type[Exception], message: str, replaced: dict[str, Any], device: str
) -> None:
    """It stands in where the gradient is to be differentiated, and took whatever came."""
    grad_output = replaced.get("grad_output", ONE)
    differentiated = grad_output.clone().requires_grad_()
    raises(name, error, message, replaced | {"grad_output": differentiated}, device)


@pytest.mark.parametrize("requires_grad", [False, True])
def test_target_gradient_of_class_indices(requires_grad: bool, device: str) -> None:
    expected = "cross_entropy_target_backward: expected class probabilities as target"
    grad_output = ONE.clone().requires_grad_(requires_grad)
    with pytest.raises(RuntimeError, match=expected):
        backward_of_loss(
            "cross_entropy_target_backward", device, target=TARGET, grad_output=grad_output
        )


def test_statistics_that_are_not_contiguous(device: str) -> None:
    """Read with their strides, not as if they had none."""
    statistics = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    expected, strided = (
        backward_of_loss("cross_entropy_backward", device, statistics=each)
        for each in (statistics, statistics.t().contiguous().t())
    )
    assert torch.equal(strided, expected)


def test_the_gradient_in_forward_is_of_a_loss_that_is_reduced(device: str) -> None:
    given = {"input": X, "target": TARGET, "with_gradient": True, "reduction": 0}
    given = on(device, given | dict.fromkeys(("weight", "sample_weight", "normalizer", "dtype")))
    with pytest.raises(ValueError, match="cross_entropy_forward: expected with_gradient"):
        ops.cross_entropy_forward(**named("cross_entropy_forward", given))


SHAPE = "{}: expected grad_output of shape [2, 3] to match output, got [1, 3]"
DTYPE = "{}: expected grad_output of dtype Float to match output, got Double"


@pytest.mark.parametrize(
    "error, message, grad_output, output, dim",
    [
        (RuntimeError, SHAPE, X[:1], X, 1),
        (RuntimeError, DTYPE, X.double(), X, 1),
        (NotImplementedError, "{}: expected input of dtype", X.long(), X.long(), 1),
        (IndexError, "Dimension out of range", X, X, 2),
        (RuntimeError, "device", X.to("meta"), X, 1),
        (RuntimeError, "device", X, X.to("meta"), 1),
    ],
)
@pytest.mark.parametrize("name", ["softmax_backward", "log_softmax_backward"])
def test_softmax(
    name: str,
    error: type[Exception],
    message: str,
    grad_output: Tensor,
    output: Tensor,
    dim: int,
    device: str,
) -> None:
    for elsewhere in others(device):
        grad, result = on(device, (grad_output, output), elsewhere)
        for leaf in (grad, grad.clone().requires_grad_(grad.is_floating_point())):
            with pytest.raises(error, match=re.escape(message.format(name))) as raised:
                getattr(ops, name)(leaf, result, dim)
            assert raised.type is error
