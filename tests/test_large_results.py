"""Results that caches cannot hold, which are written past them, and those whose memory is kept."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import torchsoftmax

# From 16 MiB on a result is written past the caches: rows in a pipeline that begin with a whole
# vector and rows that do not, short, long. In 16 bits there are twice as many rows.
SHAPES = [
    *((8200, 512), (4200, 1003), (33000, 129), (130, 33001), (130, 33008)),
    *((65, 132000), (41, 262144)),
]


def gradient(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """The gradient of a function's weighted sum."""

    def of(x: Tensor) -> Tensor:
        x = x.detach().requires_grad_()
        result = function(x)
        upstream = x.detach().roll(1, -1) if result.dim() == x.dim() else torch.ones_like(result)
        return torch.autograd.grad(result, x, upstream)[0]

    return of


def labels(x: Tensor) -> Tensor:
    """The same for a row wherever it is: some class, or ignored."""
    found = (x[:, 0].float().abs() * 1000).long() % x.size(1)
    return found.where(found % 5 != 0, -100)


def loss(x: Tensor, target: Tensor, **options: object) -> Tensor:
    return torchsoftmax.cross_entropy(x, target, reduction="sum", **options)


def of_probabilities(x: Tensor) -> Tensor:
    return loss(x, torch.softmax(x.detach().roll(3, -1), -1))


ROW_BY_ROW: dict[str, Callable[[Tensor], Tensor]] = {
    "softmax": lambda x: torchsoftmax.softmax(x, -1),
    "log_softmax": lambda x: torchsoftmax.log_softmax(x, -1),
    "softmax with a mask": lambda x: torchsoftmax.softmax(x, -1, mask=x < 1),
    "gradient of softmax": gradient(lambda x: torchsoftmax.softmax(x, -1)),
    "gradient of log_softmax": gradient(lambda x: torchsoftmax.log_softmax(x, -1)),
    "gradient of cross_entropy": gradient(lambda x: loss(x, labels(x))),
    "gradient of a smooth loss": gradient(lambda x: loss(x, labels(x), label_smoothing=0.1)),
    "gradient of a capped loss": gradient(lambda x: loss(x, labels(x), softcap=2.0)),
    "gradient of a loss of probabilities": gradient(of_probabilities),
    "gradient of kl_div_with_logits": gradient(
        lambda x: torchsoftmax.kl_div_with_logits(x, x.detach().roll(3, -1), reduction="sum")
    ),
    "gradient of entropy_with_logits": gradient(
        lambda x: torchsoftmax.entropy_with_logits(x, dim=-1)
    ),
}


