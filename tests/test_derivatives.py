"""torchsoftmax.derivatives against torch.func in float64, and what is its own."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from math import inf, nan

import pytest
import torch
import torch.nn.functional as F
from cases import devices, logits, on, others
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torch.func import hessian, jacrev, jvp, vjp, vmap

from torchsoftmax import derivatives

TEMPERATURES = (1.0, 0.7, 3.0)
# Rows along every dimension: a vector, rows, columns, and the middle of a stack.
LAYOUTS = (((7,), 0), ((4, 7), -1), ((4, 7), 0), ((2, 5, 3), 1), ((2, 3, 2, 4), -2))
TARGETS = ("indices", "probabilities")

every_layout = pytest.mark.parametrize(("shape", "dim"), LAYOUTS)
every_temperature = pytest.mark.parametrize("temperature", TEMPERATURES)
every_target = pytest.mark.parametrize("kind", TARGETS)


def float64(device: str, *shape: int, seed: int = 0) -> Tensor:
    return on(device, logits(*shape, dtype=torch.float64, seed=seed))


def assert_same(ours: Tensor, expected: Tensor) -> None:
    """In float64: some roundings, of numbers of up to 30 / 0.7 where they cancel."""
    torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-13)


def per_row(function: Callable[[Tensor], Tensor], rows: Tensor) -> Tensor:
    """`function` of every row, which is along the last dimension."""
    for _ in rows.shape[:-1]:
        function = vmap(function)
    return function(rows)


def target_of(device: str, kind: str, shape: tuple[int, ...]) -> Tensor:
    """Probabilities have a mass of their own in each row."""
    generator = torch.Generator().manual_seed(1)
    if kind == "indices":
        return on(device, torch.randint(shape[-1], shape[:-1], generator=generator))
    return on(device, torch.rand(shape, generator=generator, dtype=torch.float64))


def loss_of(x: Tensor, target: Tensor, temperature: float) -> Tensor:
    """PyTorch's cross-entropy of one row."""
    return F.cross_entropy(x / temperature, target, reduction="sum")


def per_row_of_loss(
    derivative: Callable[..., Callable[..., Tensor]], x: Tensor, target: Tensor, temperature: float
) -> Tensor:
    function = derivative(partial(loss_of, temperature=temperature))
    for _ in x.shape[:-1]:
        function = vmap(function)
    return function(x, target)


@pytest.mark.kernels
@every_layout
@every_temperature
@pytest.mark.parametrize("log", [False, True], ids=["softmax", "log_softmax"])
def test_jacobian(
    shape: tuple[int, ...], dim: int, temperature: float, log: bool, device: str
) -> None:
    x = float64(device, *shape)
    native = torch.log_softmax if log else torch.softmax
    ours = derivatives.log_softmax_jacobian if log else derivatives.softmax_jacobian
    expected = per_row(jacrev(lambda row: native(row / temperature, 0)), x.movedim(dim, -1))
    jacobian = ours(x, dim, temperature=temperature)
    assert_same(jacobian, expected)
    classes = x.size(dim)
    rows = x.movedim(dim, -1).shape[:-1]
    assert jacobian.shape == (*rows, classes, classes) and jacobian.is_contiguous()


@pytest.mark.kernels
@every_layout
@every_temperature
def test_softmax_hessian(shape: tuple[int, ...], dim: int, temperature: float, device: str) -> None:
    x = float64(device, *shape)
    native = hessian(lambda row: torch.softmax(row / temperature, 0))
    ours = derivatives.softmax_hessian(x, dim, temperature=temperature)
    assert_same(ours, per_row(native, x.movedim(dim, -1)))
    for summed in (-1, -2, -3):
        assert_same(ours.sum(summed), torch.zeros_like(ours.sum(summed)))


