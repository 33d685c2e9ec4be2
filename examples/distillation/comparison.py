"""The student without and with the teacher's soft targets, over several seeds."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from tqdm import tqdm

import torchsoftmax
from examples.distillation.data import Images
from examples.distillation.training import (
    Loss,
    Settings,
    distillation,
    on_labels,
    train_student,
    train_teacher,
)


@dataclass(frozen=True)
class Scores:
    """On held-out images, after every step. Both of shape (seeds, steps), cross-entropy in nats."""

    accuracy: Tensor
    cross_entropy: Tensor


@dataclass(frozen=True)
class Comparison:
    """Everything that came out; `teacher_logits` are those of the training images."""

    settings: Settings
    train: Images
    teacher_logits: Tensor
    teacher: Scores
    on_labels: Scores
    distilled: Scores

    @property
    def gains(self) -> Tensor:
        """Accuracy of each distilled student above that of its twin on labels alone, (seeds)."""
        return self.distilled.accuracy[:, -1] - self.on_labels.accuracy[:, -1]

    @property
    def standard_error(self) -> float:
        """Of the mean of the gains."""
        return self.gains.std().item() / len(self.gains) ** 0.5

    def failures(self) -> list[str]:
        """A line for each claim that does not hold."""
        lines = []
        gain = self.gains.mean().item()
        if not gain > 2 * self.standard_error:
            lines.append(
                f"expected the distilled student to be more accurate by over two standard errors, "
                f"got {100 * gain:+.2f} points with a standard error of "
                f"{100 * self.standard_error:.2f}"
            )
        ours, theirs = (
            scores.cross_entropy[:, -1].mean().item() for scores in (self.distilled, self.on_labels)
        )
        if not ours < theirs:
            lines.append(
                f"expected the distilled student's cross-entropy to be below {theirs:.3f} nats, "
                f"got {ours:.3f}"
            )
        return lines


@torch.no_grad()
def evaluate(network: nn.Module, images: Images) -> Tensor:
    """Accuracy and cross-entropy, (2)."""
    logits = network(images.pixels)
    accuracy = logits.argmax(dim=1).eq(images.labels).float().mean()
    return torch.stack([accuracy, torchsoftmax.cross_entropy(logits, images.labels)])


def compare(train: Images, held_out: Images, settings: Settings) -> Comparison:
    """Train the teacher once, and a pair of students that differ in their loss for every seed."""
    teacher = train_teacher(train)
    with torch.no_grad():
        teacher_logits = teacher(train.pixels)
    progress = tqdm(total=2 * settings.seeds * settings.steps, desc="students", unit="step")

    def students(loss: Loss) -> Scores:
        scores = []

        def after_step(network: nn.Module) -> None:
            scores.append(evaluate(network, held_out))
            progress.update()

        for seed in range(settings.seeds):
            train_student(train, teacher_logits, loss, settings, seed, after_step)
        return Scores(*torch.stack(scores).unflatten(0, (settings.seeds, -1)).unbind(-1))

    with progress:
        return Comparison(
            settings,
            train,
            teacher_logits,
            Scores(*evaluate(teacher, held_out)),
            students(on_labels),
            students(distillation(settings)),
        )
