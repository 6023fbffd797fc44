"""How much memory there is, how to give some back, and whether it has run out."""

from __future__ import annotations

import mmap
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

_CGROUP = Path("/sys/fs/cgroup")
_ALL = 2**62
_LARGE = 256 * 2**20
_WORDS = ("can't allocate memory", "not enough memory", "out of memory", "ALLOC_FAILED")


def free(device: torch.device) -> int:
    """Bytes that can still be taken on a device; of the host's, what the system and the control group allow."""
    if device.type == "cuda":
        import torch

        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + unused
    return min(_available(), _left_in_group())


def _available() -> int:
    info = Path("/proc/meminfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return 1024 * int(line.split()[1])
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    except (ValueError, OSError, AttributeError):
        return 4 * 2**30


def _left_in_group() -> int:
    """What the process's control group, or one above it, leaves; pages of files can be had back."""
    try:
        own = next(line for line in Path("/proc/self/cgroup").read_text().splitlines() if line.startswith("0::"))
        group = _CGROUP / own[3:].strip("/")
    except (OSError, StopIteration):
        group = _CGROUP
    return min((_left_in(folder) for folder in (group, *group.parents) if folder.is_relative_to(_CGROUP)), default=_ALL)


def _left_in(group: Path) -> int:
    try:
        limit, used = ((group / name).read_text().strip() for name in ("memory.max", "memory.current"))
        files = [line for line in (group / "memory.stat").read_text().splitlines() if line.startswith("inactive_file ")]
        return max(0, int(limit) - int(used) + sum(int(line.split()[1]) for line in files))
    except (OSError, ValueError):  # no control group, or one without a limit ("max")
        return _ALL


def unmap(array: NDArray[Any]) -> None:
    """Give back the memory that pages of a large file take which an array, or a view of one, maps for reading.

    What was read stays in the system's page cache as long as there is room; else a process that goes once through a
    file would seem to hold all of it.
    """
    mapped: Any = array
    while mapped is not None and not isinstance(mapped, np.memmap):
        mapped = getattr(mapped, "base", None)
    if mapped is None or mapped.mode != "r":  # of a map that is written to privately, what was written would be lost
        return
    pages = getattr(mapped, "_mmap", None)
    if pages is not None and len(pages) > _LARGE and hasattr(mmap, "MADV_DONTNEED"):
        pages.madvise(mmap.MADV_DONTNEED)


def ran_out(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on the host or on the device."""
    import torch

    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _WORDS)


def release() -> None:
    """Give back what torch has kept for later."""
    import gc

    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
