"""Two layers, with attention over learned prototypes between them: softmax inside and at the end.

Shapes: N images of D pixels, K prototypes, H numbers for each, C classes.

    scores  = images @ keys.T                    (N, K)
    weights = softmax(scores / T)                (N, K)
    hidden  = weights @ values                   (N, H)
    logits  = relu(hidden) @ output.T + bias     (N, C)
    loss    = mean over rows of cross_entropy(logits, labels)
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

import torchsoftmax
from torchsoftmax.derivatives import cross_entropy_gradient, softmax_vjp

TEMPERATURE = 2.0


class Parameters(NamedTuple):
    """keys (K, D), values (K, H), output (C, H), bias (C)."""

    keys: Tensor
    values: Tensor
    output: Tensor
    bias: Tensor


def initial(
    pixels: int, prototypes: int, hidden: int, classes: int, generator: torch.Generator
) -> Parameters:
    """Normal values, of a size that lets signals neither grow nor vanish."""

    def normal(rows: int, columns: int, scale: float) -> Tensor:
        values = torch.randn(rows, columns, generator=generator, dtype=torch.float64)
        return scale * values

    return Parameters(
        keys=normal(prototypes, pixels, 1.0),
        values=normal(prototypes, hidden, 1.0),
        output=normal(classes, hidden, hidden**-0.5),
        bias=torch.zeros(classes, dtype=torch.float64),
    )


def loss_of(parameters: Parameters, images: Tensor, labels: Tensor) -> Tensor:
    """The loss, for autograd to differentiate."""
    return torchsoftmax.cross_entropy(logits_of(parameters, images), labels)


def logits_of(parameters: Parameters, images: Tensor) -> Tensor:
    """(N, C)."""
    keys, values, output, bias = parameters
    weights = torchsoftmax.softmax(images @ keys.T, dim=1, temperature=TEMPERATURE)
    return (weights @ values).relu() @ output.T + bias


def gradients_of(parameters: Parameters, images: Tensor, labels: Tensor) -> Parameters:
    """The gradient of the loss with respect to each parameter: the chain rule, from the end."""
    keys, values, output, bias = parameters
    scores = images @ keys.T
    weights = torchsoftmax.softmax(scores, dim=1, temperature=TEMPERATURE)
    hidden = weights @ values
    active = hidden.relu()
    logits = active @ output.T + bias

    of_logits = cross_entropy_gradient(logits, labels) / len(labels)  # the mean over rows
    of_hidden = (of_logits @ output) * (hidden > 0)
    of_scores = softmax_vjp(scores, of_hidden @ values.T, dim=1, temperature=TEMPERATURE)
    return Parameters(
        keys=of_scores.T @ images,
        values=weights.T @ of_hidden,
        output=of_logits.T @ active,
        bias=of_logits.sum(0),
    )
