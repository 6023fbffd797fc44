"""Dense linear datamodels, to compare the LASSO's with: ridge, and plain least squares.

One eigendecomposition of the smaller Gram matrix (rows × rows or examples × examples) serves all penalties and targets.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from bench import certificate
from bench.gram import Array, Design, Float, Index, Moments, centre
from bench.held_out import held_out
from bench.lasso import Datamodels, check_options

_TOL = 1e-6  # of a direct solution
_RANK = 1e-10  # eigenvalues below this share of the greatest count as zero


def fit_ridge(
    masks: Any,
    margins: Any,
    *,
    n_lambdas: int = 50,
    min_ratio: float = 1e-6,
    validation: float = 0.2,
    folds: int = 0,
    seed: int = 0,
    groups: ArrayLike | None = None,
    threads: int | None = None,
) -> Datamodels:
    """Ridge datamodels, ½‖y − Xθ − b‖²/m + ½λ‖θ‖², with λ chosen per target on held-out masks.

    The penalties are geometric from 100 times to `100·min_ratio` times the Gram's mean non-zero eigenvalue.

    Arguments, results and errors are those of `bench.fit_datamodels`; `gap` bounds the distance to the least objective
    by ‖gradient‖²/(2λ), and `lam_max` holds the greatest |Xᵀy|/m, to which `kkt` relates.
    """
    check_options(n_lambdas, min_ratio, 1, _TOL)
    design = Design(masks, margins, threads)
    held = held_out(design, validation, folds, seed, groups)
    return _fit(design, held, 100 * np.geomspace(1, min_ratio, n_lambdas))


def fit_least_squares(
    masks: Any,
    margins: Any,
    *,
    validation: float = 0.2,
    folds: int = 0,
    seed: int = 0,
    groups: ArrayLike | None = None,
    threads: int | None = None,
) -> Datamodels:
    """Least-squares datamodels, ½‖y − Xθ − b‖²/m: of all solutions the one of least norm.

    With fewer rows than examples it passes through every margin. The held-out masks choose nothing here; they say what
    it is worth on others (`loss`, `r2`). Arguments, results and errors are those of `bench.fit_datamodels`; `lam` is 0,
    `gap` bounds the distance to the least objective by ‖gradient‖²/(2·least eigenvalue that is not zero).
    """
    design = Design(masks, margins, threads)
    return _fit(design, held_out(design, validation, folds, seed, groups), np.zeros(1))


def _fit(design: Design, held: list[Index], relative: Float) -> Datamodels:
    """Ridge at penalties relative to the mean non-zero eigenvalue; a single 0 is least squares."""
    every = design.moments()
    kernel = design.row_counts().astype(np.float64) if design.m <= design.n else None
    scale = float((every.kept * (1 - every.kept)).sum()) / min(design.m, design.n)
    grid = (scale or 1.0) * relative
    total = np.zeros((len(grid), design.T))
    null, rows = np.zeros(design.T), 0
    for part in held:
        out = design.moments(part)
        losses = _losses(every, out, grid) if kernel is None else _losses_dual(design, kernel, part, grid)
        total += losses * out.rows
        null += centre(out, every - out).yy * out.rows
        rows += out.rows
    best = total.argmin(0)
    lam = grid[best]
    stats = centre(every)
    if kernel is None:
        values, basis = _spectrum(stats.G)
        weight = basis @ (_inverse(values[:, None], lam) * (basis.T @ stats.C))
    else:
        values, basis = _row_spectrum(kernel)
        Y = design.targets(slice(None))
        alpha = basis @ (_inverse(values[:, None], design.m * lam) * (basis.T @ (Y - Y.mean(0))))
        weight = design.transposed_product(alpha - alpha.mean(0))
        values = values / design.m
    loss = total[best, np.arange(design.T)]
    weight[~stats.G.diagonal().astype(bool)] = 0  # constant columns, up to rounding
    least = float(values.min(where=values > 0, initial=max(values.max(), 1.0)))
    rule = certificate.ridge if relative.any() else certificate.least_squares(least)
    weight = np.ascontiguousarray(weight.astype(np.float32 if relative.any() else np.float64))
    W = weight.astype(np.float64)
    found = certificate.judge(every, W, lam, rule, design.threads)
    r2 = certificate.r_squared(loss, null, found.constant)
    bias = every.mean + design.shift - every.kept @ W
    return Datamodels(
        weight,
        bias.astype(np.float32),
        np.where(found.constant, 0.0, lam),
        found.gap,
        found.kkt,
        found.gap <= _TOL,
        found.lam_max,
        loss / rows,
        r2,
        _TOL,
        found.constant,
        every.unused,
    )


def _inverse(values: Float, lam: Array) -> Float:
    """1 / (values + lam), and 0 where that is no number: the pseudo-inverse."""
    sums = values + lam
    return np.divide(1.0, sums, out=np.zeros_like(sums), where=sums > 0)


def _losses(every: Moments, out: Moments, grid: Float) -> Float:
    """Held-out squared errors `[len(grid), T]` of fits to the other rows, by one n × n eigendecomposition."""
    rest = every - out
    stats, held = centre(rest), centre(out, rest)
    values, basis = _spectrum(stats.G)
    fitted, C, G = basis.T @ stats.C, basis.T @ held.C, basis.T @ held.G @ basis
    losses = np.empty((len(grid), len(held.yy)))
    for k, lam in enumerate(grid):
        a = fitted * _inverse(values, lam)[:, None]
        losses[k] = held.yy - 2 * (a * C).sum(0) + (a * (G @ a)).sum(0)
    return losses


def _losses_dual(design: Design, kernel: Float, held: Index, grid: Float) -> Float:
    """The same by one eigendecomposition of rows × rows, for fewer rows than examples. `kernel` is XXᵀ of all rows."""
    rest = np.setdiff1d(np.arange(design.m), held)
    inner = kernel[np.ix_(rest, rest)]
    values, basis = _row_spectrum(inner)
    Y = design.targets(rest)
    coefficient = basis.T @ (Y - Y.mean(0))
    outer = kernel[np.ix_(held, rest)]
    # Centred features: subtract the fitted rows' mean from both sides.
    outer = outer - inner.mean(0) - outer.mean(1, keepdims=True) + inner.mean()
    projected = outer @ basis
    aim = design.targets(held) - Y.mean(0)
    losses = np.empty((len(grid), design.T))
    for k, lam in enumerate(grid):
        error = aim - projected @ (coefficient * _inverse(values, len(rest) * lam)[:, None])
        losses[k] = (error**2).mean(0)
    return losses


def _spectrum(matrix: Float) -> tuple[Float, Float]:
    """Eigenvalues (0 where they are so up to rounding) and vectors of a positive semidefinite matrix.

    On one BLAS thread: the many tiny parallel steps take 40 times as long where a core is busy.
    """
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1, user_api="blas"):
        values, basis = np.linalg.eigh(matrix)
    return np.where(values > _RANK * values.max(initial=0), values, 0), basis


def _row_spectrum(kernel: Float) -> tuple[Float, Float]:
    """That of the doubly centred rows × rows kernel."""
    mean = kernel.mean(0)
    return _spectrum(kernel - mean - mean[:, None] + mean.mean())
