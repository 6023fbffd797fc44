"""LASSO paths for many targets that share one design: active-set covariance coordinate descent.

The problem of one target, in moments of centred rows (`G` = XᵀX/m, `c` = Xᵀy/m, `yy` = yᵀy/m), is

    P(w) = ½·(yy − 2·wᵀc + wᵀGw) + λ‖w‖₁

A path goes down a list of λs with warm starts. At each λ the sequential strong rule (Tibshirani et al. 2012, "Strong
rules for discarding predictors in lasso-type problems") proposes a working set, whose part of `G` is gathered into a
small dense matrix; cyclic coordinate descent with covariance updates (Friedman, Hastie & Tibshirani 2010,
"Regularization paths for generalized linear models via coordinate descent") runs inside it; then the gradient of *all*
coordinates is refreshed, the duality gap is taken over all of them, and coordinates that the rule left out wrongly
join. The working set has no cap.

The kernels hold no thread pool: they release the GIL, and the caller gives each of its threads a block of targets. A
target's arithmetic does not depend on its block, so neither do results. Sequential kernels also compile in a fraction
of the time of parallel ones, and their compilation can be cached.
"""

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

Array = NDArray[Any]

# Sums may be reordered (vectorised); NaN and infinity keep their meaning.
_MATH = {"reassoc", "contract", "nsz", "arcp"}


@njit(cache=True, nogil=True, fastmath=_MATH)
def _refresh(G: Array, start: Array, active: Array, weight: Array, size: int, c: Array) -> None:
    """Gradient of all coordinates from scratch: `c = start − G[:, active] @ weight`."""
    for i in range(c.size):
        c[i] = start[i]
    for p in range(size):
        value = weight[p]
        if value != 0:
            row = G[active[p]]
            for i in range(c.size):
                c[i] -= row[i] * value


@njit(cache=True, nogil=True, fastmath=_MATH)
def _sweep(S: Array, lam: float, size: int, weight: Array, c: Array) -> None:
    """One cycle of exact coordinate minimisations inside the working set, `c` kept up to date."""
    for p in range(size):
        curvature = S[p, p]
        if curvature <= 0:  # a constant column: its weight stays zero
            continue
        z = c[p] + curvature * weight[p]
        if z > lam:
            new = (z - lam) / curvature
        elif z < -lam:
            new = (z + lam) / curvature
        else:
            new = z - z  # a zero of its type, without a sign
        step = new - weight[p]
        if step != 0:
            weight[p] = new
            row = S[p]
            for q in range(size):
                c[q] -= row[q] * step


@njit(cache=True, nogil=True, fastmath=_MATH)
def _gap(
    yy: float, lam: float, start: Array, active: Array, weight: Array, size: int, c: Array, largest: float
) -> float:
    """Duality gap from the gradient `c` at the working set and the greatest |gradient| of all that is considered.

    The dual point is the residual scaled into the feasible set: r·s/(m·λ) with s = min(1, λ/largest).
    """
    wc = 0.0
    wgw = 0.0
    l1 = 0.0
    for p in range(size):
        w = np.float64(weight[p])
        first = np.float64(start[active[p]])
        wc += w * first
        wgw += w * (first - np.float64(c[p]))
        l1 += abs(w)
    rr = yy - 2 * wc + wgw
    scale = 1.0
    if largest > lam:
        scale = lam / largest
    return 0.5 * rr + lam * l1 - scale * (yy - wc) + 0.5 * scale * scale * rr


@njit(cache=True, nogil=True)
def _gather(G: Array, S: Array, active: Array, old: int, size: int) -> Array:
    """Extend the working set's Gram `S` from `old` to `size` coordinates; a larger array where it no longer fits."""
    if size > S.shape[0]:
        # The odd stride keeps columns off one cache set; doubling keeps the number of copies small.
        room = min(2 * size, G.shape[0]) + 17
        grown = np.empty((room, room), S.dtype)
        for p in range(old):
            for q in range(old):
                grown[p, q] = S[p, q]
        S = grown
    for p in range(old, size):
        row = G[active[p]]
        for q in range(p + 1):
            value = row[active[q]]
            S[p, q] = value
            S[q, p] = value
    return S


