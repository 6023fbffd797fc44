"""Co-occurrence counts and cross products of masks that are packed into bits, a column's rows in 64-bit words.

The kernels hold no thread pool: they release the GIL, and the caller gives each of its threads a range of columns. What
a column's sums are does not depend on the range.
"""

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

Array = NDArray[Any]

_TARGETS = 64  # at a time: the eight tables of half a word take 64 KiB, and a table entry eight cache lines


@njit(cache=True, nogil=True, inline="always")
def _popcount(word: np.uint64) -> np.uint64:
    """Number of set bits; LLVM recognises the idiom and emits the (vector) instruction where there is one."""
    word = word - ((word >> np.uint64(1)) & np.uint64(0x5555555555555555))
    word = (word & np.uint64(0x3333333333333333)) + ((word >> np.uint64(2)) & np.uint64(0x3333333333333333))
    word = (word + (word >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return (word * np.uint64(0x0101010101010101)) >> np.uint64(56)


@njit(cache=True, nogil=True)
def add_counts(words: Array, first: int, last: int, count: Array) -> None:
    """Add the co-occurrence counts of columns `first:last` with columns `first:` to both triangles of `count`.

    Args:
        words: uint64 `[n, W]`, each column's rows packed into bits.
        first: first column, inclusive.
        last: last column, exclusive.
        count: int32 `[n, n]`, updated at `[first:last, first:]` and its mirror image.
    """
    n, width = words.shape
    block = 64
    for left in range(first, n, block):
        right = min(left + block, n)
        for i in range(first, last, 2):
            i2 = min(i + 1, last - 1)
            for j in range(max(left, i), right, 2):
                j2 = min(j + 1, right - 1)
                # Four counts per pass: each loaded word is used twice.
                s00 = np.uint64(0)
                s01 = np.uint64(0)
                s10 = np.uint64(0)
                s11 = np.uint64(0)
                for k in range(width):
                    a = words[i, k]
                    b = words[i2, k]
                    c = words[j, k]
                    d = words[j2, k]
                    s00 += _popcount(a & c)
                    s01 += _popcount(a & d)
                    s10 += _popcount(b & c)
                    s11 += _popcount(b & d)
                _put(count, i, j, s00)
                if j2 != j:
                    _put(count, i, j2, s01)
                if i2 != i and i2 <= j:
                    _put(count, i2, j, s10)
                if i2 != i and j2 != j:
                    _put(count, i2, j2, s11)


@njit(cache=True, nogil=True, inline="always")
def _put(count: Array, i: int, j: int, value: np.uint64) -> None:
    count[i, j] += np.int32(value)
    if i != j:
        count[j, i] += np.int32(value)


@njit(cache=True, nogil=True, fastmath={"contract", "nsz", "arcp"})
def add_cross(words: Array, Y: Array, first: int, last: int, cross: Array) -> None:
    """Add XᵀY to `cross` for the columns `first:last` of X, in float64 and without a multiplication.

    The sums of every choice among four rows are tabulated (16 of them; Arlazarov et al. 1970, "On economical
    construction of the transitive closure of a directed graph"); a column then adds one table entry per four rows.

    Args:
        words: uint64 `[n, W]`, each column's rows packed into bits.
        Y: float64 `[64·W, T]`; rows behind the last are zero.
        first: first column, inclusive.
        last: last column, exclusive.
        cross: float64 `[n, T]`, updated at `[first:last]`.
    """
    T = Y.shape[1]
    tables = np.zeros((8 * 16, _TARGETS))
    sums = np.empty((last - first, _TARGETS))
    four = np.uint64(15)
    for left in range(0, T, _TARGETS):
        wide = min(_TARGETS, T - left)
        sums[:] = 0
        for half in range(2 * words.shape[1]):
            for p in range(8):
                for entry in range(1, 16):
                    low = entry & -entry  # all but the lowest bit is tabulated already
                    row = 32 * half + 4 * p + (low > 1) + (low > 2) + (low > 4)
                    for q in range(wide):
                        tables[16 * p + entry, q] = tables[16 * p + (entry ^ low), q] + Y[row, left + q]
            shift = np.uint64(32 * (half & 1))
            for i in range(first, last):
                bits = words[i, half >> 1] >> shift
                b0 = bits & four  # unsigned: signed ones would be asked whether they count from the end
                b1 = ((bits >> np.uint64(4)) & four) + np.uint64(16)
                b2 = ((bits >> np.uint64(8)) & four) + np.uint64(32)
                b3 = ((bits >> np.uint64(12)) & four) + np.uint64(48)
                b4 = ((bits >> np.uint64(16)) & four) + np.uint64(64)
                b5 = ((bits >> np.uint64(20)) & four) + np.uint64(80)
                b6 = ((bits >> np.uint64(24)) & four) + np.uint64(96)
                b7 = ((bits >> np.uint64(28)) & four) + np.uint64(112)
                to = np.uint64(i - first)
                for q in range(_TARGETS):
                    low_half = (tables[b0, q] + tables[b1, q]) + (tables[b2, q] + tables[b3, q])
                    high_half = (tables[b4, q] + tables[b5, q]) + (tables[b6, q] + tables[b7, q])
                    sums[to, q] += low_half + high_half
        for i in range(first, last):
            for q in range(wide):
                cross[i, left + q] += sums[i - first, q]


@njit(cache=True, nogil=True)
def centre_counts(count: Array, m: float, s: Array, x: Array, own: bool, first: int, last: int, G: Array) -> None:
    """Rows `first:last` of the centred Gram from counts, rounded to the dtype of `G`.

    Args:
        count: int32 `[n, n]`, XᵀX of m rows.
        m: number of rows.
        s: float64 `[n]`, diagonal of `count`.
        x: float64 `[n]`, what to subtract from each column; not used where `own`.
        own: subtract the rows' own means: (m·count − sᵢsⱼ)/m², an exact integer numerator.
        first: first row, inclusive.
        last: last row, exclusive.
        G: `[n, n]`, written.
    """
    n = count.shape[0]
    if own:
        scale = m * m
        for i in range(first, last):
            for j in range(n):
                G[i, j] = (count[i, j] * m - s[i] * s[j]) / scale
    else:
        for i in range(first, last):
            for j in range(n):
                G[i, j] = (count[i, j] - s[i] * x[j] - x[i] * s[j] + m * x[i] * x[j]) / m


@njit(cache=True, nogil=True, fastmath={"contract", "nsz", "arcp"})
def counts_times(count: Array, W: Array, first: int, last: int, out: Array) -> None:
    """`out[t] = count @ W[t]` for the targets `first:last`, in float64, skipping zero weights.

    Args:
        count: int32 `[n, n]`, symmetric.
        W: float64 `[T, n]`.
        first: first target, inclusive.
        last: last target, exclusive.
        out: float64 `[T, n]`, written.
    """
    n = count.shape[0]
    for t in range(first, last):
        for j in range(n):
            out[t, j] = 0
        for i in range(n):
            value = W[t, i]
            if value != 0:
                for j in range(n):
                    out[t, j] += value * count[i, j]
