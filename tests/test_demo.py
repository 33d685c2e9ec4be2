"""The demonstration runs end to end, and notices a loss that is wrong."""

import json

import pytest
import torch
from torch import Tensor, nn

from examples.demo import digits
from examples.demo.__main__ import main
from examples.demo.training import Contender, compare, on_logits

pytestmark = pytest.mark.once
REFERENCE = on_logits("torch.nn", nn.CrossEntropyLoss)


class Scaled(nn.CrossEntropyLoss):
    """A loss that is 1 % too large."""

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return 1.01 * super().forward(input, target)


class WrongGradient(nn.CrossEntropyLoss):
    """The right loss with a gradient that is 1 % too large."""

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        loss = super().forward(input, target)
        return 1.01 * loss - 0.01 * loss.detach()


class NotFinite(nn.CrossEntropyLoss):
    """A loss that is nan."""

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return super().forward(input, target) * torch.nan


class OutputLayerAndLoss(nn.Module):
    """A loss that contains the output layer, as a fused one does."""

    def __init__(self, output: nn.Linear) -> None:
        super().__init__()
        self.output = output

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return nn.functional.cross_entropy(self.output(input), target)


def test_quick_demo_agrees_and_writes_its_results(tmp_path, capsys):
    assert main(["--quick", "--output", str(tmp_path)]) == 0
    table = (tmp_path / "demo.md").read_text(encoding="utf-8")
    assert table in capsys.readouterr().out
    results = json.loads((tmp_path / "demo.json").read_text(encoding="utf-8"))
    assert list(results["tasks"]) == ["digits", "language model"]
    for name, task in results["tasks"].items():
        expected = ["torch.nn", "torchsoftmax"]
        expected += ["torchsoftmax, linear"] if name == "language model" else []
        assert [run["name"] for run in task["runs"]] == expected
        for run in task["runs"]:
            assert f"| {name:14} | {run['name']} " in table
            assert run["largest_difference_nats"] <= task["tolerance_nats"]
            assert 0 < run["loss_ms"] < run["step_ms"]
            assert 0 < run["loss_peak_mb"] < run["step_peak_mb"]
    assert (tmp_path / "demo.png").read_bytes().startswith(b"\x89PNG")


def test_quick_demo_fails_on_a_wrong_loss(tmp_path, capsys):
    contenders = [REFERENCE, on_logits("scaled", Scaled)]
    assert main(["--quick", "--output", str(tmp_path)], contenders) == 1
    errors = capsys.readouterr().err
    for task in ("digits", "language model"):
        assert (
            f"DISAGREEMENT: {task}: the loss of scaled differs from torch.nn's by up to" in errors
        )


@pytest.mark.parametrize("wrong", [Scaled, WrongGradient, NotFinite])
def test_wrong_losses_disagree(wrong):
    comparison = compare(digits.task(quick=True), [REFERENCE, on_logits("wrong", wrong)])
    (line,) = comparison.disagreements()
    assert "wrong" in line


def test_loss_that_contains_the_output_layer_agrees():
    fused = Contender("fused", lambda network: (network[:-1], OutputLayerAndLoss(network[-1])))
    comparison = compare(digits.task(quick=True), [REFERENCE, fused])
    assert comparison.disagreements() == []
    assert comparison.runs[0].accuracy == comparison.runs[1].accuracy > 0.8
