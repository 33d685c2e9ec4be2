"""The benchmark of the derivatives checks before it times, and reports what it measured."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from benchmarks import derivatives as benchmark

pytestmark = pytest.mark.once
SMALL = tuple(replace(case, shape=(5, 7)) for case in benchmark.CASES)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch, one_thread: None) -> None:
    """Small shapes, and formulas that are not compiled."""
    monkeypatch.setattr(benchmark, "CASES", SMALL)
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)


class InThisProcess:
    """A process's interface without one."""

    def __init__(self, tuned: bool) -> None:
        self.worker, self.suffix = benchmark.Worker(tuned), " tuned" if tuned else ""

    def ask(self, do: str, **request: object) -> dict[str, float] | float:
        return getattr(self.worker, do)(**request)


PROCESSES = (False, True)


@pytest.mark.parametrize("number", range(len(SMALL)), ids=[case.name for case in SMALL])
def test_every_peer_is_right_and_timed(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark, "BLOCK_S", 1e-6)
    times = benchmark.measure(number, [InThisProcess(tuned) for tuned in PROCESSES], rounds=2)
    peers = {peer + suffix for peer in benchmark.PEERS for suffix in ("", " tuned")}
    assert set(times) == peers | {benchmark.OURS, "fill tuned"}
    assert all(len(seconds) == 2 and min(seconds) > 0 for seconds in times.values())


def test_a_wrong_result_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = replace(SMALL[0], formula=lambda x: 1.001 * benchmark.jacobian_formula(x))
    monkeypatch.setattr(benchmark, "CASES", (wrong,))
    with pytest.raises(ValueError, match="softmax_jacobian 5x7: formula is off by"):
        benchmark.measure(0, [InThisProcess(tuned=False)], rounds=2)


def test_ratios_are_taken_within_a_round() -> None:
    """Twice as slow in one round, the machine with it: the ratio stays."""
    peers = {peer + suffix for peer in benchmark.PEERS for suffix in ("", " tuned")}
    times = dict.fromkeys(peers, [0.03, 0.06, 0.03]) | {
        benchmark.OURS: [0.01, 0.02, 0.01],
        "fill tuned": [0.005, 0.01, 0.005],
        "formula tuned": [0.005, 0.01, 0.005],
    }
    lines = benchmark.markdown({"a case": times}).splitlines()
    assert lines[2] == "| a case | 10 | 3.00 | 3.00 | 3.00 | **0.50** | 3.00 | 3.00 | 50% |"


def test_every_derivative_is_measured() -> None:
    """All functions are measured but the one that is the other."""
    measured = {case.ours.__name__ for case in benchmark.CASES}
    assert measured == set(benchmark.derivatives.__all__) - {"softmax_jvp"}
