"""Loads the extension: the operators, the kernels for this CPU's instruction set, and those for
CUDA where they are built."""

import importlib
import importlib.util

import torch

# Worst first, as PyTorch names them.
_MODULES = {"DEFAULT": "_cpu_default", "AVX2": "_cpu_avx2", "AVX512": "_cpu_avx512"}


def cpu_kernels() -> str:
    """The name of the module with the kernels for this CPU.

    It follows ``torch.backends.cpu.get_cpu_capability()``, and so the environment variable
    ``ATEN_CPU_CAPABILITY`` (``default``, ``avx2``, ``avx512``).
    """
    return _MODULES.get(torch.backends.cpu.get_cpu_capability(), "_cpu_default")


def instruction_sets() -> list[str]:
    """The values of ``ATEN_CPU_CAPABILITY`` up to the one in use, worst first."""
    names = [name.lower() for name in _MODULES]
    return names[: list(_MODULES.values()).index(cpu_kernels()) + 1]


def built() -> list[str]:
    """The modules of CPU kernels that this installation has."""
    return [name for name in _MODULES.values() if importlib.util.find_spec(f"torchsoftmax.{name}")]


def _release(version: str) -> list[str]:
    return version.split("+")[0].split(".")[:2]


def load() -> None:
    """Imports ``_C`` and the modules of kernels; raises an ImportError that says what to do."""
    name = "_C"
    try:
        extension = importlib.import_module("torchsoftmax._C")
        if _release(extension.torch_version) != _release(torch.__version__):
            raise ImportError(f"it was built against torch {extension.torch_version}")
        name = cpu_kernels()
        importlib.import_module(f"torchsoftmax.{name}")
        if getattr(extension, "cuda", False):
            name = "_cuda"
            importlib.import_module(f"torchsoftmax.{name}")
    except ImportError as error:
        raise ImportError(
            f"torchsoftmax: the compiled extension torchsoftmax.{name} cannot be used with "
            f"torch {torch.__version__}: {error}. Build it against this torch, in a checkout of "
            "the sources: `pip install --no-build-isolation --force-reinstall --no-deps .`"
        ) from error
