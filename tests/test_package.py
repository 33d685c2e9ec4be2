"""What comes with the package: import errors, the command line, types, docstrings, the README."""

from __future__ import annotations

import ast
import doctest
import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

import torchsoftmax
from torchsoftmax import _C, __main__, _load

pytestmark = pytest.mark.once
PACKAGE = Path(torchsoftmax.__file__).parent
PUBLIC = [
    getattr(module, name)
    for module in (torchsoftmax.functional, torchsoftmax.nn)
    for name in module.__all__
]


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=PACKAGE.parent
    )


def test_import_error_where_the_extension_is_missing() -> None:
    done = python("import sys; sys.modules['torchsoftmax._C'] = None; import torchsoftmax")
    assert done.returncode == 1
    error = done.stderr.strip().splitlines()[-1]
    assert error.startswith("ImportError: torchsoftmax: the compiled extension torchsoftmax._C")
    assert "pip install --no-build-isolation" in error
    assert torch.__version__ in error


def test_import_error_where_the_extension_was_built_against_another_torch() -> None:
    done = python(
        "import sys, types; m = types.ModuleType('torchsoftmax._C'); m.torch_version = '2.9.1';"
        "sys.modules['torchsoftmax._C'] = m; import torchsoftmax"
    )
    assert done.returncode == 1
    error = done.stderr.strip().splitlines()[-1]
    assert "it was built against torch 2.9.1" in error
    assert f"cannot be used with torch {torch.__version__}" in error


def test_import_error_where_the_kernels_are_missing() -> None:
    name = _load.cpu_kernels()
    done = python(f"import sys; sys.modules['torchsoftmax.{name}'] = None; import torchsoftmax")
    assert done.returncode == 1
    assert f"torchsoftmax.{name} cannot be used" in done.stderr


COMPOSITE = """
import sys, types
sys.modules['torchsoftmax.{name}'] = types.ModuleType('kernels of another device')
sys.path.insert(0, 'tests')
import torch, torchsoftmax
from cases import DTYPES, OPERATORS
from test_contract import assert_near, value_and_gradients, widened
assert not torch._C._dispatch_has_kernel_for_dispatch_key('torchsoftmax::softmax', 'CPU')
for op in OPERATORS:
    for dtype in DTYPES:
        for sample in op.samples(dtype):
            ours = value_and_gradients(op.ours, sample)
            exact = value_and_gradients(op.native, widened(sample))
            for mine, true in zip(ours, exact, strict=True):
                # The composite rounds logits / temperature, which are up to 30.
                assert_near(mine, true, dtype, sample.name, max(op.inner, 16.0))
print('composite')
"""


def test_a_device_without_kernels_runs_the_composite_definition() -> None:
    """The CPU without its module of kernels stands for such a device."""
    done = python(COMPOSITE.format(name=_load.cpu_kernels()))
    assert done.stdout == "composite\n", done.stderr


def test_info(capsys: pytest.CaptureFixture[str]) -> None:
    assert __main__.main(["info"]) == 0
    printed = capsys.readouterr().out
    for fact in (torchsoftmax.__version__, torch.__version__, _load.cpu_kernels(), _C.compiler):
        assert fact in printed
    assert f"threads             {torch.get_num_threads()}" in printed
    assert __main__.main(["info", "--instruction-sets"]) == 0
    sets = capsys.readouterr().out.split()
    assert sets[0] == "default" and f"_cpu_{sets[-1]}" == _load.cpu_kernels()


def test_command_line_names_what_is_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        __main__.main(["nothing"])
    assert exit_.value.code == 2
    assert "invalid choice: 'nothing'" in capsys.readouterr().err


def test_every_instruction_set_runs() -> None:
    """``ATEN_CPU_CAPABILITY`` chooses the module."""
    for name in _load.instruction_sets():
        code = (
            f"import os; os.environ['ATEN_CPU_CAPABILITY'] = '{name}'; import torch, torchsoftmax;"
            "torchsoftmax.softmax(torch.ones(3, 40), 1); print(torchsoftmax._load.cpu_kernels())"
        )
        assert python(code).stdout == f"_cpu_{name}\n"


