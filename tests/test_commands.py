"""The commands explain and check."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

import torchsoftmax
from torchsoftmax import __main__, _check, derivatives
from torchsoftmax._check_operators import Operator, operators

pytestmark = pytest.mark.once


def explained(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, list[str]]:
    """The sections by the first word of their title; each the lines below it."""
    assert __main__.main(["explain", *arguments]) == 0
    sections = {}
    for section in capsys.readouterr().out.strip().split("\n\n"):
        title, *lines = section.split("\n")
        sections[title.split()[0]] = [title, *lines]
    return sections


def numbers(lines: list[str], labels: int = 0) -> Tensor:
    """Of the lines below the title and the line of column names, after the words of a label."""
    rows = [[float(cell) for cell in line.split()[labels:]] for line in lines[2:]]
    return torch.tensor(rows, dtype=torch.float64)


def assert_shown(shown: Tensor, exact: Tensor) -> None:
    """4 decimals are off by half of the last one."""
    torch.testing.assert_close(shown, exact, rtol=0, atol=0.5001e-4)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("target", ["2", "0.2,0.3,0.5"])
def test_explain(capsys: pytest.CaptureFixture[str], target: str, temperature: float) -> None:
    x = torch.tensor([1.0, -2.0, 0.3], dtype=torch.float64)
    q = torch.tensor([float(p) for p in target.split(",")] if "," in target else int(target))
    q = q.double() if "," in target else q
    arguments = ("1.0", "-2", "3e-1", "--target", target, "--temperature", str(temperature))
    sections = explained(capsys, *arguments)
    options = {"temperature": temperature}
    assert_shown(numbers(sections["logits"]), x[None])
    p = torchsoftmax.softmax(x, 0, **options)
    assert_shown(numbers(sections["probabilities"]), p[None])
    assert_shown(numbers(sections["Jacobian"], 1), derivatives.softmax_jacobian(x, **options))
    loss = float(sections["cross-entropy"][1].removesuffix(" nats"))
    assert loss == pytest.approx(torchsoftmax.cross_entropy(x, q, **options).item(), abs=1e-4)
    gradient = derivatives.cross_entropy_gradient(x, q, **options)
    assert_shown(numbers(sections["gradient"]), gradient[None])
    hessian = derivatives.cross_entropy_hessian(x, q, **options)
    assert_shown(numbers(sections["Hessian"], 1), hessian)
    over_t = " / T" if temperature != 1 else ""
    assert f"p_i (d_ij - p_j){over_t}," in sections["Jacobian"][0]
    assert f"p_i (d_ij - p_j){over_t and ' / T^2'}," in sections["Hessian"][0]


def test_explain_log(capsys: pytest.CaptureFixture[str]) -> None:
    x = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    sections = explained(capsys, "1", "2", "3", "--log")
    assert_shown(numbers(sections["log-probabilities"]), x.log_softmax(0)[None])
    assert_shown(numbers(sections["Jacobian"], 2), derivatives.log_softmax_jacobian(x))
    assert "gradient" not in sections and "Hessian" not in sections


def test_explain_is_aligned(capsys: pytest.CaptureFixture[str]) -> None:
    """Also where numbers are too small for decimals, and with negative ones."""
    for logits in (("1", "2", "3"), ("0", "-30"), ("-1e3", "1e3", "12.5", "-0.5")):
        tables = [s for s in explained(capsys, *logits, "--target", "0").values() if len(s) > 2]
        assert len(tables) == 5
        for title, *lines in tables:
            assert len({len(line) for line in lines}) == 1, title


def test_explain_shows_small_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    assert "9.358e-14" in explained(capsys, "0", "30")["probabilities"][2]


BAD = {
    "letters": (["1", "a"], "argument logits: expected a finite number, got 'a'"),
    "nan": (["1", "nan"], "argument logits: expected a finite number, got 'nan'"),
    "negative nan": (["1", "-nan"], "argument logits: expected a finite number, got '-nan'"),
    "inf": (["1", "-inf"], "argument logits: expected a finite number, got '-inf'"),
    "nothing": ([], "the following arguments are required: logits"),
    "target": (["1", "2", "--target", "2"], "expected a class index from 0 to 1, or 2 probabil"),
    "negative target": (["1", "2", "--target", "-1"], "got '-1'"),
    "fraction as target": (["1", "2", "--target", "0.5"], "got '0.5'"),
    "letters as target": (["1", "2", "--target", "x,y"], "got 'x,y'"),
    "too many": (["1", "2", "--target", "0.2,0.3,0.5"], "or 2 probabilities separated by commas"),
    "negative probability": (["1", "2", "--target", "-0.5,1.5"], "got '-0.5,1.5'"),
    "nan as probability": (["1", "2", "--target", "nan,1"], "got 'nan,1'"),
    "sum": (["1", "2", "--target", "0.5,0.6"], "got '0.5,0.6', which sum to 1.1"),
    "zero temperature": (["1", "--temperature", "0"], "expected a positive number, got '0'"),
    "negative temperature": (["1", "--temperature", "-2"], "expected a positive number, got '-2'"),
    "inf temperature": (["1", "--temperature", "inf"], "expected a finite number, got 'inf'"),
    "option": (["1", "--targets", "0"], "unrecognized arguments: --targets"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line_and_status_2(capsys: pytest.CaptureFixture[str], name: str) -> None:
    arguments, message = BAD[name]
    with pytest.raises(SystemExit) as exit_:
        __main__.main(["explain", *arguments])
    printed = capsys.readouterr()
    assert exit_.value.code == 2
    assert printed.out == "" and printed.err.count("\n") == 1
    assert printed.err.startswith("torchsoftmax") and message in printed.err


def test_from_a_shell() -> None:
    """A logit that begins with a minus is not an option; no traceback where it is wrong."""

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "torchsoftmax", "explain", *arguments]
        return subprocess.run(command, capture_output=True, text=True)

    done = run("-1e-3", "-.5", "--target", "0")
    assert (done.returncode, done.stderr) == (0, "")
    assert "-0.0010" in done.stdout
    done = run("-1e-3", "-x")
    assert done.returncode == 2 and done.stderr.count("\n") == 1


def test_quick_check_passes_here(capsys: pytest.CaptureFixture[str]) -> None:
    assert __main__.main(["check", "--quick"]) == 0
    printed = capsys.readouterr()
    names = {operator.name.split(",")[0] for operator in operators(3, 5, 1.0)}
    lines = [line for line in printed.out.splitlines() if line.endswith(" ok")]
    assert printed.err == "" and f"{len(lines)} of {len(lines)} passed" in printed.out
    for name in names:
        assert any(line.startswith(name) for line in lines), name


def test_check_has_every_function() -> None:
    functions = [*torchsoftmax.functional.__all__, *derivatives.__all__]
    expected = {name for name in functions if name[0].islower()}
    assert {op.name.split(",")[0] for op in operators(3, 5, 1.0)} == expected


X = torch.linspace(-1, 1, 6, dtype=torch.float64).view(2, 3)


class WrongGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        return 1.001 * gradient


def in_double(function):
    """Right in float64 alone."""
    return lambda x: function(x) if x.dtype == torch.float64 else function(x) + 1e-4


def raising(x: Tensor) -> Tensor:
    raise RuntimeError("no kernel\nand more")


WRONG = {
    "raises": (raising, ["raised RuntimeError: no kernel"]),
    "value": (lambda x: torch.softmax(x, 1) + 1e-9, ["value"]),
    "shape": (lambda x: torch.softmax(x, 1)[:1], ["value"]),
    "nan": (lambda x: torch.softmax(x, 1) * torch.nan, ["value"]),
    "float32": (in_double(lambda x: torch.softmax(x, 1)), ["float32"]),
    "gradient": (lambda x: torch.softmax(WrongGradient.apply(x), 1), ["gradient", "gradcheck"]),
    "second": (
        lambda x: torch.softmax(x, 1).detach() + (x - x.detach()) * torch.softmax(x, 1).detach(),
        ["gradient", "second", "gradcheck", "gradgradcheck"],
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_check_fails_on_what_is_wrong(capsys: pytest.CaptureFixture[str], name: str) -> None:
    function, failures = WRONG[name]

    def chosen(rows: int, classes: int, temperature: float) -> Iterator[Operator]:
        yield Operator("good", lambda x: torch.softmax(x, 1), lambda x: x.softmax(1), (X,))
        yield Operator("wrong", function, lambda x: torch.softmax(x, 1), (X,))

    assert _check.run(quick=True, chosen=chosen) == 1
    printed = capsys.readouterr()
    assert "1 of 2 passed" in printed.out and printed.out.count("FAILED") == 1
    (line,) = printed.err.splitlines()
    assert line.startswith("FAILED: wrong, 3x5")
    for failure in failures:
        assert failure in line
