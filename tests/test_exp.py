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

import torchsoftmax

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

# Below this 2^n r, a part of the result, is subnormal and has lost bits.
LAST_WITH_ALL_BITS = bits_of(-83.0)
# The largest error in units in the last place, measured with this test: 0.9998 and 0.9446 (0.5 is a
# correctly rounded result), and near the smallest normal number 1.4299 and 1.3535. The polynomial
# itself adds 1.6e-9 / 2^-24 = 0.03 units of AVX-512 and 0.09 of AVX2; the rest are roundings of the
# table, the reduced argument and the last steps. DEFAULT is the C library's expf.
LARGEST_ERROR = {"AVX512": (1.0, 1.43), "AVX2": (0.95, 1.36), "DEFAULT": (0.51, 0.51)}


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


@pytest.mark.parametrize("small", [False, True])
def test_error_of_normal_results(small: bool) -> None:
    first, last = LAST_OF_ONE, LAST_WITH_ALL_BITS
    if small:
        first, last = last, LAST_NORMAL
    exact = torch.empty(CHUNK, dtype=torch.float64)
    power = torch.empty_like(exact)
    largest = 0.0
    for x, result in exponentials(first, last):
        exact.copy_(x).exp_()
        torch.bitwise_and(exact.view(torch.int64), EXPONENT, out=power.view(torch.int64))
        low, high = exact.sub_(result).div_(power).aminmax()
        largest = max(largest, -float(low), float(high))
    assert math.exp(float(x.min())) >= SMALLEST_NORMAL
    # power is the power of two below the result, its last place is 2^-23 of that.
    assert largest * 2**23 <= LARGEST_ERROR[torch.backends.cpu.get_cpu_capability()][small]


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


def softmax_along(dim: int, rows: Tensor) -> Tensor:
    """Of rows that lie along in memory, or, with dim 0, across."""
    return torchsoftmax.softmax(rows.movedim(1, dim).contiguous(), dim).movedim(dim, 1)


# Units of eps: the sum and the division take most of it. Where x - max is rounded, 32 more.
LARGEST_ERROR_OF_SOFTMAX = {"AVX512": 5.0, "AVX2": 5.0, "DEFAULT": 36.0}


@pytest.mark.kernels
@pytest.mark.parametrize("offset", [0.0, 20.0, 300.0, 32768.0, 1e6], ids=str)
@pytest.mark.parametrize("classes", [2, 17, 40, 300, 600, 3000])
@pytest.mark.parametrize("dim", [0, 1])
def test_softmax_does_not_round_differences(dim: int, classes: int, offset: float) -> None:
    """From maxima on both sides of the size from which differences are exact; masked entries are
    exactly 0, and a maximum alone is exactly 1."""
    maxima = torch.linspace(-1.1, 1.1, 401).unsqueeze(1) * offset
    few = min(classes - 1, 20)
    x = torch.full((401, classes), -math.inf)
    x[:, :1] = maxima
    x[:, -few:] = maxima - torch.rand(401, few) * 80
    x[0, -few:] = -math.inf
    y, exact = softmax_along(dim, x).double(), x.double().softmax(1)
    torch.testing.assert_close(y[exact == 0], exact[exact == 0], rtol=0, atol=0)
    assert y[0, 0] == 1
    eps = torch.finfo(torch.float32).eps
    worst = ((y - exact)[exact > 0] / exact[exact > 0]).abs().max() / eps
    assert worst <= LARGEST_ERROR_OF_SOFTMAX[torch.backends.cpu.get_cpu_capability()]


@pytest.mark.kernels
@pytest.mark.parametrize("temperature", [1.0, 0.5])
@pytest.mark.parametrize("classes", [2, 40, 600, 3000])
def test_softmax_may_be_subnormal(classes: int, temperature: float) -> None:
    """As native's: its logarithm is finite as long as float32 has a number for it."""
    x = torch.linspace(-102, -80, classes) * temperature
    x[-1] = 0
    y = torchsoftmax.softmax(x, 0, temperature=temperature)
    exact = (x.double() / temperature).softmax(0)
    smallest = 2.0**-149
    torch.testing.assert_close(y.double(), exact, rtol=1e-5, atol=0.51 * smallest)
    assert y.min() > 0


@pytest.mark.kernels
@pytest.mark.parametrize("largest", [-1e30, -4e4, 0.0, 4e4, 1e30, math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("classes", [3, 40, 600, 3000])
@pytest.mark.parametrize("dim", [0, 1])
def test_rows_of_any_size_beside_each_other(dim: int, classes: int, largest: float) -> None:
    """A row is not changed by what is special in another of its group."""
    x = torch.randn(40, classes)
    x[20] = largest - torch.arange(classes) if abs(largest) < 1e5 else largest
    y = softmax_along(dim, x)
    torch.testing.assert_close(y, x.softmax(1), rtol=1e-5, atol=1e-7, equal_nan=True)
    others = [softmax_along(dim, part) for part in (x[:20], x[21:])]
    if torch.backends.cpu.get_cpu_capability() == "DEFAULT":  # or CUDA's kernels in its place
        torch.testing.assert_close(torch.cat([y[:20], y[21:]]), torch.cat(others))
    else:
        assert torch.equal(torch.cat([y[:20], y[21:]]), torch.cat(others))
