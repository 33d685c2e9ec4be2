"""The table of results."""

from examples.policy_gradient.comparison import BONUS_UNTIL, Comparison
from examples.policy_gradient.grid_world import DISCOUNT, MAP, REWARDS, SLIP
from examples.policy_gradient.reinforce import EPISODES
from examples.report import machine_line, spread, table

HEADER = (
    "entropy bonus",
    "return at the start",
    "return at the end",
    "of the greedy policy",
    "of the optimal policy",
    "entropy at the start, nats",
    "entropy at the end, nats",
)


def markdown(comparison: Comparison) -> str:
    """The table, what its columns mean, and the world."""
    rows = [HEADER]
    for training in comparison.trainings:
        rows.append(
            (
                f"{training.entropy_bonus:g}",
                spread(training.returns[:, 0], ".3f"),
                spread(training.returns[:, -1], ".3f"),
                spread(training.greedy_returns, ".3f"),
                f"{comparison.optimal_return:.3f}",
                spread(training.entropies[:, 0], ".3f"),
                spread(training.entropies[:, -1], ".3f"),
            )
        )
    seeds, steps = comparison.trainings[0].returns.shape
    picture = MAP.replace("\n", "\n    ")
    rewards = ", ".join(f"`{letter}` {reward:+g}" for letter, reward in REWARDS.items())
    return f"""\
{table(rows)}

*return*: expected discounted return from `S` on, computed from the world's probabilities; of the
optimal policy by value iteration. *greedy policy*: the likeliest move everywhere. *entropy*: of the
policy in the cells that it visits. Mean ± standard deviation over {seeds} seeds.

    {picture}

- world: `S` start, `#` wall; rewards, each of which ends the episode: {rewards}; a move goes \
astray sideways with probability {SLIP:g}; discount {DISCOUNT:g}
- training: {steps} steps of Adam on {EPISODES} episodes each; the entropy bonus falls linearly to \
0 over the first {BONUS_UNTIL:.0%} of them
- {machine_line("torch")}
"""
