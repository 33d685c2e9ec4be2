"""PyTorch's own inputs for these functions: the OpInfo samples that its test suite runs.

OpInfo states no errors for them; those that PyTorch states for its modules are in
test_module_inputs.py.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from test_contract import assert_near
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
    pytest.param(op, dtype, id=f"{op.formatted_name}-{str(dtype)[6:]}")
    for op in FOUND
    for dtype in sorted(op.supported_dtypes("cpu"), key=str)
]


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
    gradients = torch.autograd.grad(value, leaves, upstream.to(value.dtype)) if leaves else ()
    return [value.detach(), *gradients]


def test_each_function_has_its_samples() -> None:
    assert {op.name for op in FOUND} == set(OURS)
    variants = [op.name for op in FOUND if op.variant_test_name == "with_dtype"]
    assert sorted(variants) == ["log_softmax", "softmax"]


# Native warns as well.
@pytest.mark.filterwarnings("ignore:Casting complex values to real", "ignore:ComplexHalf support")
@pytest.mark.parametrize("op, dtype", WITH_DTYPES)
def test_equals_native(op: OpInfo, dtype: torch.dtype) -> None:
    differentiable = dtype.is_floating_point
    samples = list(op.sample_inputs("cpu", dtype, requires_grad=differentiable))
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
