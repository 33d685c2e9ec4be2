"""The benchmark command: what it writes, and that a wrong result is never timed."""

from __future__ import annotations

import csv
import json
import math
import os
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks import accuracy, gradient_filter, linear, report, sections, targets
from benchmarks.__main__ import with_earlier
from benchmarks.cases import OPS
from benchmarks.measure import Figure
from benchmarks.memory import peak_growth
from benchmarks.peers import Step, ours
from benchmarks.sections import ROOT, refreshed
from benchmarks.table import BY_NAME

pytestmark = pytest.mark.once
RUN = "import sys; from benchmarks.__main__ import main; sys.exit(main(sys.argv[2:], sys.argv[1]))"
WRONG_PEERS = """
from benchmarks.cases import BACKWARD, FORWARD
from benchmarks.peers import Peer, Step, eager

def wrong_value(case, inputs):
    step = eager(case, inputs)
    return Step(lambda: step() * 1.001) if case.direction == FORWARD else step

def nan_gradient(case, inputs):
    step = eager(case, inputs)
    if case.direction == FORWARD:
        return step
    return Step(lambda: (*step()[:-1], step()[-1] * float("nan")))

PEERS = [Peer("ours", eager), Peer("value", wrong_value), Peer("gradient", nan_gradient)]
"""


def bench(output: Path, *arguments: str, peers: str = "benchmarks.peers") -> tuple[int, str]:
    """Exit status and stderr of a quick run; one thread, for tests share the cores."""
    command = [sys.executable, "-c", RUN, peers, "--quick", "--threads", "1", *arguments]
    done = subprocess.run(
        [*command, "--output", str(output)],
        cwd=Path(__file__).parents[1],
        env=os.environ | {"PYTHONPATH": str(output)},
        stderr=subprocess.PIPE,
        text=True,
    )
    return done.returncode, done.stderr


def test_writes_a_row_per_case_and_peer(tmp_path: Path) -> None:
    status, stderr = bench(tmp_path)
    assert status == 0, stderr
    machine = json.loads((tmp_path / "bench-cpu.json").read_text())
    peers = {"copy", "fresh copy", "ours", "eager"}
    if "tuned" in machine["huge_page_share"]:
        peers.add("eager tuned")
    with (tmp_path / "bench-cpu.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    names = ("op", "direction", "shape", "dtype", "variant")
    cases = {tuple(row[name] for name in names) for row in rows}
    assert {case[0] for case in cases} == set(OPS)
    assert Counter(row["peer"] for row in rows) == dict.fromkeys(peers, len(cases))
    for row in rows:
        assert 0 < float(row["ratio_low"]) <= float(row["ratio"]) <= float(row["ratio_high"])
        assert float(row["error"]) <= float(row["tolerance"])
    table = (tmp_path / "bench-cpu.md").read_text()
    assert sum(line.startswith("|") for line in table.splitlines()) == len(cases) + 2
    assert (tmp_path / "bench-cpu.png").read_bytes().startswith(b"\x89PNG")


def test_a_wrong_result_is_reported_and_not_timed(tmp_path: Path) -> None:
    (tmp_path / "wrong_peers.py").write_text(WRONG_PEERS)
    status, stderr = bench(tmp_path, "--only", "16x100 float32$", peers="wrong_peers")
    assert status == 1
    for case, peer in {
        "softmax forward": "value",
        "softmax backward": "gradient",
        "cross_entropy forward": "value",
        "cross_entropy forward+backward": "gradient",
    }.items():
        expected = f"check failed: {case} 16x100 float32: {peer} differs from float64 by "
        assert expected in stderr
    assert not (tmp_path / "bench-cpu.csv").exists()


def figure(case: str, peer: str, ratio: float = 1.0, peak: float | None = None) -> Figure:
    """Of a case of the table, with what the tables of results are made of."""
    spread = (ratio, round(0.9 * ratio, 5), round(1.1 * ratio, 5))  # as a CSV has them
    return Figure(BY_NAME[case], peer, 0.25, 0.001, *spread, 40.0, 0.5, peak, 0.0, 1e-6)


def test_targets_are_judged_by_the_figures() -> None:
    forward = "softmax forward 4096x32000 float32"
    both = "cross_entropy forward+backward 4096x32000 float32"
    in_place = f"{both} in place"
    table = targets.markdown(
        [
            figure(forward, "copy", 0.8),
            figure(forward, "fresh copy", 0.85),
            figure(forward, "ours"),
            figure(forward, "eager", 2.9),
            figure(both, "ours", peak=1.001),
            figure(both, "eager", 10.5),
            figure(in_place, "ours", peak=0.02),
        ]
    )
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()[2:-2]]
    assert rows == [
        [forward, "eager", "≥ 3.5×", "2.90 (2.61–3.19)", "3.41", "**missed**"],
        [forward, "a copy's time", "≤ 1.5×", "1.25 (1.14–1.39)", "1.06", "held"],
        [both, "eager", "≥ 10×", "10.50 (9.45–11.55)", "–", "held"],
        [both, "memory beyond the input", "≤ 1.02 × logits", "1.0010", "–", "held"],
        [in_place, "memory beyond the input", "≤ 0.01 × logits", "0.0200", "–", "**missed**"],
    ]
    assert table.endswith(
        "\n\n3 of 5 held, 2 missed, 1 of which a fresh copy of the input misses too.\n"
    )


