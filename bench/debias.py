"""Least squares on the support that a LASSO chose: its weights without their shrinkage."""

from __future__ import annotations

import numpy as np
from scipy import linalg
from threadpoolctl import threadpool_limits

from bench.gram import Float, Index, Moments, centre_cross, gram_product, in_threads


def refit(every: Moments, W: Float, scale: Float, threads: int = 1) -> tuple[Float, Float]:
    """Refit each target's non-zero weights by ordinary least squares (Belloni and Chernozhukov 2013, "post-LASSO").

    Args:
        every: moments of the rows.
        W: float64 `[n, T]`; only where it is zero matters.
        scale: `[T]`, what to relate the violation to (`lam_max`).
        threads: to solve in.

    Returns:
        Weights float64 `[n, T]`, those of least norm where the support is linearly dependent; and the greatest
        gradient that is left on the support, relative to `scale`, `[T]`.
    """
    C, _ = centre_cross(every)
    s = np.diagonal(every.count).astype(np.float64)
    out = np.zeros_like(W)

    def work(block: slice) -> None:
        for t in range(block.start, block.stop):
            on = np.flatnonzero(W[:, t])
            if len(on):
                out[on, t] = _solve(_gram(every, s, on), C[on, t])

    with threadpool_limits(1, user_api="blas"):  # a target a thread
        in_threads(work, (slice(t, t + 1) for t in range(W.shape[1])), threads)
    gradient = np.where(W != 0, C - gram_product(every, out, threads), 0)
    return out, np.divide(np.abs(gradient).max(0), scale, out=np.zeros_like(scale), where=scale > 0)


def _gram(every: Moments, s: Float, on: Index) -> Float:
    m = float(every.rows)
    gram: Float = (every.count[np.ix_(on, on)] * m - s[on, None] * s[on]) / (m * m)
    return gram


def _solve(G: Float, c: Float) -> Float:
    try:
        factor = linalg.cho_factor(G, lower=True)
        diagonal = np.abs(np.diagonal(factor[0]))
        if diagonal.min() > 1e-6 * diagonal.max():  # else dependent, up to rounding
            return np.asarray(linalg.cho_solve(factor, c))
    except linalg.LinAlgError:
        pass
    return np.asarray(linalg.lstsq(G, c, cond=1e-10)[0])
