"""PyTorch's own inputs for these functions: the OpInfo samples that its test suite runs.

OpInfo states errors for linear_cross_entropy only; those that PyTorch states for its modules are
in test_module_inputs.py.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from cases import devices
from test_contract import assert_near, every_dtype
from torch import Tensor
from torch.testing._internal.common_methods_invocations import op_db
from torch.testing._internal.opinfo.core import OpInfo, SampleInput

import torchsoftmax

OURS: dict[str, Callable[..., Tensor]] = {
    "softmax": torchsoftmax.softmax,
    "log_softmax": torchsoftmax.log_softmax,
    "nn.functional.cross_entropy": torchsoftmax.cross_entropy,
}
FOUND = [op for op in op_db if op.name in OURS]
# Integers and complex numbers too, which the variants with a dtype argument convert.
WITH_DTYPES = [
    pytest.param(op, dtype, device, id=f"{op.formatted_name}-{str(dtype)[6:]}-{device}")
    for op in FOUND
    for device in devices()
    for dtype in sorted(op.supported_dtypes(device), key=str)
]
# From PyTorch 2.13 on.
LINEAR = [op for op in op_db if op.name == "nn.functional.linear_cross_entropy"]
of_2_13 = pytest.mark.skipif(
    not hasattr(F, "linear_cross_entropy"), reason="PyTorch has the function from 2.13 on"
)


def copied(sample: SampleInput, wide: bool = False) -> SampleInput:
    """Fresh leaves; ``wide``: in float64."""

    def leaf(value: object) -> object:
        if not isinstance(value, Tensor):
            return value
        data = value.detach().clone()
        data = data.double() if wide and value.is_floating_point() else data
        return data.requires_grad_(value.requires_grad)

    return sample.transform(leaf)


def value_and_gradients(function: Callable[..., Tensor], sample: SampleInput) -> list[Tensor]:
    """The value, and the gradient of every input that has one."""
    value = function(sample.input, *sample.args, **sample.kwargs)
    everything = (sample.input, *sample.args, *sample.kwargs.values())
    leaves = [x for x in everything if isinstance(x, Tensor) and x.requires_grad]
    generator = torch.Generator().manual_seed(0)
    upstream = torch.randn(value.shape, generator=generator).bfloat16()  # exact in every dtype
    gradients = torch.autograd.grad(value, leaves, upstream.to(value)) if leaves else ()
    return [value.detach(), *gradients]


def test_each_function_has_its_samples() -> None:
    assert {op.name for op in FOUND} == set(OURS)
    variants = [op.name for op in FOUND if op.variant_test_name == "with_dtype"]
    assert sorted(variants) == ["log_softmax", "softmax"]


# Native warns as well.
@pytest.mark.filterwarnings("ignore:Casting complex values to real", "ignore:ComplexHalf support")
@pytest.mark.parametrize("op, dtype, device", WITH_DTYPES)
def test_equals_native(op: OpInfo, dtype: torch.dtype, device: str) -> None:
    differentiable = dtype.is_floating_point
    samples = list(op.sample_inputs(device, dtype, requires_grad=differentiable))
    assert samples
    for sample in samples:
        ours = value_and_gradients(OURS[op.name], copied(sample))
        native = value_and_gradients(op.op, copied(sample))
        exact = value_and_gradients(op.op, copied(sample, wide=True))
        assert len(ours) > 1 or not differentiable
        for mine, theirs, true in zip(ours, native, exact, strict=True):
            assert mine.dtype == theirs.dtype
            assert mine.shape == theirs.shape
            assert mine.stride() == theirs.stride()
            assert_near(mine, true, mine.dtype, str(sample))


@of_2_13
def test_every_variant_of_native_linear_cross_entropy_is_there() -> None:
    assert {op.variant_test_name for op in LINEAR} == {"", "chunked", "chunked_none"}
    assert sum(len(list(op.sample_inputs("cpu", torch.float32))) for op in LINEAR) > 300


@pytest.mark.parametrize("op", LINEAR, ids=lambda op: op.formatted_name)
@every_dtype
def test_linear_cross_entropy_equals_native(op: OpInfo, dtype: torch.dtype, device: str) -> None:
    def ours(*args: Tensor, **kwargs: object) -> Tensor:
        options = kwargs.pop("options", None)
        size = options.batch_chunk_size if options is not None else None
        return torchsoftmax.linear_cross_entropy(*args, chunk_size=size, **kwargs)

    def exact(*args: Tensor, **kwargs: object) -> Tensor:
        kwargs.pop("options", None)
        return F.linear_cross_entropy(*args, **kwargs)

    for sample in op.sample_inputs(device, dtype, requires_grad=True):
        mine = value_and_gradients(ours, copied(sample))
        theirs = value_and_gradients(exact, copied(sample))
        true = value_and_gradients(exact, copied(sample, wide=True))
        largest = max(x.abs().max().item() for x in (sample.input, sample.args[0]))
        for ours_, native, wide in zip(mine, theirs, true, strict=True):
            assert (ours_.dtype, ours_.shape) == (native.dtype, native.shape)
            # Logits are sums of products of values up to `largest`.
            inner = largest**2 * sample.input.size(-1)
            assert_near(ours_, wide, dtype, str(sample), inner)


@of_2_13
def test_errors_of_linear_cross_entropy_are_raised_where_native_raises(device: str) -> None:
    for case in LINEAR[0].error_inputs(device):
        sample = case.sample_input
        with pytest.raises(case.error_type):
            torchsoftmax.linear_cross_entropy(sample.input, *sample.args, **sample.kwargs)