@pytest.mark.kernels
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=lambda t: str(t)[6:])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", ROW_BY_ROW)
def test_as_those_of_its_parts(name: str, shape: tuple[int, int], dtype: torch.dtype) -> None:
    """Bit for bit, though parts are small: they are compared with native elsewhere. What was in
    the memory before does not come through."""
    rows = shape[0] * 4 // dtype.itemsize
    function, x = ROW_BY_ROW[name], torch.randn(rows, shape[1]).to(dtype)
    before = function(x)
    before.fill_(torch.nan)
    del before
    whole = function(x)
    assert whole.nbytes >= 16 << 20
    parts = torch.cat([function(part) for part in x.split(max(1, rows // 40))])
    assert torch.equal(whole, parts)


@pytest.mark.kernels
@pytest.mark.parametrize("function", ["softmax_jacobian", "log_softmax_jacobian"])
@pytest.mark.parametrize("classes", [512, 701])
def test_jacobians(function: str, classes: int) -> None:
    x = torch.randn(20, classes)
    of = getattr(torchsoftmax.derivatives, function)
    assert torch.equal(of(x), torch.stack([of(row) for row in x]))


@pytest.mark.kernels
def test_hessian() -> None:
    x = torch.randn(3, 130)
    of = torchsoftmax.derivatives.softmax_hessian
    assert torch.equal(of(x), torch.stack([of(row) for row in x]))


@pytest.mark.once
def test_more_classes_than_a_float_can_tell_apart() -> None:
    """Side by side in neighbouring rows, whose targets are on both sides of 2^24."""
    rows, classes = 16, 2**24 + 8
    x = torch.randn(1, classes, 1).bfloat16().expand(1, -1, rows).requires_grad_()
    target = classes - 1 - torch.arange(rows)
    (of_x,) = torch.autograd.grad(loss(x, target.unsqueeze(0)), x)
    assert (of_x[0, target, torch.arange(rows)] < -0.5).all()
    assert (of_x < -0.5).sum() == rows


LARGE = (1024, 10000)  # 40 MB in float32
BLOCK = 41943040  # the bytes that such a result is kept in: whole huge pages
keeps = pytest.mark.skipif(sys.platform != "linux", reason="memory is kept on Linux alone")


@keeps
def test_memory_is_kept() -> None:
    torchsoftmax.empty_cache()
    x = torch.randn(LARGE)
    first = torchsoftmax.softmax(x, -1)
    second = torchsoftmax.softmax(x, -1)
    assert first.data_ptr() != second.data_ptr()
    place = first.data_ptr()
    view = first[1:]
    del first
    assert torchsoftmax.softmax(x, -1).data_ptr() != place, "a view still has that memory"
    del view
    assert torchsoftmax.log_softmax(x, -1).data_ptr() == place
    assert torch.equal(second, torchsoftmax.softmax(x, -1))
    held = torchsoftmax.empty_cache()
    assert 2 * x.nbytes <= held <= 2 * x.nbytes + (8 << 20)
    assert torchsoftmax.empty_cache() == 0


@keeps
def test_memory_of_smaller_results_is_kept() -> None:
    """Also through autograd, whose backward then finds its pages."""
    x = torch.randn(1024, 1000, requires_grad=True)
    result = torchsoftmax.softmax(x, -1)
    places = set()
    for _ in range(5):
        (found,) = torch.autograd.grad(result, x, torch.ones_like(result), retain_graph=True)
        places.add(found.data_ptr())
        del found
    assert len(places) == 1


@keeps
def test_few_blocks_are_kept() -> None:
    torchsoftmax.empty_cache()
    x = torch.zeros(LARGE)
    results = [torchsoftmax.softmax(x, -1) for _ in range(12)]
    del results
    assert BLOCK <= torchsoftmax.empty_cache() <= 8 * BLOCK


@keeps
def test_more_blocks_of_smaller_results_are_kept() -> None:
    torchsoftmax.empty_cache()
    x = torch.zeros(300, 1000)
    results = [torchsoftmax.softmax(x, -1) for _ in range(60)]
    del results
    assert 20 * x.nbytes <= torchsoftmax.empty_cache() <= 64 << 20


@keeps
@pytest.mark.parametrize(("megabytes", "kept"), [("0", 0), ("41", 0), ("50", BLOCK)])
def test_how_much_is_kept(megabytes: str, kept: int) -> None:
    program = f"""
import torch, torchsoftmax
for _ in range(3):
    results = [torchsoftmax.softmax(torch.zeros{LARGE}, -1) for _ in range(2)]
    del results
assert torchsoftmax.empty_cache() == {kept}
"""
    environment = {**os.environ, "TORCHSOFTMAX_KEEP_MB": megabytes}
    subprocess.run([sys.executable, "-c", program], check=True, env=environment)


@keeps
@pytest.mark.parametrize("megabytes", ["", "some", "-1", "1e3", "99999999999999999999"])
def test_a_wrong_amount_is_refused(megabytes: str) -> None:
    program = f"import torch, torchsoftmax; torchsoftmax.softmax(torch.zeros{LARGE}, -1)"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "TORCHSOFTMAX_KEEP_MB": megabytes},
        stderr=subprocess.PIPE,
        text=True,
    )
    message = "ValueError: TORCHSOFTMAX_KEEP_MB: expected a whole number of megabytes, got "
    assert done.returncode == 1 and f"{message}{megabytes!r}" in done.stderr


@keeps
def test_a_fork_while_another_thread_gives_memory_back() -> None:
    """The child, which has that thread's lock but not the thread, does not wait for it.

    It has a tensor of its own: autograd locks a tensor that requires a gradient while it is sliced,
    and PyTorch does not hold that lock over a fork.
    """
    program = f"""
import os, signal, threading, torch, torchsoftmax
torch.set_num_threads(1)
x = torch.zeros({LARGE}, requires_grad=True)
own = torch.zeros(700, {LARGE[1]})
torchsoftmax.softmax(x, -1).sum().backward()  # what is made once is there
done = threading.Event()
def work():
    while not done.is_set():
        for rows in (1024, 700):  # each takes the other's place
            torchsoftmax.softmax(x[:rows], -1).sum().backward()  # frees without Python's lock
thread = threading.Thread(target=work)
thread.start()
try:
    for _ in range(30):
        child = os.fork()
        if child == 0:
            signal.alarm(60)
            torchsoftmax.softmax(own, -1)
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
finally:
    done.set()
    thread.join()
"""
    environment = {**os.environ, "TORCHSOFTMAX_KEEP_MB": "50"}
    subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program], check=True, env=environment, timeout=120
    )


