"""Loads the extension: the operators, and the kernels for this CPU's instruction set."""

import importlib

import torch

_MODULES = {"AVX512": "_cpu_avx512", "AVX2": "_cpu_avx2"}


def cpu_kernels() -> str:
    """The name of the module with the kernels for this CPU.

    It follows ``torch.backends.cpu.get_cpu_capability()``, and so the environment variable
    ``ATEN_CPU_CAPABILITY`` (``default``, ``avx2``, ``avx512``).
    """
    return _MODULES.get(torch.backends.cpu.get_cpu_capability(), "_cpu_default")


def _release(version: str) -> tuple[str, ...]:
    return tuple(version.split("+")[0].split(".")[:2])


def load() -> None:
    """Imports ``_C`` and one module of kernels; raises an ImportError that says what to do."""
    name = "_C"
    try:
        extension = importlib.import_module("torchsoftmax._C")
        built = extension.torch_version
        if _release(built) != _release(torch.__version__):
            raise ImportError(f"it was built against torch {built}")
        name = cpu_kernels()
        importlib.import_module(f"torchsoftmax.{name}")
    except ImportError as error:
        raise ImportError(
            f"torchsoftmax: the compiled extension torchsoftmax.{name} cannot be used with "
            f"torch {torch.__version__}: {error}. Build it against this torch: "
            "`pip install --no-build-isolation --force-reinstall --no-deps torchsoftmax` "
            "(in a checkout: `pip install --no-build-isolation -e .`)."
        ) from error
