"""Both classifiers beside scikit-learn's, on data sets that come with it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from sklearn.datasets import load_breast_cancer, load_iris, load_wine
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.naive_bayes import GaussianNB
from torch import Tensor

from examples.discriminant_analysis.model import LinearDiscriminants, NaiveBayes

TOLERANCE = 1e-6
DATA_SETS = {
    "iris, petals": lambda: (load_iris().data[:, 2:], load_iris().target),
    "iris": lambda: load_iris(return_X_y=True),
    "wine": lambda: load_wine(return_X_y=True),
    "breast cancer": lambda: load_breast_cancer(return_X_y=True),
}
METHODS = {
    "linear discriminants": (LinearDiscriminants, LinearDiscriminantAnalysis),
    "Gaussian naive Bayes": (NaiveBayes, GaussianNB),
}


@dataclass(frozen=True)
class Comparison:
    """A model, and its probabilities and scikit-learn's, (N, C), of the rows it was fitted to."""

    data_set: str
    method: str
    features: Tensor
    labels: Tensor
    model: LinearDiscriminants | NaiveBayes
    probabilities: Tensor
    reference: Tensor

    @property
    def difference(self) -> float:
        """The largest difference of a probability."""
        return (self.probabilities - self.reference).abs().max().item()

    @property
    def accuracy(self) -> float:
        """On the same rows."""
        return self.probabilities.argmax(1).eq(self.labels).double().mean().item()


def compare(name: str) -> Iterator[Comparison]:
    """Every method on one data set."""
    features, labels = map(torch.tensor, DATA_SETS[name]())
    for method, (ours, theirs) in METHODS.items():
        model = ours.fit(features, labels)
        fitted = theirs().fit(features.numpy(), labels.numpy())
        reference = torch.tensor(fitted.predict_proba(features.numpy()))
        probabilities = model.probabilities(features)
        yield Comparison(name, method, features, labels, model, probabilities, reference)


def failures(comparisons: Sequence[Comparison]) -> list[str]:
    """A line for each model whose probabilities are not scikit-learn's."""
    return [
        f"{each.data_set}, {each.method}: expected probabilities within {TOLERANCE:g} of "
        f"scikit-learn's, got {each.difference:.1e}"
        for each in comparisons
        if not each.difference <= TOLERANCE
    ]