def test_figures_of_another_run_are_kept_beside_the_new_ones(tmp_path: Path) -> None:
    first, second = "softmax forward 32x10 float32", "cross_entropy forward+backward 32x10 float32"
    earlier = [figure(first, "ours"), figure(second, "ours"), figure(second, "eager", 1.5)]
    report.write_csv(earlier, tmp_path)
    read = report.read_csv(tmp_path)
    assert read == earlier
    now = [figure(second, "ours"), figure(second, "eager", 1.75)]
    assert with_earlier(now, read) == [read[0], *now]


def test_peak_growth_is_what_a_call_allocates() -> None:
    for mebibytes in (32, 256):
        step = Step(lambda n=mebibytes: torch.ones(n * 2**18))
        step()  # which also starts threads
        assert 0 <= peak_growth(step) - mebibytes * 2**20 <= 2**20
    kept = torch.ones(2**25)
    step = Step(lambda: kept.add_(1))
    step()
    assert peak_growth(step) <= 2**20


def test_a_step_in_place_gets_its_logits_before_each_call() -> None:
    case = BY_NAME["cross_entropy forward+backward 16x100 float32 in place"]
    inputs = OPS[case.op].inputs(case)
    given = inputs.arguments["input"].clone()
    step = ours(case, inputs)
    gradients = [step()[1].clone() for _ in range(2)]
    assert torch.equal(*gradients) and torch.equal(gradients[0], inputs.memory)
    assert torch.equal(inputs.arguments["input"], given)


def test_marked_sections_are_those_of_the_result_files() -> None:
    path = "docs/results/targets.md"
    text = f"before\n<!-- {path} -->\nold\n<!-- end -->\nafter"
    table = (ROOT / path).read_text().strip()
    assert refreshed(text) == f"before\n<!-- {path} -->\n\n{table}\n\n<!-- end -->\nafter"
    for page in ("README.md", "docs/performance.md", "docs/design.md"):
        content = (ROOT / page).read_text()
        assert refreshed(content) == content


def test_tables_are_those_of_the_figures(tmp_path: Path) -> None:
    """Of the committed results: errors, and the output layer."""
    for name in ("accuracy.csv", "linear.csv", "linear.json"):
        shutil.copy(sections.RESULTS / name, tmp_path)
    accuracy.render(tmp_path)
    linear.render(tmp_path)
    for name in ("accuracy.md", "accuracy-overview.md", "linear.md"):
        assert (tmp_path / name).read_text() == (sections.RESULTS / name).read_text(), name
    accuracy.write_csv(accuracy.read_csv(tmp_path), tmp_path / "again")
    again = (tmp_path / "again" / "accuracy.csv").read_text()
    assert again == (tmp_path / "accuracy.csv").read_text()


