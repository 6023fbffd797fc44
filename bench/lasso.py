"""Linear datamodels: which training examples, kept or not, raise or lower each target's margin.

A datamodel (Ilyas et al. 2022, "Datamodels: Predicting Predictions from Training Data") is one sparse linear regression
per target from masks to margins:

    minimise  ½‖y − Xθ − b‖²/m + λ‖θ‖₁      X: masks [m, n_train], y: margins of one target [m], b free

`fit_datamodels` fits all targets at once from moments of the rows (bench.gram), with λ chosen per target on held-out
masks; `fit_ridge` is the dense counterpart. Both certify what they return in float64 with none of the solver's numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bench.errors import InputError
from bench.gram import Array, Centred, Design, Float, Index, Moments, centre, centre_cross, gram_product, in_threads

_PATH_TOL = 10.0  # in tol: the path only chooses λ and warms up the refit, which no LDS's fourth digit felt
_MAX_SWEEPS = 3000  # per λ; a handful is usual
_FLOAT32_TOL = 3e-5  # gaps below this need float64 in the solver and in the weights
_RIDGE_TOL = 1e-6  # of a direct solution
_BLOCK = 8  # targets per call of the kernel: small, so that threads end together


@dataclass(frozen=True)
class Datamodels:
    """One linear model per target: margin ≈ mask @ weight + bias.

    Attributes:
        weight: `[n_train, T]`, in margin per kept example (float32; float64 where tol < 3e-5 asks for it).
        bias: float32 `[T]`, the prediction for the empty mask.
        lam: float64 `[T]`, penalty in scikit-learn's scaling (its `alpha`); 0 for a constant target.
        gap: float64 `[T]`, duality gap / ½‖y − ȳ‖²/m.
        kkt: float64 `[T]`, greatest violation of the optimality conditions, relative to `lam_max`.
        converged: bool `[T]`, gap ≤ tol.
        lam_max: float64 `[T]`, the least penalty that makes all weights zero.
        loss: float64 `[T]`, mean squared error on the held-out rows at `lam` (NaN where λ was given).
        tol: the relative gap asked for.
    """

    weight: Array
    bias: NDArray[np.float32]
    lam: Float
    gap: Float
    kkt: Float
    converged: NDArray[np.bool_]
    lam_max: Float
    loss: Float
    tol: float


def fit_datamodels(
    masks: Any,
    margins: Any,
    *,
    n_lambdas: int = 30,
    min_ratio: float = 0.01,
    validation: float = 0.2,
    folds: int = 0,
    patience: int = 3,
    tol: float = 1e-4,
    seed: int = 0,
    groups: ArrayLike | None = None,
    lam: ArrayLike | None = None,
    threads: int | None = None,
) -> Datamodels:
    """Fit a LASSO datamodel for every target, with λ chosen per target on held-out masks.

    The path has `n_lambdas` penalties, geometric from `lam_max` (of all rows) to `min_ratio·lam_max`. It is fitted
    without the held-out masks; each target keeps the λ of least held-out squared error and is refitted on all rows.

    Measured on margins of MLPs on digits (1,437 examples, 360 targets, half subsets; LDS on 3,000 other subsets): .741,
    .792 and .826 from 1,000, 2,000 and 5,000 rows, against .555, .699 and .802 for `fit_ridge`. How λ is chosen matters
    little beyond being per target: from 1,000 rows, 5 folds give .742, .2 or .3 held out .741, one ratio for
    all targets .739, λ rescaled for the refit's extra rows .739 to .742, and no refit .720.

    Args:
        masks: bool or 0/1 `[m, n_train]`, array or memmap.
        margins: real `[m, T]`, array or memmap.
        n_lambdas: penalties on the path.
        min_ratio: last penalty / first penalty, in (0, 1].
        validation: share of distinct masks to hold out; not used with `folds`.
        folds: 2 or more for K-fold cross-validation instead of one split (K paths).
        patience: a target's path stops after this many penalties without a better held-out error.
        tol: relative duality gap at which a fit counts as converged.
        seed: of the split.
        groups: `[m]`, rows with equal values are held out together; by default, rows with equal masks.
        lam: penalty, a number or `[T]`, instead of choosing.
        threads: solver threads (all cores by default); results do not depend on it.

    Returns:
        The datamodels; a target that did not reach `tol` has `converged` False.

    Raises:
        InputError: wrong shapes, values or parameters, each named in the message.
    """
    if n_lambdas < 1 or patience < 1:
        raise InputError(f"n_lambdas is {n_lambdas} and patience {patience}; both count from 1.")
    if not 0 < min_ratio <= 1:
        raise InputError(f"min_ratio is {min_ratio}; give a share of lam_max in (0, 1].")
    if not 0 < tol < 1:
        raise InputError(f"tol is {tol}; give a relative duality gap in (0, 1), such as 1e-4.")
    design = Design(masks, margins, threads)
    every = design.moments()
    solver = np.float32 if tol >= _FLOAT32_TOL else np.float64
    full = centre(every, dtype=solver)
    lam_max = np.abs(full.C).max(0)
    weight = np.zeros((design.T, design.n), solver)
    loss = np.full(design.T, np.nan)
    if lam is not None:
        chosen = _given(lam, design.T)[:, None]
    else:
        grid = lam_max[:, None] * np.geomspace(1, min_ratio, n_lambdas)
        total = np.zeros_like(grid)
        share = 0.0
        for held in _held_out(design, validation, folds, seed, groups):
            out = design.moments(held)
            rest = every - out
            weight[:] = 0
            fitted, judged = centre(rest, None, solver), centre(out, rest, solver)
            losses = _solve(fitted, grid, min(_PATH_TOL * tol, 0.1), weight, design.threads, judged, patience)
            total += losses * (len(held) / design.m)
            share += len(held) / design.m
        best = total.argmin(1)[:, None]
        chosen = np.take_along_axis(grid, best, 1)
        loss = np.take_along_axis(total, best, 1)[:, 0] / share
    _solve(full, chosen, tol, weight, design.threads)
    return _certified(design, every, weight.T, chosen[:, 0], loss, tol, _lasso_certificate)


def fit_ridge(
    masks: Any,
    margins: Any,
    *,
    n_lambdas: int = 30,
    min_ratio: float = 1e-3,
    validation: float = 0.2,
    folds: int = 0,
    seed: int = 0,
    groups: ArrayLike | None = None,
    threads: int | None = None,
) -> Datamodels:
    """Ridge datamodels, ½‖y − Xθ − b‖²/m + ½λ‖θ‖², with λ chosen per target on held-out masks.

    One eigendecomposition of the smaller Gram (rows × rows or examples × examples) serves all penalties and targets.
    The penalties are geometric from 100 times to `100·min_ratio` times the Gram's mean non-zero eigenvalue.

    Arguments and errors are those of `fit_datamodels`; `lam_max` holds the greatest |Xᵀy|/m, to which `kkt` relates.
    """
    if n_lambdas < 1 or not 0 < min_ratio <= 1:
        raise InputError(f"n_lambdas is {n_lambdas} and min_ratio {min_ratio}; give at least 1, and a share in (0, 1].")
    design = Design(masks, margins, threads)
    every = design.moments()
    kernel = design.row_counts().astype(np.float64) if design.m <= design.n else None
    scale = float((every.kept * (1 - every.kept)).sum()) / min(design.m, design.n)
    grid = (scale or 1.0) * np.geomspace(100, 100 * min_ratio, n_lambdas)
    total = np.zeros((n_lambdas, design.T))
    share = 0.0
    for held in _held_out(design, validation, folds, seed, groups):
        share += len(held) / design.m
        if kernel is None:
            total += _ridge_losses(every, design.moments(held), grid) * (len(held) / design.m)
        else:
            total += _ridge_losses_dual(design, kernel, held, grid) * (len(held) / design.m)
    best = total.argmin(0)
    lam = grid[best]
    stats = centre(every)
    if kernel is None:
        values, basis = _eigh(stats.G)
        weight = basis @ ((basis.T @ stats.C) / (np.maximum(values, 0)[:, None] + lam))
    else:
        values, basis = _row_spectrum(kernel)
        Y = design.targets(np.arange(design.m))
        alpha = basis @ ((basis.T @ (Y - Y.mean(0))) / (values[:, None] + design.m * lam))
        weight = design.transposed_product(alpha - alpha.mean(0))
    loss = total[best, np.arange(design.T)] / share
    weight[~stats.G.diagonal().astype(bool)] = 0  # constant columns, up to rounding
    return _certified(design, every, weight.astype(np.float32), lam, loss, _RIDGE_TOL, _ridge_certificate)


def _held_out(design: Design, validation: float, folds: int, seed: int, groups: ArrayLike | None) -> Iterator[Index]:
    """Rows of each held-out part; rows of one group (one mask) are never parted."""
    group = design.groups() if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1].reshape(-1)
    if len(group) != design.m:
        raise InputError(f"groups has {len(group)} entries and masks {design.m} rows; give one per row.")
    distinct = int(group.max()) + 1
    if folds < 0 or folds == 1:
        raise InputError(f"folds is {folds}; give 2 or more, or 0 for one split.")
    if folds == 0 and not 0 < validation < 1:
        raise InputError(f"validation is {validation}; give a share of the masks in (0, 1).")
    held = min(max(1, round(validation * distinct)), distinct - 1)
    if distinct < max(folds, 3):
        raise InputError(f"masks has {distinct} distinct rows; choosing λ needs at least {max(folds, 3)}.")
    order = np.random.default_rng(seed).permutation(distinct)
    parts = np.array_split(order, folds) if folds else [order[:held]]
    return (np.flatnonzero(np.isin(group, part)) for part in parts)


def _given(lam: ArrayLike, T: int) -> Float:
    values = np.asarray(lam, np.float64)
    if values.shape not in ((), (T,)) or not (np.isfinite(values) & (values > 0)).all():
        least = values.min(initial=np.inf)
        raise InputError(
            f"lam has shape {values.shape} and least value {least}; give a positive number, or one per target ({T})."
        )
    return np.broadcast_to(values, (T,)).copy()


def _solve(
    stats: Centred,
    lams: Float,
    tol: float,
    weight: Array,
    threads: int,
    held: Centred | None = None,
    patience: int = 1,
) -> Float:
    """Run the kernel on all targets; `weight` `[T, n]` is the start and becomes the solution.

    Returns:
        Held-out losses `[T, K]`, infinite where a target's path stopped before.
    """
    from bench.kernels.lasso import lasso_paths

    T, K = lams.shape
    solver = stats.G.dtype
    C = np.ascontiguousarray(stats.C.T, solver)
    Cv = C if held is None else np.ascontiguousarray(held.C.T, solver)
    Gv = np.empty((0, 0), solver) if held is None else held.G
    yv = stats.yy if held is None else held.yy
    # A warm start is taken for the solution at the first λ; a start at zero solves λ = max|C|.
    warm = weight.any(1)
    before = np.where(warm, lams[:, 0], np.maximum(np.abs(stats.C).max(0), lams[:, 0]))
    losses = np.full((T, K), np.inf)
    best = np.zeros(T, np.int64)
    sweeps = np.zeros(T, np.int64)

    def work(b: slice) -> None:
        lasso_paths(
            stats.G,
            C[b],
            stats.yy[b],
            lams[b],
            before[b],
            tol,
            _MAX_SWEEPS,
            Gv,
            Cv[b],
            yv[b],
            patience,
            weight[b],
            losses[b],
            best[b],
            sweeps[b],
        )

    in_threads(work, (slice(t, min(t + _BLOCK, T)) for t in range(0, T, _BLOCK)), threads)
    return losses


@dataclass(frozen=True)
class _State:
    """What optimality is judged by, in float64: the fit's gradient `[n, T]`, and quadratic terms `[T]`."""

    gradient: Float  # Xᵀ(y − Xw)/m, centred
    wc: Float  # wᵀXᵀy/m
    wgw: Float  # ‖Xw‖²/m
    yy: Float  # ‖y‖²/m

    @property
    def rr(self) -> Float:
        """‖y − Xw‖²/m."""
        return np.maximum(self.yy - 2 * self.wc + self.wgw, 0)


