"""Where the figures come from: the machine and the settings that they depend on."""

from __future__ import annotations

import os
import platform
import re
from datetime import date
from pathlib import Path

import torch

from benchmarks.measure import HUGE_PAGES_SWITCH, WorkerProcess


def processor() -> str:
    """The processor's name as the system gives it."""
    cpuinfo = Path("/proc/cpuinfo")
    found = cpuinfo.exists() and re.search(r"model name\s*:\s*(.+)", cpuinfo.read_text())
    return found[1] if found else platform.processor()


def huge_page_setting() -> str:
    """The system's mode of transparent huge pages: always, madvise or never."""
    setting = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    return re.search(r"\[(\w+)\]", setting.read_text())[1] if setting.exists() else "none"


def describe(workers: list[WorkerProcess], threads: int) -> dict[str, object]:
    """What goes beside the figures; a worker's share is the part of a tensor in huge pages."""
    return {
        "date": date.today().isoformat(),
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads": threads,
        "instruction_set": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "transparent_huge_pages": huge_page_setting(),
        "tuned": f"{HUGE_PAGES_SWITCH}=1",
        "huge_page_share": dict(
            zip(("stock", "tuned"), (worker.huge_page_share for worker in workers), strict=False)
        ),
    }
