"""Training with the gradients that were written by hand, and autograd's beside each of them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm import tqdm

from examples.distillation.data import CLASSES, Images, digits
from examples.hand_written_backward.network import (
    Parameters,
    gradients_of,
    initial,
    logits_of,
    loss_of,
)

PROTOTYPES, HIDDEN, BATCH = 48, 32, 100
LEARNING_RATE, MOMENTUM = 0.2, 0.9
TOLERANCE = 1e-12  # of float64, relative to the largest entry of a gradient
LEAST_ACCURACY = 0.9


@dataclass(frozen=True)
class Training:
    """What came out.

    parameters: at the end; differences: for each parameter the largest difference of its gradient
    from autograd's over all steps, relative to the largest entry; losses: of each step.
    """

    parameters: Parameters
    differences: dict[str, float]
    losses: list[float]
    test: Images

    @property
    def logits(self) -> Tensor:
        """Of the test images."""
        return logits_of(self.parameters, self.test.pixels)

    @property
    def accuracy(self) -> float:
        """On the test images."""
        return self.logits.argmax(1).eq(self.test.labels).double().mean().item()

    def failures(self) -> list[str]:
        """A line for each claim that does not hold."""
        lines = [
            f"gradient of {name}: expected within {TOLERANCE:g} of autograd's, got {difference:.1e}"
            for name, difference in self.differences.items()
            if not difference <= TOLERANCE
        ]
        if not self.accuracy >= LEAST_ACCURACY:
            lines.append(
                f"expected an accuracy of at least {LEAST_ACCURACY:.0%}, got {self.accuracy:.1%}"
            )
        return lines


def train(steps: int) -> Training:
    """SGD with momentum, by hand as well."""
    generator = torch.Generator().manual_seed(0)
    train_images, _, test = (Images(x.pixels.double(), x.labels) for x in digits())
    pixels = train_images.pixels.size(1)
    parameters = initial(pixels, PROTOTYPES, HIDDEN, CLASSES, generator)
    velocities = [torch.zeros_like(parameter) for parameter in parameters]
    differences: dict[str, list[float]] = {name: [] for name in Parameters._fields}
    losses = []
    for _ in tqdm(range(steps), desc="training", unit="step"):
        batch = train_images[torch.randint(len(train_images), (BATCH,), generator=generator)]
        gradients = gradients_of(parameters, batch.pixels, batch.labels)

        leaves = Parameters(*(each.clone().requires_grad_() for each in parameters))
        loss = loss_of(leaves, batch.pixels, batch.labels)
        expected = torch.autograd.grad(loss, leaves)
        losses.append(loss.item())
        for name, mine, true in zip(Parameters._fields, gradients, expected, strict=True):
            differences[name].append(((mine - true).abs().max() / true.abs().max()).item())

        velocities = [
            MOMENTUM * v - LEARNING_RATE * g for v, g in zip(velocities, gradients, strict=True)
        ]
        parameters = Parameters(*(p + v for p, v in zip(parameters, velocities, strict=True)))
    largest = {name: torch.tensor(each).max().item() for name, each in differences.items()}
    return Training(parameters, largest, losses, test)