def _evaluate(every: Moments, C: Float, yy: Float, W: Float) -> _State:
    GW = gram_product(every, W)
    return _State(C - GW, np.einsum("nt,nt->t", W, C), np.einsum("nt,nt->t", W, GW), yy)


def _lasso_certificate(state: _State, W: Float, lam: Float) -> tuple[Float, Float]:
    """Absolute duality gap and KKT violation of the LASSO, `[T]` each.

    Dual objective at the scaled residual s·r, s = min(1, λ/‖Xᵀr/m‖∞): s·rᵀy/m − ½s²‖r‖²/m.
    """
    size = np.abs(state.gradient)
    largest = size.max(0)
    s = np.divide(lam, largest, out=np.ones_like(lam), where=largest > lam)
    primal = 0.5 * state.rr + lam * np.abs(W).sum(0)
    dual = s * (state.yy - state.wc) - 0.5 * s**2 * state.rr
    violation = np.where(W != 0, np.abs(state.gradient - lam * np.sign(W)), np.maximum(size - lam, 0))
    return primal - dual, violation.max(0)


def _ridge_certificate(state: _State, W: Float, lam: Float) -> tuple[Float, Float]:
    """The same for ridge: strong convexity bounds the suboptimality by ‖gradient‖²/(2λ)."""
    gradient = state.gradient - lam * W
    bound = np.divide((gradient**2).sum(0), 2 * lam, out=np.zeros_like(lam), where=lam > 0)
    return bound, np.abs(gradient).max(0)


