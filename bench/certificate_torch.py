"""How near weights are to the LASSO's solution: float64, from exact counts, with none of a solver's numbers.

Where rounding in float32 kept a solver away (strongly correlated masks), the same numbers take it nearer.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bench.descent_torch import Batch, Problem, Quadratic, duality_gap, greatest, sums, working_sets
from bench.gram_torch import Means, Moments, exact_gather, exact_product, fitted_cross, means, slices

_COPIES = 3  # of a gathered matrix: counts and temporaries


def certify(
    every: Moments, own: Means, W: Tensor, targets: Tensor, lam: Tensor, budget: int, R: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Relative duality gap and KKT violation of weights, in float64 from exact counts: as `bench.lasso` has them.

    Args:
        every: sums over all rows.
        own: their means.
        W: `[k, N]`, as returned: rounded.
        targets: `[k]`, which ones they are.
        lam: float64 `[k]`.
        budget: bytes on the device.
        R: `[k, N]`, becomes the gradient.
    """
    gap, kkt = torch.empty_like(lam), torch.empty_like(lam)
    for part in slices(len(W), budget // (6 * 8 * W.shape[1])):
        w, penalty = W[part].double(), lam[part, None]
        C, yy = fitted_cross(every, None, own, targets[part])
        lam_max = greatest(C)
        gradient = exact_product(every, w)
        wc, wgw, l1 = sums(C, gradient, w)
        gradient = gradient.neg_().add_(C)
        del C
        absolute = duality_gap(yy, lam[part], wc, wgw, l1, greatest(gradient))
        violation = torch.where(w != 0, (gradient - penalty * w.sign()).abs_(), gradient.abs().sub_(penalty))
        # Where nothing varies, zero weights are exact and there is no scale to be relative to.
        flat = lam_max == 0
        gap[part] = torch.where(flat, 0.0, absolute.clamp(min=0) / (0.5 * yy))
        kkt[part] = torch.where(flat, 0.0, violation.amax(1).clamp(min=0) / lam_max)
        if R is not None:
            R[part] = gradient
    return gap, kkt


def greatest_penalty(every: Moments) -> Tensor:
    """The least λ that makes all of a target's weights zero, float64 `[T]`."""
    own = means(every)
    T, N = every.cross.shape
    parts = slices(T, 2**25 // N)
    return torch.cat([greatest(fitted_cross(every, None, own, rows)[0]) for rows in parts])


def improve(
    every: Moments,
    own: Means,
    W: Tensor,
    R: Tensor,
    targets: Tensor,
    lam: Tensor,
    tol: float,
    limit: int,
    budget: int,
) -> None:
    """Solve in float64 from exact counts on the support and wherever the certified gradient exceeds λ.

    Args:
        every: sums over all rows.
        own: their means.
        W: `[k, N]`, weights, improved in place.
        R: `[k, N]`, their gradient, by `certify`.
        targets: `[k]`, which ones they are.
        lam: float64 `[k]`.
        tol: relative gap to reach.
        limit: iterations.
        budget: bytes on the device.
    """
    for part in slices(len(W), budget // (32 * W.shape[1])):
        _improve(every, own, W[part], R[part], targets[part], lam[part], tol, limit, budget)


def _improve(
    every: Moments,
    own: Means,
    W: Tensor,
    R: Tensor,
    targets: Tensor,
    lam: Tensor,
    tol: float,
    limit: int,
    budget: int,
) -> None:
    def descend(where: Tensor, index: Tensor | None, quadratic: Quadratic) -> None:
        C, yy = fitted_cross(every, None, own, targets[where])
        w, c = (W[where], C) if index is None else (W[where[:, None], index], C.gather(1, index))
        w = w.double()
        curvature = own.x.sub(own.x**2).max().expand(len(w)).contiguous()
        problem = Problem(quadratic, c, w, quadratic.product(w, False), lam[where], yy, 0.2 * tol * yy, curvature)
        problem.descend(limit, fast=False)
        W[where if index is None else (where[:, None], index)] = problem.w.to(W.dtype)

    narrow, wide = working_sets((W != 0) | (R.abs() > lam[:, None].to(R.dtype)), _COPIES * 8, budget)
    for where, index in narrow:
        descend(where, index, Batch(exact_gather(every, index)))
    for where in wide:
        descend(where, None, _Exact(every))


@dataclass(frozen=True)
class _Exact:
    """The Gram of all rows, for all targets."""

    every: Moments

    def product(self, w: Tensor, fast: bool) -> Tensor:  # noqa: ARG002
        return exact_product(self.every, w)

    def select(self, rows: Tensor) -> _Exact:  # noqa: ARG002
        return self