@njit(cache=True, nogil=True)
def _prune(S: Array, active: Array, inside: Array, weight: Array, size: int, c: Array, threshold: float) -> int:
    """Drop zero coordinates below the strong rule's threshold, compacting `S` in place. Returns the new size.

    Unless they are few: moving what stays then costs more than what they do, which is next to nothing.
    """
    keep = np.empty(size, np.int64)
    kept = 0
    for p in range(size):
        if weight[p] != 0 or abs(c[active[p]]) >= threshold:
            keep[kept] = p
            kept += 1
    if 8 * (size - kept) < size:
        return size
    for p in range(size):
        inside[active[p]] = False
    for p in range(kept):
        inside[active[keep[p]]] = True
    for p in range(kept):
        source = keep[p]
        for q in range(kept):  # targets never lie behind sources, so nothing unread is overwritten
            S[p, q] = S[source, keep[q]]
    for p in range(kept):
        active[p] = active[keep[p]]
        weight[p] = weight[keep[p]]
    return kept


@njit(cache=True, nogil=True)
def _admit(active: Array, inside: Array, weight: Array, size: int, c: Array, threshold: float) -> int:
    """Add every coordinate outside the working set with |gradient| > threshold. Returns the new size."""
    for i in range(c.size):
        if not inside[i] and abs(c[i]) > threshold:
            inside[i] = True
            active[size] = i
            weight[size] = 0
            size += 1
    return size


@njit(cache=True, nogil=True, fastmath=_MATH)
def _held_out(Gv: Array, cv: Array, yv: float, active: Array, weight: Array, size: int, product: Array) -> float:
    """Mean squared error on held-out rows from their moments about the fitted rows' means; `product` is room `[n]`."""
    nonzero = 0
    for p in range(size):
        nonzero += weight[p] != 0
    loss = np.float64(yv)
    if 5 * nonzero > product.size:  # whole rows of Gv, in vectors, beat entries picked one by one
        product[:] = 0
        for p in range(size):
            value = weight[p]
            if value != 0:
                row = Gv[active[p]]
                for i in range(product.size):
                    product[i] += row[i] * value
        for p in range(size):
            inner = np.float64(product[active[p]]) - 2 * np.float64(cv[active[p]])
            loss += np.float64(weight[p]) * inner
        return loss
    for p in range(size):
        if weight[p] != 0:
            row = Gv[active[p]]
            half = weight[p] * 0
            for q in range(p):
                half += row[active[q]] * weight[q]
            loss += weight[p] * (2 * np.float64(half) + row[active[p]] * weight[p] - 2 * np.float64(cv[active[p]]))
    return loss