@keeps
def test_the_system_takes_what_is_kept() -> None:
    """What is kept is marked as free: pages that were, in the process's list."""
    torchsoftmax.empty_cache()
    result = torchsoftmax.softmax(torch.zeros(LARGE), -1)
    place = result.data_ptr()
    del result

    def free_kb() -> int:
        inside = False
        for line in Path("/proc/self/smaps").read_text().splitlines():
            head = line.split()[0]
            if "-" in head and not head.endswith(":"):
                begin, end = (int(part, 16) for part in head.split("-"))
                inside = begin <= place < end
            if inside and head == "LazyFree:":
                return int(line.split()[1])
        return 0

    assert free_kb() >= 40_000_000 // 1024 - 2048
    torchsoftmax.empty_cache()
    assert free_kb() == 0


def test_results_are_ordinary_tensors() -> None:
    x = torch.randn(LARGE)
    exact = F.softmax(x, -1)
    result = torchsoftmax.softmax(x, -1)
    assert torch.equal(pickle.loads(pickle.dumps(result)), result)
    shared = torchsoftmax.softmax(x, -1).share_memory_()
    assert shared.is_shared()
    assert torch.equal(shared, result)
    array = torchsoftmax.softmax(x, -1).numpy()
    assert torch.equal(torch.from_numpy(array), result)
    storage = result.untyped_storage()
    assert storage.nbytes() == result.nbytes
    storage.resize_(2 * result.nbytes)
    assert torch.allclose(result, exact, rtol=1e-5, atol=1e-12)
    storage.resize_(0)
    assert torch.equal(torchsoftmax.softmax(x, -1), shared)


def test_layout_of_a_large_gradient() -> None:
    """That of the logits, where they are dense."""
    x = torch.randn(4, 21, 400, 400).to(memory_format=torch.channels_last)
    target = torch.randint(21, (4, 400, 400))
    spread = torch.randn(4, 21, 400, 800)[..., ::2]
    for logits in (x, x.contiguous(), x.transpose(2, 3), spread):
        logits = logits.detach().requires_grad_()
        (mine,) = torch.autograd.grad(torchsoftmax.cross_entropy(logits, target), logits)
        (native,) = torch.autograd.grad(F.cross_entropy(logits, target), logits)
        assert mine.stride() == (torch.empty_like(logits)).stride()
        assert torch.allclose(mine, native, rtol=1e-4, atol=1e-9)


def test_threads_of_the_caller() -> None:
    inputs = [torch.randn(900 + 64 * k, 10000) for k in range(4)]
    exact = [torchsoftmax.softmax(x, -1) for x in inputs]

    def work(number: int) -> bool:
        return torch.equal(torchsoftmax.softmax(inputs[number % 4], -1), exact[number % 4])

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(40)))


def test_profiler_counts_large_results() -> None:
    x = torch.randn(LARGE)
    with torch.profiler.profile(profile_memory=True) as profile:
        result = torchsoftmax.softmax(x, -1)
        del result
    events = [e for e in profile.events() if e.name == "[memory]"]
    sizes = {e.cpu_memory_usage for e in events} | {
        e.cpu_memory_usage for e in profile.key_averages()
    }
    assert x.nbytes in sizes or -x.nbytes in sizes


def test_too_large() -> None:
    x = torch.zeros(1).expand(1 << 23, 1 << 23)  # 2^48 bytes: more than there are addresses
    with pytest.raises(RuntimeError, match=r"(?i)allocate"):
        torchsoftmax.log_softmax(x, -1)
