"""A grid world as tensors: where a move leads with what probability, and what it pays."""

from dataclasses import dataclass

import torch
from torch import Tensor

# `S` start, `.` free, `#` wall. To enter one of the others pays its reward and ends the episode: a
# coin that is easy to find, the goal that is worth more but far away, and traps beside the way.
MAP = """\
S.....
.##...
..X..X
c.#...
..#..G"""
REWARDS = {"c": 0.2, "G": 1.0, "X": -1.0}

MOVES = ((-1, 0), (0, 1), (1, 0), (0, -1))  # rows down and columns right: up, right, down, left
SLIP = 0.1
DISCOUNT = 0.97


@dataclass(frozen=True)
class GridWorld:
    """S cells, which are all but the walls, and A = 4 moves.

    places: row and column of each cell; probabilities: (S, A, S), of the cell that a move leads to;
    rewards: (S), for entering a cell; ends: (S), whether that ends the episode; start: a cell.
    """

    places: list[tuple[int, int]]
    probabilities: Tensor
    rewards: Tensor
    ends: Tensor
    start: int

    def values(self, policy: Tensor) -> Tensor:
        """Expected discounted return from each cell, (S), of a policy's probabilities, (S, A).

        The solution of the policy's Bellman equation: no episodes, no noise.
        """
        chain = torch.einsum("sa,sat->st", policy.double(), self.probabilities)
        return torch.linalg.solve(
            torch.eye(len(chain)) - DISCOUNT * chain * ~self.ends, chain @ self.rewards
        )

    def optimal_values(self) -> Tensor:
        """Expected discounted return from each cell, (S), of the best policy: value iteration."""
        values = torch.zeros_like(self.rewards)
        while True:
            better = self.gains(values).amax(dim=1)
            if torch.allclose(better, values, rtol=0, atol=1e-12):
                return better
            values = better

    def gains(self, values: Tensor) -> Tensor:
        """Expected discounted return of each move, (S, A), where `values` is that of its end."""
        return self.probabilities @ (self.rewards + DISCOUNT * values * ~self.ends)


def grid_world(text: str = MAP) -> GridWorld:
    """The world of a map. A move goes astray to each side with probability SLIP / 2."""
    letters = {
        (row, column): letter
        for row, line in enumerate(text.splitlines())
        for column, letter in enumerate(line)
        if letter != "#"
    }
    cells = {place: cell for cell, place in enumerate(letters)}
    probabilities = torch.zeros(len(cells), len(MOVES), len(cells), dtype=torch.float64)
    for (row, column), cell in cells.items():
        for move in range(len(MOVES)):
            for turn, probability in ((0, 1 - SLIP), (1, SLIP / 2), (-1, SLIP / 2)):
                down, right = MOVES[(move + turn) % len(MOVES)]
                # A wall or the edge leaves it where it is.
                end = cells.get((row + down, column + right), cell)
                probabilities[cell, move, end] += probability
    rewards = [REWARDS.get(letter, 0.0) for letter in letters.values()]
    return GridWorld(
        places=list(cells),
        probabilities=probabilities,
        rewards=torch.tensor(rewards, dtype=torch.float64),
        ends=torch.tensor([letter in REWARDS for letter in letters.values()]),
        start=list(letters.values()).index("S"),
    )