@njit(cache=True, nogil=True, fastmath=_MATH)
def lasso_paths(
    G: Array,
    C: Array,
    yy: Array,
    lams: Array,
    before: Array,
    tol: float,
    max_sweeps: int,
    Gv: Array,
    Cv: Array,
    yv: Array,
    patience: int,
    last: bool,
    unit: Array,
    W: Array,
    loss: Array,
    best: Array,
    sweeps: Array,
    path: Array,
) -> None:
    """Solve the paths of a block of targets, choosing λ by held-out loss where held-out moments are given.

    Args:
        G: `[n, n]` centred Gram of the fitted rows, /m (float32 or float64: the precision of the solver).
        C: `[T, n]` centred cross products, /m, one row per target.
        yy: float64 `[T]` centred squared margins, /m.
        lams: float64 `[T, K]`, decreasing.
        before: float64 `[T]`, the λ whose solution the start is (the greatest |C| for a start at zero).
        tol: stop a λ once its duality gap is ≤ tol·½yy.
        max_sweeps: give up on a λ after this many sweeps.
        Gv: as `G` for held-out rows about the *fitted* rows' means; `[0, 0]` for none: the last λ is then kept.
        Cv: as `C` for held-out rows.
        yv: as `yy` for held-out rows.
        patience: stop a path after this many λs without a smaller held-out loss.
        last: hand back the last solution, not the one of least held-out loss.
        unit: float64 `[T]`, by which margins are divided in all of these, and weights multiplied in `W` and `path`.
        W: `[T, n]` in: the start; out: the solution at the chosen λ.
        loss: float64 `[T, K]` out: held-out loss, infinite where the path stopped before.
        best: int64 `[T]` out: index of the λ of least held-out loss, where held-out moments are given.
        sweeps: int64 `[T]` out: coordinate descent cycles spent.
        path: `[T, K, n]` out: the solution at every λ that the path reaches; `[T, 0, 0]` for none.
    """
    n = G.shape[0]
    room = min(n, 256) + 17
    S = np.empty((room, room), G.dtype)
    active = np.empty(n, np.int64)
    inside = np.empty(n, np.bool_)
    weight = np.empty(n, G.dtype)
    local = np.empty(n, G.dtype)
    c = np.empty(n, G.dtype)
    product = np.empty(n, G.dtype)
    cast = np.empty(1, G.dtype)
    choose = Gv.shape[0] > 0
    zero: Any = np.int64(0)  # a literal 0 would compile the helpers anew for its own type
    for t in range(C.shape[0]):
        start = C[t]
        size: Any = zero
        for i in range(n):
            inside[i] = W[t, i] != 0
            if inside[i]:
                active[size] = i
                weight[size] = W[t, i] / unit[t]
                size += 1
        _refresh(G, start, active, weight, size, c)
        S = _gather(G, S, active, zero, size)
        previous = before[t]
        waited = 0
        for k in range(lams.shape[1]):
            lam = lams[t, k]
            threshold = max(2 * lam - previous, 0.0)
            size = _prune(S, active, inside, weight, size, c, threshold)
            gathered = size
            size = _admit(active, inside, weight, size, c, threshold)
            cast[0] = lam
            goal = 0.45 * tol * yy[t]  # a tenth of tol is left for rounding
            inner = 0.8 * goal
            used = 0
            while used < max_sweeps:
                S = _gather(G, S, active, gathered, size)
                gathered = size
                for p in range(size):
                    local[p] = c[active[p]]
                while used < max_sweeps:
                    _sweep(S, cast[0], size, weight, local)
                    used += 1
                    largest = 0.0
                    for p in range(size):
                        largest = max(largest, abs(np.float64(local[p])))
                    if _gap(yy[t], lam, start, active, weight, size, local, largest) <= inner:
                        break
                _refresh(G, start, active, weight, size, c)
                largest = 0.0
                for i in range(n):
                    largest = max(largest, abs(np.float64(c[i])))
                for p in range(size):
                    local[p] = c[active[p]]
                if _gap(yy[t], lam, start, active, weight, size, local, largest) <= goal:
                    break
                size = _admit(active, inside, weight, size, c, lam)
                if size == gathered:  # none was missing: the solution inside was too rough
                    inner *= 0.3
            sweeps[t] += used
            previous = lam
            if path.shape[1] > 0:
                path[t, k, :] = 0
                for p in range(size):
                    path[t, k, active[p]] = weight[p] * unit[t]
            if choose:
                loss[t, k] = _held_out(Gv, Cv[t], yv[t], active, weight, size, product)
                waited += 1
                if loss[t, k] < loss[t, best[t]] or k == 0:
                    best[t] = k
                    waited = 0
            if not choose or last or waited == 0:
                for i in range(n):
                    W[t, i] = 0
                for p in range(size):
                    W[t, active[p]] = weight[p] * unit[t]
            if waited >= patience:
                break
