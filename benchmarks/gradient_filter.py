"""``python -m benchmarks.gradient_filter``: what a filter of gradients saves, and what it costs.

Cut Cross-Entropy (Wijmans et al. 2024, arXiv 2411.09009) leaves those blocks of the logits'
gradient G out of the products G W and G^T X whose entries are all below a threshold. Here on the
demo's language model after its training: how much is left out, the error of the gradients, and the
time of the two products without it, for which each band of blocks is one product of what it has
left.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch
from torch import Tensor
from tqdm import tqdm

import torchsoftmax
from benchmarks.machine import processor
from benchmarks.sections import refresh
from examples.demo.language_model import task
from examples.demo.training import Run, on_logits

EXPONENTS = (-12, -14)  # of the threshold; the paper's is 2^-12, of bfloat16's resolution
BLOCKS = ((16, 16), (64, 64), (256, 64), (128, 512))  # rows, classes
ROUNDS = 5


@dataclass(frozen=True)
class Problem:
    """The last layer of a trained model on text it has not seen."""

    input: Tensor
    weight: Tensor
    gradient: Tensor  # of the logits, for the sum over rows
    loss: float


def trained(quick: bool) -> Problem:
    language_model = task(quick)
    run = Run(language_model, on_logits("torchsoftmax", torchsoftmax.CrossEntropyLoss))
    for batch in tqdm(language_model.batches, unit="step"):
        run.step(*batch)
    decoder, layer = run.network
    tokens, target = language_model.held_out[0]
    with torch.no_grad():
        hidden, weight = decoder(tokens), layer.weight.detach()
        logits = hidden @ weight.t()
        loss = torchsoftmax.cross_entropy(logits, target).item()
        gradient = torchsoftmax.softmax(logits, -1)
        gradient[torch.arange(len(target)), target] -= 1
    return Problem(hidden, weight, gradient, loss)


def kept_blocks(gradient: Tensor, block: tuple[int, int], threshold: float) -> Tensor:
    """Which blocks have an entry that is not below the threshold, (rows, classes) of blocks."""
    rows, classes = block
    parts = gradient.abs().unflatten(1, (-1, classes)).unflatten(0, (-1, rows))
    return parts.amax((1, 3)) >= threshold


def product(left: Tensor, right: Tensor, kept: Tensor) -> Callable[[], Tensor]:
    """left @ right without the blocks that are not kept; a band of rows is one product."""
    size = len(left) // len(kept), left.size(1) // kept.size(1)
    places = torch.arange(left.size(1)).view(-1, size[1])
    inner = [places[band].flatten() for band in kept]
    result = left.new_zeros(len(left), right.size(1))

    def run() -> Tensor:
        for number, index in enumerate(inner):
            band = slice(number * size[0], (number + 1) * size[0])
            torch.mm(left[band].index_select(1, index), right[index], out=result[band])
        return result

    return run


def seconds(call: Callable[[], object]) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def measure(problem: Problem, block: tuple[int, int], exponent: int) -> list[str]:
    """A line of the table."""
    kept = kept_blocks(problem.gradient, block, 2.0**exponent)
    pairs = (
        (problem.gradient, problem.weight, kept),
        (problem.gradient.t(), problem.input, kept.t()),
    )
    filtered = [product(*pair) for pair in pairs]
    in_bands = [product(left, right, torch.ones_like(part)) for left, right, part in pairs]
    whole = [lambda pair=pair: pair[0] @ pair[1] for pair in pairs]
    errors = []
    for run, (left, right, _) in zip(filtered, pairs, strict=True):
        exact = left.double() @ right.double()
        errors.append(((run().double() - exact).norm() / exact.norm()).item())
    ratios = []
    for _ in range(ROUNDS):
        times = [sum(map(seconds, calls)) for calls in (filtered, whole, in_bands)]
        ratios.append([other / times[0] for other in times[1:]])
    rows, classes = block
    return [
        f"{rows} × {classes}",
        f"2^{exponent}",
        f"{100 * (1 - kept.double().mean()):.1f} %",
        *(f"{error:.1e}" for error in errors),
        *(f"{median(ratio):.2f}" for ratio in zip(*ratios, strict=True)),
    ]


def markdown(problem: Problem, lines: list[list[str]]) -> str:
    head = ("block, rows × classes", "threshold", "left out")
    head += ("error of the gradient of X", "of W", "times as fast", "as in bands")
    below = ((problem.gradient.abs() < 2.0 ** EXPONENTS[0]).double().mean() * 100).item()
    rows, features = problem.input.shape
    table = [f"| {' | '.join(line)} |" for line in (head, (":--",) * 2 + ("--:",) * 5, *lines)]
    return "\n".join(
        [
            *table,
            "",
            "The demo's language model after its training (held-out loss "
            f"{problem.loss:.2f} nats), {rows} rows of {features} features, "
            f"{len(problem.weight)} classes, float32; "
            f"{below:.1f} % of the entries of G are below 2^{EXPONENTS[0]}. *error*: of the whole "
            "matrix, relative, in the Frobenius norm. *times as fast*: G W and Gᵀ X whole over "
            "both without what is left out, median of rounds in turns; *as in bands*: the same "
            "bands of blocks with nothing left out over both.",
            "",
            f"{processor()}, {torch.get_num_threads()} threads, torch {torch.__version__}",
            "",
        ]
    )


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gradient_filter", description=__doc__
    )
    parser.add_argument("--quick", action="store_true", help="a small model")
    parser.add_argument("--output", type=Path, default=Path("docs/results"), metavar="DIR")
    options = parser.parse_args(argv)
    problem = trained(options.quick)
    cases = [(block, exponent) for exponent in EXPONENTS for block in BLOCKS]
    lines = [measure(problem, *case) for case in tqdm(cases, unit="case")]
    text = markdown(problem, lines)
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "gradient_filter.md").write_text(text, encoding="utf-8")
    refresh(options.output)
    print(text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