@pytest.mark.kernels
@every_layout
@every_temperature
def test_products(shape: tuple[int, ...], dim: int, temperature: float, device: str) -> None:
    """Native's forward and reverse mode, and the product with the matrix."""
    x, v = float64(device, *shape), float64(device, *shape, seed=7)

    def native(x: Tensor) -> Tensor:
        return torch.softmax(x / temperature, dim)

    forward = derivatives.softmax_jvp(x, v, dim, temperature=temperature)
    reverse = derivatives.softmax_vjp(x, v, dim, temperature=temperature)
    assert_same(forward, jvp(native, (x,), (v,))[1])
    assert_same(reverse, vjp(native, x)[1](v)[0])
    jacobian = derivatives.softmax_jacobian(x, dim, temperature=temperature)
    product = (jacobian @ v.movedim(dim, -1).unsqueeze(-1)).squeeze(-1).movedim(-1, dim)
    assert_same(forward, product)


@pytest.mark.kernels
@pytest.mark.parametrize("shape", [(7,), (4, 7), (2, 3, 5)])
@every_target
@every_temperature
def test_cross_entropy(shape: tuple[int, ...], kind: str, temperature: float, device: str) -> None:
    x, v, target = (
        float64(device, *shape),
        float64(device, *shape, seed=7),
        target_of(device, kind, shape),
    )
    gradient = derivatives.cross_entropy_gradient(x, target, temperature=temperature)
    assert_same(gradient, per_row_of_loss(torch.func.grad, x, target, temperature))
    matrix = derivatives.cross_entropy_hessian(x, target, temperature=temperature)
    assert_same(matrix, per_row_of_loss(hessian, x, target, temperature))
    product = derivatives.cross_entropy_hvp(x, target, v, temperature=temperature)
    assert_same(product, (matrix @ v.unsqueeze(-1)).squeeze(-1))
    # Positive semi-definite: no eigenvalue is below 0 by more than its rounding.
    assert torch.linalg.eigvalsh(matrix).min() >= -1e-14


@pytest.mark.parametrize("dtype", [torch.int32, torch.uint8])
def test_index_dtypes(dtype: torch.dtype, device: str) -> None:
    x, target = float64(device, 4, 7), target_of(device, "indices", (4, 7))
    for function in (derivatives.cross_entropy_gradient, derivatives.cross_entropy_hessian):
        assert torch.equal(function(x, target.to(dtype)), function(x, target))


def test_probabilities_of_another_dtype_are_promoted(device: str) -> None:
    x, target = float64(device, 4, 7).float(), target_of(device, "probabilities", (4, 7))
    gradient = derivatives.cross_entropy_gradient(x, target)
    assert gradient.dtype == torch.float64
    assert_same(gradient, derivatives.cross_entropy_gradient(x.double(), target))
    assert derivatives.cross_entropy_hessian(x, target).dtype == torch.float64
    assert derivatives.cross_entropy_hvp(x, target, x).dtype == torch.float64


X = float64("cpu", 3, 4)
V = float64("cpu", 3, 4, seed=7)
INDICES = {device: target_of(device, "indices", (3, 4)) for device in devices()}
PROBABILITIES = target_of("cpu", "probabilities", (3, 4))
FUNCTIONS: dict[str, tuple[Callable[..., Tensor], tuple[Tensor, ...]]] = {
    "softmax_jacobian": (lambda x: derivatives.softmax_jacobian(x, 0, temperature=0.7), (X,)),
    "log_softmax_jacobian": (
        lambda x: derivatives.log_softmax_jacobian(x, 0, temperature=0.7),
        (X,),
    ),
    "softmax_hessian": (lambda x: derivatives.softmax_hessian(x, 0, temperature=0.7), (X,)),
    "softmax_jvp": (lambda x, v: derivatives.softmax_jvp(x, v, 0, temperature=0.7), (X, V)),
    "softmax_vjp": (lambda x, v: derivatives.softmax_vjp(x, v, 0, temperature=0.7), (X, V)),
    "cross_entropy_gradient": (
        lambda x: derivatives.cross_entropy_gradient(x, INDICES[x.device.type], temperature=0.7),
        (X,),
    ),
    "cross_entropy_gradient, probabilities": (
        lambda x, t: derivatives.cross_entropy_gradient(x, t, temperature=0.7),
        (X, PROBABILITIES),
    ),
    "cross_entropy_hessian, probabilities": (
        lambda x, t: derivatives.cross_entropy_hessian(x, t, temperature=0.7),
        (X, PROBABILITIES),
    ),
    "cross_entropy_hvp": (
        lambda x, v: derivatives.cross_entropy_hvp(x, INDICES[x.device.type], v, temperature=0.7),
        (X, V),
    ),
    "cross_entropy_hvp, probabilities": (
        lambda x, t, v: derivatives.cross_entropy_hvp(x, t, v, temperature=0.7),
        (X, PROBABILITIES, V),
    ),
}
every_function = pytest.mark.parametrize("name", FUNCTIONS)


