"""Random signed sums of a long array, block by block: their squared length is, on average, the array's own."""

import numpy as np
import numpy.typing as npt
from numba import njit

Floats = npt.NDArray[np.float64]


@njit(cache=True, nogil=True)
def add_to_sketch(values: Floats, start: int, sketch: Floats) -> None:
    """Add rows of a matrix to its sketch.

    Entry (i, j) of the whole matrix, counted in C order, falls into a bucket with a sign, both bits of SplitMix64 of
    its number (Steele, Lea & Flood 2014). Kept in files: a change of the hash is a change of their format.

    Args:
        values: float64 [rows, columns].
        start: number of the first row.
        sketch: float64 [a power of two], added to.
    """
    rows, columns = values.shape
    low = np.uint64(len(sketch) - 1)
    for i in range(rows):
        for j in range(columns):
            z = np.uint64((start + i) * columns + j) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(0x9E3779B97F4A7C15)
            z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            z = z ^ (z >> np.uint64(31))
            bucket = z & low
            if z >> np.uint64(63):
                sketch[bucket] -= values[i, j]
            else:
                sketch[bucket] += values[i, j]