def test_typed() -> None:
    assert (PACKAGE / "py.typed").exists()
    stub = ast.parse((PACKAGE / "_C.pyi").read_text())
    declared = {
        node.target.id: node.annotation.id for node in stub.body if isinstance(node, ast.AnnAssign)
    }
    functions = {node.name for node in stub.body if isinstance(node, ast.FunctionDef)}
    actual = {name: value for name, value in vars(_C).items() if not name.startswith("_")}
    assert functions == {name for name, value in actual.items() if callable(value)}
    assert declared == {
        name: type(value).__name__ for name, value in actual.items() if not callable(value)
    }
    for function in PUBLIC:
        target = getattr(function, "forward", function)
        annotated = getattr(target, "_fields", ["return"])  # the fields of a NamedTuple
        assert set(annotated) <= set(target.__annotations__), function


def test_every_public_name_is_at_top_level() -> None:
    names = {value.__name__ for value in PUBLIC}
    assert names <= set(torchsoftmax.__all__)
    assert all(getattr(torchsoftmax, name) in PUBLIC for name in names)


@pytest.mark.parametrize(
    "module", [torchsoftmax.functional, torchsoftmax.nn, torchsoftmax.derivatives], ids=str
)
def test_examples_in_docstrings(module: object) -> None:
    names = {"torch": torch, "torchsoftmax": torchsoftmax}
    result = doctest.testmod(module, extraglobs=names)
    assert result.failed == 0
    assert result.attempted >= len(module.__all__)


def test_example_of_empty_cache() -> None:
    """And the number that its comment names."""
    torchsoftmax.empty_cache()
    names = {"torch": torch, "torchsoftmax": torchsoftmax}
    (found,) = doctest.DocTestFinder().find(torchsoftmax.empty_cache, globs=names)
    assert doctest.DocTestRunner().run(found, clear_globs=False) == (0, 4)
    assert found.globs["bytes_kept"] == (41943040 if sys.platform == "linux" else 0)


def test_python_of_the_readme_runs() -> None:
    """Every block, one after the other, and it does what it is there for."""
    text = (PACKAGE.parent / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), names)
    gradient = names["logits"].grad
    assert gradient.shape == (8, 32000) and gradient.isfinite().all() and gradient.any()
    torch.testing.assert_close(names["attention"].sum(-1), torch.ones(2, 8, 64))


def test_signatures_extend_natives() -> None:
    """Every argument of native's function has its default here; legacy arguments aside."""
    legacy = {"size_average", "reduce", "_stacklevel"}
    # Of linear_cross_entropy: how native chunks, and None where the design has native's own -100.
    own = {"linear_cross_entropy": {"options", "ignore_index"}}
    shared = [name for name in torchsoftmax.functional.__all__ if hasattr(F, name)]
    assert {"softmax", "log_softmax", "cross_entropy"} <= set(shared)
    for name in shared:
        ours = inspect.signature(getattr(torchsoftmax, name)).parameters
        native = inspect.signature(getattr(F, name)).parameters
        for argument in native.keys() - legacy - own.get(name, set()):
            assert argument in ours, f"{name}: {argument}"
            if argument != "dim":  # required here: native warns where it is left out
                assert ours[argument].default == native[argument].default


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("TORCHSOFTMAX_CUDA", "2", "TORCHSOFTMAX_CUDA: expected 0 or 1, got '2'"),
        (
            "TORCHSOFTMAX_INSTRUCTION_SETS",
            "sse",
            "TORCHSOFTMAX_INSTRUCTION_SETS: expected some of default",
        ),
    ],
)
def test_switches_of_the_build(name: str, value: str, message: str) -> None:
    """Each says what it takes, before anything is built."""
    done = subprocess.run(
        [sys.executable, "setup.py", "--version"],
        capture_output=True,
        text=True,
        cwd=PACKAGE.parent,
        env={**os.environ, name: value},
    )
    assert done.returncode == 1
    assert done.stderr.strip().startswith(message)


@pytest.mark.skipif(_C.cuda, reason="CUDA is there")
def test_cuda_is_asked_for_where_it_is_not() -> None:
    done = subprocess.run(
        [sys.executable, "setup.py", "--version"],
        capture_output=True,
        text=True,
        cwd=PACKAGE.parent,
        env={**os.environ, "TORCHSOFTMAX_CUDA": "1"},
    )
    assert done.returncode == 1
    assert "TORCHSOFTMAX_CUDA=1: expected a CUDA toolkit and a CUDA build of torch" in done.stderr