@every_function
def test_differentiable_themselves(name: str, device: str) -> None:
    function, inputs = on(device, FUNCTIONS[name])
    leaves = tuple(x.clone().requires_grad_() for x in inputs)
    assert gradcheck(function, leaves, check_forward_ad=True, check_batched_grad=True)
    assert gradgradcheck(function, leaves, check_fwd_over_rev=True)


@every_function
def test_transforms(name: str, device: str) -> None:
    """vmap and compilation give what a plain call gives, of values and of gradients."""
    function, inputs = on(device, FUNCTIONS[name])
    batches = [torch.stack([x, x.flip(0), 2 * x]) for x in inputs]
    separate = [function(*each) for each in zip(*batches, strict=True)]
    assert_same(vmap(function)(*batches), torch.stack(separate))

    def gradient(*inputs: Tensor) -> tuple[Tensor, ...]:
        return torch.func.grad(
            lambda *x: function(*x).pow(2).sum(), argnums=tuple(range(len(inputs)))
        )(*inputs)

    compiled = torch.compile(function, fullgraph=True, backend="aot_eager", dynamic=True)
    assert_same(compiled(*inputs), function(*inputs))
    leaves = tuple(x.clone().requires_grad_() for x in inputs)
    compiled(*leaves).pow(2).sum().backward()
    for leaf, expected in zip(leaves, gradient(*inputs), strict=True):
        assert_same(leaf.grad, expected)


@pytest.mark.parametrize(
    "function", [derivatives.cross_entropy_gradient, derivatives.cross_entropy_hessian]
)
def test_vmap_over_class_indices(function: Callable[..., Tensor], device: str) -> None:
    x, target = float64(device, 4, 7), target_of(device, "indices", (4, 7))
    assert_same(vmap(function)(x, target), function(x, target))


def test_the_second_derivative_is_the_derivative_of_the_first(device: str) -> None:
    x = float64(device, 7)
    assert_same(derivatives.softmax_hessian(x), jacrev(derivatives.softmax_jacobian)(x))
    target = torch.tensor(3, device=device)
    gradient = partial(derivatives.cross_entropy_gradient, target=target)
    assert_same(derivatives.cross_entropy_hessian(x, target), jacrev(gradient)(x))


def test_rows_of_the_log_softmax_jacobian_are_scores(device: str) -> None:
    x = float64(device, 7)
    targets = torch.arange(7, device=device)
    scores = torch.stack([-derivatives.cross_entropy_gradient(x, target) for target in targets])
    assert_same(derivatives.log_softmax_jacobian(x), scores)


@pytest.mark.parametrize("function", ["softmax_jacobian", "log_softmax_jacobian"])
@pytest.mark.parametrize(
    "row", [[0.0, nan, 1.0], [0.0, inf, 1.0], [-inf] * 3, [0.0, -inf, 1.0]], ids=str
)
def test_special_rows_are_natives(function: str, row: list[float], device: str) -> None:
    x = torch.tensor([row, [1.0, 2.0, 3.0]], dtype=torch.float64, device=device)
    native = getattr(torch, function.removesuffix("_jacobian"))
    expected = per_row(jacrev(lambda row: native(row, 0)), x)
    ours = getattr(derivatives, function)(x)
    torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-14, equal_nan=True)
    assert ours[1].isfinite().all()


