"""Two classifiers that model the features of each class, and decide by Bayes' rule.

With the density f_k and the prior pi_k of class k, P(k | x) = softmax over k of log(pi_k f_k(x)).
Terms that all classes share drop out of a softmax: what is left are the discriminant functions.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

import torchsoftmax


@dataclass(frozen=True)
class Moments:
    """Of each class: priors (C), means (C, D); and the features less their class's mean, (N, D)."""

    priors: Tensor
    means: Tensor
    centred: Tensor


def moments(features: Tensor, labels: Tensor) -> Moments:
    """features: (N, D); labels: (N), all classes among them."""
    member = torch.nn.functional.one_hot(labels).to(features.dtype)
    counts = member.sum(0)
    means = member.T @ features / counts.unsqueeze(1)
    return Moments(counts / len(labels), means, features - means[labels])


@dataclass(frozen=True)
class LinearDiscriminants:
    """Normal classes with one covariance for all: the squares of x are the same in each.

    discriminant_k(x) = w_k x + b_k with w_k = S^-1 mu_k, b_k = log pi_k - mu_k S^-1 mu_k / 2.
    """

    weights: Tensor  # (C, D)
    biases: Tensor  # (C)

    @classmethod
    def fit(cls, features: Tensor, labels: Tensor) -> LinearDiscriminants:
        """The covariance is that of the features within their classes, of maximum likelihood."""
        of = moments(features, labels)
        covariance = of.centred.T @ of.centred / len(features)
        weights = torch.linalg.solve(covariance, of.means.T).T
        return cls(weights, of.priors.log() - (of.means * weights).sum(1) / 2)

    def discriminants(self, features: Tensor) -> Tensor:
        """(N, C)."""
        return features @ self.weights.T + self.biases

    def probabilities(self, features: Tensor) -> Tensor:
        """(N, C)."""
        return torchsoftmax.softmax(self.discriminants(features), dim=1)


@dataclass(frozen=True)
class NaiveBayes:
    """Independent normal features with a variance of their own in each class.

    discriminant_k(x) = log pi_k - sum_d (log v_kd + (x_d - mu_kd)² / v_kd) / 2: linear in (x, x²).
    """

    priors: Tensor  # (C)
    means: Tensor  # (C, D)
    variances: Tensor  # (C, D)

    @classmethod
    def fit(cls, features: Tensor, labels: Tensor) -> NaiveBayes:
        """1e-9 of the largest variance of a feature is added to all, as scikit-learn does."""
        of = moments(features, labels)
        member = torch.nn.functional.one_hot(labels).to(features.dtype)
        variances = member.T @ of.centred.square() / member.sum(0).unsqueeze(1)
        smoothing = 1e-9 * features.var(0, correction=0).max()
        return cls(of.priors, of.means, variances + smoothing)

    def discriminants(self, features: Tensor) -> Tensor:
        """(N, C)."""
        distances = (features.unsqueeze(1) - self.means).square() / self.variances
        return self.priors.log() - (self.variances.log() + distances).sum(-1) / 2

    def probabilities(self, features: Tensor) -> Tensor:
        """(N, C)."""
        return torchsoftmax.softmax(self.discriminants(features), dim=1)
