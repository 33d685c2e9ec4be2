"""A target out of range raises before memory is read with it, wherever it stands.

On the CPU. A GPU's kernel can but assert, as PyTorch's own do, and with that the process has lost
the GPU: so one test, the last, has a process of its own, and runs on every device.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from cases import class_indices, logits
from torch import Tensor

import torchsoftmax

pytestmark = pytest.mark.kernels

ops = torch.ops.torchsoftmax
CLASSES = 5
LAYOUTS = {
    "rows": logits(40, CLASSES, dtype=torch.float32),
    "many rows": logits(150, CLASSES, dtype=torch.float32),
    "columns": logits(CLASSES, 40, dtype=torch.float32).t(),
    "map": logits(2, CLASSES, 3, 7, dtype=torch.float32),
    "large map": logits(2, CLASSES, 9, 13, dtype=torch.float32),
    "channels last": logits(2, CLASSES, 3, 7, dtype=torch.float32).to(
        memory_format=torch.channels_last
    ),
}
BAD = [
    *((torch.int64, value) for value in (CLASSES, -1, -99, 2**32, 2**63 - 1, -(2**63))),
    *((torch.int32, value) for value in (CLASSES, -1, 2**31 - 1, -(2**31))),
    *((torch.uint8, value) for value in (CLASSES, 255)),
]

every_layout = pytest.mark.parametrize("layout", LAYOUTS)
every_bad = pytest.mark.parametrize("dtype, bad", BAD, ids=str)
every_position = pytest.mark.parametrize("position", [0, 17, -1])


def targets(layout: str, dtype: torch.dtype, position: int, bad: int, ignore_index: int) -> Tensor:
    """Indices of which every third is ignored, and one is bad."""
    x = LAYOUTS[layout]
    target = class_indices(x.size(0), *x.shape[2:], classes=CLASSES, ignore_index=ignore_index)
    target.view(-1)[position] = bad
    return target.to(dtype)


def out_of_bounds(bad: int, ignore_index: int) -> str:
    expected = f"expected 0 <= target < {CLASSES} or ignore_index ({ignore_index})"
    return re.escape(f"cross_entropy: Target {bad} is out of bounds: {expected}")


@every_layout
@every_bad
@every_position
@pytest.mark.parametrize("ignore_index", [-100, 2])
def test_target_out_of_range(
    layout: str, dtype: torch.dtype, bad: int, position: int, ignore_index: int
) -> None:
    if dtype == torch.uint8:
        ignore_index = abs(ignore_index)
    target = targets(layout, dtype, position, bad, ignore_index)
    x = LAYOUTS[layout]
    for reduction in ("none", "mean", "sum"):
        for smoothing in (0.0, 0.1):
            kwargs = {
                "ignore_index": ignore_index,
                "reduction": reduction,
                "label_smoothing": smoothing,
                "weight": torch.ones(CLASSES) if reduction == "mean" else None,
            }
            for leaf in (x, x.detach().requires_grad_()):
                with pytest.raises(IndexError, match=out_of_bounds(bad, ignore_index)):
                    torchsoftmax.cross_entropy(leaf, target, **kwargs)
            with torch.no_grad(), pytest.raises(IndexError):
                torchsoftmax.cross_entropy(leaf, target, **kwargs)


TRANSFORMS: dict[str, Callable[[Callable[..., Tensor]], Callable[..., object]]] = {
    "grad": torch.func.grad,
    "vmap": lambda f: lambda x, t: torch.func.vmap(f)(torch.stack([x, x]), torch.stack([t, t])),
    "vmap of the input": lambda f: lambda x, t: torch.func.vmap(f, (0, None))(x.unsqueeze(0), t),
    "vmap of the target": lambda f: lambda x, t: torch.func.vmap(f, (None, 0))(x, t.unsqueeze(0)),
    "vmap of grad": lambda f: (
        lambda x, t: torch.func.vmap(torch.func.grad(f), (0, None))(x.unsqueeze(0), t)
    ),
    "jvp": lambda f: lambda x, t: torch.func.jvp(lambda z: f(z, t), (x,), (x,)),
    "compile": lambda f: torch.compile(f, backend="eager"),
}


@every_layout
@pytest.mark.parametrize("transform", TRANSFORMS)
def test_target_out_of_range_in_a_transform(layout: str, transform: str) -> None:
    function = TRANSFORMS[transform](torchsoftmax.cross_entropy)
    for dtype, bad in BAD:
        target = targets(layout, dtype, position=17, bad=bad, ignore_index=2)
        with pytest.raises(IndexError, match=out_of_bounds(bad, -100)):
            function(LAYOUTS[layout], target)


@pytest.mark.parametrize("shape", [(0,), (3, 0)])
def test_no_target_is_in_range_of_no_classes(shape: tuple[int, ...]) -> None:
    for function in (torchsoftmax.cross_entropy, F.cross_entropy):
        with pytest.raises(IndexError):
            function(torch.zeros(shape), torch.zeros(shape[:-1], dtype=torch.int64))


@every_layout
@every_bad
@every_position
@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_backward_with_another_target(
    layout: str, dtype: torch.dtype, bad: int, position: int, label_smoothing: float
) -> None:
    x = LAYOUTS[layout]
    options = (1, 1, label_smoothing)  # reduction, ignore_index
    good = targets(layout, dtype, position, bad=0, ignore_index=1)
    _, *saved, _ = ops.cross_entropy_forward(x, good, None, None, None, None, False, *options)
    target = targets(layout, dtype, position, bad, ignore_index=1)
    with pytest.raises(IndexError, match=out_of_bounds(bad, 1)):
        ops.cross_entropy_backward(x, target, None, None, torch.ones(()), *saved, *options)


CALLS = {
    "cross_entropy": "cross_entropy(x, target)",
    "selective_log_softmax": "selective_log_softmax(x, target.unsqueeze(1))",
    "softmax_statistics": "softmax_statistics(x, target).log_prob",
    "linear_cross_entropy": "linear_cross_entropy(x, torch.ones(5, 5, device=x.device), target)",
}
IN_A_PROCESS = """
import torch, torchsoftmax
x = torch.zeros(4, 5, device="{device}")
target = torch.tensor([0, 4, 5, 1], device="{device}")
print(torchsoftmax.{call}.sum().item())
"""
ERROR = {"cpu": "IndexError: {name}: Target 5 is out of bounds", "cuda": "device-side assert"}


@pytest.mark.parametrize("name", CALLS)
def test_a_process_with_a_target_out_of_range_fails(name: str, device: str) -> None:
    script = IN_A_PROCESS.format(device=device, call=CALLS[name])
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert run.returncode != 0 and not run.stdout
    assert ERROR[device].format(name=name) in run.stderr
