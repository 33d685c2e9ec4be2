"""``python -m benchmarks.gpu``: the operators on one NVIDIA GPU beside a copy and other libraries.

Every result is checked against float64 first. The files are written after each case, so that an
end before the last one loses nothing.
"""

from __future__ import annotations

import argparse
import gc
import platform
import re
import subprocess
import sys
import time
from datetime import date
from pathlib import Path
from statistics import median

import torch

import torchsoftmax
from benchmarks import gpu_report as report
from benchmarks.gpu_cases import BANDWIDTH, CASES, COPY, OURS, Case, copying, tiny
from benchmarks.gpu_measure import GpuClock, HostClock, Result, first_line, measure
from benchmarks.machine import processor, versions

RESULTS = Path("docs/results")
ROUNDS = 15
COPY_BYTES = 2**32  # read and written, of the copy that the machine is described by


def driver() -> str:
    """The version of the NVIDIA driver."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[0]
    except (OSError, subprocess.CalledProcessError, IndexError):
        return "unknown"


def describe(clock: HostClock) -> report.Machine:
    """What goes beside the figures."""
    machine: report.Machine = {"date": date.today().isoformat()}
    if clock.device == "cuda":
        gpu = torch.cuda.get_device_properties(0)
        copy = copying(COPY_BYTES, "cuda")
        seconds = median([clock.time(copy) for _ in range(ROUNDS)][3:])
        machine |= {
            "GPU": gpu.name,
            "driver": driver(),
            "memory": f"{gpu.total_memory / 2**30:.0f} GiB",
            "multiprocessors": gpu.multi_processor_count,
            "L2": f"{gpu.L2_cache_size / 2**20:.0f} MiB",
            "copy": f"{COPY_BYTES / seconds / 1e9:.0f} GB/s",
            "CUDA": torch.version.cuda,
        }
    else:
        machine["GPU"] = f"none (a trial of the code on {processor()})"
    return machine | {
        "torch": torch.__version__,
        **versions("triton", "liger-kernel"),
        "python": platform.python_version(),
    }


def unusable() -> str:
    """Why nothing can be measured on a GPU here; empty where it can."""
    if not torch.cuda.is_available():
        return "no NVIDIA GPU that this PyTorch can use: benchmarks.gpu measures on one"
    try:
        torchsoftmax.softmax(torch.randn(2, 2, device="cuda"), -1)
        torch.cuda.synchronize()
    except RuntimeError as problem:
        return f"torchsoftmax does not run on this GPU: {first_line(problem)}"
    return ""


def write(
    cases: tuple[Case, ...], machine: report.Machine, results: list[Result], to: Path
) -> None:
    """The figures and the page, in the order of the cases."""
    order = [case.name for case in cases]
    results.sort(key=lambda result: order.index(result.name))
    report.save(machine, results, to)
    (to / f"{report.NAME}.md").write_text(report.markdown(cases, machine, results))


def draw(cases: tuple[Case, ...], machine: report.Machine, results: list[Result], to: Path) -> None:
    """The picture of what is in it, where matplotlib is."""
    measured = {result.name for result in results if COPY in result.seconds}
    if not any(case.work in BANDWIDTH and case.name in measured for case in cases):
        return
    try:
        from benchmarks import gpu_picture
    except ImportError as problem:
        print(f"no picture ({problem}): --draw makes it on another machine", file=sys.stderr)
        return
    gpu_picture.draw(cases, machine, results, to)


def main(argv: list[str] | None = None, cases: tuple[Case, ...] = CASES) -> int:
    """Measures what is asked for; 1 if that cannot be or a result of ours is wrong."""
    started = time.monotonic()
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="DIR")
    parser.add_argument(
        "--seconds", type=float, default=130, metavar="N",
        help="begin no case after that; after half, compile only where a target needs it",
    )  # fmt: skip
    parser.add_argument(
        "--only", default="", metavar="REGEX",
        help="cases whose name matches; figures of the others stay, if of the same machine",
    )  # fmt: skip
    parser.add_argument("--rounds", type=int, default=ROUNDS, metavar="N")
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    parser.add_argument("--draw", action="store_true", help="page and picture of what is there")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: a trial")
    parser.add_argument("--tiny", action="store_true", help="small shapes, for a trial")
    options = parser.parse_args(argv)
    if options.device == "cpu" and options.out == RESULTS:
        parser.error("--device cpu is a trial, whose figures go elsewhere: give --out")
    if options.tiny:
        cases = tuple(map(tiny, cases))
    chosen = [case for case in cases if re.search(options.only, case.name)]
    before, earlier = report.read(options.out)
    names = {case.name for case in cases}
    earlier = [result for result in earlier if result.name in names]
    if options.draw:
        if not earlier:
            print(f"no figures in {options.out / report.NAME}.json", file=sys.stderr)
            return 1
        write(cases, before, earlier, options.out)
        draw(cases, before, earlier, options.out)
        return 0
    if not chosen:
        print(f"--only {options.only!r} matches no case", file=sys.stderr)
        return 1
    problem = unusable() if options.device == "cuda" else ""
    if problem:
        print(problem, file=sys.stderr)
        return 1
    clock = GpuClock() if options.device == "cuda" else HostClock()
    machine = describe(clock)
    print(report.machine_line(machine), flush=True)
    same = all(before.get(key) == machine.get(key) for key in ("GPU", "driver", "torch"))
    keep = options.only and same
    results = [r for r in earlier if keep and r.name not in {case.name for case in chosen}]
    status = 0
    for case in chosen:
        spent = time.monotonic() - started
        if spent > options.seconds:
            print(f"{case.name}: no time, after {spent:.0f} s", flush=True)
            continue
        with_compile = case.compiles or spent < options.seconds / 2
        try:
            result = measure(case, clock, options.rounds, with_compile and not options.no_compile)
        except Exception as problem:  # the others may work
            result = Result(case.name, left_out={OURS: first_line(problem)})
        status = 1 if any(name.startswith(OURS) for name in result.left_out) else status
        results.append(result)
        spent = time.monotonic() - started
        print(f"[{spent:.0f} s] {report.one_line(case, result)}", flush=True)
        write(cases, machine, results, options.out)
        gc.collect()
        if clock.device == "cuda":
            try:
                torch.cuda.synchronize()
                torch.cuda.empty_cache()
            except RuntimeError as problem:
                print(f"the GPU is lost to this process: {first_line(problem)}", file=sys.stderr)
                status = 1
                break
    write(cases, machine, results, options.out)
    print(report.text(cases, results), flush=True)
    draw(cases, machine, results, options.out)
    return status


if __name__ == "__main__":
    raise SystemExit(main())
