"""Random signed sums of a long array, block by block: their squared length is, on average, the array's own."""

import numpy as np
import numpy.typing as npt
from numba import njit

from bench.kernels.shuffle import mixed

Floats = npt.NDArray[np.float64]


@njit(cache=True, nogil=True)
def add_to_sketch(values: Floats, start: int, sketch: Floats) -> None:
    """Add rows of a matrix to its sketch.

    Entry (i, j) of the whole matrix, counted in C order, falls into a bucket with a sign, both bits of
    `bench.kernels.shuffle.mixed` of its number. Kept in files: a change of the hash is a change of their format.

    Args:
        values: float64 [rows, columns].
        start: number of the first row.
        sketch: float64 [a power of two], added to.
    """
    rows, columns = values.shape
    low = np.uint64(len(sketch) - 1)
    for i in range(rows):
        for j in range(columns):
            z = mixed(np.uint64((start + i) * columns + j))
            bucket = z & low
            if z >> np.uint64(63):
                sketch[bucket] -= values[i, j]
            else:
                sketch[bucket] += values[i, j]
