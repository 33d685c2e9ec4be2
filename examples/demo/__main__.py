"""Train every task with every loss in lockstep, print and save what came out.

Exits with status 1 where a loss curve leaves the reference by more than its task's tolerance.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch

import torchsoftmax
from benchmarks.sections import refresh
from examples.demo import digits, language_model
from examples.demo.picture import save_picture
from examples.demo.report import markdown, save_figures
from examples.demo.training import Contender, compare, on_logits

CONTENDERS = (
    on_logits("torch.nn", torch.nn.CrossEntropyLoss),
    on_logits("torchsoftmax", torchsoftmax.CrossEntropyLoss),
)


def with_output_layer(network: torch.nn.Sequential) -> tuple[torch.nn.Module, torch.nn.Module]:
    """Cuts the output layer off and puts it into a loss that never has all logits in memory."""
    output = network[-1]
    loss = torchsoftmax.LinearCrossEntropyLoss(
        output.in_features, output.out_features, bias=output.bias is not None, device="meta"
    )
    loss.linear = output
    return network[:-1], loss


OF_LANGUAGE_MODEL = (Contender("torchsoftmax, linear", with_output_layer),)


def main(
    arguments: Sequence[str] | None = None, contenders: Sequence[Contender] = CONTENDERS
) -> int:
    """Run the demonstration and return its exit status; the first contender is the reference."""
    parser = argparse.ArgumentParser(prog="python -m examples.demo", description=__doc__)
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("docs/results"),
        metavar="DIR",
        help="folder of demo.json, demo.md and demo.png (default: %(default)s)",
    )
    parser.add_argument("--quick", action="store_true", help="small sizes, for tests")
    options = parser.parse_args(arguments)

    start = time.perf_counter()
    results = [
        compare(digits.task(quick=options.quick), contenders),
        compare(language_model.task(quick=options.quick), (*contenders, *OF_LANGUAGE_MODEL)),
    ]
    text = markdown(results)
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "demo.md").write_text(text, encoding="utf-8")
    save_figures(results, options.output / "demo.json")
    save_picture(results, options.output / "demo.png")
    refresh(options.output)

    print(text)
    print(
        f"Wrote demo.md, demo.json and demo.png to {options.output} "
        f"in {time.perf_counter() - start:.0f} s altogether."
    )
    disagreements = [line for result in results for line in result.disagreements()]
    for line in disagreements:
        print(f"DISAGREEMENT: {line}", file=sys.stderr)
    return 1 if disagreements else 0


if __name__ == "__main__":
    sys.exit(main())