def test_special_rows_of_cross_entropy(device: str) -> None:
    rows = [[0.0, nan, 1.0], [-inf] * 3, [0.0, inf, 1.0], [0.0, -inf, 1.0]]
    x = torch.tensor(rows, dtype=torch.float64, device=device)
    target = torch.tensor([0, 1, 0, 2], device=device)
    gradient = derivatives.cross_entropy_gradient(x, target)
    matrix = derivatives.cross_entropy_hessian(x, target)
    assert gradient[:3].isnan().all() and matrix[:3].isnan().all()
    at_infinity = torch.tensor([1], device=device)
    assert derivatives.cross_entropy_gradient(x[2:3], at_infinity).isnan().all()
    assert_same(gradient[3, ::2], derivatives.cross_entropy_gradient(x[3, ::2], at_infinity[0]))
    assert gradient[3, 1] == 0 and (matrix[3, 1] == 0).all()


@pytest.mark.parametrize("function", ["softmax_jacobian", "log_softmax_jacobian"])
def test_shapes_without_rows_or_classes_and_with_one(function: str, device: str) -> None:
    jacobian = getattr(derivatives, function)
    ones = partial(torch.ones, device=device)
    assert torch.equal(jacobian(ones(())), torch.zeros(1, 1, device=device))
    assert torch.equal(jacobian(ones(3, 1)), torch.zeros(3, 1, 1, device=device))
    assert jacobian(ones(0, 5)).shape == (0, 5, 5)
    assert jacobian(ones(0, 5), 0).shape == (5, 0, 0)
    assert jacobian(ones(2, 0, 3), 1).shape == (2, 3, 0, 0)


