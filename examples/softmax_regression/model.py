"""The objective of softmax regression, and two ways to its minimum.

Weights are (C, D + 1): a row for each class, the last column the intercepts, which are not
regularised. Inputs are (N, D + 1), the last column ones.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

import torchsoftmax
from torchsoftmax.derivatives import cross_entropy_gradient, cross_entropy_hvp

NEWTON_TOLERANCE = 1e-8  # of the gradient's norm; quadratic convergence goes far beyond it
SGD_TOLERANCE = 1e-6
MOST_STEPS = 20_000


@dataclass(frozen=True)
class Problem:
    """loss(W) = sum over rows of cross_entropy(a W^T, y) + penalty / 2 |W without intercepts|²."""

    inputs: Tensor
    labels: Tensor
    classes: int
    penalty: float

    def start(self) -> Tensor:
        return self.inputs.new_zeros(self.classes, self.inputs.size(1))

    def loss(self, weights: Tensor) -> float:
        logits = self.inputs @ weights.T
        loss = torchsoftmax.cross_entropy(logits, self.labels, reduction="sum")
        return (loss + 0.5 * (self._penalised(weights) * weights).sum()).item()

    def gradient(self, weights: Tensor, rows: Tensor | slice = slice(None)) -> Tensor:
        """Of the loss; from some rows, an unbiased estimate of it."""
        inputs, labels = self.inputs[rows], self.labels[rows]
        of_logits = cross_entropy_gradient(inputs @ weights.T, labels)
        return of_logits.T @ inputs * (len(self.labels) / len(labels)) + self._penalised(weights)

    def hessian_product(self, weights: Tensor, direction: Tensor) -> Tensor:
        """The Hessian of the loss, (C (D + 1))², times a direction, without forming it."""
        logits, change = self.inputs @ weights.T, self.inputs @ direction.T
        curved = cross_entropy_hvp(logits, self.labels, change)
        return curved.T @ self.inputs + self._penalised(direction)

    def largest_curvature(self) -> float:
        """A bound on the Hessian's largest eigenvalue: that of diag(p) - p p^T is at most 1/2."""
        return 0.5 * torch.linalg.matrix_norm(self.inputs, 2).item() ** 2 + self.penalty

    def _penalised(self, weights: Tensor) -> Tensor:
        """The gradient of the penalty, and its Hessian's product."""
        scaled = self.penalty * weights
        scaled[:, -1] = 0
        return scaled


@dataclass(frozen=True)
class Fit:
    """The weights, how many steps it took, and how the loss fell.

    `losses` and `passes`: the loss and the passes over the data so far, at the start and after each
    step of Newton's method, or each pass of SGD, which may be several steps.
    """

    weights: Tensor
    steps: int
    losses: list[float]
    passes: list[float]


def conjugate_gradients(
    product: Callable[[Tensor], Tensor], right: Tensor, tolerance: float
) -> tuple[Tensor, int]:
    """Solve H s = right for positive semi-definite H, of which only products are known.

    Hestenes and Stiefel 1952. The direction in which H is 0, the same for all classes, is not in
    `right`, and so but for rounding not in the solution.
    """
    solution, residual = torch.zeros_like(right), right.clone()
    direction, square, products = residual.clone(), residual.square().sum(), 0
    smallest = tolerance**2 * square
    while square > smallest and products < 10 * right.numel():
        curved = product(direction)
        step = square / (direction * curved).sum()
        solution += step * direction
        residual -= step * curved
        previous, square = square, residual.square().sum()
        direction = residual + (square / previous) * direction
        products += 1
    return solution, products


def newton(problem: Problem) -> Fit:
    """Newton's method: each step solves a linear system in the Hessian by conjugate gradients.

    The system is solved the more exactly the smaller the gradient is (Eisenstat and Walker 1996). A
    step that does not lower the loss is halved: the loss is convex.
    """
    weights, passes = problem.start(), 0.0
    losses, passes_until = [problem.loss(weights)], [0.0]
    gradient = problem.gradient(weights)
    first = gradient.norm()
    while gradient.norm() > NEWTON_TOLERANCE:
        exactness = min(0.1, (gradient.norm() / first).sqrt().item())
        step, products = conjugate_gradients(
            lambda v, w=weights: problem.hessian_product(w, v), gradient, exactness
        )
        step[:, -1] -= step[:, -1].mean()  # what rounding adds in the direction of no curvature
        while problem.loss(weights - step) > losses[-1] and step.norm() > 1e-12:
            step /= 2
        weights = weights - step
        gradient = problem.gradient(weights)
        passes += products + 1
        losses.append(problem.loss(weights))
        passes_until.append(passes)
    return Fit(weights, len(losses) - 1, losses, passes_until)


def sgd(problem: Problem, batch: int = 16, momentum: float = 0.9) -> Fit:
    """Stochastic gradient descent whose batches double with each pass until they hold every row.

    With a constant learning rate the noise of small batches would keep it away from the minimum;
    growing batches take the noise away (Friedlander and Schmidt 2012). From then on the momentum is
    Nesterov's, and restarts where it points uphill (O'Donoghue and Candès 2015).
    """
    generator = torch.Generator().manual_seed(0)
    count, rate = len(problem.labels), 1 / problem.largest_curvature()
    weights = problem.start()
    losses, passes_until = [problem.loss(weights)], [0.0]
    velocity, steps = torch.zeros_like(weights), 0
    while batch < count:
        for rows in torch.randperm(count, generator=generator).split(batch):
            velocity = momentum * velocity - rate * problem.gradient(weights, rows)
            weights = weights + velocity
            steps += 1
        losses.append(problem.loss(weights))
        passes_until.append(passes_until[-1] + 1)
        batch *= 2
    velocity.zero_()
    age = 0
    for _ in range(MOST_STEPS):
        ahead = weights + age / (age + 3) * velocity
        gradient = problem.gradient(ahead)
        velocity = ahead - rate * gradient - weights
        weights = weights + velocity
        steps += 1
        age = 0 if (gradient * velocity).sum() > 0 else age + 1
        losses.append(problem.loss(weights))
        passes_until.append(passes_until[-1] + 1)
        if gradient.norm() < SGD_TOLERANCE:
            break
    return Fit(weights, steps, losses, passes_until)
