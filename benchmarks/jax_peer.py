"""JAX on a CPU at its best: compiled for the shape, inputs shared with PyTorch's memory."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import torch
from torch import Tensor

from benchmarks.cases import BACKWARD, FORWARD, IN_PLACE, Case, Inputs
from benchmarks.peers import Step

Array = jax.Array
VARIANTS = ("", IN_PLACE, "label smoothing", "class weights", "probability targets")

# A call that is waited for is faster without a thread of its own.
jax.config.update("jax_cpu_enable_async_dispatch", False)
# XLA takes as many threads as there are processors that the process may use.
os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: torch.get_num_threads()])


def cross_entropy(
    input: Array, target: Array, weight: Array | None = None, label_smoothing: float = 0.0
) -> Array:
    """As optax writes it: of the ways that were tried (a comparison with the class index, one-hot
    targets) the fastest."""
    shifted = input - jax.lax.stop_gradient(input.max(1, keepdims=True))
    log_sum = jnp.log(jnp.exp(shifted).sum(1))
    if jnp.issubdtype(target.dtype, jnp.floating):
        return (log_sum * target.sum(1) - (target * shifted).sum(1)).mean()
    of_target = jnp.take_along_axis(shifted, jnp.expand_dims(target, 1), 1).squeeze(1)
    loss = log_sum - of_target
    if label_smoothing:
        spread = log_sum - shifted.mean(1)
        loss = (1 - label_smoothing) * loss + label_smoothing * spread
    if weight is None:
        return loss.mean()
    return (weight[target] * loss).sum() / weight[target].sum()


def softmax(input: Array, dim: int, mask: Array | None = None) -> Array:
    return jax.nn.softmax(input, axis=dim, where=mask)


def log_softmax(input: Array, dim: int, mask: Array | None = None) -> Array:
    return jax.nn.log_softmax(input, axis=dim, where=mask)


FUNCTIONS: dict[str, Callable[..., Array]] = {
    "softmax": softmax,
    "log_softmax": log_softmax,
    "cross_entropy": cross_entropy,
}


def shared(value: object) -> object:
    """A tensor as an array of the same memory; class indices in 32 bits, JAX's own width."""
    if not isinstance(value, Tensor):
        return value
    narrow = value.to(torch.int32) if value.dtype == torch.int64 else value
    return jax.dlpack.from_dlpack(narrow)


def step(case: Case, inputs: Inputs) -> Step | None:
    """The direction of the case, compiled; every call waits for its result."""
    if case.op not in FUNCTIONS or (case.op == "cross_entropy" and case.variant not in VARIANTS):
        return None
    arguments = {name: shared(value) for name, value in inputs.arguments.items()}
    logits = arguments.pop("input")
    static = {name: v for name, v in arguments.items() if not isinstance(v, Array)}
    others = {name: v for name, v in arguments.items() if isinstance(v, Array)}
    function = partial(FUNCTIONS[case.op], **static)

    def waiting(compiled: Callable[..., object], *given: object) -> Step:
        return Step(lambda: jax.block_until_ready(compiled(*given)))

    if case.direction == FORWARD:
        return waiting(jax.jit(lambda x, others: function(x, **others)), logits, others)
    upstream = shared(inputs.grad_output)
    if case.direction == BACKWARD:
        _, pull = jax.vjp(lambda x: function(x, **others), logits)
        return waiting(jax.jit(lambda pull, g: pull(g)[0]), pull, upstream)

    def both(x: Array, others: dict[str, Array], upstream: Array | None) -> tuple[Array, Array]:
        value, pull = jax.vjp(lambda x: function(x, **others), x)
        return value, pull(jnp.ones_like(value) if upstream is None else upstream)[0]

    if case.variant != IN_PLACE:
        return waiting(jax.jit(both), logits, others, upstream)
    # JAX's way to write the gradient over the logits: they are given away to the compiled function.
    donated = jax.jit(both, donate_argnums=0)
    fresh: list[Array] = []

    def prepare() -> None:
        fresh[:] = [jax.block_until_ready(jnp.copy(logits))]

    return Step(lambda: jax.block_until_ready(donated(fresh.pop(), others, upstream)), prepare)
