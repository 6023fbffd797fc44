"""Sparse sign projections of gradients, given densely or as outer products, one example after another.

A slot is a bucket 0 … dim − 1, or a bucket plus dim: there the sign is minus. Sums of both signs are kept apart, in
`2 · dim` numbers that stay in the first cache, and subtracted at the end: the loops neither load signs nor multiply
by them.
"""

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

Array = NDArray[Any]

_ZERO = np.float32(0)


@njit(cache=True, nogil=True)
def scatter(g: Array, slots: Array, start: int, out: Array) -> None:
    """Add gradients by the parameters `start … start + m` to the sums of the examples.

    Args:
        g: float32 `[n, m]`.
        slots: int32 `[nonzeros, n_parameters]`.
        start: first of the parameters.
        out: float32 `[n, 2 · dim]`.
    """
    for i in range(g.shape[0]):
        sums = out[i]
        for r in range(slots.shape[0]):
            own = slots[r, start : start + g.shape[1]]
            for j in range(g.shape[1]):
                sums[own[j]] += g[i, j]


@njit(cache=True, nogil=True)
def scatter_outer(a: Array, b: Array, bias: bool, slots: Array, start: int, out: Array) -> None:
    """The same for the outer products b aᵀ `[n, out, in]`, and b itself where there is a bias, without making them.

    Whatever is zero costs nothing: rectifiers leave many zeros in both.

    Args:
        a: float32 `[n, in]`.
        b: float32 `[n, out]`.
        bias: whether b follows the products.
        slots: int32 `[nonzeros, n_parameters]`.
        start: first of the parameters.
        out: float32 `[n, 2 · dim]`.
    """
    n_in, n_out = a.shape[1], b.shape[1]
    values, places = np.empty(n_in, np.float32), np.empty(n_in, np.int64)
    for i in range(a.shape[0]):
        sums, count = out[i], 0
        for k in range(n_in):
            if a[i, k] != _ZERO:
                values[count], places[count] = a[i, k], k
                count += 1
        for o in range(n_out):
            v = b[i, o]
            if v == _ZERO:
                continue
            at = start + o * n_in
            for r in range(slots.shape[0]):
                own = slots[r, at : at + n_in]
                if count == n_in:
                    for k in range(n_in):
                        sums[own[k]] += v * a[i, k]
                else:
                    for t in range(count):
                        sums[own[places[t]]] += v * values[t]
                if bias:
                    sums[slots[r, start + n_out * n_in + o]] += v
