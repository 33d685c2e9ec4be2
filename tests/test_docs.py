"""Every block of code in docs/derivatives.md runs, and prints what stands below it."""

from __future__ import annotations

import doctest
import re
import shlex
from pathlib import Path

import pytest

from torchsoftmax import __main__

pytestmark = pytest.mark.once
TEXT = (Path(__file__).parents[1] / "docs" / "derivatives.md").read_text(encoding="utf-8")
FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
BLOCKS = FENCED.findall(TEXT)


def test_every_block_is_run_or_a_formula() -> None:
    assert TEXT.count("```") == 2 * len(BLOCKS)
    begins = {"python": ">>> ", "sh": "$ ", "math": ""}
    assert {language for language, _ in BLOCKS} == set(begins)
    for language, block in BLOCKS:
        assert block.startswith(begins[language]), block


def test_python_prints_what_the_text_says(capsys: pytest.CaptureFixture[str]) -> None:
    """One block after the other, as a reader would type them."""
    names: dict[str, object] = {}
    runner = doctest.DocTestRunner()
    for number, (language, block) in enumerate(BLOCKS):
        if language == "python":
            test = doctest.DocTestParser().get_doctest(block, names, f"block {number}", None, 0)
            runner.run(test, clear_globs=False)
            names = test.globs
    assert runner.summarize().failed == 0, capsys.readouterr().out
    assert runner.tries > 60


def test_commands_print_what_the_text_says(capsys: pytest.CaptureFixture[str]) -> None:
    ran = 0
    for language, block in BLOCKS:
        if language == "sh":
            command, output = block.removeprefix("$ ").split("\n", 1)
            python, _, package, *arguments = shlex.split(command)
            assert (python, package) == ("python", "torchsoftmax")
            assert __main__.main(arguments) == 0
            assert capsys.readouterr().out == output
            ran += 1
    assert ran > 0
