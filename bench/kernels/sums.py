"""Sums of rows that masks choose, by tables of all sums of eight rows: float64 at the price of BLAS in float32."""

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

Array = NDArray[Any]

BYTES = 4
"""Bytes of masks that are looked up at once: rows come in multiples of 8·BYTES."""


@njit(cache=True, nogil=True)
def masked_sums(kept: Array, values: Array, left: int, right: int, sums: Array) -> None:
    """`sums[i] += Σ values[r]` over the rows r that example i's mask keeps, in columns `left:right`.

    Args:
        kept: uint8 `[rows / 8, n]`: bit b of `kept[g, i]` says whether row 8·g + b keeps example i.
        values: float64 `[rows, T]`; rows is a multiple of 8·BYTES.
        left: first column, inclusive.
        right: last column, exclusive.
        sums: float64 `[n, T]`, added to.
    """
    groups, n = kept.shape
    width = right - left
    table = np.empty((BYTES, 256, width))
    for g in range(0, groups, BYTES):
        for h in range(BYTES):
            table[h, 0, :] = 0.0
            size = 1
            for bit in range(8):
                row = 8 * (g + h) + bit
                for k in range(size):
                    for t in range(width):
                        table[h, size + k, t] = table[h, k, t] + values[row, left + t]
                size *= 2
        for i in range(n):
            out = sums[i, left:right]
            a = table[0, kept[g, i]]
            b = table[1, kept[g + 1, i]]
            c = table[2, kept[g + 2, i]]
            d = table[3, kept[g + 3, i]]
            for t in range(width):
                out[t] += (a[t] + b[t]) + (c[t] + d[t])
