"""Softmax regression on scikit-learn's bundled images of handwritten digits."""

from functools import partial

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

from examples.demo.training import SEED, Task

BATCH = 256

# Rounding alone: -log_softmax + gather, logsumexp, the closed-form gradient and nn.CrossEntropyLoss
# in float64 all stayed within 2.4e-7 nats of nn.CrossEntropyLoss in float32, the distance of two
# neighbouring float32 numbers above 2. This is 40 times that.
TOLERANCE = 1e-5


def task(quick: bool) -> Task:
    """64 pixels to 10 classes by one linear layer and SGD."""
    steps = 20 if quick else 300
    images, labels = load_digits(return_X_y=True)
    pixels = torch.tensor(images, dtype=torch.float32) / 16
    classes = torch.tensor(labels)
    train, test = train_test_split(
        torch.arange(len(labels)), test_size=0.25, stratify=labels, random_state=SEED
    )
    generator = torch.Generator().manual_seed(SEED)
    choices = [train[torch.randperm(len(train), generator=generator)[:BATCH]] for _ in range(steps)]
    return Task(
        name="digits",
        description=f"softmax regression, 64 pixels to 10 classes, {steps} steps of SGD on "
        f"{BATCH} of {len(train):,} images, tested on {len(test)} others",
        network=lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 10)),
        optimizer=partial(torch.optim.SGD, lr=0.2, momentum=0.9),
        batches=[(pixels[choice], classes[choice]) for choice in choices],
        held_out=[(pixels[test], classes[test])],
        tolerance=TOLERANCE,
    )
