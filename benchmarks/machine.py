"""Where the figures come from: the machine and the settings that they depend on."""

from __future__ import annotations

import os
import platform
import re
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from benchmarks.measure import WorkerProcess
from benchmarks.peers import PROCESSES


def processor() -> str:
    """The processor's name as the system gives it."""
    cpuinfo = Path("/proc/cpuinfo")
    found = cpuinfo.exists() and re.search(r"model name\s*:\s*(.+)", cpuinfo.read_text())
    return found[1] if found else platform.processor()


def huge_page_setting() -> str:
    """The system's mode of transparent huge pages: always, madvise or never."""
    setting = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    return re.search(r"\[(\w+)\]", setting.read_text())[1] if setting.exists() else "none"


def versions(*packages: str) -> dict[str, str]:
    """Of those that are installed."""
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def describe(workers: dict[str, WorkerProcess], threads: int) -> dict[str, object]:
    """What goes beside the figures; a worker's share is the part of a tensor in huge pages."""
    return {
        "date": date.today().isoformat(),
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads": threads,
        "instruction_set": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
        **versions("onnxruntime", "jax"),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "transparent_huge_pages": huge_page_setting(),
        "settings": {name: PROCESSES[name] for name in workers if PROCESSES.get(name)},
        "huge_page_share": {name: worker.huge_page_share for name, worker in workers.items()},
    }
