"""Every error: its type, which is native's where native raises too, and what its message says."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from functools import partial
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from cases import on, others
from torch import Tensor

import torchsoftmax

X = torch.linspace(-1, 1, 6).view(2, 3)
MAP = torch.linspace(-1, 1, 60).view(2, 3, 2, 5)
TARGET = torch.tensor([0, 2])
LINEAR = torch.linspace(-1, 1, 12).view(4, 3)
PROBABILITIES = X.softmax(1)
INTEGERS = torch.ones(2, 3, dtype=torch.int64)
FLOATING = "expected input of dtype float16, bfloat16, float32 or float64"
DIM = "Dimension out of range (expected to be in range of [-2, 1], but got {})"


@dataclass(frozen=True)
class Case:
    name: str
    function: str  # of torchsoftmax and, where native raises, of torch.nn.functional
    input: Tensor
    error: type[Exception]
    message: str
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    native_raises: bool = True

    def to(self, device: str, elsewhere: str) -> Case:
        everything = (self.input, self.args, self.kwargs)
        input, args, kwargs = on(device, everything, elsewhere)
        message = self.message.replace("device cpu", f"device {input.device}")
        message = message.replace("got meta", f"got {torch.empty(0, device=elsewhere).device}")
        return replace(self, input=input, args=args, kwargs=kwargs, message=message)

    def call(self, module: ModuleType, x: Tensor) -> object:
        return getattr(module, self.function)(x, *self.args, **self.kwargs)

    def __str__(self) -> str:
        return self.name


def softmax_cases(name: str) -> list[Case]:
    def unsupported(what: str, input: Tensor, got: str, **kwargs: Any) -> Case:
        message = f"{name}: {FLOATING} (or the argument dtype), got {got}"
        return Case(f"{name} {what}", name, input, NotImplementedError, message, (1,), kwargs)

    def out_of_range(what: str, input: Tensor, dim: int, message: str) -> Case:
        return Case(f"{name} {what}", name, input, IndexError, message, (dim,))

    return [
        unsupported("integers", INTEGERS, "Long"),
        unsupported("bool", X > 0, "Bool"),
        unsupported("complex", X + 0j, "ComplexFloat"),
        unsupported("float8", X.to(torch.float8_e4m3fn), "Float8_e4m3fn"),
        unsupported("dtype", X, "Long", dtype=torch.int64),
        out_of_range("dim", X, 2, DIM.format(2)),
        out_of_range("negative dim", X, -3, DIM.format(-3)),
        out_of_range("dim of 0-d", X[0, 0], 1, "[-1, 0], but got 1)"),
    ]


def loss_case(
    name: str,
    error: type[Exception],
    message: str,
    *args: Any,
    input: Tensor = X,
    native_raises: bool = True,
    **kwargs: Any,
) -> Case:
    message = f"cross_entropy: {message}"
    return Case(name, "cross_entropy", input, error, message, args, kwargs, native_raises)


def case(function: str, error: type[Exception], message: str, *args: Any, **kwargs: Any) -> Case:
    """Of what native has not: ``message`` begins with the argument that is wrong."""
    input = kwargs.pop("input", X)
    name, expected = f"{function}, {message[:40]}", f"{function}: expected {message}"
    return Case(name, function, input, error, expected, args, kwargs, native_raises=False)


def shape_case(name: str, error: type[Exception], message: str, input: Tensor, *shape: int) -> Case:
    return loss_case(name, error, message, torch.zeros(shape, dtype=torch.int64), input=input)


BATCH = "expected target of batch size 2 to match input [2, 3], got target of shape {}"
SHAPE = "expected target of shape {} to match input {}, got {}"
WEIGHT = "expected weight of shape [3], one for each class, got {}"
INDEX = "expected target of dtype int64, int32 or uint8, as class indices, got {}"
SMOOTHING = "expected label_smoothing between 0.0 and 1.0, got {}"
DEVICE = "expected {} on device cpu like input, got meta"
PROBABILITY = (
    "expected target of a floating point dtype, as it has the shape of input and so holds class "
    "probabilities, got {}"
)

LOSS_CASES = [
    loss_case(
        "0-d input",
        IndexError,
        "expected input of 1 or more dimensions, got a 0-d tensor",
        torch.tensor([0]),
        input=X[0, 0],
    ),
    loss_case(
        "0-d input and target",
        RuntimeError,
        PROBABILITY.format("Long"),
        torch.tensor(0),
        input=X[0, 0],
    ),
    loss_case("integer input", NotImplementedError, FLOATING, TARGET, input=INTEGERS),
    shape_case("two targets for one row", ValueError, SHAPE.format("()", "[3]", "[2]"), X[0], 2),
    shape_case("2-d for one row", RuntimeError, SHAPE.format("()", "[3]", "[1, 1]"), X[0], 1, 1),
    shape_case("batch size", ValueError, BATCH.format("[3]"), X, 3),
    shape_case("no batch", ValueError, BATCH.format("[]"), X),
    shape_case("extra dim", RuntimeError, SHAPE.format("[2]", "[2, 3]", "[2, 1]"), X, 2, 1),
    shape_case(
        "map", RuntimeError, SHAPE.format("[2, 2, 5]", "[2, 3, 2, 5]", "[2, 2, 4]"), MAP, 2, 2, 4
    ),
    shape_case(
        "map without dims", RuntimeError, SHAPE.format("[2, 2, 5]", "[2, 3, 2, 5]", "[2]"), MAP, 2
    ),
    *(
        loss_case(str(dtype), RuntimeError, INDEX.format(name), TARGET.to(dtype))
        for dtype, name in (
            (torch.float32, "Float"),
            (torch.bool, "Bool"),
            (torch.int16, "Short"),
            (torch.int8, "Char"),
        )
    ),
    loss_case("weight size", RuntimeError, WEIGHT.format("[2]"), TARGET, torch.ones(2)),
    loss_case("weight dims", RuntimeError, WEIGHT.format("[1, 3]"), TARGET, torch.ones(1, 3)),
    loss_case(
        "integer weight",
        RuntimeError,
        "expected weight of a floating point dtype, got Long",
        TARGET,
        torch.ones(3, dtype=torch.int64),
    ),
    loss_case(
        "weight dtype",
        RuntimeError,
        "expected weight of dtype Float to match input, got Double",
        TARGET,
        torch.ones(3, dtype=torch.float64),
    ),
    loss_case(
        "weight device", RuntimeError, DEVICE.format("weight"), TARGET, torch.ones(3).to("meta")
    ),
    loss_case("target device", RuntimeError, DEVICE.format("target"), TARGET.to("meta")),
    loss_case("integer probabilities", RuntimeError, PROBABILITY.format("Long"), INTEGERS),
    loss_case(
        "complex probabilities", RuntimeError, PROBABILITY.format("ComplexFloat"), X.softmax(1) + 0j
    ),
    loss_case(
        "ignore_index with probabilities",
        RuntimeError,
        "expected no ignore_index with class probabilities, got 1",
        PROBABILITIES,
        ignore_index=1,
    ),
    loss_case(
        "label_smoothing above 1",
        RuntimeError,
        SMOOTHING.format(1.5),
        TARGET,
        label_smoothing=1.5,
    ),
    # Native ignores a negative one, and one that is nan.
    *(
        loss_case(
            f"label_smoothing {value}",
            RuntimeError,
            SMOOTHING.format(value),
            TARGET,
            label_smoothing=value,
            native_raises=False,
        )
        for value in (-0.5, float("nan"))
    ),
    *(
        loss_case(
            f"reduction {value!r}",
            ValueError,
            f"expected reduction 'none', 'mean' or 'sum', got {value!r}",
            TARGET,
            reduction=value,
        )
        for value in ("avg", "Mean", "")
    ),
]

POSITIVE = "{} to be positive and finite, got {}"
MASK_DTYPE = "mask of dtype bool, True where an entry takes part, got {}"
MASK_SHAPE = "mask of a shape that broadcasts to that of input, [2, 3], got {}"
INDICES = "indices of the shape of input, [2, 3], except along dim 1, got {}"
INDEX_DTYPE = "indices of dtype int64, int32 or uint8, as class indices, got {}"
ROWS = "sample_weight of shape [2], one for each row of input [2, 3], got {}"
NORMALIZER = "normalizer to be a number or a real 0-d tensor, got a tensor of dtype {} and shape {}"
NO_NORMALIZER = "no normalizer with a reduction that is not 'mean'"
KL_SHAPE = "target of the shape of input, [2, 3], got {}"

# The arguments, after the input, of every function that takes a temperature.
TEMPERED = {
    "softmax": (1,),
    "log_softmax": (1,),
    "cross_entropy": (TARGET,),
    "selective_log_softmax": (TARGET.unsqueeze(1),),
    "entropy_with_logits": (1,),
    "softmax_statistics": (TARGET,),
    "kl_div_with_logits": (X,),
    "linear_cross_entropy": (LINEAR, TARGET),
    "linear_softmax_statistics": (LINEAR, TARGET),
}
MASKED = ("softmax", "log_softmax", "entropy_with_logits")
NOT_POSITIVE = ((0.0, "0"), (-1.5, "-1.5"), (float("inf"), "inf"), (float("nan"), "nan"))
NOT_REAL_0D = ((torch.ones(1), "Float", "[1]"), (torch.tensor(1j), "ComplexFloat", "[]"))

FAMILY_CASES = [
    *(
        case(name, ValueError, POSITIVE.format("temperature", shown), *args, temperature=value)
        for name, args in TEMPERED.items()
        for value, shown in NOT_POSITIVE
    ),
    *(
        case(name, RuntimeError, MASK_DTYPE.format(dtype), 1, mask=mask)
        for name in MASKED
        for mask, dtype in ((INTEGERS, "Long"), (X, "Float"), (INTEGERS.byte(), "Byte"))
    ),
    *(
        case(
            name,
            RuntimeError,
            "mask on device cpu like input, got meta",
            1,
            mask=torch.ones(2, 3, dtype=torch.bool, device="meta"),
        )
        for name in MASKED
    ),
    case(
        "selective_log_softmax",
        RuntimeError,
        "indices on device cpu like input, got meta",
        TARGET.unsqueeze(1).to("meta"),
    ),
    case(
        "softmax_statistics",
        RuntimeError,
        "indices on device cpu like input, got meta",
        TARGET.to("meta"),
    ),
    case(
        "kl_div_with_logits",
        RuntimeError,
        "target on device cpu like input, got meta",
        X.to("meta"),
    ),
    *(
        case(name, RuntimeError, MASK_SHAPE.format(list(shape)), 1, mask=torch.ones(shape) > 0)
        for name in MASKED
        for shape in ((2,), (3, 3), (1, 2, 3), (2, 6))
    ),
    *(
        case("cross_entropy", ValueError, POSITIVE.format("softcap", shown), TARGET, softcap=value)
        for value, shown in NOT_POSITIVE
    ),
    *(
        case("cross_entropy", ValueError, "z_loss", TARGET, z_loss=value)
        for value in (-0.5, float("inf"), float("nan"))
    ),
    *(
        case(
            "cross_entropy",
            ValueError,
            NO_NORMALIZER,
            target,
            reduction=reduction,
            normalizer=given,
        )
        for target in (TARGET, PROBABILITIES)
        for reduction in ("none", "sum")
        for given in (2.0, torch.tensor(2.0))
    ),
    *(
        case("cross_entropy", ValueError, NORMALIZER.format(dtype, shape), TARGET, normalizer=given)
        for given, dtype, shape in NOT_REAL_0D
    ),
    *(
        case("cross_entropy", ValueError, ROWS.format(shape), TARGET, sample_weight=given)
        for given, shape in ((X[0], "[3]"), (X, "[2, 3]"), (X[0, 0], "[]"), (X[:, :1], "[2, 1]"))
    ),
    *(
        case(
            "cross_entropy",
            ValueError,
            f"sample_weight of a floating point dtype, got {dtype}",
            TARGET,
            sample_weight=given,
        )
        for given, dtype in ((TARGET, "Long"), (TARGET > 0, "Bool"), (TARGET + 0j, "ComplexFloat"))
    ),
    case(
        "cross_entropy",
        RuntimeError,
        "sample_weight on device cpu like input, got meta",
        TARGET,
        sample_weight=torch.ones(2).to("meta"),
    ),
    *(
        case("selective_log_softmax", RuntimeError, INDICES.format(shape), index)
        for index, shape in (
            (TARGET, "[2]"),
            (INTEGERS[:1], "[1, 3]"),
            (INTEGERS[None], "[1, 2, 3]"),
        )
    ),
    case("softmax_statistics", RuntimeError, "indices of the shape", torch.tensor([0, 1, 2])),
    *(
        case("selective_log_softmax", RuntimeError, INDEX_DTYPE.format(dtype), index)
        for index, dtype in ((X, "Float"), (X > 0, "Bool"), (INTEGERS.short(), "Short"))
    ),
    case("softmax_statistics", RuntimeError, INDEX_DTYPE.format("Float"), TARGET.float()),
    *(
        case("kl_div_with_logits", ValueError, KL_SHAPE.format(list(given.shape)), given)
        for given in (X[:1], X[0], X[:, :1], X[None])
    ),
    case("kl_div_with_logits", ValueError, "reduction", X, reduction="avg"),
    case("kl_div_with_logits", NotImplementedError, "target of dtype float16", INTEGERS),
    *(
        case(name, NotImplementedError, "input of dtype float16", *TEMPERED[name], input=INTEGERS)
        for name in TEMPERED
        if name not in ("softmax", "log_softmax", "cross_entropy")
    ),
    *(
        Case(f"{name} dim", name, X, IndexError, DIM.format(2), args, {"dim": 2}, False)
        for name, args in (
            ("entropy_with_logits", ()),
            ("selective_log_softmax", (TARGET.unsqueeze(1),)),
            ("softmax_statistics", (TARGET,)),
        )
    ),
]
OF_LINEAR = ("linear_cross_entropy", "linear_softmax_statistics")
FEATURES = "input and linear_weight of equal last dimensions (in_features), got 3 and 4"
UNBATCHED = "input of shape (N, in_features) for a K-dimensional loss, defined by linear_weight of"
LEADING = "target of shape [1, 2] (class indices) or [1, 2, 4] (class probabilities), got [2]"

LINEAR_CASES = [
    *(
        case(name, error, message, *args, **kwargs)
        for name in OF_LINEAR
        for error, message, args, kwargs in (
            (RuntimeError, "input of 1 or more", (LINEAR, TARGET), {"input": X[0, 0]}),
            (RuntimeError, FEATURES, (torch.ones(4, 4), TARGET), {}),
            (RuntimeError, "linear_weight of 2 or more dimensions", (LINEAR[0], TARGET), {}),
            (
                RuntimeError,
                "linear_weight of dtype Float to match input, got Double",
                (LINEAR.double(), TARGET),
                {},
            ),
            (
                RuntimeError,
                "linear_weight on device cpu like input, got meta",
                (LINEAR.to("meta"), TARGET),
                {},
            ),
            (
                RuntimeError,
                "linear_bias of shape [4] to match linear_weight, got [3]",
                (LINEAR, TARGET),
                {"linear_bias": X[0]},
            ),
            (
                RuntimeError,
                "linear_bias of dtype Float to match input, got Double",
                (LINEAR, TARGET),
                {"linear_bias": torch.ones(4).double()},
            ),
            (
                RuntimeError,
                "target on device cpu like input, got meta",
                (LINEAR, TARGET.to("meta")),
                {},
            ),
            (ValueError, "chunk_size to be positive, got 0", (LINEAR, TARGET), {"chunk_size": 0}),
            (
                RuntimeError,
                "target of dtype int64, int32 or uint8, as class indices, got Bool",
                (LINEAR, TARGET > 0),
                {},
            ),
            *(
                (
                    ValueError,
                    POSITIVE.format("softcap", shown),
                    (LINEAR, TARGET),
                    {"softcap": value},
                )
                for value, shown in NOT_POSITIVE
            ),
        )
    ),
    case("linear_cross_entropy", RuntimeError, UNBATCHED, LINEAR[:, None], TARGET, input=X[0]),
    case("linear_cross_entropy", RuntimeError, LEADING, LINEAR, TARGET, input=X[None]),
    case(
        "linear_cross_entropy",
        ValueError,
        "sample_weight of shape [1, 2], one for each row, got [2]",
        LINEAR,
        TARGET[None],
        input=X[None],
        sample_weight=torch.ones(2),
    ),
    case(
        "linear_cross_entropy",
        ValueError,
        "target of batch size 2 to match logits [2, 4], got target of shape [3]",
        LINEAR,
        torch.tensor([0, 1, 2]),
    ),
    case(
        "linear_cross_entropy",
        RuntimeError,
        "weight of shape [4], one for each class, got [3]",
        LINEAR,
        TARGET,
        weight=X[0],
    ),
    case(
        "linear_cross_entropy",
        ValueError,
        "reduction 'none', 'mean' or 'sum'",
        LINEAR,
        TARGET,
        reduction="avg",
    ),
    case(
        "linear_cross_entropy",
        ValueError,
        NO_NORMALIZER,
        LINEAR,
        TARGET,
        reduction="sum",
        normalizer=2.0,
    ),
    case(
        "linear_softmax_statistics",
        RuntimeError,
        "linear_weight of shape (C, in_features), got [4, 1, 3]",
        LINEAR[:, None],
        TARGET,
    ),
    case("linear_softmax_statistics", IndexError, "1 or more classes, got", LINEAR[:0], TARGET),
    case(
        "linear_softmax_statistics",
        RuntimeError,
        "target of shape [2] to match input [2, 3], got [3]",
        LINEAR,
        torch.tensor([0, 1, 2]),
    ),
]

CASES = [
    *LINEAR_CASES,
    *softmax_cases("softmax"),
    *softmax_cases("log_softmax"),
    *LOSS_CASES,
    *FAMILY_CASES,
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_type_and_message(case: Case, device: str) -> None:
    for case in (case.to(device, elsewhere) for elsewhere in others(device)):
        with pytest.raises(case.error, match=re.escape(case.message)) as raised:
            case.call(torchsoftmax, case.input)
        assert raised.type is case.error
        if case.native_raises:
            with pytest.raises(case.error) as native:
                case.call(F, case.input)
            # PyTorch has fewer kernels on a GPU, and says so by a subclass of RuntimeError.
            lacks = device == "cuda" and issubclass(native.type, case.error)
            assert native.type is case.error or lacks


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_same_in_autograd_and_torch_func(case: Case, device: str) -> None:
    for case in (case.to(device, elsewhere) for elsewhere in others(device)):
        if case.input.is_floating_point():
            with pytest.raises(case.error, match=re.escape(case.message)):
                case.call(torchsoftmax, case.input.clone().requires_grad_())
        with pytest.raises(case.error, match=re.escape(case.message)):
            torch.func.vmap(partial(case.call, torchsoftmax))(case.input.unsqueeze(0))


def test_weight_that_requires_grad_with_class_indices(device: str) -> None:
    """Not an entry of the table, for under vmap it is differentiated, in native as well."""
    x, target, weight, layer = on(device, (X, TARGET, torch.ones(3), torch.eye(3)))
    weight.requires_grad_()
    with pytest.raises(RuntimeError, match=r"cross_entropy: expected a weight that needs no grad"):
        torchsoftmax.cross_entropy(x, target, weight)
    with pytest.raises(RuntimeError, match=r"linear_cross_entropy: expected a weight that needs"):
        torchsoftmax.linear_cross_entropy(x, layer, target, weight=weight)
    with pytest.raises(RuntimeError):
        F.cross_entropy(x, target, weight)
