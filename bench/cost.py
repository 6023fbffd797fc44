"""What a method is charged for: seconds, peak memory, models trained, disk."""

from __future__ import annotations

import ctypes
import gc
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

_CLEAR, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")


@dataclass
class Meter:
    """Filled in when its `metered` block ends.

    Attributes:
        seconds: wall clock.
        peak_bytes: most memory that the process (or, where it is used, the CUDA device) held above what it held
            when the block began.
    """

    seconds: float = 0.0
    peak_bytes: int = 0


@contextmanager
def metered() -> Iterator[Meter]:
    """Measure a block of code."""
    meter = Meter()
    before = _reset_peak()
    cuda_before = _cuda("reset")
    began = time.perf_counter()
    try:
        yield meter
    finally:
        meter.seconds = time.perf_counter() - began
        meter.peak_bytes = max(0, _peak() - before) + max(0, _cuda("peak") - cuda_before)


def _reset_peak() -> int:
    """Start a new peak of resident memory; the present one in bytes."""
    gc.collect()
    with suppress(AttributeError, OSError):  # glibc: give back what is freed, or the next one would use it for nothing
        ctypes.CDLL(None).malloc_trim(0)
    try:
        _CLEAR.write_text("5")
        return _field("VmRSS")
    except OSError:
        return _peak()  # without Linux's reset only growth over the earlier peak can be seen


def _peak() -> int:
    try:
        return _field("VmHWM")
    except OSError:
        import resource

        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _field(name: str) -> int:
    for line in _STATUS.read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) * 1024
    raise OSError(f"{_STATUS} has no {name}")


def _cuda(what: str) -> int:
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return 0
    if what == "reset":
        torch.cuda.reset_peak_memory_stats()
        return int(torch.cuda.memory_allocated())
    return int(torch.cuda.max_memory_allocated())
