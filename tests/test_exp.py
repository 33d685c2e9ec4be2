"""The exponential of csrc/cpu/exp.h over every float32 from -0.0 to -110.

It is reached through log_softmax_backward(grad_output, y) = grad_output - exp(y) sum(grad_output):
where grad_output is 0 but for a 1 at the end of the row, that is -exp(y) without another rounding.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

import torchsoftmax  # noqa: F401  (loads the operators)

pytestmark = pytest.mark.usefixtures("one_thread")


def bits_of(value: float) -> int:
    """As an int32. From -0.0 on, the next larger integer is the next smaller float."""
    return int(torch.tensor(value, dtype=torch.float32).view(torch.int32))


FIRST = bits_of(-0.0)
LAST_OF_ONE = bits_of(-(2.0**-26))  # up to here exp is nearer to 1 than a quarter of a unit
LAST_NORMAL = bits_of(-87.33654)  # of the next smaller float, -87.33655, the result is subnormal
LAST = bits_of(-110.0)

CHUNK = 2**17  # stays in cache
SMALLEST_NORMAL = torch.finfo(torch.float32).tiny
EXPONENT = 0x7FF0000000000000  # the bits of a float64 that are the power of two not above it

# The largest error in units in the last place, measured with this test: 1.0613 and 0.5017 (0.5 is a
# correctly rounded result). The polynomial itself adds 2.0e-9 / 2^-24 = 0.03 units; the rest are
# roundings of the reduced argument and of Horner's last steps. DEFAULT is the C library's expf.
LARGEST_ERROR = {"AVX512": 1.07, "AVX2": 1.07, "DEFAULT": 0.51}


def exponentials(first: int, last: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Floats (by their bits, both ends included) and their exponentials, chunk by chunk."""
    grad_output = torch.zeros(CHUNK + 1)
    grad_output[-1] = 1
    y = torch.zeros_like(grad_output)
    x = y[:-1]
    offsets = torch.arange(CHUNK, dtype=torch.int32)
    for start in range(first, last + 1, CHUNK):
        # The last chunk overlaps the one before it.
        torch.add(offsets, min(start, last + 1 - CHUNK), out=x.view(torch.int32))
        yield x, torch.ops.torchsoftmax.log_softmax_backward(grad_output, y, 0)[:-1].neg_()


def test_exp_of_almost_zero_is_one() -> None:
    for _, result in exponentials(FIRST, LAST_OF_ONE):
        assert result.aminmax() == (1, 1)


def test_error_of_normal_results() -> None:
    exact = torch.empty(CHUNK, dtype=torch.float64)
    power = torch.empty_like(exact)
    largest = 0.0
    for x, result in exponentials(LAST_OF_ONE, LAST_NORMAL):
        exact.copy_(x).exp_()
        torch.bitwise_and(exact.view(torch.int64), EXPONENT, out=power.view(torch.int64))
        low, high = exact.sub_(result).div_(power).aminmax()
        largest = max(largest, -float(low), float(high))
    assert math.exp(float(x.min())) >= SMALLEST_NORMAL
    # power is the power of two below the result, its last place is 2^-23 of that.
    assert largest * 2**23 <= LARGEST_ERROR[torch.backends.cpu.get_cpu_capability()]


def test_subnormal_results_may_be_flushed_to_zero() -> None:
    for x, result in exponentials(LAST_NORMAL + 1, LAST):
        exact = x.double().exp()
        assert exact.max() < SMALLEST_NORMAL
        assert (result - exact).abs().max() < SMALLEST_NORMAL
        assert result.min() >= 0


@pytest.mark.parametrize("value, expected", [(-math.inf, 0.0), (-1e38, 0.0), (math.nan, math.nan)])
@pytest.mark.parametrize("classes", [1, 7, 16, 65])
def test_special_values(value: float, expected: float, classes: int) -> None:
    y = torch.full((classes + 1,), value)
    y[-1] = 0
    grad_output = torch.zeros(classes + 1)
    grad_output[-1] = 1
    grad_input = torch.ops.torchsoftmax.log_softmax_backward(grad_output, y, 0)
    torch.testing.assert_close(
        -grad_input[:-1], torch.full((classes,), expected), rtol=0, atol=0, equal_nan=True
    )
