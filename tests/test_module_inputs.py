"""PyTorch's own inputs for these modules: what its test suite constructs them with and runs."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Iterator

import pytest
import torch
from cases import DTYPES
from test_contract import assert_near
from torch import Tensor, nn
from torch.testing._internal.common_modules import (
    FunctionInput,
    ModuleErrorEnum,
    ModuleInfo,
    ModuleInput,
    module_db,
)

import torchsoftmax

pytestmark = pytest.mark.usefixtures("one_thread")

OURS: dict[type[nn.Module], type[nn.Module]] = {
    nn.Softmax: torchsoftmax.Softmax,
    nn.LogSoftmax: torchsoftmax.LogSoftmax,
    nn.CrossEntropyLoss: torchsoftmax.CrossEntropyLoss,
}
if hasattr(nn, "LinearCrossEntropyLoss"):  # from PyTorch 2.13 on
    OURS[nn.LinearCrossEntropyLoss] = torchsoftmax.LinearCrossEntropyLoss
FOUND = [info for info in module_db if info.module_cls in OURS]

every_module = pytest.mark.parametrize("info", FOUND, ids=lambda info: info.module_cls.__name__)
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype)[6:])
every_mode = pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])


def inputs(
    info: ModuleInfo, device: str, dtype: torch.dtype, training: bool = True
) -> Iterator[ModuleInput]:
    found = info.module_inputs_func(
        info, device=device, dtype=dtype, requires_grad=True, training=training
    )
    assert found
    yield from found


def constructed(module: type[nn.Module], given: FunctionInput, training: bool = True) -> nn.Module:
    return module(*given.args, **given.kwargs).train(training)


def value_and_gradients(
    module: nn.Module, given: FunctionInput, dtype: torch.dtype
) -> list[Tensor]:
    """The value, and the gradients of inputs and parameters; floating inputs as ``dtype``."""
    assert not given.kwargs
    args = [
        x.detach().to(dtype).clone().requires_grad_(x.requires_grad) if x.is_floating_point() else x
        for x in given.args
    ]
    value = module(*args)
    upstream = torch.randn(value.shape, generator=torch.Generator().manual_seed(0)).bfloat16()
    leaves = [x for x in (*args, *module.parameters()) if x.requires_grad]
    return [value.detach(), *torch.autograd.grad(value, leaves, upstream.to(value))]


def test_each_module_has_its_inputs() -> None:
    assert {info.module_cls for info in FOUND} == set(OURS)


@every_module
@every_dtype
@every_mode
def test_equals_native(info: ModuleInfo, dtype: torch.dtype, training: bool, device: str) -> None:
    for given in inputs(info, device, dtype, training):
        module = constructed(OURS[info.module_cls], given.constructor_input, training)
        theirs = constructed(info.module_cls, given.constructor_input, training)
        module.load_state_dict(theirs.state_dict())
        ours = value_and_gradients(module, given.forward_input, dtype)
        native = value_and_gradients(theirs, given.forward_input, dtype)
        exact = value_and_gradients(theirs.double(), given.forward_input, torch.float64)
        for mine, other, true in zip(ours, native, exact, strict=True):
            assert (mine.dtype, mine.shape) == (other.dtype, other.shape)
            assert mine.stride() == other.stride()
            assert_near(mine, true, dtype, given.desc)


@every_module
def test_is_a_drop_in_for_the_class_of_torch_nn(info: ModuleInfo, device: str) -> None:
    """Code that looks at modules sees what it sees of PyTorch's own."""
    for given in inputs(info, device, torch.float32):
        ours = constructed(OURS[info.module_cls], given.constructor_input)
        native = constructed(info.module_cls, given.constructor_input)
        assert isinstance(ours, info.module_cls)
        assert repr(ours) == repr(native)
        assert list(ours.state_dict()) == list(native.state_dict())
        for to, from_ in ((ours, native), (native, ours)):
            other = copy.deepcopy(to)
            for buffer in other.buffers():
                buffer.zero_()
            other.load_state_dict(from_.state_dict())
            for name, value in from_.state_dict().items():
                assert torch.equal(other.state_dict()[name], value)


@every_module
@pytest.mark.parametrize(
    "duplicate",
    [copy.copy, copy.deepcopy, lambda module: pickle.loads(pickle.dumps(module))],
    ids=["copy", "deepcopy", "pickle"],
)
def test_copies_are_the_same_module(
    info: ModuleInfo, duplicate: Callable[[nn.Module], nn.Module], device: str
) -> None:
    for given in inputs(info, device, torch.float32):
        module = constructed(OURS[info.module_cls], given.constructor_input)
        twin = duplicate(module)
        assert type(twin) is type(module)
        assert repr(twin) == repr(module)
        values = [each(*given.forward_input.args) for each in (twin, module)]
        torch.testing.assert_close(*values, rtol=0, atol=0, equal_nan=True)


WITH_ERRORS = [info for info in FOUND if info.module_error_inputs_func is not None]


@pytest.mark.parametrize("info", WITH_ERRORS, ids=lambda info: info.module_cls.__name__)
@every_mode
def test_errors_are_those_of_native(info: ModuleInfo, training: bool, device: str) -> None:
    """The types of exceptions that PyTorch states; the messages are our own."""
    errors = info.module_error_inputs_func(
        info, device=device, dtype=torch.float32, requires_grad=False, training=training
    )
    assert errors
    for error in errors:
        given = error.module_error_input
        for cls in (info.module_cls, OURS[info.module_cls]):
            with pytest.raises(error.error_type) as raised:
                module = constructed(cls, given.constructor_input, training)
                assert error.error_on is ModuleErrorEnum.FORWARD_ERROR
                module(*given.forward_input.args)
            assert raised.type is error.error_type
