import os
from collections.abc import Iterator

import hypothesis
import pytest
import torch

import torchsoftmax._load

hypothesis.settings.register_profile("suite", derandomize=True, deadline=None, database=None)
hypothesis.settings.load_profile("suite")


def pytest_report_header() -> str:
    return (
        f"torch {torch.__version__}, {torchsoftmax._load.cpu_kernels()}, "
        f"{torch.get_num_threads()} threads, "
        f"ATEN_CPU_CAPABILITY={os.environ.get('ATEN_CPU_CAPABILITY', 'not set')}"
    )


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
