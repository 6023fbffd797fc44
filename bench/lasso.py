"""Linear datamodels: which training examples, kept or not, raise or lower each target's margin.

A datamodel (Ilyas et al. 2022, "Datamodels: Predicting Predictions from Training Data") is one sparse linear regression
per target from masks to margins:

    minimise  ½‖y − Xθ − b‖²/m + λ‖θ‖₁      X: masks [m, n_train], y: margins of one target [m], b free

`fit_datamodels` fits all targets at once from moments of the rows (bench.gram), with λ chosen per target on held-out
masks; `lasso_path` gives the whole path. `bench.ridge` has the dense counterparts. All certify what they return in
float64 with none of the solver's numbers (bench.certificate).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from functools import reduce
from operator import add
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bench import certificate, lasso_solver
from bench.errors import InputError
from bench.gram import Array, Design, Float, Moments, centre, centre_cross
from bench.held_out import held_out, real, whole

if TYPE_CHECKING:
    import torch

_LAST_SWEEPS = 100_000  # for targets that were not brought to tol in fewer
_FLOAT32_TOL = 3e-5  # gaps below this need float64 in the solver and in the weights
_SLAB_BYTES = 2**30  # of what is held per train example and target


@dataclass(frozen=True)
class Datamodels:
    """One linear model per target: margin ≈ mask @ weight + bias.

    Attributes:
        weight: `[n_train, T]`, in margin per kept example (float32; float64 where tol < 3e-5 asks for it).
        bias: float32 `[T]`, the prediction for the empty mask.
        lam: float64 `[T]`, penalty in scikit-learn's scaling (its `alpha`); 0 where chosen and `lam_max` is 0.
        gap: float64 `[T]`, duality gap / ½‖y − ȳ‖²/m.
        kkt: float64 `[T]`, greatest violation of the optimality conditions, relative to `lam_max`.
        converged: bool `[T]`, gap ≤ tol.
        lam_max: float64 `[T]`, the least penalty that makes all weights zero.
        loss: float64 `[T]`, mean squared error on the held-out rows at `lam` (NaN where none were held out).
        r2: float64 `[T]`, 1 − loss / mean squared distance of the held-out margins from the fitted rows' mean; NaN
            where none were held out, and for a constant target.
        tol: the relative gap asked for.
        constant: bool `[T]`, targets whose margins do not vary: their datamodel is zero.
        unused: bool `[n_train]`, examples that all rows, or none, keep: their weights are zero.
        refit_kkt: float64 `[T]` where the weights were refitted on their support without penalty: the refit's greatest
            gradient there, relative to `lam_max`; `gap`, `kkt`, `loss` and `r2` are then those of the LASSO that chose
            the support.
    """

    weight: Array
    bias: NDArray[np.float32]
    lam: Float
    gap: Float
    kkt: Float
    converged: NDArray[np.bool_]
    lam_max: Float
    loss: Float
    r2: Float
    tol: float
    constant: NDArray[np.bool_]
    unused: NDArray[np.bool_]
    refit_kkt: Float | None = None

    @property
    def nonzero(self) -> NDArray[np.int64]:
        """Examples with a weight, `[T]`."""
        return np.asarray(np.count_nonzero(self.weight, axis=0), np.int64)


@dataclass(frozen=True)
class Path:
    """LASSO solutions for a list of penalties per target.

    Attributes:
        lams: float64 `[K, T]`, decreasing.
        weight: `[K, n_train, T]`, in margin per kept example.
        bias: float32 `[K, T]`.
        gap, kkt: float64 `[K, T]`, as in `Datamodels`.
        tol: the relative gap asked for.
    """

    lams: Float
    weight: Array
    bias: NDArray[np.float32]
    gap: Float
    kkt: Float
    tol: float

    @property
    def converged(self) -> NDArray[np.bool_]:
        """Where the gap is at most `tol`, bool `[K, T]`; nowhere without a certificate."""
        return self.gap <= self.tol


def fit_datamodels(
    masks: Any,
    margins: Any,
    *,
    n_lambdas: int = 100,
    min_ratio: float = 0.01,
    validation: float = 0.2,
    folds: int = 0,
    patience: int = 10,
    tol: float = 1e-4,
    debias: bool = False,
    seed: int = 0,
    groups: ArrayLike | None = None,
    lam: ArrayLike | None = None,
    threads: int | None = None,
    device: str | torch.device | None = None,
) -> Datamodels:
    """Fit a LASSO datamodel for every target, with λ chosen per target on held-out masks.

    The path has `n_lambdas` penalties, geometric from `lam_max` (of all rows) to `min_ratio·lam_max`. It is fitted
    without the held-out masks; each target keeps the λ of least held-out squared error and is refitted on all rows.
    Masks and margins are read by chunks of rows, and targets are worked through in slabs: memory grows with
    n_train² (times the folds) and n_train × T, never with the number of rows.

    Args:
        masks: bool or 0/1 `[m, n_train]`, array or memmap.
        margins: real `[m, T]`, array or memmap.
        n_lambdas: penalties on the path.
        min_ratio: last penalty / first penalty, in (0, 1].
        validation: share of distinct masks to hold out; not used with `folds`.
        folds: 2 or more for K-fold cross-validation instead of one split (K paths).
        patience: a target's path stops after this many penalties without a better held-out error. Ten of the default
            path are a factor of 1.6 in λ; three would leave many targets of few rows at zero.
        tol: relative duality gap at which a fit counts as converged.
        debias: at the end, refit each target on its support by least squares, which undoes the LASSO's shrinkage.
        seed: of the split.
        groups: `[m]`, rows with equal values are held out together; by default, rows with equal masks.
        lam: penalty, a number or `[T]`, instead of choosing.
        threads: solver threads (all cores by default); results do not depend on it.
        device: `cuda` solves there (bench.lasso_torch); by default, where the arrays are.

    Returns:
        The datamodels; a target that did not reach `tol` has `converged` False.

    Raises:
        InputError: wrong shapes, values or parameters, each named in the message.
    """
    check_options(n_lambdas, min_ratio, patience, tol)
    from bench import lasso_device

    cuda = lasso_device.pick(device, margins)
    design = Design(masks, margins, threads)
    given = None if lam is None else _given(lam, design.T)
    held = [] if given is not None else held_out(design, validation, folds, seed, groups)
    if cuda is not None:
        return lasso_device.fit(design, held, cuda, n_lambdas, min_ratio, patience, tol, given, debias)
    fits = []
    counts: list[NDArray[np.int32] | None] = [None] * (len(held) + 1)
    rest = np.setdiff1d(np.arange(design.m), np.concatenate(held)) if held else None
    parts = [*held, rest] if rest is None or len(rest) else held
    solver = np.float32 if tol >= _FLOAT32_TOL else np.float64
    for slab in _slabs(design, len(parts)):
        sums = [design.moments(part, slab, count) for part, count in zip(parts, counts, strict=False)]
        counts = [part.count for part in sums]
        every = reduce(add, sums)
        T = slab.stop - slab.start
        weight = np.zeros((T, design.n), solver)
        if given is None:
            grid = np.abs(centre_cross(every)[0]).max(0)[:, None] * np.geomspace(1, min_ratio, n_lambdas)
            chosen, loss, r2 = lasso_solver.choose(
                every, sums[: len(held)], grid, tol, weight, design.threads, patience
            )
        else:
            chosen, loss, r2 = given[slab], np.full(T, np.nan), np.full(T, np.nan)
        lasso_solver.solve(centre(every, None, solver, design.threads), chosen[:, None], tol, weight, design.threads)
        fits.append(_finished(design, every, weight.T, chosen, loss, r2, tol, slab, debias))
    return fits[0] if len(fits) == 1 else _joined(fits)


def lasso_path(
    masks: Any,
    margins: Any,
    *,
    n_lambdas: int = 100,
    min_ratio: float = 0.01,
    lams: ArrayLike | None = None,
    tol: float = 1e-4,
    certify: bool = True,
    threads: int | None = None,
) -> Path:
    """All targets' LASSO solutions for a whole path of penalties, on all rows.

    Args:
        masks: bool or 0/1 `[m, n_train]`.
        margins: real `[m, T]`.
        n_lambdas: penalties, geometric from each target's `lam_max` to `min_ratio·lam_max`.
        min_ratio: last penalty / first penalty, in (0, 1].
        lams: decreasing penalties `[K]` or `[K, T]` instead.
        tol: relative duality gap to reach at every penalty.
        certify: compute gaps and violations, which takes as long again; NaN without.
        threads: solver threads (all cores by default); results do not depend on it.

    Raises:
        InputError: wrong shapes, values or parameters, each named in the message.
    """
    check_options(n_lambdas, min_ratio, 1, tol)
    design = Design(masks, margins, threads)
    every = design.moments()
    solver = np.float32 if tol >= _FLOAT32_TOL else np.float64
    stats = centre(every, None, solver, design.threads)
    if lams is None:
        grid = np.abs(stats.C).max(0)[:, None] * np.geomspace(1, min_ratio, n_lambdas)
    else:
        grid = np.array(_given_path(lams, design.T).T, order="C")
    path = np.empty((design.T, grid.shape[1], design.n), solver)
    lasso_solver.solve(stats, grid, tol, np.zeros((design.T, design.n), solver), design.threads, path=path)
    gap, kkt = np.full((2, grid.shape[1], design.T), np.nan)
    for k in range(grid.shape[1]) if certify else ():
        solution = np.ascontiguousarray(path[:, k].T)
        found = _judged(every, solution, grid[:, k], tol, design.threads)
        path[:, k], gap[k], kkt[k] = solution.T, found.gap, found.kkt
    levels = np.stack([one.astype(np.float64) @ every.kept for one in path], axis=1)
    bias = every.mean + design.shift - levels
    return Path(grid.T, path.transpose(1, 2, 0), bias.astype(np.float32), gap, kkt, tol)


def check_options(n_lambdas: int, min_ratio: float, patience: int, tol: float) -> None:
    """Refuse options of a path that make no sense.

    Raises:
        InputError: one is out of range, or no whole number.
    """
    for name, value in (("n_lambdas", n_lambdas), ("patience", patience)):
        if whole(name, value) < 1:
            raise InputError(f"{name} is {value}; it counts from 1.")
    if not 0 < real("min_ratio", min_ratio) <= 1:
        raise InputError(f"min_ratio is {min_ratio}; give a share of lam_max in (0, 1].")
    if not 0 < real("tol", tol) < 1:
        raise InputError(f"tol is {tol}; give a relative duality gap in (0, 1), such as 1e-4.")


def _given(lam: ArrayLike, T: int) -> Float:
    values = _penalties("lam", lam)
    if values.shape not in ((), (T,)):
        raise InputError(f"lam has shape {values.shape}; give a number, or one per target ({T}).")
    return np.broadcast_to(values, (T,)).copy()


def _given_path(lams: ArrayLike, T: int) -> Float:
    values = _penalties("lams", lams)
    values = values[:, None] if values.ndim == 1 else values
    if values.ndim != 2 or values.shape[1] not in (1, T) or not len(values):
        raise InputError(f"lams has shape {np.shape(lams)}; give penalties [K], or [K, {T}], one path per target.")
    if (np.diff(values, axis=0) > 0).any():
        raise InputError(f"lams goes up from {values.min():g} to {values.max():g} somewhere; let penalties decrease.")
    return np.broadcast_to(values, (len(values), T))


def _penalties(name: str, given: ArrayLike) -> Float:
    try:
        values = np.asarray(given, np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"{name} is {given!r}; give positive numbers.") from error
    wrong = values[~(np.isfinite(values) & (values > 0))]
    if wrong.size:
        raise InputError(f"{name} has the value {wrong.flat[0]}; give positive, finite penalties.")
    return values


def _slabs(design: Design, parts: int) -> Iterator[slice]:
    """Targets at a time: each holds float64 sums per part and for all, and the solver's copies."""
    step = max(1, _SLAB_BYTES // (8 * design.n * (parts + 5)))
    return (slice(t, min(t + step, design.T)) for t in range(0, design.T, step))


def _finished(
    design: Design,
    every: Moments,
    weight: Array,
    lam: Float,
    loss: Float,
    r2: Float,
    tol: float,
    slab: slice,
    debias: bool,
) -> Datamodels:
    """Judge the weights that are returned, after rounding, and refit them where asked for."""
    weight = np.ascontiguousarray(weight)
    found = _judged(every, weight, lam, tol, design.threads)
    W = weight.astype(np.float64)
    refit_kkt = None
    if debias:
        from bench.debias import refit

        W, refit_kkt = refit(every, W, found.lam_max, design.threads)
        weight = W.astype(weight.dtype)
    bias = every.mean + design.shift[slab] - every.kept @ W
    return Datamodels(
        weight,
        bias.astype(np.float32),
        lam,
        found.gap,
        found.kkt,
        found.gap <= tol,
        found.lam_max,
        loss,
        r2,
        tol,
        found.constant,
        every.unused,
        refit_kkt,
    )


def _judged(every: Moments, weight: Array, lam: Float, tol: float, threads: int) -> certificate.Verdict:
    """Certificates of weights `[n, T]`, rounded as they are; those that fall short of `tol` are improved in place.

    Where masks are strongly correlated it takes many sweeps, whose sums in float32 are too rough to come near enough.
    """
    W = weight.astype(np.float64)
    found = certificate.judge(every, W, lam, certificate.lasso, threads)
    short = np.flatnonzero(found.gap > tol)
    if len(short):
        part, again = every.of(short), np.array(W[:, short].T, order="C")
        exact = centre(part, None, np.float64, threads)
        lasso_solver.solve(exact, lam[short, None], tol, again, threads, max_sweeps=_LAST_SWEEPS)
        rounded = again.T.astype(weight.dtype)
        better = certificate.judge(part, rounded.astype(np.float64), lam[short], certificate.lasso, threads)
        gained = better.gap < found.gap[short]
        weight[:, short[gained]] = rounded[:, gained]
        found.gap[short[gained]], found.kkt[short[gained]] = better.gap[gained], better.kkt[gained]
    return found


def _joined(fits: list[Datamodels]) -> Datamodels:
    """The slabs' targets side by side."""
    per_target: dict[str, Any] = {
        field.name: np.concatenate([getattr(fit, field.name) for fit in fits], axis=-1)
        for field in fields(Datamodels)
        if field.name not in ("tol", "unused") and getattr(fits[0], field.name) is not None
    }
    return replace(fits[0], **per_target)
