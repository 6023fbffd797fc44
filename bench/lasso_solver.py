"""All targets' LASSO paths from moments, and the choice of λ: what `bench.lasso` fits with on a CPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.certificate import r_squared
from bench.gram import Array, Centred, Float, Index, Moments, centre, in_threads

_PATH_TOL = 10.0  # in tol: the path only chooses λ and warms up the refit, which no LDS's fourth digit felt
_MAX_SWEEPS = 3000  # per λ; a handful is usual
_BLOCK = 8  # targets per call of the kernel: small, so that threads end together
_GRAM_BYTES = 2**29  # of all folds' Grams, to keep them instead of making them anew


def solve(
    stats: Centred,
    lams: Float,
    tol: float,
    weight: Array,
    threads: int,
    held: Centred | None = None,
    patience: int = 1,
    path: Array | None = None,
    max_sweeps: int | None = None,
    before: Float | None = None,
) -> Float:
    """Run the kernel on all targets; `weight` `[T, n]` is the start and becomes the solution.

    Margins are divided by their standard deviation on the way in: float32 has no room for those of any scale.

    Args:
        stats: moments of the fitted rows.
        lams: penalties `[T, K]`.
        tol: relative duality gap to reach.
        weight: `[T, n]`.
        threads: of the solver.
        held: moments of the held-out rows, which then choose among the penalties.
        patience: see `bench.fit_datamodels`.
        path: `[T, K, n]`, filled with every solution.
        max_sweeps: to give up after, at each λ.
        before: penalties `[T]` whose solutions the start is, in place of the first. All penalties are then gone down,
            and `weight` becomes the last solution instead of the best.

    Returns:
        Held-out losses `[T, K]`, infinite where a target's path stopped before.
    """
    from bench.kernels.lasso import lasso_paths

    T, K = lams.shape
    solver = stats.G.dtype
    unit = np.where(stats.yy > 0, np.sqrt(stats.yy), 1.0)
    lams = lams / unit[:, None]
    C = np.ascontiguousarray((stats.C / unit).T, solver)
    yy = stats.yy / unit**2
    Cv = C if held is None else np.ascontiguousarray((held.C / unit).T, solver)
    Gv = np.empty((0, 0), solver) if held is None else held.G
    yv = yy if held is None else held.yy / unit**2
    steps = np.empty((T, 0, 0), solver) if path is None else path
    last = before is not None
    if before is None:
        # A warm start is taken for the solution at the first λ; a start at zero solves λ = max|C|.
        largest = np.abs(C).max(1).astype(np.float64)
        before = np.where(weight.any(1), lams[:, 0], np.maximum(largest, lams[:, 0]))
    else:
        before = before / unit
    losses = np.full((T, K), np.inf)
    best = np.zeros(T, np.int64)
    sweeps = np.zeros(T, np.int64)

    def work(b: slice) -> None:
        lasso_paths(
            stats.G,
            C[b],
            yy[b],
            lams[b],
            before[b],
            tol,
            max_sweeps or _MAX_SWEEPS,
            Gv,
            Cv[b],
            yv[b],
            K if last else patience,
            last,
            unit[b],
            weight[b],
            losses[b],
            best[b],
            sweeps[b],
            steps[b],
        )

    in_threads(work, (slice(t, min(t + _BLOCK, T)) for t in range(0, T, _BLOCK)), threads)
    losses *= unit[:, None] ** 2
    return losses


def choose(
    every: Moments, outs: list[Moments], grid: Float, tol: float, weight: Array, threads: int, patience: int
) -> tuple[Float, Float, Float]:
    """λ of least held-out error, that error, and R², `[T]` each; `weight` `[T, n]` becomes a start for the refit.

    Args:
        every: moments of all rows.
        outs: those of each held-out part.
        grid: penalties `[T, K]`.
        tol: relative duality gap of the refit.
        weight: zeros.
        threads: of the solver.
        patience: penalties without a better error, summed over the parts, that end a target's path.
    """
    tol = min(_PATH_TOL * tol, 0.1)
    sides = _sides(every, outs, weight.dtype.type, threads)
    null = np.sum([sides(i)[1].yy * out.rows for i, out in enumerate(outs)], axis=0)
    rows = sum(out.rows for out in outs)
    if len(outs) == 1:
        total = rows * solve(sides(0)[0], grid, tol, weight, threads, sides(0)[1], patience)
    else:
        total = _in_step(outs, sides, grid, tol, weight, threads, patience)
    best = settled(total, patience)[0][:, None]
    loss = np.take_along_axis(total, best, 1)[:, 0]
    return np.take_along_axis(grid, best, 1)[:, 0], loss / rows, r_squared(loss, null, grid[:, 0] == 0)


def settled(total: Float, patience: int) -> tuple[Index, NDArray[np.bool_]]:
    """Index of each path's least loss before `patience` losses in a row that are not better, and whether there are."""
    best, least = np.zeros(len(total), np.intp), total[:, 0].copy()
    done = np.zeros(len(total), np.bool_)
    for k in range(1, total.shape[1]):
        better = (total[:, k] < least) & ~done
        best[better], least[better] = k, total[better, k]
        done |= k - best >= patience
    return best, done


def _sides(
    every: Moments, outs: list[Moments], dtype: type[np.floating[Any]], threads: int
) -> Callable[[int], tuple[Centred, Centred]]:
    """The fitted and the held-out side of each part, kept where that takes little."""
    kept: dict[int, tuple[Centred, Centred]] = {}
    small = len(outs) == 1 or 8 * len(outs) * every.count.size <= _GRAM_BYTES

    def side(i: int) -> tuple[Centred, Centred]:
        if i in kept:
            return kept[i]
        rest = every - outs[i]
        made = centre(rest, None, dtype, threads), centre(outs[i], rest, dtype, threads)
        if small:
            kept[i] = made
        return made

    return side


def _in_step(
    outs: list[Moments],
    sides: Callable[[int], tuple[Centred, Centred]],
    grid: Float,
    tol: float,
    weight: Array,
    threads: int,
    patience: int,
) -> Float:
    """Summed losses `[T, K]` of paths that go down together, some penalties at a time: the sum says when to stop."""
    T, K = grid.shape
    total = np.full((T, K), np.inf)
    now = [np.zeros_like(weight) for _ in outs]
    live = np.arange(T)
    step = max(1, patience // 2)  # fewer would start more often, more would go further than need be
    for first in range(0, K, step):
        span = slice(first, min(first + step, K))
        sums = np.zeros((len(live), span.stop - first))
        for i, out in enumerate(outs):
            fitted, judged = (side.of(live) for side in sides(i))
            before = np.maximum(np.abs(fitted.C).max(0), grid[live, 0]) if first == 0 else grid[live, first - 1]
            start = now[i][live]
            sums += out.rows * solve(fitted, grid[live, span], tol, start, threads, judged, before=before)
            now[i][live] = start
        total[live, span] = sums
        live = live[~settled(total[live, : span.stop], patience)[1]]
        if not len(live):
            break
    weight[:] = now[-1]
    return total
