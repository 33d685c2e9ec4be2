"""Peak memory of a call, by one method for every library: the process's resident size.

The system keeps the peak of a process and lets it be reset (Linux: "5" written to
``/proc/self/clear_refs`` sets ``VmHWM`` to the present resident size). The growth of one call is
the peak after it less the size before it; inputs and the library itself are in the size before.
What the C library and torchsoftmax hold of freed memory is given back first, or a call could use it
unseen.
"""

from __future__ import annotations

import ctypes
import gc
import re
import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks.peers import Step

STATUS, CLEAR_REFS = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def peak_resident_bytes() -> int:
    """Since the last reset."""
    return 1024 * int(re.search(r"VmHWM:\s+(\d+)", STATUS.read_text())[1])


def peak_growth(step: Step, calls: int = 3) -> int | None:
    """Bytes by which a call that is not the first one raises the peak, the least of some calls.

    None where the system cannot tell. What a first call allocates for good does not count; nor
    does, by the least, what else becomes resident meanwhile, such as pages of a library that the
    system had taken away.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is None or not CLEAR_REFS.exists():
        return None
    return min(_growth(step, trim) for _ in range(calls))


def _growth(step: Step, trim: Callable[[int], int]) -> int:
    if step.prepare:
        step.prepare()
    gc.collect()
    trim(0)
    if "torchsoftmax" in sys.modules:  # not in the process of another library
        sys.modules["torchsoftmax"].empty_cache()
    CLEAR_REFS.write_text("5")
    before = peak_resident_bytes()
    returned = step.run()
    grown = peak_resident_bytes() - before
    del returned
    return grown