def _certified(
    design: Design,
    every: Moments,
    weight: Array,
    lam: Float,
    loss: Float,
    tol: float,
    certificate: Callable[[_State, Float, Float], tuple[Float, Float]],
) -> Datamodels:
    """Judge the weights that are returned (after rounding) from exact counts, with none of the solver's numbers."""
    stats = centre_cross(every)
    weight = np.ascontiguousarray(weight)
    W = weight.astype(np.float64)
    state = _evaluate(every, *stats, W)
    gap, kkt = certificate(state, W, lam)
    lam_max = np.abs(stats[0]).max(0)
    # Where nothing varies, zero weights are exact and there is no scale to be relative to.
    flat = lam_max == 0
    gap = np.where(flat, 0.0, np.maximum(gap, 0.0) / np.where(flat, 1.0, 0.5 * state.yy))
    kkt = np.where(flat, 0.0, kkt / np.where(flat, 1.0, lam_max))
    bias = every.mean + design.shift - every.kept @ W
    return Datamodels(weight, bias.astype(np.float32), lam, gap, kkt, gap <= tol, lam_max, loss, tol)


def _ridge_losses(every: Moments, out: Moments, grid: Float) -> Float:
    """Held-out squared errors `[len(grid), T]` of ridge fits to the other rows, by one n × n eigendecomposition."""
    rest = every - out
    stats, held = centre(rest), centre(out, rest)
    values, basis = _eigh(stats.G)
    fitted, C, G = basis.T @ stats.C, basis.T @ held.C, basis.T @ held.G @ basis
    losses = np.empty((len(grid), len(held.yy)))
    for k, lam in enumerate(grid):
        a = fitted / (np.maximum(values, 0) + lam)[:, None]
        losses[k] = held.yy - 2 * (a * C).sum(0) + (a * (G @ a)).sum(0)
    return losses


def _ridge_losses_dual(design: Design, kernel: Float, held: Index, grid: Float) -> Float:
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
        error = aim - projected @ (coefficient / (values + len(rest) * lam)[:, None])
        losses[k] = (error**2).mean(0)
    return losses


def _eigh(matrix: Float) -> tuple[Float, Float]:
    """`np.linalg.eigh` on one BLAS thread: its many tiny parallel steps take 40 times as long where a core is busy."""
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    with threadpool_limits(1, user_api="blas"):
        values, basis = np.linalg.eigh(matrix)
    return values, basis


def _row_spectrum(kernel: Float) -> tuple[Float, Float]:
    """Eigenvalues and vectors of the doubly centred rows × rows kernel."""
    mean = kernel.mean(0)
    values, basis = _eigh(kernel - mean - mean[:, None] + mean.mean())
    return np.maximum(values, 0), basis