def test_shapes_without_rows_or_classes_and_with_one_of_the_others(device: str) -> None:
    ones, scalar = partial(torch.ones, device=device), torch.tensor(5.0, device=device)
    assert torch.equal(derivatives.softmax_hessian(scalar), torch.zeros(1, 1, 1, device=device))
    assert derivatives.softmax_hessian(ones(0, 5)).shape == (0, 5, 5, 5)
    assert derivatives.softmax_hessian(ones(2, 0)).shape == (2, 0, 0, 0)
    assert derivatives.softmax_vjp(scalar, scalar) == derivatives.softmax_jvp(scalar, scalar) == 0
    nothing = ones(0).long()
    assert derivatives.cross_entropy_gradient(ones(0, 5), nothing).shape == (0, 5)
    assert derivatives.cross_entropy_hessian(ones(0, 5), nothing).shape == (0, 5, 5)
    empty = ones(3, 0)
    assert derivatives.cross_entropy_gradient(empty, empty).shape == (3, 0)
    assert derivatives.cross_entropy_hessian(empty, empty).shape == (3, 0, 0)
    assert derivatives.cross_entropy_hvp(empty, empty, empty).shape == (3, 0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@every_target
def test_lower_precision_is_rounding_only(dtype: torch.dtype, kind: str, device: str) -> None:
    """Of the probabilities, and of products of them: 4 roundings of numbers of at most 1."""
    x = 3 * torch.randn(5, 37, device=device).to(dtype)
    v = torch.randn(5, 37, device=device).to(dtype)
    target = target_of(device, kind, (5, 37))
    if target.is_floating_point():
        target = (target / target.sum(-1, keepdim=True)).to(dtype)
    wide = [t.double() if t.is_floating_point() else t for t in (x, target, v)]
    results = [
        (derivatives.softmax_hessian(x), derivatives.softmax_hessian(wide[0])),
        (
            derivatives.cross_entropy_gradient(x, target),
            derivatives.cross_entropy_gradient(*wide[:2]),
        ),
        (derivatives.cross_entropy_hvp(x, target, v), derivatives.cross_entropy_hvp(*wide)),
    ]
    for ours, exact in results:
        assert ours.dtype == dtype
        torch.testing.assert_close(ours.double(), exact, rtol=0, atol=4 * torch.finfo(dtype).eps)


ROW = torch.zeros(2, 3)
TARGET = torch.tensor([0, 2])
EXPECTED = (
    "expected target to hold class indices (int64, int32 or uint8) of shape (2,) or class "
    "probabilities (floating point) of shape (2, 3), got {}"
)
MATCH = "expected {} to match input, float32 of shape (2, 3) on cpu, got {}"
OF_SOFTMAX = ("softmax_jacobian", "log_softmax_jacobian", "softmax_hessian")
PRODUCTS = {"softmax_jvp": "tangent", "softmax_vjp": "grad_output"}
OF_LOSS = ("cross_entropy_gradient", "cross_entropy_hessian")
ERRORS = [
    *(
        (name, NotImplementedError, f"expected input of dtype float16, {more}, got int64", *args)
        for more in ("bfloat16, float32 or float64",)
        for name, *args in (
            *((name, TARGET) for name in OF_SOFTMAX),
            *((name, TARGET, TARGET) for name in PRODUCTS),
            *((name, ROW.long(), TARGET) for name in OF_LOSS),
            ("cross_entropy_hvp", ROW.long(), TARGET, ROW.long()),
        )
    ),
    *(
        (name, RuntimeError, MATCH.format(argument, got), ROW, wrong)
        for name, argument in PRODUCTS.items()
        for wrong, got in (
            (ROW[0], "float32 of shape (3,) on cpu"),
            (ROW.double(), "float64 of shape (2, 3) on cpu"),
            (ROW.to("meta"), "float32 of shape (2, 3) on meta"),
        )
    ),
    (
        "cross_entropy_hvp",
        RuntimeError,
        MATCH.format("vector", "float32 of shape (3,) on cpu"),
        ROW,
        TARGET,
        ROW[0],
    ),
    *(
        (name, RuntimeError, EXPECTED.format(got), ROW, wrong)
        for name in OF_LOSS
        for wrong, got in (
            (TARGET[:1], "int64 of shape (1,)"),
            (ROW[:1], "float32 of shape (1, 3)"),
            (TARGET.float(), "float32 of shape (2,)"),
            (ROW.long(), "int64 of shape (2, 3)"),
            (TARGET > 0, "bool of shape (2,)"),
        )
    ),
    *(
        (name, RuntimeError, "expected target on device cpu like input, got meta", ROW, wrong)
        for name in OF_LOSS
        for wrong in (TARGET.to("meta"), ROW.to("meta"))
    ),
    *(
        (
            name,
            IndexError,
            "expected input of 1 or more dimensions, got a 0-d tensor",
            ROW[0, 0],
            TARGET[0],
        )
        for name in OF_LOSS
    ),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: f"{error[0]}, {error[2][:40]}")
def test_errors(error: tuple, device: str) -> None:
    for elsewhere in others(device):
        name, kind, message, *arguments = on(device, error, elsewhere)
        message = message.replace("cpu", str(arguments[0].device))
        message = message.replace("meta", str(torch.empty(0, device=elsewhere).device))
        with pytest.raises(kind, match=re.escape(f"{name}: {message}")):
            getattr(derivatives, name)(*arguments)


@pytest.mark.parametrize("name", OF_LOSS)
@pytest.mark.parametrize("index", [3, -1, -100])
def test_targets_out_of_range(name: str, index: int) -> None:
    """On the CPU only: a GPU's kernel cannot raise, see test_targets_out_of_range.py."""
    message = f"{name}: Target {index} is out of bounds: expected 0 <= target < 3"
    for function in (getattr(derivatives, name), vmap(getattr(derivatives, name))):
        with pytest.raises(IndexError, match=re.escape(message)):
            function(ROW, torch.tensor([0, index]))


@pytest.mark.parametrize("temperature", [0.0, -1.0, inf, nan])
def test_temperature_is_positive(temperature: float, device: str) -> None:
    row, target = on(device, (ROW, TARGET))
    calls = {
        **{name: (row,) for name in OF_SOFTMAX},
        **{name: (row, row) for name in PRODUCTS},
        **{name: (row, target) for name in OF_LOSS},
        "cross_entropy_hvp": (row, target, row),
    }
    assert set(calls) == set(derivatives.__all__)
    for name, arguments in calls.items():
        message = f"{name}: expected temperature to be positive and finite, got {temperature}"
        with pytest.raises(ValueError, match=re.escape(message)):
            getattr(derivatives, name)(*arguments, temperature=temperature)


@pytest.mark.parametrize("name", OF_SOFTMAX)
def test_dim_is_in_range(name: str, device: str) -> None:
    with pytest.raises(IndexError, match="Dimension out of range"):
        getattr(derivatives, name)(on(device, ROW), 2)
