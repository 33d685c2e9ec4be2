"""The examples of torchsoftmax.derivatives: their numbers are the references', and they notice."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch.func import grad, hessian

import examples.discriminant_analysis.__main__ as discriminant_analysis
import examples.hand_written_backward.__main__ as hand_written_backward
import examples.softmax_policy.__main__ as softmax_policy
import examples.softmax_regression.__main__ as softmax_regression
from examples.discriminant_analysis import comparison as of_discriminants
from examples.discriminant_analysis.model import LinearDiscriminants, NaiveBayes
from examples.hand_written_backward import network
from examples.softmax_policy import comparison as of_policy
from examples.softmax_policy import policy
from examples.softmax_regression import comparison as of_regression
from examples.softmax_regression import model
from torchsoftmax.derivatives import log_softmax_jacobian

pytestmark = pytest.mark.once


def report_of(example: ModuleType, folder: Path, *arguments: str) -> str:
    """Of a run that succeeds; the picture is there too."""
    name = example.__name__.split(".")[1]
    assert example.main([*arguments, "--output", str(folder)]) == 0
    assert (folder / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    return (folder / f"{name}.md").read_text(encoding="utf-8")


def errors_of(
    example: ModuleType, folder: Path, capsys: pytest.CaptureFixture[str], *arguments: str
) -> str:
    """Of a run that finds a claim wrong."""
    assert example.main([*arguments, "--output", str(folder)]) == 1
    return capsys.readouterr().err


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(shape, dtype=torch.float64)


# Softmax regression


@pytest.mark.parametrize("name", of_regression.DATA_SETS)
def test_both_optima_are_scikit_learns(name: str) -> None:
    comparison = of_regression.compare(name)
    assert set(comparison.fits) == {"Newton's method", "SGD"}
    for method, fit in comparison.fits.items():
        assert (fit.weights - comparison.reference).abs().max() <= 1e-4, method
        assert fit.losses[-1] <= fit.losses[0]


def problem(penalty: float = 0.5) -> model.Problem:
    inputs = torch.nn.functional.pad(normal(20, 3), (0, 1), value=1.0)
    return model.Problem(inputs, torch.arange(20) % 4, 4, penalty)


def test_gradient_and_hessian_product_are_those_of_the_loss() -> None:
    of, weights, direction = problem(), normal(4, 4), normal(4, 4)

    def loss(w: torch.Tensor) -> torch.Tensor:
        penalty = 0.5 * of.penalty * w[:, :-1].square().sum()
        cross_entropy = torch.nn.functional.cross_entropy
        return cross_entropy(of.inputs @ w.T, of.labels, reduction="sum") + penalty

    close = {"rtol": 1e-12, "atol": 1e-12}
    assert of.loss(weights) == pytest.approx(loss(weights).item(), rel=1e-13)
    torch.testing.assert_close(of.gradient(weights), grad(loss)(weights), **close)
    product = torch.einsum("abcd,cd->ab", hessian(loss)(weights), direction)
    torch.testing.assert_close(of.hessian_product(weights, direction), product, **close)
    parts = [of.gradient(weights, torch.arange(i, i + 5)) for i in range(0, 20, 5)]
    torch.testing.assert_close(torch.stack(parts).mean(0), of.gradient(weights), **close)
    curvatures = torch.linalg.eigvalsh(hessian(loss)(weights).reshape(16, 16))
    assert curvatures.max() <= of.largest_curvature()


def test_conjugate_gradients_solve_a_linear_system() -> None:
    root, right = normal(6, 6), normal(6)
    matrix = root @ root.T + torch.eye(6, dtype=torch.float64)
    solution, products = model.conjugate_gradients(lambda v: matrix @ v, right, 1e-12)
    torch.testing.assert_close(solution, torch.linalg.solve(matrix, right), rtol=1e-9, atol=1e-10)
    assert products <= 12


def test_fewer_passes_by_newtons_method(tmp_path: Path) -> None:
    report = report_of(softmax_regression, tmp_path)
    lines = [line.split("|") for line in report.splitlines() if "(≤ 0.0001)" in line]
    assert len(lines) == 2 * len(of_regression.DATA_SETS)
    for newton, sgd in zip(lines[::2], lines[1::2], strict=True):
        steps, passes = ([int(line[i].replace(",", "")) for line in (newton, sgd)] for i in (4, 5))
        assert steps[0] < 20 and passes[0] < passes[1]


def test_softmax_regression_fails_on_another_optimum(tmp_path, capsys, monkeypatch) -> None:
    """Another penalty than scikit-learn is given."""
    wrong = lambda **options: LogisticRegression(**options | {"C": 0.9})  # noqa: E731
    monkeypatch.setattr(of_regression, "LogisticRegression", wrong)
    errors = errors_of(softmax_regression, tmp_path, capsys)
    assert errors.count("FAILED: ") == 6
    assert "wine, SGD: expected coefficients within 0.0001 of scikit-learn's, got" in errors


# Discriminant analysis


@pytest.mark.parametrize("name", of_discriminants.DATA_SETS)
def test_probabilities_are_scikit_learns(name: str) -> None:
    comparisons = list(of_discriminants.compare(name))
    assert [each.method for each in comparisons] == list(of_discriminants.METHODS)
    for each in comparisons:
        np.testing.assert_allclose(each.probabilities, each.reference, rtol=0, atol=1e-6)
        assert each.accuracy > 0.9


def test_equal_variances_make_naive_bayes_linear() -> None:
    """The squares of the features then are the same in each class, and drop out."""
    means, variances = normal(3, 2), torch.full((3, 2), 0.7, dtype=torch.float64)
    priors = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64)
    weights = means / 0.7
    linear = LinearDiscriminants(weights, priors.log() - (means * weights).sum(1) / 2)
    x = normal(10, 2)
    naive = NaiveBayes(priors, means, variances)
    torch.testing.assert_close(linear.probabilities(x), naive.probabilities(x))


def test_discriminant_analysis_reports_every_model(tmp_path: Path) -> None:
    report = report_of(discriminant_analysis, tmp_path)
    assert report.count("(≤ 1e-06)") == 8


def test_discriminant_analysis_fails_on_a_wrong_prior(tmp_path, capsys, monkeypatch) -> None:
    original = LinearDiscriminants.fit.__func__

    def without_priors(cls, features, labels):
        fitted = original(cls, features, labels)
        return cls(fitted.weights, fitted.biases.zero_())

    monkeypatch.setattr(LinearDiscriminants, "fit", classmethod(without_priors))
    errors = errors_of(discriminant_analysis, tmp_path, capsys)
    assert errors.count("linear discriminants: expected probabilities within 1e-06") == 4


# A backward pass by hand


def test_every_gradient_is_autograds() -> None:
    parameters = network.initial(9, 5, 4, 3, torch.Generator().manual_seed(0))
    images, labels = normal(7, 9), torch.arange(7) % 3
    leaves = network.Parameters(*(each.clone().requires_grad_() for each in parameters))
    expected = torch.autograd.grad(network.loss_of(leaves, images, labels), leaves)
    for mine, true in zip(network.gradients_of(parameters, images, labels), expected, strict=True):
        torch.testing.assert_close(mine, true, rtol=1e-12, atol=1e-14)


def test_the_network_learns_digits_by_hand(tmp_path: Path) -> None:
    report = report_of(hand_written_backward, tmp_path)
    assert report.count("(≤ 1e-12)") == 4


def test_the_elementwise_mistake_is_found(tmp_path, capsys, monkeypatch) -> None:
    """s (1 - s) in place of the Jacobian."""

    def wrong(scores, gradient, dim, temperature):
        s = torch.softmax(scores / temperature, dim)
        return gradient * s * (1 - s) / temperature

    monkeypatch.setattr(network, "softmax_vjp", wrong)
    errors = errors_of(hand_written_backward, tmp_path, capsys, "--steps", "2")
    assert "FAILED: gradient of keys: expected within 1e-12 of autograd's, got" in errors
    assert "gradient of values" not in errors
    assert "FAILED: expected an accuracy of at least 90%" in errors


# A softmax policy


@pytest.mark.parametrize("temperature", [1.0, 0.4])
def test_scores_are_those_of_autograd_and_of_the_jacobian(temperature: float) -> None:
    features, theta = normal(5, 3, 4), normal(4)
    scores = policy.scores(features, theta, temperature)
    jacobian = log_softmax_jacobian(features @ theta, temperature=temperature)
    torch.testing.assert_close(scores, jacobian @ features, rtol=1e-12, atol=1e-13)
    for state in range(5):
        for action in range(3):
            leaf = theta.clone().requires_grad_()
            logits = features[state] @ leaf / temperature
            expected = torch.autograd.grad(torch.log_softmax(logits, 0)[action], leaf)[0]
            torch.testing.assert_close(scores[state, action], expected, rtol=1e-12, atol=1e-13)


def test_estimates_are_unbiased() -> None:
    """Their mean over all actions, each as often as the policy takes it; without the baseline."""
    features, theta, rewards = normal(1, 3, 4), normal(4), torch.eye(3, dtype=torch.float64)[:1]
    p = policy.probabilities(features, theta)[0]
    score = policy.scores(features, theta)[0]
    exact = policy.policy_gradient(features, theta, rewards)
    torch.testing.assert_close((p * rewards[0]) @ score, exact, rtol=1e-12, atol=1e-14)
    chosen = policy.estimate(
        features.expand(2, -1, -1), theta, rewards.expand(2, -1), torch.tensor([0, 1])
    )
    torch.testing.assert_close(chosen, (0.5 * score[0] - 0.5 * score[1]) / 2)


def test_the_policy_learns(tmp_path: Path) -> None:
    report = report_of(softmax_policy, tmp_path, "--steps", "200", "--seeds", "2")
    assert report.count("(≤ 1e-12)") == 4


def test_a_score_without_the_expectation_is_found(tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.setattr(of_policy, "scores", lambda features, theta, temperature=1.0: features)
    errors = errors_of(softmax_policy, tmp_path, capsys, "--steps", "1", "--seeds", "2")
    assert "FAILED: score of every action in every state, T = 1: expected a difference" in errors
    assert "FAILED: expected a mean reward of at least 0.9 at the end" in errors
