"""Ranks of float32 rows by numpy's vectorised sort: the value and the place of each entry in one 64-bit integer.

Sorting 64-bit integers is what numpy ≥ 2 does fastest (AVX-512, AVX2, NEON); the place rides along in the low half, so
no argsort is needed. Wider values cannot be packed so and are ranked by `bench.kernels.ranks.rank_rows`.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

from bench.kernels.ranks import CONSTANT, DISTINCT, NOT_A_NUMBER, TIED, fill_orderable, rank_rows

Floats = npt.NDArray[np.float64]
Ranks = npt.NDArray[np.int32]
Codes = npt.NDArray[np.uint8]
_LOW = np.uint64(0xFFFFFFFF)
_SIGN = np.uint32(0x80000000)


def rank_block(rows: npt.NDArray[Any], scratch: Floats, ranks: Ranks, kinds: Codes) -> None:
    """Rank every row of numbers of any real type, as `bench.kernels.ranks.rank_rows` does.

    Args:
        rows: [T, M].
        scratch: float64 [at least T, M], overwritten.
        ranks: int32 [T, M], written.
        kinds: uint8 [T], written.
    """
    if rows.dtype.itemsize > 4 or (rows.itemsize == 4 and rows.dtype.kind != "f"):
        rank_rows(fill_orderable(scratch, rows), ranks, kinds)
        return
    keys = scratch[: len(rows)].view(np.uint64)
    singles = np.ascontiguousarray(rows, np.float32)
    pack(singles.view(np.uint32), keys, kinds)
    keys.sort(axis=1)
    unpack(keys, ranks, kinds)


@njit(cache=True, nogil=True)
def pack(bits: npt.NDArray[np.uint32], keys: npt.NDArray[np.uint64], kinds: Codes) -> None:
    """Order-preserving integers with their column below; `kinds` is NOT_A_NUMBER where a row has one, else DISTINCT."""
    rows, m = bits.shape
    for row in range(rows):
        nan = False
        for i in range(m):
            b = bits[row, i]
            size = b & np.uint32(0x7FFFFFFF)
            nan |= size > np.uint32(0x7F800000)
            b = np.uint32(0) if size == 0 else b  # −0.0 ties with 0.0
            b = ~b if b & _SIGN else b | _SIGN
            keys[row, i] = (np.uint64(b) << np.uint64(32)) | np.uint64(i)
        kinds[row] = NOT_A_NUMBER if nan else DISTINCT


@njit(cache=True, nogil=True)
def unpack(keys: npt.NDArray[np.uint64], ranks: Ranks, kinds: Codes) -> None:
    """Centred doubled average ranks from sorted keys."""
    rows, m = keys.shape
    for row in range(rows):
        k = keys[row]
        if kinds[row] == NOT_A_NUMBER:
            ranks[row, :] = 0
            continue
        if k[0] >> np.uint64(32) == k[m - 1] >> np.uint64(32):
            kinds[row] = CONSTANT
            ranks[row, :] = 0
            continue
        tied = False
        for i in range(m):
            ranks[row, np.int64(k[i] & _LOW)] = 2 * i + 1 - m
        for i in range(1, m):
            tied |= (k[i] ^ k[i - 1]) <= _LOW
        if not tied:
            continue
        kinds[row] = TIED
        start = 0
        while start < m:
            stop = start + 1
            while stop < m and (k[stop] ^ k[start]) <= _LOW:
                stop += 1
            if stop > start + 1:
                for i in range(start, stop):
                    ranks[row, np.int64(k[i] & _LOW)] = start + stop - m
            start = stop
