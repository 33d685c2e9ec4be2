"""The teacher's and the students' networks, losses and training."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from tqdm import tqdm

import torchsoftmax
from examples.distillation.data import CLASSES, Images, choose

TEACHER_WIDTH, TEACHER_STEPS, TEACHER_BATCH = 256, 400, 128
STUDENT_WIDTH, STUDENT_BATCH = 16, 32
IMAGES_PER_CLASS = 10

# Of the student's logits, the teacher's logits and the labels.
Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Settings:
    """How the students are trained.

    Learning rate and weight decay were chosen on the validation images for the student on labels
    alone, which is what distillation has to beat: of 0.005, 0.01, 0.02, 0.05 and of 0, 0.001, 0.01
    they gave the lowest cross-entropy. The soft weights 0.5, 0.9 and 1 were equally good there.
    """

    steps: int
    seeds: int
    learning_rate: float = 0.02
    weight_decay: float = 0.001
    temperature: float = 4.0
    soft_weight: float = 0.9


def on_labels(logits: Tensor, _: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy with the labels."""
    return torchsoftmax.cross_entropy(logits, labels)


def distillation(settings: Settings) -> Loss:
    """Weighted mean of the divergence from the teacher and of the cross-entropy with the labels.

    As in Hinton, Vinyals and Dean, "Distilling the knowledge in a neural network" (2015); their
    factor T² is part of kl_div_with_logits.
    """

    def loss(logits: Tensor, teacher_logits: Tensor, labels: Tensor) -> Tensor:
        soft = torchsoftmax.kl_div_with_logits(
            logits, teacher_logits, temperature=settings.temperature
        )
        hard = torchsoftmax.cross_entropy(logits, labels)
        return settings.soft_weight * soft + (1 - settings.soft_weight) * hard

    return loss


def train_teacher(train: Images) -> nn.Module:
    """Two wide hidden layers with dropout, trained on the labels of all training images."""
    torch.manual_seed(0)
    network = nn.Sequential(
        *(nn.Linear(64, TEACHER_WIDTH), nn.ReLU(), nn.Dropout(0.5)),
        *(nn.Linear(TEACHER_WIDTH, TEACHER_WIDTH), nn.ReLU(), nn.Dropout(0.5)),
        nn.Linear(TEACHER_WIDTH, CLASSES),
    )
    optimizer = torch.optim.Adam(network.parameters())
    for _ in tqdm(range(TEACHER_STEPS), desc="teacher", unit="step"):
        images = train[torch.randint(len(train), (TEACHER_BATCH,))]
        torchsoftmax.cross_entropy(network(images.pixels), images.labels).backward()
        optimizer.step()
        optimizer.zero_grad()
    return network.eval()


def train_student(
    train: Images,
    teacher_logits: Tensor,
    loss: Loss,
    settings: Settings,
    seed: int,
    after_step: Callable[[nn.Module], None],
) -> None:
    """One narrow hidden layer, trained on a few images.

    The seed alone decides which images, the initial weights and the order of the batches.
    """
    generator = torch.Generator().manual_seed(seed)
    few = choose(train.labels, IMAGES_PER_CLASS, generator)
    torch.manual_seed(seed)
    network = nn.Sequential(
        nn.Linear(64, STUDENT_WIDTH), nn.ReLU(), nn.Linear(STUDENT_WIDTH, CLASSES)
    )
    optimizer = torch.optim.Adam(
        network.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
    )
    for _ in range(settings.steps):
        batch = few[torch.randint(len(few), (STUDENT_BATCH,), generator=generator)]
        images = train[batch]
        loss(network(images.pixels), teacher_logits[batch], images.labels).backward()
        optimizer.step()
        optimizer.zero_grad()
        after_step(network)
