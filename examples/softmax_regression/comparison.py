"""Both fits beside scikit-learn's, on data sets that come with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from sklearn.datasets import load_digits, load_iris, load_wine
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from examples.softmax_regression.model import Fit, Problem, newton, sgd

PENALTY = 1.0
TOLERANCE = 1e-4
DATA_SETS = {
    "iris, petals": lambda: (load_iris().data[:, 2:], load_iris().target),
    "wine": lambda: load_wine(return_X_y=True),
    "digits": lambda: load_digits(return_X_y=True),
}


@dataclass(frozen=True)
class Comparison:
    """The problem, our fits by method, and scikit-learn's weights, intercepts last."""

    name: str
    problem: Problem
    fits: dict[str, Fit]
    reference: Tensor

    def differences(self) -> dict[str, float]:
        """The largest difference of a coefficient, by method."""
        return {
            method: (fit.weights - self.reference).abs().max().item()
            for method, fit in self.fits.items()
        }


def compare(name: str) -> Comparison:
    """Fit to the standardised features of a data set."""
    features, labels = DATA_SETS[name]()
    features = StandardScaler().fit_transform(features)
    inputs = torch.nn.functional.pad(torch.tensor(features), (0, 1), value=1.0)
    problem = Problem(inputs, torch.tensor(labels), int(labels.max()) + 1, PENALTY)
    # Its C is one over the penalty. tol bounds the largest entry of the mean's gradient.
    theirs = LogisticRegression(C=1 / PENALTY, solver="newton-cg", tol=1e-10, max_iter=1000)
    theirs.fit(features, labels)
    reference = torch.cat(
        [torch.tensor(theirs.coef_), torch.tensor(theirs.intercept_).unsqueeze(1)], dim=1
    )
    fits = {"Newton's method": newton(problem), "SGD": sgd(problem)}
    return Comparison(name, problem, fits, reference)


def failures(comparisons: Sequence[Comparison]) -> list[str]:
    """A line for each fit whose coefficients are not scikit-learn's."""
    return [
        f"{each.name}, {method}: expected coefficients within {TOLERANCE:g} of scikit-learn's, "
        f"got {difference:.1e}"
        for each in comparisons
        for method, difference in each.differences().items()
        if not difference <= TOLERANCE
    ]
