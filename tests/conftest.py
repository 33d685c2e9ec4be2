import os
import tempfile
from collections.abc import Iterator

import hypothesis
import pytest
import torch
from cases import devices

import torchsoftmax._load

# Inductor's cache of torch 2.13 takes code that was generated for one instruction set for another,
# where it is wrong; and it does not see that an operator was rebuilt. So every run has its own.
_inductor_cache = tempfile.TemporaryDirectory(prefix="torchsoftmax-inductor-")
os.environ["TORCHINDUCTOR_CACHE_DIR"] = _inductor_cache.name

# Products on a GPU are compared bit for bit with themselves, and with float64 by the rounding of
# their dtype: they have one order of summation, in float32. cuBLAS reads the variable at its start.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
torch.backends.cuda.matmul.allow_tf32 = False
torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False

# The same examples in every run; with HYPOTHESIS_PROFILE=explore others in each.
hypothesis.settings.register_profile("suite", derandomize=True, deadline=None, database=None)
hypothesis.settings.register_profile("explore", deadline=None, database=None, print_blob=True)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "suite"))


def pytest_report_header() -> str:
    gpu = f"{torch.cuda.get_device_name()}, " if "cuda" in devices() else ""
    return (
        f"torch {torch.__version__}, {torchsoftmax._load.cpu_kernels()}, "
        f"{torch.get_num_threads()} threads, {gpu}"
        f"ATEN_CPU_CAPABILITY={os.environ.get('ATEN_CPU_CAPABILITY', 'not set')}"
    )


@pytest.fixture(scope="session", params=devices())
def device(request: pytest.FixtureRequest) -> str:
    """Every device that there are kernels for: a test that takes it runs on each."""
    return request.param


@pytest.fixture(autouse=True)
def fresh() -> None:
    """Every test starts from the same seed and without compiled functions of another."""
    torch.manual_seed(0)
    torch.compiler.reset()


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Where tensors are small, threads would wait for each other more than they work."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
