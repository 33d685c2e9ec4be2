"""Times the contenders of one case in turns, each after its result is found to be right."""

from __future__ import annotations

import gc
import time
from dataclasses import dataclass, field

import torch

from benchmarks.gpu_cases import COMPILE, IN_PLACE, OURS, UNCHECKED, Case
from benchmarks.gpu_works import build
from benchmarks.peers import Step

WARM_UP = 3
# Relative error of ours; the others, of which some round the logarithms too, may be further off.
TOLERANCE = {"bfloat16": 2e-2, "float32": 2e-5}
OTHERS = 2.5
FILLER_BYTES = 2**28


@dataclass
class Result:
    """The figures of a case; `seconds` per call, of each round, the rounds shared by everybody."""

    name: str
    bytes: int | None = None
    seconds: dict[str, list[float]] = field(default_factory=dict)
    peak_bytes: dict[str, int] = field(default_factory=dict)
    errors: dict[str, float] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)


class HostClock:
    """For a run without a GPU, of which only the code counts."""

    device = "cpu"

    def synchronize(self) -> None:
        pass

    def time(self, step: Step) -> float:
        """Seconds of one call."""
        if step.prepare:
            step.prepare()
        begin = time.perf_counter()
        step.run()
        return time.perf_counter() - begin

    def time_many(self, step: Step, calls: int) -> float:
        """Seconds per call, with what the host takes for each."""
        self.synchronize()
        begin = time.perf_counter()
        for _ in range(calls):
            step.run()
        self.synchronize()
        return (time.perf_counter() - begin) / calls

    def peak(self, step: Step) -> int | None:
        """Bytes that a call takes beyond what is there."""
        return None


class GpuClock(HostClock):
    """Events on the stream. Before each call a copy of something else keeps the device busy while
    the host launches, and leaves the same L2 cache to everybody."""

    device = "cuda"

    def __init__(self) -> None:
        self.filler = torch.randn(2, FILLER_BYTES // 4, device="cuda")

    def synchronize(self) -> None:
        torch.cuda.synchronize()

    def time(self, step: Step) -> float:
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        if step.prepare:
            step.prepare()
        self.filler[1].copy_(self.filler[0])
        begin.record()
        step.run()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / 1e3

    def peak(self, step: Step) -> int | None:
        if step.prepare:
            step.prepare()
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        step.run()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before


def first_line(problem: BaseException) -> str:
    """What went wrong, short."""
    return (str(problem).strip().splitlines() or [""])[0][:200] or type(problem).__name__


def measure(case: Case, clock: HostClock, rounds: int, with_compile: bool) -> Result:
    """Every contender in turns; one that fails or is wrong is left out, with the reason."""
    torch.manual_seed(0)
    torch.compiler.reset()
    setup, result, steps = build(case, clock.device), Result(case.name), {}
    result.bytes = setup.bytes
    for name, make in setup.makers.items():
        if name == COMPILE and not with_compile:
            result.left_out[name] = "not asked for, or no time"
            continue
        try:
            step = make()
            got = step()
            if name not in UNCHECKED:
                error = result.errors[name] = setup.error(got)
                allowed = TOLERANCE[case.dtype] * (1 if name in (OURS, IN_PLACE) else OTHERS)
                if not error <= allowed:
                    raise ValueError(f"wrong: relative error {error:.1e}")
            del got
            for _ in range(WARM_UP):
                step()
            peak = clock.peak(step)
            if peak is not None and name not in UNCHECKED:
                result.peak_bytes[name] = peak
            steps[name] = step
        except Exception as problem:
            result.left_out[name] = first_line(problem)
    result.seconds = {name: [] for name in steps}
    gc.collect()
    gc.disable()
    try:
        for number in range(rounds):
            for name in list(steps) if number % 2 == 0 else list(steps)[::-1]:
                step, calls = steps[name], case.calls
                seconds = clock.time_many(step, calls) if calls > 1 else clock.time(step)
                result.seconds[name].append(seconds)
    finally:
        gc.enable()
    return result
