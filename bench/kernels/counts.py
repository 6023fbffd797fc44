"""Counts of rows that two sets of columns share, both packed into bits."""

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from bench.kernels.gram import _popcount

Array = NDArray[Any]


@njit(cache=True, nogil=True)
def cross_counts(a: Array, b: Array, first: int, last: int, out: Array) -> None:
    """`out[i, j]` = bits that `a[i]` and `b[j]` share, for rows `first:last` of `a`.

    Args:
        a: uint64 `[n, W]`.
        b: uint64 `[T, W]`.
        first: first row, inclusive.
        last: last row, exclusive.
        out: int32 `[n, T]`, written at `[first:last]`.
    """
    width, n_b = a.shape[1], b.shape[0]
    block = 128  # rows of b that stay in the first cache while those of a pass
    for left in range(0, n_b, block):
        right = min(left + block, n_b)
        for i in range(first, last, 2):
            i2 = min(i + 1, last - 1)
            for j in range(left, right, 2):
                j2 = min(j + 1, right - 1)
                s00 = np.uint64(0)
                s01 = np.uint64(0)
                s10 = np.uint64(0)
                s11 = np.uint64(0)
                for k in range(width):
                    u = a[i, k]
                    v = a[i2, k]
                    p = b[j, k]
                    q = b[j2, k]
                    s00 += _popcount(u & p)
                    s01 += _popcount(u & q)
                    s10 += _popcount(v & p)
                    s11 += _popcount(v & q)
                out[i, j] = s00
                out[i, j2] = s01
                out[i2, j] = s10
                out[i2, j2] = s11
