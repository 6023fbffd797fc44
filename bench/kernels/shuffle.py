"""Random numbers that are the same everywhere, and sums under random permutations that are never kept."""

from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

Floats = npt.NDArray[np.float64]

_TOGETHER = 32
"""Permutations worked on at once: a row of the matrix is read for all of them while the cache holds it."""


@njit(cache=True, nogil=True)
def mixed(number: Any) -> Any:
    """SplitMix64 of a uint64 (Steele, Lea & Flood 2014, "Fast splittable pseudorandom number generators")."""
    z = number * np.uint64(0x9E3779B97F4A7C15) + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@njit(cache=True, nogil=True)
def permutation(seed: int, number: int, out: npt.NDArray[np.int32]) -> None:
    """Write permutation `number` of the stream `seed`, which depends on these and the length alone.

    Fisher–Yates; its steps take 32 random bits each, whose bias, below length/2³², cannot be seen.

    Args:
        seed: at least 0.
        number: at least 0.
        out: int32 [length], written.
    """
    length = len(out)
    for i in range(length):
        out[i] = i
    state = mixed(mixed(np.uint64(seed)) + np.uint64(number))
    bits = np.uint64(0)
    for i in range(length - 1, 0, -1):
        if (length - 1 - i) % 2 == 0:
            state += np.uint64(1)
            bits = mixed(state)
        else:
            bits = bits >> np.uint64(32)
        j = np.int64(((bits & np.uint64(0xFFFFFFFF)) * np.uint64(i + 1)) >> np.uint64(32))
        kept = out[i]
        out[i] = out[j]
        out[j] = kept


@njit(cache=True, nogil=True)
def add_permuted(matrix: npt.NDArray[np.float32], start: int, seed: int, first: int, sums: Floats) -> None:
    """Add Σ_i matrix[i, π(start + i)] for some of the permutations π of a stream.

    Args:
        matrix: float32 [rows, length], rows of a square one.
        start: number of the first of them.
        seed: of the stream.
        first: number of the permutation that `sums` begins with.
        sums: float64 [permutations], added to.
    """
    rows, length = matrix.shape
    orders = np.empty((_TOGETHER, length), np.int32)
    for begin in range(0, len(sums), _TOGETHER):
        count = min(_TOGETHER, len(sums) - begin)
        for k in range(count):
            permutation(seed, first + begin + k, orders[k])
        for i in range(rows):
            for k in range(count):
                sums[begin + k] += matrix[i, orders[k, start + i]]
