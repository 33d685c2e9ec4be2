"""scikit-learn's bundled images of handwritten digits, in three parts."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor

CLASSES = 10


@dataclass(frozen=True)
class Images:
    """pixels: (N, 64), from 0 to 1; labels: (N), int64."""

    pixels: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: Tensor) -> Images:
        return Images(self.pixels[index], self.labels[index])


def digits() -> tuple[Images, Images, Images]:
    """Training, validation and test images, with the same share of every digit in each."""
    pixels, labels = load_digits(return_X_y=True)
    images = Images(torch.tensor(pixels, dtype=torch.float32) / 16, torch.tensor(labels))
    rest, test = train_test_split(
        torch.arange(len(images)), test_size=0.25, stratify=labels, random_state=0
    )
    train, validation = train_test_split(
        rest, test_size=0.25, stratify=labels[rest], random_state=0
    )
    return images[train], images[validation], images[test]


def choose(labels: Tensor, per_class: int, generator: torch.Generator) -> Tensor:
    """Indices of `per_class` randomly chosen images of every class."""
    order = torch.randperm(len(labels), generator=generator)
    return torch.cat([order[labels[order] == label][:per_class] for label in range(CLASSES)])
