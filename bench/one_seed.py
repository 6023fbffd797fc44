"""LDS against a single model per subset, as most published figures are, from ranks that are there already."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bench.scorer import LDS, summarise

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bench.scorer import MarginRanks


def one_seed(predicted: NDArray[np.int32], margins: MarginRanks) -> LDS:
    """LDS of predictions whose ranks are known.

    Args:
        predicted: int32 `[n_targets, n_subsets]`, as `bench.scorer.Trace.ranks`; a row of zeros says nothing and counts
            as 0.
        margins: of one model per subset; no two subsets are the same.
    """
    from bench.kernels import ranks as kernel

    n_targets, m = predicted.shape
    rho, noise, total = np.full(n_targets, np.nan), np.zeros(n_targets), np.zeros(m)
    parts = kernel.blocks(n_targets, m)
    space = kernel.Workspace(parts, m)

    def work(block: slice) -> NDArray[np.float64]:
        h = space.influence[: block.stop - block.start]
        kernel.correlate_rows(predicted[block], margins.ranks[block], rho[block], h)
        noise[block] = np.square(h).sum(axis=1)
        made: NDArray[np.float64] = h.sum(axis=0)
        return made

    for part in kernel.map_blocks(work, parts):
        total += part
    silent = np.where((predicted == 0).all(axis=1), kernel.CONSTANT, 0).astype(np.uint8)
    fine = np.zeros(n_targets, np.uint8)
    return summarise(rho, total, noise, fine, margins.kinds, silent, np.arange(m), 0.95, "zero")
