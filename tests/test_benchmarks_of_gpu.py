"""The GPU benchmark as far as it goes without one: its code at small shapes, verdicts, pages."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import torchsoftmax
from benchmarks import gpu, gpu_measure, gpu_report
from benchmarks.gpu_cases import BANDWIDTH, CASES, COMPILE, COPY, EAGER, LIGER, OURS, Case, Wanted
from benchmarks.gpu_measure import Result
from benchmarks.peers import Step

pytestmark = pytest.mark.once
ONE_OF_EACH = tuple({case.work: replace(case, calls=min(2, case.calls)) for case in CASES}.values())
TRIAL = ("--device", "cpu", "--tiny", "--rounds", "2")


@pytest.fixture(autouse=True)
def not_compiled(monkeypatch: pytest.MonkeyPatch, one_thread: None) -> None:
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)


def made_up(case: Case, ours: float, others: float) -> Result:
    """Seconds of three rounds, all of which slow down alike."""
    peers = {COPY, EAGER, COMPILE, *(wanted.against for wanted in case.wanted)}
    parties = {OURS: ours, "ours in place": ours} | dict.fromkeys(peers, others)
    seconds = {who: [1e-3 * time * slow for slow in (1, 3, 2)] for who, time in parties.items()}
    return Result(case.name, 10**9, seconds, {OURS: 10**9})


def test_every_work_is_right_and_timed_at_small_shapes(tmp_path: Path) -> None:
    assert gpu.main([*TRIAL, "--out", str(tmp_path)], ONE_OF_EACH) == 0
    machine, results = gpu_report.read(tmp_path)
    assert "trial" in machine["GPU"]
    assert [result.name.rsplit(" ", 2)[0] for result in results] == [c.work for c in ONE_OF_EACH]
    for result in results:
        assert set(result.left_out) <= {LIGER}
        assert {OURS, EAGER} <= set(result.errors) and max(result.errors.values()) < 0.02
        assert all(len(seconds) == 2 and min(seconds) > 0 for seconds in result.seconds.values())
    page = (tmp_path / "gpu.md").read_text()
    assert all(f"### {case.work}\n" in page for case in CASES)


def test_figures_of_other_cases_stay(tmp_path: Path) -> None:
    for only in ("softmax backward", "kl_div"):
        assert gpu.main([*TRIAL, "--out", str(tmp_path), "--only", only], ONE_OF_EACH) == 0
    names = [result.name for result in gpu_report.read(tmp_path)[1]]
    assert [name.split()[0] for name in names] == [
        "softmax", "log_softmax", "kl_div_with_logits",
    ]  # fmt: skip


def test_a_wrong_result_is_not_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = torchsoftmax.softmax
    monkeypatch.setattr(torchsoftmax, "softmax", lambda *a, **k: 1.1 * right(*a, **k))
    cases = tuple(case for case in ONE_OF_EACH if case.work == "softmax forward")
    assert gpu.main([*TRIAL, "--out", str(tmp_path)], cases) == 1
    (result,) = gpu_report.read(tmp_path)[1]
    assert OURS not in result.seconds and "wrong: relative error" in result.left_out[OURS]
    assert "| missed |" in (tmp_path / "gpu.md").read_text()


def test_no_time_leaves_cases_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu.main([*TRIAL, "--out", str(tmp_path), "--seconds", "0"], ONE_OF_EACH) == 0
    assert f"0 held, 0 missed, {sum(len(c.wanted) for c in ONE_OF_EACH)}" in capsys.readouterr().out


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_one_line_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu.main([]) == 1
    out, err = capsys.readouterr()
    assert not out and err.startswith("no NVIDIA GPU") and err.count("\n") == 1


@pytest.mark.parametrize(
    ("wanted", "ours", "others", "verdict", "measured"),
    [
        (Wanted(COPY, 0.92), 1.0, 0.92, "held", "92.0 %"),
        (Wanted(COPY, 0.92), 1.0, 0.91, "missed", "91.0 %"),
        (Wanted(EAGER, 3.0), 1.0, 3.1, "held", "3.10×"),
        (Wanted(EAGER, 3.0), 1.0, 2.9, "missed", "2.90×"),
        (Wanted(EAGER, 1.1, at_most=True), 1.0, 1.0, "held", "1.00×"),
        (Wanted(EAGER, 1.1, at_most=True), 1.2, 1.0, "missed", "1.20×"),
        (Wanted(LIGER, 1.1), 1.0, 1.0, "not measured", "–"),
    ],
)
def test_verdicts(wanted: Wanted, ours: float, others: float, verdict: str, measured: str) -> None:
    result = made_up(Case("a work", (2, 3), "float32"), ours, others)
    assert gpu_report.verdict(wanted, result) == verdict
    assert gpu_report.amount(wanted, gpu_report.figure(wanted, result)) == measured
    assert gpu_report.verdict(wanted, None) == "not measured"


def test_page_and_picture_are_made_from_the_figures(tmp_path: Path) -> None:
    results = [made_up(case, 1.0, 0.95) for case in CASES]
    gpu_report.save({"GPU": "made up"}, results, tmp_path)
    assert gpu_report.read(tmp_path)[1] == results
    assert gpu.main(["--draw", "--out", str(tmp_path)]) == 0
    page = (tmp_path / "gpu.md").read_text()
    of_copy = sum(case.work in BANDWIDTH for case in CASES)
    assert page.count("2 ms · 500 GB/s · 95.0 % | ≥ 92.0 % | held |") == of_copy
    assert "43 targets: 35 held, 8 missed, 0 not measured." in page
    assert (tmp_path / "gpu.png").read_bytes().startswith(b"\x89PNG")


def test_the_time_of_events_is_that_of_the_call_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a stand-in for the device: the copy before the call is not between the events."""
    log: list[str] = []

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing

        def record(self) -> None:
            log.append("event")

        def synchronize(self) -> None:
            log.append("wait")

        def elapsed_time(self, end: Event) -> float:
            return 2.0

    class Filler:
        def copy_(self, other: Filler) -> None:
            log.append("filler")

    memory = iter([100, 175])
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: log.append("wait"))
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda: next(memory))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: next(memory))
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: log.append("reset"))
    monkeypatch.setattr(torch, "randn", lambda *size, device: (Filler(), Filler()))
    clock = gpu_measure.GpuClock()
    step = Step(lambda: log.append("call"), lambda: log.append("prepare"))
    assert clock.time(step) == 0.002
    assert log == ["prepare", "filler", "event", "call", "event", "wait"]
    log.clear()
    assert clock.peak(step) == 75
    assert log == ["prepare", "wait", "reset", "call", "wait"]
    log.clear()
    assert clock.time_many(Step(step.run), 3) > 0
    assert log == ["wait", "call", "call", "call", "wait"]
