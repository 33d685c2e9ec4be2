"""The table of results."""

from examples.report import machine_line, spread, table
from examples.softmax_policy.comparison import BATCH, LEARNING_RATE, TOLERANCE, Comparison


def markdown(comparison: Comparison) -> str:
    """The table, and what was learned."""
    rows = [("by formula", "largest difference from autograd")]
    for name, difference in comparison.differences.items():
        rows.append((name, f"{difference:.1e} (≤ {TOLERANCE:g})"))
    states, actions, width = comparison.shape
    seeds, steps = comparison.rewards.shape
    return f"""\
{table(rows)}

The score of an action is its features less those that the policy expects, over the temperature:
∇ log π(a|s) = (φ(s,a) − E[φ(s,·)]) / T. In float64, the tolerance in brackets; the mean score is
compared with 0.

- task: name the grower of each of scikit-learn's {states} wines, one of {actions}, from \
{(width // actions) - 1} measurements; the right name pays 1
- training: {steps} steps of gradient ascent (rate {LEARNING_RATE:g}) on reward times score, of \
one action for each of {BATCH} wines
- expected reward: {spread(comparison.rewards[:, 0], ".3f")} at the start, \
{spread(comparison.rewards[:, -1], ".3f")} at the end; likeliest action \
{spread(comparison.greedy, ".3f")} (mean ± standard deviation of {seeds} seeds)
- {machine_line("torch", "scikit-learn")}
"""
