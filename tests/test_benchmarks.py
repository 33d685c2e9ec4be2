"""The benchmark command: what it writes, and that a wrong result is never timed."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from benchmarks.cases import OPS

pytestmark = pytest.mark.once
RUN = "import sys; from benchmarks.__main__ import main; sys.exit(main(sys.argv[2:], sys.argv[1]))"
WRONG_PEERS = """
from benchmarks.cases import BACKWARD, FORWARD
from benchmarks.peers import Peer, eager

def wrong_value(case, inputs):
    step = eager(case, inputs)
    return (lambda: step() * 1.001) if case.direction == FORWARD else step

def nan_gradient(case, inputs):
    step = eager(case, inputs)
    if case.direction == FORWARD:
        return step
    return lambda: (*step()[:-1], step()[-1] * float("nan"))

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
    peers = {"copy", "ours", "eager"}
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
    measured = {"ours", "plain", "plain tuned", "native chunks"}
    assert set(rows) == measured | {"three products"}
    for name in measured:
        assert 0 < float(rows[name]["error_eps"]) < 64 and float(rows[name]["seconds"]) > 0
    assert float(rows["ours"]["ratio"]) == 1
    assert (tmp_path / "linear.md").read_text() in done.stdout
    assert (tmp_path / "linear.png").read_bytes().startswith(b"\x89PNG")
