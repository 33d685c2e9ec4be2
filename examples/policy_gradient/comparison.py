"""Agents without and with an entropy bonus, over several seeds."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm import tqdm

from examples.policy_gradient.grid_world import MOVES, GridWorld
from examples.policy_gradient.reinforce import Agent

NEAR_OPTIMAL = 0.95
BONUS_UNTIL = 0.75  # of the training; the rest makes the policy as good as its greedy one


@dataclass(frozen=True)
class Training:
    """What agents with one entropy bonus came to.

    returns and entropies: (seeds, steps), of the policy that played at that step; greedy_moves:
    (seeds, S), after the last step; greedy_returns: (seeds), the expected returns of these.
    """

    entropy_bonus: float
    returns: Tensor
    entropies: Tensor
    greedy_moves: Tensor
    greedy_returns: Tensor


@dataclass(frozen=True)
class Comparison:
    """A world, the best expected return in it, and the trainings; the last is to come near it."""

    world: GridWorld
    optimal_return: float
    trainings: Sequence[Training]

    def failures(self) -> list[str]:
        """A line where the last training did not learn a near-optimal policy."""
        *_, last = self.trainings
        least = NEAR_OPTIMAL * self.optimal_return
        reached = {"policy": last.returns[:, -1], "greedy policy": last.greedy_returns}
        return [
            f"expected the mean return of the {name} to be at least {least:.3f} "
            f"({NEAR_OPTIMAL:.0%} of the optimum), got {returns.mean().item():.3f}"
            for name, returns in reached.items()
            if not returns.mean() >= least
        ]


def compare(
    world: GridWorld, entropy_bonuses: Sequence[float], steps: int, seeds: int
) -> Comparison:
    """Train `seeds` agents for every entropy bonus, which falls linearly to 0."""
    total = len(entropy_bonuses) * seeds * steps
    with tqdm(total=total, desc="agents", unit="step") as progress:
        trainings = [_train(world, bonus, steps, seeds, progress) for bonus in entropy_bonuses]
    return Comparison(world, world.optimal_values()[world.start].item(), trainings)


def _train(
    world: GridWorld, entropy_bonus: float, steps: int, seeds: int, progress: tqdm
) -> Training:
    agents = [Agent(world, seed) for seed in range(seeds)]
    history = []
    for agent in agents:
        for step in range(steps):
            history.append(agent.step(entropy_bonus * max(0, 1 - step / (BONUS_UNTIL * steps))))
            progress.update()
    returns, entropies = torch.tensor(history).view(seeds, steps, 2).unbind(-1)
    greedy_moves = torch.stack([agent.greedy for agent in agents])
    one_hot = torch.nn.functional.one_hot(greedy_moves, len(MOVES))
    greedy_returns = torch.stack([world.values(policy)[world.start] for policy in one_hot])
    return Training(entropy_bonus, returns, entropies, greedy_moves, greedy_returns)
