"""REINFORCE (Williams 1992) with a learned baseline and an entropy bonus."""

from typing import NamedTuple

import torch
from torch import Tensor

import torchsoftmax
from examples.policy_gradient.grid_world import DISCOUNT, GridWorld

EPISODES = 64
LONGEST = 40
LEARNING_RATE = 0.1


class Episodes(NamedTuple):
    """Each of shape (steps, EPISODES); `taking_part` is false after the end of an episode."""

    cells: Tensor
    moves: Tensor
    rewards: Tensor
    taking_part: Tensor

    def returns(self) -> Tensor:
        """From each step on, the discounted sum of the rewards."""
        sums = torch.zeros_like(self.rewards)
        following = torch.zeros_like(self.rewards[0])
        for step in reversed(range(len(sums))):
            following = sums[step] = self.rewards[step] + DISCOUNT * following
        return sums


class Progress(NamedTuple):
    """The policy's expected return, and its mean entropy in nats in the cells that it visited."""

    expected_return: float
    entropy: float


def play(world: GridWorld, policy: Tensor, generator: torch.Generator) -> Episodes:
    """EPISODES episodes of at most LONGEST steps by a policy's probabilities, (S, A)."""
    cells = torch.full((EPISODES,), world.start)
    taking_part = torch.ones(EPISODES, dtype=torch.bool)
    steps = []
    while len(steps) < LONGEST and taking_part.any():
        moves = _draw(policy[cells], generator)
        ends = _draw(world.probabilities[cells, moves], generator)
        rewards = world.rewards[ends].float() * taking_part
        steps.append((cells, moves, rewards, taking_part))
        cells, taking_part = ends, taking_part & ~world.ends[ends]
    return Episodes(*map(torch.stack, zip(*steps, strict=True)))


def _draw(probabilities: Tensor, generator: torch.Generator) -> Tensor:
    return torch.multinomial(probabilities, 1, generator=generator).squeeze(1)


def policy_loss(
    logits: Tensor, moves: Tensor, advantage: Tensor, entropy_bonus: float
) -> tuple[Tensor, Tensor]:
    """Loss of every step, -(advantage * log_prob + entropy_bonus * entropy), and its entropy.

    logits: (..., A); moves and advantage: (...).
    """
    statistics = torchsoftmax.softmax_statistics(logits, moves)
    gain = advantage * statistics.log_prob + entropy_bonus * statistics.entropy
    return -gain, statistics.entropy


class Agent:
    """A table of logits, (S, A), and a table of the expected returns, (S)."""

    def __init__(self, world: GridWorld, seed: int) -> None:
        self.world = world
        self.logits = torch.zeros(world.probabilities.shape[:2], requires_grad=True)
        self.values = torch.zeros(len(world.rewards), requires_grad=True)
        self.optimizer = torch.optim.Adam([self.logits, self.values], lr=LEARNING_RATE)
        self.generator = torch.Generator().manual_seed(seed)

    def step(self, entropy_bonus: float) -> Progress:
        """Play, and learn from what came out."""
        policy = torchsoftmax.softmax(self.logits.detach(), dim=1)
        episodes = play(self.world, policy, self.generator)
        errors = episodes.returns() - self.values[episodes.cells]
        losses, entropy = policy_loss(
            self.logits[episodes.cells], episodes.moves, errors.detach(), entropy_bonus
        )
        (losses + errors.square())[episodes.taking_part].mean().backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return Progress(
            self.world.values(policy)[self.world.start].item(),
            entropy[episodes.taking_part].mean().item(),
        )

    @property
    def greedy(self) -> Tensor:
        """The likeliest move of each cell, (S)."""
        return self.logits.detach().argmax(dim=1)
