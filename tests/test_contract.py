"""What every operator of the table owes: native's results, in every transform of PyTorch."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import reference
import torch
from cases import DTYPES, OPERATORS, Operator, Sample
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend
from torch.autograd import gradcheck, gradgradcheck
from torch.fx.experimental.proxy_tensor import make_fx
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import checkpoint

import torchsoftmax

every_operator = pytest.mark.parametrize("op", OPERATORS, ids=str)
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype)[6:])


def call(function: Callable[..., Tensor], sample: Sample) -> Callable[..., Tensor]:
    return lambda *inputs: function(*inputs, *sample.args, **sample.kwargs)


def widened(sample: Sample) -> Sample:
    """The sample in float64."""

    def widen(value: object) -> object:
        floating = isinstance(value, Tensor) and value.is_floating_point()
        return value.double() if floating else value

    return Sample(
        sample.name,
        tuple(map(widen, sample.inputs)),
        tuple(map(widen, sample.args)),
        {key: widen(value) for key, value in sample.kwargs.items()},
    )


def value_and_gradients(function: Callable[..., Tensor], sample: Sample) -> tuple[Tensor, ...]:
    """The value, and the gradients for an upstream gradient that every dtype can hold."""
    inputs = sample.leaves()
    value = call(function, sample)(*inputs)
    generator = torch.Generator().manual_seed(3)
    upstream = torch.randn(value.shape, generator=generator).bfloat16().to(value)
    gradients = torch.autograd.grad(value, inputs, upstream)
    return (value.detach(), *gradients)


def assert_near(
    ours: Tensor, exact: Tensor, dtype: torch.dtype, what: str, inner: float = 1.0
) -> None:
    """Rounding only: 8 roundings of each entry, and 4 of the largest (see also Operator.inner).

    The second part has two origins. A sum's error is relative to its largest term, not to a result
    that may cancel. And the backward of softmax and log_softmax reads their output, which was
    rounded to its dtype, in ours as in native. In float64, what is exact for the other dtypes is
    rounded as often as ours is.
    """
    finite = exact[exact.isfinite()]
    largest = finite.abs().max().item() if finite.numel() else 0.0
    eps = torch.finfo(dtype).eps * (2 if dtype == torch.float64 else 1)
    torch.testing.assert_close(
        ours.to(exact.device, torch.float64),
        exact,
        rtol=8 * eps,
        atol=4 * eps * max(largest, inner),
        equal_nan=True,
        msg=lambda message: f"{what}: {message}",
    )


def samples(op: Operator, dtype: torch.dtype, device: str) -> Iterator[Sample]:
    found = list(op.samples(dtype))
    assert found
    for sample in found:
        yield sample.to(device)


@pytest.mark.kernels
@every_operator
@every_dtype
def test_value_and_gradients_are_those_of_float64(
    op: Operator, dtype: torch.dtype, device: str
) -> None:
    for sample in samples(op, dtype, device):
        ours = value_and_gradients(op.ours, sample)
        exact = value_and_gradients(op.native, widened(sample.to("cpu")))
        for number, (mine, true) in enumerate(zip(ours, exact, strict=True)):
            what = f"{sample.name}, " + ("value" if number == 0 else f"gradient {number - 1}")
            assert_near(mine, true, dtype, what, op.inner)


@pytest.mark.kernels
@every_operator
@every_dtype
def test_shape_dtype_and_strides_are_natives(op: Operator, dtype: torch.dtype, device: str) -> None:
    for sample in samples(op, dtype, device):
        mine = call(op.ours, sample)(*sample.leaves())
        native = call(op.native, sample)(*sample.leaves())
        assert mine.dtype == native.dtype, sample.name
        assert mine.shape == native.shape, sample.name
        assert mine.stride() == native.stride(), sample.name
        assert mine.requires_grad, sample.name


@pytest.mark.kernels
@every_operator
@every_dtype
def test_no_gradient_gives_the_same_value(op: Operator, dtype: torch.dtype, device: str) -> None:
    for sample in samples(op, dtype, device):
        with_gradient = call(op.ours, sample)(*sample.leaves()).detach()
        without = call(op.ours, sample)(*(x.detach() for x in sample.inputs))
        with torch.inference_mode():
            inference = call(op.ours, sample)(*sample.inputs)
        for other in (without, inference):
            if op.one_way and not op.tiled:
                torch.testing.assert_close(other, with_gradient, rtol=0, atol=0, equal_nan=True)
            else:
                assert_near(other, with_gradient.double(), dtype, sample.name, op.inner)


@pytest.mark.kernels
@every_operator
def test_inputs_are_not_written_to(op: Operator, device: str) -> None:
    for sample in samples(op, torch.float32, device):
        inputs = sample.leaves()
        before = [(x.detach().clone(), x._version) for x in inputs]
        call(op.ours, sample)(*inputs).sum().backward()
        for x, (copy, version) in zip(inputs, before, strict=True):
            assert torch.equal(x, copy) and x._version == version, sample.name


@pytest.mark.kernels
@every_operator
def test_gradcheck(op: Operator, device: str) -> None:
    sample = op.small(device)
    assert gradcheck(
        call(op.ours, sample),
        sample.leaves(),
        check_forward_ad=True,
        check_batched_grad=True,
        check_batched_forward_grad=True,
    )


@pytest.mark.kernels
@every_operator
def test_gradgradcheck(op: Operator, device: str) -> None:
    sample = op.small(device)
    assert gradgradcheck(
        call(op.ours, sample),
        sample.leaves(),
        check_fwd_over_rev=True,
        check_rev_over_rev=True,
        check_batched_grad=True,
    )


def test_gradcheck_against_native_softmax(device: str) -> None:
    """The analytical Jacobian of ours, column by column, is that of torch.softmax."""
    x = torch.randn(3, 5, dtype=torch.float64, device=device)
    ours = torch.autograd.functional.jacobian(lambda z: OPERATORS[0].ours(z, 1), x)
    native = torch.autograd.functional.jacobian(lambda z: torch.softmax(z, 1), x)
    torch.testing.assert_close(ours, native, rtol=1e-14, atol=1e-16)


@every_operator
def test_second_derivatives_of_every_sample(op: Operator, device: str) -> None:
    """Double backward of both arguments: the gradient is differentiated as native's is."""

    def twice(function: Callable[..., Tensor], sample: Sample) -> list[Tensor | None]:
        inputs = sample.leaves()
        value = call(function, sample)(*inputs)
        upstream = torch.linspace(0.5, 1.5, value.numel(), dtype=value.dtype, device=value.device)
        upstream = upstream.view_as(value).requires_grad_()
        gradients = torch.autograd.grad(value, inputs, upstream, create_graph=True)
        total = sum((g.pow(2).sum() for g in gradients), torch.zeros(()).to(value))
        return torch.autograd.grad(total, (*inputs, upstream), materialize_grads=True)

    for sample in samples(op, torch.float64, device):
        nothing = any(word in sample.name for word in ("ignored", "no rows", "no classes"))
        if nothing and "mean" in sample.name:
            continue  # 0 / 0: native's own second derivative is nan in some, 0 in others
        for mine, native in zip(twice(op.ours, sample), twice(op.native, sample), strict=True):
            # What cancels in a sum is as large as the largest result.
            atol = 1e-12 * max([1.0, *native.abs().flatten().tolist()])
            torch.testing.assert_close(mine, native, rtol=1e-9, atol=atol, msg=sample.name)


