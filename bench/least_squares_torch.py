"""Least squares of many targets at once, each on its own support: conjugate gradients in float64 from exact counts."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from bench.descent_torch import working_sets
from bench.gram_torch import Means, Moments, exact_gather, exact_product, fitted_cross, slices

_LIMIT = 500  # iterations; random masks take about twenty
_TOL = 1e-10  # greatest |gradient| relative to the greatest |Xᵀy|/m: below what float32 weights can show
_COPIES = 3  # of a gathered matrix, counts and temporaries included


def refit(every: Moments, own: Means, W: Tensor, rows: Tensor, budget: int) -> Tensor:
    """Replace some targets' weights by least squares on their support, unpenalised.

    Where the support is singular (two equal columns), the solution is the one nearest to the weights as they were.

    Args:
        every: sums over all rows; `own`: their means.
        own: means of all rows.
        W: `[k, N]`, in: weights, whose non-zero entries are the support; out: the refit's.
        rows: `[k]`, which targets they are.
        budget: bytes on the device.

    Returns:
        float64 `[k]`, greatest |gradient| on the support at the weights returned, relative to the greatest of all at
        zero weights. Zero for an empty support.
    """
    # Cross products in float64 are what else takes memory.
    parts = slices(len(W), budget // (32 * W.shape[1]))
    return torch.cat([_refit(every, own, W[part], rows[part], budget) for part in parts])


def _refit(every: Moments, own: Means, W: Tensor, rows: Tensor, budget: int) -> Tensor:
    off = torch.zeros(len(W), dtype=torch.float64, device=W.device)
    narrow, wide = working_sets(W != 0, _COPIES * 8, budget)
    for where, index in narrow:
        C = fitted_cross(every, None, own, rows[where])[0]
        lam_max = C.abs().amax(1)
        G = exact_gather(every, index)
        start = W[where[:, None], index]
        x, left = _solve(lambda p, G=G: torch.bmm(G, p[:, :, None])[:, :, 0], C.gather(1, index), start)  # type: ignore[misc]
        W[where[:, None], index] = x
        off[where] = left / lam_max
    for where in wide:
        C = fitted_cross(every, None, own, rows[where])[0]
        lam_max = C.abs().amax(1)
        start = W[where]
        on = start != 0
        x, left = _solve(lambda p, on=on: exact_product(every, p).mul_(on), C.mul_(on), start)  # type: ignore[misc]
        W[where] = x
        off[where] = left / lam_max
    return off


def _solve(product: Callable[[Tensor], Tensor], b: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
    """Conjugate gradients (Hestenes & Stiefel 1952) from `start`, for each row on its own.

    Returns:
        The solution in the dtype of `start`, and the greatest |b − Gx| of each row for it.
    """
    x = start.double()
    r = b - product(x)
    p, rr = r, (r * r).sum(1)
    scale = _TOL * b.abs().amax(1)
    for _ in range(_LIMIT):
        going = r.abs().amax(1) > scale
        if not bool(going.any()):
            break
        q = product(p)
        curved = (p * q).sum(1)
        # Directions in which the matrix vanishes, up to rounding, lead nowhere.
        going &= curved > 1e-14 * (p * p).sum(1)
        step = torch.where(going, rr / curved, 0.0)[:, None]
        x = x + step * p
        r = r - step * q
        new = (r * r).sum(1)
        p = torch.where(going[:, None], r + (new / rr)[:, None] * p, p)
        rr = new
    rounded = x.to(start.dtype)
    rounded = torch.where(torch.isfinite(rounded).all(1, keepdim=True), rounded, start)
    return rounded, (b - product(rounded.double())).abs().amax(1)
