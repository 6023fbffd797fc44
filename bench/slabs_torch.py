"""Targets in slabs that fit a device."""

from __future__ import annotations

from collections.abc import Callable

import torch

from bench import memory

_HOST_BUDGET = 2**27  # bytes beside a slab on the host; more would leave its caches
_LEAST_BUDGET = 2**27  # that memory running out makes it
_MOST_ENTRIES = 2**31 - 1  # of a slab: where some versions of torch end to index non-zero ones


def in_slabs(
    work: Callable[[slice, int], None], T: int, N: int, dtype: torch.dtype, device: torch.device, slab: int | None
) -> None:
    """Run `work` on slabs of targets; where memory runs out, the slab is halved and only its targets are done again.

    Args:
        work: takes the targets and the bytes that it may use beside its state.
        T: targets.
        N: columns of their weights.
        dtype: of the solver.
        device: where it works.
        slab: targets that are taken together; by default, as many as fit.

    Raises:
        torch.OutOfMemoryError: one target does not fit.
    """
    if device.type == "cuda":
        free = memory.free(device)
        budget = max(_LEAST_BUDGET, min(2**32, free // 6))
        state = free - 2 * budget
    else:
        budget, state = _HOST_BUDGET, 8 * _HOST_BUDGET
    size = max(1, min(slab or state // (N * (8 * dtype.itemsize + 4)), _MOST_ENTRIES // N))
    first = 0
    while first < T:
        try:
            work(slice(first, min(first + size, T)), budget)
        except (RuntimeError, MemoryError) as error:
            if not memory.ran_out(error) or (size == 1 and budget <= _LEAST_BUDGET):
                raise
        else:
            first += size
            continue
        # Outside the handler: the error holds what was allocated.
        size, budget = max(1, min(size, T - first) // 2), max(min(_LEAST_BUDGET, budget), budget // 2)
        memory.release()