def squared(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return lambda *inputs: function(*inputs).pow(2).sum()


def every_argument(sample: Sample) -> tuple[int, ...]:
    return tuple(range(len(sample.inputs)))


TORCH_FUNC = {
    "grad": lambda f, n: torch.func.grad(squared(f), n),
    "grad of grad": lambda f, n: torch.func.grad(
        lambda *x: sum(g.pow(2).sum() for g in torch.func.grad(squared(f), n)(*x)), n
    ),
    "jacrev": lambda f, n: torch.func.jacrev(f, n),
    "jacfwd": lambda f, n: torch.func.jacfwd(f, n),
    "hessian": lambda f, n: torch.func.hessian(squared(f), n),
    "jacrev of jacrev": lambda f, n: torch.func.jacrev(torch.func.jacrev(squared(f), n), n),
    "jvp": lambda f, n: lambda *x: torch.func.jvp(f, x, x),
    "vjp": lambda f, n: lambda *x: torch.func.vjp(f, *x)[1](torch.ones_like(f(*x))),
}


def assert_same(ours: object, native: object) -> None:
    torch.testing.assert_close(ours, native, rtol=1e-10, atol=1e-13)


@every_operator
@pytest.mark.parametrize("transform", TORCH_FUNC)
def test_torch_func(op: Operator, transform: str, device: str) -> None:
    sample = op.small(device)

    def run(function: Callable[..., Tensor]) -> tuple[object, object, object]:
        transformed = TORCH_FUNC[transform](call(function, sample), every_argument(sample))
        batches = [torch.stack([x, 2 * x, x + 1]) for x in sample.inputs]
        last = [batch.movedim(0, -1) for batch in batches]
        return (
            transformed(*sample.inputs),
            torch.func.vmap(transformed)(*batches),
            torch.func.vmap(transformed, in_dims=-1)(*last),
        )

    assert_same(run(op.ours), run(op.native))


@every_operator
def test_vmap_inside_of_grad_and_of_vmap(op: Operator, device: str) -> None:
    sample = op.small(device)
    batches = [torch.stack([x, 2 * x, x + 1]) for x in sample.inputs]
    nested = [torch.stack([batch, -batch]) for batch in batches]

    def run(function: Callable[..., Tensor]) -> tuple[object, object]:
        batched = torch.func.vmap(call(function, sample))
        gradient = torch.func.grad(squared(batched), every_argument(sample))
        return gradient(*batches), torch.func.vmap(batched)(*nested)

    assert_same(run(op.ours), run(op.native))


@pytest.mark.once
@every_operator
@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
def test_compile(op: Operator, dynamic: bool, device: str) -> None:
    """One graph, with the values and gradients of eager ours, for two inputs."""
    sample = op.small(device)
    compiled = torch.compile(call(op.ours, sample), fullgraph=True, dynamic=dynamic)
    for scale in (1.0, 2.0):
        mine, eager = (tuple(x.detach().mul(scale).requires_grad_() for x in sample.inputs),) * 2
        ours, expected = compiled(*mine), call(op.ours, sample)(*eager)
        assert_same(ours, expected)
        assert_same(
            torch.autograd.grad(ours.pow(2).sum(), mine),
            torch.autograd.grad(expected.pow(2).sum(), eager),
        )


def combined(statistics: Any) -> Tensor:
    return statistics.log_prob - 2 * statistics.lse + 3 * statistics.entropy


# Of the module, logits, a class for each row, and an output layer with as many classes.
OF_ANY_SHAPE: dict[str, Callable[[Any, Tensor, Tensor, Tensor], Tensor]] = {
    "softmax": lambda f, x, target, layer: f.softmax(x, 1),
    "log_softmax": lambda f, x, target, layer: f.log_softmax(x, 1),
    "cross_entropy": lambda f, x, target, layer: f.cross_entropy(x, target),
    "selective_log_softmax": lambda f, x, target, layer: f.selective_log_softmax(
        x, target.unsqueeze(1)
    ),
    "entropy_with_logits": lambda f, x, target, layer: f.entropy_with_logits(x, 1),
    "softmax_statistics": lambda f, x, target, layer: combined(f.softmax_statistics(x, target)),
    "kl_div_with_logits": lambda f, x, target, layer: f.kl_div_with_logits(x, x.flip(1)),
    "linear_cross_entropy": lambda f, x, target, layer: f.linear_cross_entropy(
        x[:, :3], layer, target
    ),
    "linear_softmax_statistics": lambda f, x, target, layer: combined(
        f.linear_softmax_statistics(x[:, :3], layer, target)
    ),
    "softmax_jacobian": lambda f, x, target, layer: f.softmax_jacobian(x, 1),
}


def has_jacobians() -> SimpleNamespace:
    """The functions and the derivatives as one module, as the reference is."""
    return SimpleNamespace(
        **vars(torchsoftmax.functional), softmax_jacobian=torchsoftmax.derivatives.softmax_jacobian
    )


@pytest.mark.once
@pytest.mark.parametrize("name", OF_ANY_SHAPE)
def test_compile_with_dynamic_shapes_compiles_once(name: str, device: str) -> None:
    counter = CompileCounterWithBackend("aot_eager")
    function = OF_ANY_SHAPE[name]
    compiled = torch.compile(
        partial(function, has_jacobians()), fullgraph=True, dynamic=True, backend=counter
    )
    compilations = []
    for rows, classes in ((4, 5), (6, 9), (8, 33)):
        x = torch.randn(rows, classes, dtype=torch.float64, device=device, requires_grad=True)
        target = torch.arange(rows, device=device) % classes
        layer = torch.randn(classes, 3, dtype=torch.float64, device=device)
        ours, native = compiled(x, target, layer), function(reference, x, target, layer)
        assert_same(ours, native)
        upstream = torch.randn_like(native)
        assert_same(
            torch.autograd.grad(ours, x, upstream), torch.autograd.grad(native, x, upstream)
        )
        compilations.append(counter.frame_count)
    assert 0 < compilations[0] == compilations[1] == compilations[2]


@pytest.mark.once
@every_operator
@pytest.mark.parametrize("transform", ["grad", "jvp", "hessian"])
def test_compile_of_torch_func(op: Operator, transform: str, device: str) -> None:
    sample = op.small(device)
    arguments = every_argument(sample)
    ours = TORCH_FUNC[transform](call(op.ours, sample), arguments)
    native = TORCH_FUNC[transform](call(op.native, sample), arguments)

    def compiled(function: Callable[..., Tensor]) -> Tensor:
        return torch.compile(function, fullgraph=True, backend="aot_eager")(*sample.inputs)

    try:
        result = compiled(ours)
    except torch._dynamo.exc.UserError:
        # PyTorch 2.11 cannot trace a Hessian by several inputs; nor can it native's then.
        with pytest.raises(torch._dynamo.exc.UserError):
            compiled(native)
        pytest.skip("this PyTorch does not compile the transform of native's either")
    assert_same(result, native(*sample.inputs))


@pytest.mark.once
@every_operator
@pytest.mark.parametrize("strict", [False, True], ids=["non-strict", "strict"])
def test_export(op: Operator, strict: bool, device: str) -> None:
    sample = op.small(device)
    tensors = tuple(a for a in sample.args if isinstance(a, Tensor))
    others = tuple(a for a in sample.args if not isinstance(a, Tensor))

    class Module(torch.nn.Module):
        def forward(self, *inputs: Tensor) -> Tensor:
            return op.ours(*inputs, *others, **sample.kwargs)

    program = torch.export.export(Module(), (*sample.inputs, *tensors), strict=strict)
    name = op.name.split(",")[0]
    assert f"torchsoftmax.{name}.default" in str(program.graph)
    assert_same(program.module()(*sample.inputs, *tensors), call(op.native, sample)(*sample.inputs))


@pytest.mark.once
@every_operator
def test_compiled_autograd(op: Operator, device: str) -> None:
    sample = op.small(device)
    mine, native = sample.leaves(), sample.leaves()
    with torch._dynamo.compiled_autograd._enable(torch.compile(backend="eager")):
        call(op.ours, sample)(*mine).pow(2).sum().backward()
    call(op.native, sample)(*native).pow(2).sum().backward()
    assert_same([x.grad for x in mine], [x.grad for x in native])


@every_operator
def test_its_node_is_named_after_it(op: Operator, device: str) -> None:
    """PyTorch shows the name with a tensor, in drawings of graphs and where anomalies are found."""
    sample = op.small(device)
    first, *others = sample.inputs
    result = call(op.ours, sample)(first.detach().requires_grad_(), *others)
    nodes, found = [result.grad_fn], set()
    while nodes:
        node = nodes.pop()
        if node is not None:
            found.add(node.name())
            nodes += [edge for edge, _ in node.next_functions]
    words = op.name.split(",")[0].replace("_", "")
    own = {name for name in found if "torchsoftmax" in name}
    assert f"torchsoftmax::{words}Backward".lower() in {name.lower() for name in own}
    assert all(re.fullmatch(r"torchsoftmax::\w+Backward", name) for name in own)


@every_operator
@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpoint(op: Operator, reentrant: bool, device: str) -> None:
    sample = op.small(device)
    mine, native = sample.leaves(), sample.leaves()
    value = checkpoint(call(op.ours, sample), *mine, use_reentrant=reentrant)
    value.pow(2).sum().backward()
    call(op.native, sample)(*native).pow(2).sum().backward()
    assert_same([x.grad for x in mine], [x.grad for x in native])


@every_operator
def test_saved_tensor_hooks(op: Operator, device: str) -> None:
    """Everything of the size of the input that is kept for backward passes through the hooks."""
    sample = op.small(device)
    mine, native = sample.leaves(), sample.leaves()
    packed: list[int] = []

    def pack(tensor: Tensor) -> Tensor:
        packed.append(tensor.numel())
        return tensor.clone()

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        value = call(op.ours, sample)(*mine)
    assert max(packed) >= mine[0].numel()
    value.pow(2).sum().backward()
    call(op.native, sample)(*native).pow(2).sum().backward()
    assert_same([x.grad for x in mine], [x.grad for x in native])


@every_operator
def test_backward_twice(op: Operator, device: str) -> None:
    sample = op.small(device)
    inputs = sample.leaves()
    value = call(op.ours, sample)(*inputs).sum()
    first = torch.autograd.grad(value, inputs, retain_graph=True)
    assert_same(torch.autograd.grad(value, inputs), first)
    with pytest.raises(RuntimeError, match="second time"):
        torch.autograd.grad(value, inputs)


@every_operator
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype)[6:])
def test_autocast(op: Operator, dtype: torch.dtype, device: str) -> None:
    """Dtype in, dtype out as native; the gradient has the dtype of the input."""

    def autocasting(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        return torch.autocast(device, dtype=torch.bfloat16)(function)

    for sample in samples(op, dtype, device):
        (ours, *mine), (expected, *_) = (
            value_and_gradients(autocasting(function), sample) for function in (op.ours, op.native)
        )
        assert ours.dtype == expected.dtype, sample.name
        exact, *gradients = value_and_gradients(op.native, widened(sample.to("cpu")))
        in_bfloat16 = op.products and dtype != torch.float64
        inner = op.inner if in_bfloat16 else 1.0
        kinds = (torch.bfloat16,) * 2 if in_bfloat16 else (ours.dtype, dtype)
        assert_near(ours, exact, kinds[0], sample.name, inner)
        for gradient, true in zip(mine, gradients, strict=True):
            assert gradient.dtype == dtype
            assert_near(gradient, true, kinds[1], f"{sample.name}, gradient", op.inner)


@pytest.mark.once
@every_operator
def test_meta_device(op: Operator) -> None:
    """A device of its own: there is nothing to compute with on any other."""
    for sample in samples(op, torch.bfloat16, "cpu"):
        expected = call(op.native, sample)(*sample.inputs)
        meta = sample.to("meta")
        ours = call(op.ours, meta)(*meta.inputs)
        assert (ours.shape, ours.stride(), ours.dtype, ours.device.type) == (
            expected.shape,
            expected.stride(),
            expected.dtype,
            "meta",
        ), sample.name


@pytest.mark.once
@every_operator
@pytest.mark.parametrize("mode", ["fake", "symbolic"])
def test_make_fx(op: Operator, mode: str, device: str) -> None:
    sample = op.small(device)

    def gradient(function: Callable[..., Tensor]) -> Callable[..., tuple[Tensor, ...]]:
        def run(*tensors: Tensor) -> tuple[Tensor, ...]:
            inputs = tensors[: len(sample.inputs)]
            value = function(*tensors, *others, **sample.kwargs).pow(2).sum()
            return torch.autograd.grad(value, inputs)

        return run

    others = tuple(a for a in sample.args if not isinstance(a, Tensor))
    tensors = (*sample.leaves(), *(a for a in sample.args if isinstance(a, Tensor)))
    graph = make_fx(gradient(op.ours), tracing_mode=mode, _allow_non_fake_inputs=True)(*tensors)
    assert "torchsoftmax" in str(graph.graph) or not op.one_way
    assert_same(graph(*tensors), gradient(op.native)(*tensors))


@pytest.mark.once
@every_operator
def test_torch_function_mode_and_subclass_see_the_call(op: Operator, device: str) -> None:
    sample = op.small(device)
    seen: list[str] = []

    class Mode(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            seen.append(str(func))
            return func(*args, **(kwargs or {}))

    class Subclass(torch.Tensor):
        pass

    with Mode():
        call(op.ours, sample)(*sample.inputs)
    assert any(op.name.split(",")[0] in name for name in seen)
    wrapped = tuple(x.as_subclass(Subclass) for x in sample.inputs)
    assert isinstance(call(op.ours, sample)(*wrapped), Subclass)


def opcheck_arguments(device: str) -> Iterator[tuple[str, tuple[object, ...]]]:
    """One call of every operator that is registered, and of each kind of its arguments."""
    op = torch.ops.torchsoftmax
    x = torch.randn(4, 5, device=device, requires_grad=True)
    y = x.detach().softmax(1).requires_grad_()
    indices = torch.tensor([0, -100, 3, 2], device=device)
    weight, rows = torch.rand(5, device=device), torch.rand(4, device=device)
    mask = torch.rand(4, 5, device=device) < 0.7
    for optional in ((), (0.7, mask)):
        yield "softmax", (x, 1, None, *optional)
        yield "log_softmax", (x, 1, torch.float64, *optional)
        yield "softmax_backward", (x, y, 1, *optional)
        yield "log_softmax_backward", (x, y, 1, *optional)
    for log in (False, True):
        yield "softmax_jacobian", (y, 1, 0.7, log)
    yield "softmax_hessian", (y, 1, 0.7)
    yield "gather_index", (indices, 5, -100, "a name")
    for target in (indices, y.detach().requires_grad_()):
        inputs = (x, target, weight, rows)
        for reduction in range(3):
            options = (reduction, -100, 0.1, 0.7, 5.0, 0.01)
            yield "cross_entropy", (*inputs, None, None, False, *options)
            for with_gradient in (False, True) if reduction else (False,):
                forward = (*inputs, None, None, with_gradient, *options)
                yield "cross_entropy_forward", forward
            loss, statistics, normalizer, _ = op.cross_entropy_forward(*forward)
            upstream = torch.ones_like(loss).requires_grad_()
            saved = (statistics.detach(), normalizer.detach())
            yield "cross_entropy_backward", (*inputs, upstream, *saved, *options)
            detached = (x.detach(), target.detach(), weight, rows, upstream.detach())
            yield "cross_entropy_backward_", (*detached, *saved, *options)
            if reduction == 0:
                yield "cross_entropy_with_gradient_", (*detached, *options)
            if target.is_floating_point():
                yield "cross_entropy_target_backward", (*inputs, upstream, *saved, *options)
    hidden, layer = (torch.randn(size, 3, device=device, requires_grad=True) for size in (4, 5))
    for target, bias in ((indices, None), (y.detach(), weight.clone().requires_grad_())):
        inputs = (hidden, target, weight, rows, layer, bias)
        wanted = [True, True, bias is not None]
        for reduction in range(3):
            options = (reduction, -100, 0.1, 0.7, 5.0, 0.01)
            yield "linear_cross_entropy", (*inputs, None, None, 2, *options)
            of_forward = wanted if reduction else [False] * 3
            forward = (*inputs, None, None, 2, of_forward, 0, *options)
            yield "linear_cross_entropy_forward", forward
            loss, normalizer, *_ = op.linear_cross_entropy_forward(*forward)
            upstream = torch.ones_like(loss).requires_grad_()
            saved = (upstream, normalizer.detach(), 2, wanted, 0)
            yield "linear_cross_entropy_backward", (*inputs, *saved, *options)
    targets = indices.clamp(min=0)
    for bias in (None, weight.clone().requires_grad_()):
        inputs = (hidden, layer, bias, targets)
        yield "linear_softmax_statistics", (*inputs, 0.7, 5.0, 2)
        *results, _, statistics = op.linear_softmax_statistics(*inputs, 0.7, 5.0, 2)
        upstreams = [torch.ones_like(result).requires_grad_() for result in results]
        saved = (statistics.detach(), 0.7, 5.0, 2, [True, True, bias is not None])
        yield "linear_softmax_statistics_backward", (*upstreams, *inputs, *saved)
    yield "scale_", (x.detach(), torch.tensor(0.5, device=device))
    for accumulate in (False, True):
        yield "gemm_", (torch.zeros_like(y), hidden.detach(), layer.detach().t(), accumulate)
    classes = torch.tensor([[0], [4], [1], [4]], device=device)
    for index, of_mask in ((classes, None), (None, mask)):
        yield "softmax_statistics", (x, index, of_mask, 1, 0.7, of_mask is None)
        *results, _, statistics = op.softmax_statistics(x, index, of_mask, 1, 0.7)
        upstreams = [torch.ones_like(result).requires_grad_() for result in results]
        yield (
            "softmax_statistics_backward",
            (*upstreams, x, index, of_mask, statistics.detach(), 1, 0.7),
        )
    for reduction in range(4):
        yield "kl_div_with_logits", (x, y, None, reduction, 2.0)
        yield "kl_div_with_logits_forward", (x, y, None, reduction, 2.0)
        loss, statistics = op.kl_div_with_logits_forward(x, y, None, reduction, 2.0)
        upstream = torch.ones_like(loss).requires_grad_()
        for name in ("kl_div_with_logits_backward", "kl_div_with_logits_target_backward"):
            yield name, (upstream, x, y, statistics.detach(), reduction, 2.0)


@pytest.mark.once
def test_opcheck(device: str) -> None:
    """Schema, fake tensors, autograd registration and AOT dispatch, with and without gradients."""
    checked = set()
    for name, arguments in opcheck_arguments(device):
        overload = getattr(torch.ops.torchsoftmax, name).default
        torch.library.opcheck(overload, arguments)
        detached = [a.detach() if isinstance(a, Tensor) else a for a in arguments]
        torch.library.opcheck(overload, detached)
        checked.add(f"torchsoftmax::{name}")
    registered = {
        schema.name
        for schema in torch._C._jit_get_all_schemas()
        if schema.name.startswith("torchsoftmax::")
    }
    assert checked == registered
