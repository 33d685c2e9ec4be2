"""The table of results."""

from examples.hand_written_backward.network import TEMPERATURE
from examples.hand_written_backward.training import (
    BATCH,
    HIDDEN,
    LEARNING_RATE,
    MOMENTUM,
    PROTOTYPES,
    TOLERANCE,
    Training,
)
from examples.report import machine_line, table

FORMULAS = {
    "output": "dlogitsᵀ · relu(hidden), dlogits = cross_entropy_gradient / N",
    "bias": "sum of dlogits over rows",
    "values": "weightsᵀ · dhidden, dhidden = dlogits · output where hidden > 0",
    "keys": "softmax_vjp(scores, dhidden · valuesᵀ)ᵀ · images",
}


def markdown(training: Training) -> str:
    """The table and what it is of."""
    rows = [("parameter", "shape", "gradient, by hand", "largest difference from autograd")]
    for name, formula in FORMULAS.items():
        shape = "×".join(map(str, getattr(training.parameters, name).shape))
        rows.append((name, shape, formula, f"{training.differences[name]:.1e} (≤ {TOLERANCE:g})"))
    first, last = training.losses[0], training.losses[-1]
    return f"""\
{table(rows)}

*largest difference*: over all {len(training.losses)} steps of the training, relative to the largest
entry of autograd's gradient, in float64; the tolerance in brackets.

- network: softmax attention over {PROTOTYPES} learned prototypes at temperature {TEMPERATURE:g}, \
{HIDDEN} hidden units, cross-entropy
- training: SGD on {BATCH} of scikit-learn's handwritten digits per step, learning rate
  {LEARNING_RATE:g}, momentum {MOMENTUM:g}; the loss falls from {first:.3f} to {last:.3f} nats
- test: {100 * training.accuracy:.1f} % right of {len(training.test)} other images
- {machine_line("torch", "scikit-learn")}
"""