def test_pages_are_refreshed_from_the_folder_that_they_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results, page = tmp_path / "docs" / "results", tmp_path / "README.md"
    results.mkdir(parents=True)
    (results / "demo.md").write_text("new\n")
    before = "<!-- docs/results/demo.md -->\nold\n<!-- end -->"
    page.write_text(before)
    monkeypatch.setattr(sections, "ROOT", tmp_path)
    monkeypatch.setattr(sections, "RESULTS", results)
    sections.refresh(tmp_path)
    assert page.read_text() == before
    sections.refresh(results)
    assert page.read_text() == "<!-- docs/results/demo.md -->\n\nnew\n\n<!-- end -->"


def test_the_benchmark_of_the_output_layer_writes_its_results(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.linear", "--quick", "--rounds", "2"]
    done = subprocess.run(
        [*command, "--threads", "1", "--output", str(tmp_path)],
        cwd=Path(__file__).parents[1],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert done.returncode == 0
    with (tmp_path / "linear.csv").open(newline="") as file:
        rows = {row["contender"]: row for row in csv.DictReader(file)}
    measured = {"ours", "ours, 70% ignored", "plain", "plain tuned", "native chunks"}
    assert set(rows) == measured | {"three products", "three products, new gradients tuned"}
    for name in measured:
        assert 0 < float(rows[name]["error_eps"]) < 64 and float(rows[name]["seconds"]) > 0
    assert float(rows["ours"]["ratio"]) == 1
    assert (tmp_path / "linear.md").read_text() in done.stdout
    assert (tmp_path / "linear.png").read_bytes().startswith(b"\x89PNG")


def test_a_peer_of_the_output_layer_that_is_wrong_is_marked(tmp_path: Path) -> None:
    error = {"ours": 3.0, "plain": 64.0, "native chunks": 384.0, "compile": math.nan}
    error |= {"three products": math.nan}
    results = [
        linear.Result(*shape, "float32", name, 1.0, 1.0, 1.0, eps, "any")
        for shape in (linear.TABLE[0], linear.SWEEP[0])
        for name, eps in error.items()
    ]
    assert [r.contender for r in results if r.wrong] == ["native chunks", "compile"] * 2
    rows = [line for line in linear.table(results).splitlines() if line.startswith("| 2048")]
    assert [line.endswith(" wrong |") for line in rows] == [r.wrong for r in results[: len(rows)]]
    linear.draw(results, tmp_path / "wrong.png")
    linear.draw([replace(r, error_eps=3.0) for r in results], tmp_path / "right.png")
    assert (tmp_path / "wrong.png").read_bytes() != (tmp_path / "right.png").read_bytes()


def test_the_gradient_filter_leaves_out_blocks_below_the_threshold(tmp_path: Path) -> None:
    gradient = torch.full((4, 6), 0.1)
    gradient[1, 4] = -0.5
    kept = gradient_filter.kept_blocks(gradient, (2, 3), 0.3)
    assert kept.tolist() == [[False, True], [False, False]]
    right = torch.randn(6, 5)
    expected = torch.zeros(4, 5)
    expected[:2] = gradient[:2, 3:] @ right[3:]
    torch.testing.assert_close(gradient_filter.product(gradient, right, kept)(), expected)
    assert gradient_filter.main(["--quick", "--output", str(tmp_path)]) == 0
    table = (tmp_path / "gradient_filter.md").read_text().splitlines()
    assert len(table) == 2 + len(gradient_filter.BLOCKS) * len(gradient_filter.EXPONENTS) + 4
