"""The formulas beside autograd, and policies that learn by them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from sklearn.datasets import load_wine
from sklearn.preprocessing import StandardScaler
from torch import Tensor
from torch.func import grad, jacrev
from tqdm import tqdm

import torchsoftmax
from examples.softmax_policy.policy import estimate, policy_gradient, probabilities, scores

BATCH, LEARNING_RATE = 8, 0.3
TOLERANCE = 1e-12  # of float64
LEAST_REWARD = 0.9


@dataclass(frozen=True)
class Comparison:
    """differences: by what was compared; rewards: (seeds, steps), the policies' expected ones."""

    shape: tuple[int, int, int]
    differences: dict[str, float]
    rewards: Tensor
    greedy: Tensor  # (seeds), the share of states where the likeliest action pays

    def failures(self) -> list[str]:
        """A line for each claim that does not hold."""
        lines = [
            f"{name}: expected a difference of at most {TOLERANCE:g}, got {difference:.1e}"
            for name, difference in self.differences.items()
            if not difference <= TOLERANCE
        ]
        reached = self.rewards[:, -1].mean().item()
        if not reached >= LEAST_REWARD:
            lines.append(
                f"expected a mean reward of at least {LEAST_REWARD:g} at the end, got {reached:.3f}"
            )
        return lines


def wines() -> tuple[Tensor, Tensor]:
    """Features (S, A, D) and rewards (S, A): to name a wine's grower pays 1 where it is right.

    phi(s, a) holds the wine's standardised analysis and a 1 in the part that belongs to a.
    """
    analyses, growers = load_wine(return_X_y=True)
    wine = torch.nn.functional.pad(torch.tensor(StandardScaler().fit_transform(analyses)), (0, 1))
    wine[:, -1] = 1
    rewards = torch.nn.functional.one_hot(torch.tensor(growers)).double()
    features = torch.einsum("ab,sd->sabd", torch.eye(rewards.size(1), dtype=wine.dtype), wine)
    return features.flatten(-2), rewards


def compare(steps: int, seeds: int) -> Comparison:
    """Compare at random parameters; then train from 0, once per seed."""
    features, rewards = wines()
    histories, greedy = [], []
    with tqdm(total=seeds * steps, desc="policies", unit="step") as progress:
        for seed in range(seeds):
            theta, history = train(features, rewards, steps, seed, progress)
            histories.append(history)
            likeliest = (features @ theta).argmax(-1, keepdim=True)
            greedy.append(rewards.gather(-1, likeliest).mean())
    return Comparison(
        tuple(features.shape),
        differences(features, rewards),
        torch.tensor(histories),
        torch.stack(greedy),
    )


def differences(features: Tensor, rewards: Tensor) -> dict[str, float]:
    """The largest entry of each difference from autograd, at normal parameters."""
    generator = torch.Generator().manual_seed(0)
    theta = torch.randn(features.size(-1), generator=generator, dtype=features.dtype)
    found = {}
    for temperature in (1.0, 0.5):

        def log_policy(theta: Tensor, t: float = temperature) -> Tensor:
            return torchsoftmax.log_softmax(features @ theta, dim=-1, temperature=t)

        by_formula = scores(features, theta, temperature)
        difference = by_formula - jacrev(log_policy)(theta)
        found[f"score of every action in every state, T = {temperature:g}"] = difference

    def expected_reward(theta: Tensor) -> Tensor:
        return (probabilities(features, theta) * rewards).sum(-1).mean()

    found["gradient of the expected reward"] = policy_gradient(features, theta, rewards) - grad(
        expected_reward
    )(theta)
    p = probabilities(features, theta)
    found["mean score of the policy's actions, from 0"] = (
        p.unsqueeze(-1) * scores(features, theta)
    ).sum(-2)
    return {name: value.abs().max().item() for name, value in found.items()}


def train(
    features: Tensor, rewards: Tensor, steps: int, seed: int, progress: tqdm
) -> tuple[Tensor, list[float]]:
    """Gradient ascent on estimates from one action in some states; the expected rewards."""
    generator = torch.Generator().manual_seed(seed)
    theta = features.new_zeros(features.size(-1))
    history = []
    for _ in range(steps):
        p = probabilities(features, theta)
        history.append((p * rewards).sum(-1).mean().item())
        states = torch.randint(len(features), (BATCH,), generator=generator)
        actions = torch.multinomial(p[states], 1, generator=generator).squeeze(-1)
        theta = theta + LEARNING_RATE * estimate(features[states], theta, rewards[states], actions)
        progress.update()
    return theta, history
