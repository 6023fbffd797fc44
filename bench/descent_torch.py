"""LASSO solutions of many targets at once on a device: accelerated proximal gradient inside working sets.

The problem of one target, in moments of centred rows (`G` = XᵀX/m, `c` = Xᵀy/m, `yy` = yᵀy/m), is

    P(w) = ½·(yy − 2·wᵀc + wᵀGw) + λ‖w‖₁

as in `bench.kernels.lasso`, whose outer scheme this is: strong rule, problem inside the working set, gradient of all
coordinates, duality gap, admission. What differs is how each step uses a device. Small working sets are gathered into
a batch of dense matrices, which costs their squared size in memory traffic per iteration; wide ones take products with
all of `G`, one for all their targets. The gradient of all coordinates is updated by one product of `G` with what has
changed. Random masks are nearly orthogonal, so a few iterations per λ suffice; where they are not, the step length
follows the curvature that is met and the momentum restarts, so that iterations go on converging.

Iterations wait for the device only when they look for finished targets.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from bench.gram_torch import Gram, slices, tf32

_EVERY = 3  # iterations between looks at the gap
_FAST = 60  # iterations in TF32 at most: what needs more feels its rounding
_STALL = 40  # looks at a gap that does not fall by a tenth: it has reached its rounding
_ROUNDS = 20  # of one λ
_TRIES = 4  # of them that only ask for a better solution inside the working set
_MARGIN = 1.1  # over the curvature that was met


class Quadratic(Protocol):
    """Products with the quadratic part of some targets' problems."""

    def product(self, w: Tensor, fast: bool) -> Tensor:
        """`w` `[k, a]` → Gw `[k, a]`."""
        ...

    def select(self, rows: Tensor) -> Quadratic:
        """The same for some of the targets."""
        ...


@dataclass(frozen=True)
class Batch:
    """A small dense matrix per target, `[k, a, a]`."""

    G: Tensor

    def product(self, w: Tensor, fast: bool = False) -> Tensor:  # noqa: ARG002
        """`w` `[k, a]` → Gw, always in full precision."""
        with tf32(False):
            return torch.bmm(self.G, w[:, :, None])[:, :, 0]

    def select(self, rows: Tensor) -> Batch:
        """The same for some of the targets."""
        return Batch(self.G[rows])


@dataclass(frozen=True)
class Whole:
    """One matrix for all targets."""

    gram: Gram

    def product(self, w: Tensor, fast: bool = False) -> Tensor:
        """`w` `[k, N]` → Gw."""
        return self.gram.product(w, fast)

    def select(self, rows: Tensor) -> Whole:  # noqa: ARG002
        """The same for some of the targets."""
        return self


def duality_gap(yy: Tensor, lam: Tensor, wc: Tensor, wgw: Tensor, l1: Tensor, largest: Tensor) -> Tensor:
    """Absolute duality gap in float64, `[k]`: the dual point is the residual, scaled into the feasible set.

    Args:
        yy: ‖y‖²/m.
        lam: penalty.
        wc: wᵀXᵀy/m.
        wgw: ‖Xw‖²/m.
        l1: ‖w‖₁.
        largest: greatest |gradient|.
    """
    rr = (yy - 2 * wc + wgw).clamp(min=0)
    scale = torch.where(largest > lam, lam / largest, 1.0)
    return 0.5 * rr + lam * l1 - scale * (yy - wc) + 0.5 * scale**2 * rr


def sums(c: Tensor, u: Tensor, w: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """wᵀc, wᵀu and ‖w‖₁ of each row, summed in float64."""
    return (
        (w * c).sum(1, dtype=torch.float64),
        (w * u).sum(1, dtype=torch.float64),
        w.abs().sum(1, dtype=torch.float64),
    )


def greatest(R: Tensor) -> Tensor:
    """Greatest |entry| of each row, in float64."""
    least, most = torch.aminmax(R, dim=1)
    return torch.maximum(most, -least).double()


@dataclass
class Problem:
    """Some targets' problems inside their working sets, and where their iterations stand. Rows are targets.

    Attributes:
        quadratic: products with G.
        c: `[k, a]`.
        w: `[k, a]`.
        u: Gw.
        lam: float64 `[k]`; yy: float64 `[k]`; goal: float64 `[k]`, the gap to reach.
        curvature: `[k]`, one over the step length: too small is noticed and mended.
    """

    quadratic: Quadratic
    c: Tensor
    w: Tensor
    u: Tensor
    lam: Tensor
    yy: Tensor
    goal: Tensor
    curvature: Tensor

    def descend(self, limit: int, fast: bool) -> int:
        """Accelerated proximal gradient (Beck & Teboulle 2009, FISTA) until every target's gap is ≤ its goal.

        Momentum restarts per target where it points uphill (O'Donoghue & Candès 2015, "Adaptive restart for accelerated
        gradient schemes"). Each step's curvature dᵀGd/‖d‖² is known from products at hand; where a step was too long
        for it, steps are shorter from then on, and momentum starts anew.

        Args:
            limit: iterations at most.
            fast: TF32 at first.

        Returns:
            Iterations made.
        """
        quadratic, c, w, u, L = self.quadratic, self.c, self.w, self.u, self.curvature
        lam, yy, goal = self.lam, self.yy, self.goal
        at: Tensor | None = None  # where targets that go on stand in the problem
        w_old, u_old, t = w, u, torch.ones_like(L)
        # Below this share of ‖w‖², a step's curvature is rounding.
        tiny = (2**-10 if fast else 64 * torch.finfo(w.dtype).eps) ** 2
        least, waited = torch.full_like(lam, torch.inf), torch.zeros_like(lam)
        used = 0
        while used < limit:
            used += 1
            t_next = 0.5 + (0.25 + t * t).sqrt()
            beta = ((t - 1) / t_next)[:, None]
            z = torch.lerp(w_old, w, 1 + beta)
            uz = torch.lerp(u_old, u, 1 + beta)
            v = (c - uz).div_(L[:, None]).add_(z)
            reach = (lam.to(w.dtype) / L)[:, None]
            new = v - v.clamp(-reach, reach)
            u_new = quadratic.product(new, fast and used <= _FAST)
            d = new - z
            moved = (d * d).sum(1)
            met = (d * (u_new - uz)).sum(1)
            long = (met > 1.001 * L * moved) & (moved > tiny * (new * new).sum(1))
            uphill = (d * (new - w)).sum(1) < 0
            L = torch.where(long, _MARGIN * met / moved, L)
            t = torch.where(long | uphill, 1.0, t_next)
            w_old, u_old, w, u = w, u, new, u_new
            if used % _EVERY and used < limit:
                continue
            gap = duality_gap(yy, lam, *sums(c, u, w), greatest(c - u))
            waited = torch.where(gap < 0.9 * least, 0.0, waited + 1)
            least = torch.minimum(least, gap)
            open_ = ~(gap <= goal) & (waited < _STALL)
            going = int(open_.sum())
            if not going:
                break
            if used < limit and going <= len(w) // 2:
                at = self._store(at, w, u, L)
                stay = open_.nonzero()[:, 0]
                at, quadratic = at[stay], quadratic.select(stay)
                c, w, u, w_old, u_old = (x[stay] for x in (c, w, u, w_old, u_old))
                lam, yy, goal, L, t = (x[stay] for x in (lam, yy, goal, L, t))
                least, waited = least[stay], waited[stay]
        self._store(at, w, u, L)
        return used

    def _store(self, at: Tensor | None, w: Tensor, u: Tensor, L: Tensor) -> Tensor:
        if at is None:
            self.w, self.u, self.curvature = w.clone(), u.clone(), L.clone()
            return torch.arange(len(w), device=w.device)
        self.w[at], self.u[at], self.curvature[at] = w, u, L
        return at


@dataclass
class Slab:
    """Targets that are solved together, and their state along a path. Rows are targets.

    Attributes:
        gram: of the rows that are fitted.
        C: `[k, N]`, the solver's dtype.
        yy: float64 `[k]`.
        W: `[k, N]`, weights.
        fast: TF32 where it does no harm.
        budget: bytes on the device for working sets.
        R: `[k, N]`, C − GW: computed in full here, and updated by what changes.
    """

    gram: Gram
    C: Tensor
    yy: Tensor
    W: Tensor
    fast: bool
    budget: int
    R: Tensor = field(init=False)
    curvature: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.R = self.C - self.gram.product(self.W) if bool(self.W.any()) else self.C.clone()
        self.curvature = torch.zeros(len(self.C), dtype=self.C.dtype, device=self.C.device)

    def keep(self, rows: Tensor) -> None:
        """Go on with some of the targets only."""
        self.C, self.yy, self.W, self.R, self.curvature = (
            x[rows] for x in (self.C, self.yy, self.W, self.R, self.curvature)
        )

    def solve(self, lam: Tensor, before: Tensor, tol: float, limit: int) -> None:
        """Solve all targets at one penalty each, from the weights as they are.

        Args:
            lam: float64 `[k]`.
            before: float64 `[k]`, the penalty whose solution the weights are.
            tol: relative duality gap (/½yy) to reach.
            limit: iterations at most, over all rounds.
        """
        dtype = self.C.dtype
        goal = 0.45 * tol * self.yy  # a tenth of tol is left for rounding
        inner = 0.5 * goal
        size = self.R.abs()
        inside = (size >= (2 * lam - before).clamp_(min=0).to(dtype)[:, None]) & (size > 0)
        inside |= self.W != 0
        del size
        rows = torch.arange(len(lam), device=lam.device)
        tries = torch.zeros_like(rows)
        for _ in range(_ROUNDS):
            scalars, used = self._inside(rows, inside[rows], lam, inner, limit)
            limit -= used
            R = self.R if len(rows) == len(self.R) else self.R[rows]
            gap = duality_gap(self.yy[rows], lam[rows], *scalars, greatest(R))
            open_ = ((gap > goal[rows]) & (tries[rows] < _TRIES)).nonzero()[:, 0]
            if not len(open_) or limit <= 0:
                break
            rows, R = rows[open_], R[open_]
            missing = (R.abs() > lam[rows, None].to(dtype)) & ~inside[rows]
            inside[rows] |= missing
            # Where none was missing, the solution inside was too rough.
            rough = ~missing.any(1)
            inner[rows] *= torch.where(rough, 0.3, 1.0)
            tries[rows] += rough

    def _inside(
        self, rows: Tensor, inside: Tensor, lam: Tensor, goal: Tensor, limit: int
    ) -> tuple[tuple[Tensor, Tensor, Tensor], int]:
        """Solve some targets inside their working sets, and bring their weights and gradients up to date.

        Returns:
            wᵀc, wᵀGw and ‖w‖₁ of the targets, and the most iterations that one took.
        """
        scalars = tuple(torch.zeros(len(rows), dtype=torch.float64, device=rows.device) for _ in range(3))
        used = 0
        some = len(rows) < len(self.R)
        narrow, wide = working_sets(inside, self.C.element_size(), self.budget)
        change = None
        for where, index in narrow:
            these = rows[where]
            at = (these[:, None], index)
            c, before = self.C[at], self.W[at]
            problem = self._problem(these, Batch(self.gram.gather(index)), c, before, self.R[at], lam, goal)
            used = max(used, problem.descend(limit, fast=False))
            self.curvature[these] = problem.curvature
            self.W[at] = problem.w
            if change is None:
                change = torch.zeros(len(rows), self.W.shape[1], dtype=self.W.dtype, device=self.W.device)
            change[where[:, None], index] = problem.w - before
            for scalar, value in zip(scalars, sums(c, problem.u, problem.w), strict=True):
                scalar[where] = value
        if change is not None:
            R = self.R[rows] if some else self.R
            self.gram.subtract(R, change, self.fast)
            if some:
                self.R[rows] = R
            del change, R
        for where in wide:
            these = rows[where]
            c = self.C[these]
            problem = self._problem(these, Whole(self.gram), c, self.W[these], self.R[these], lam, goal)
            used = max(used, problem.descend(limit, self.fast))
            self.curvature[these] = problem.curvature
            self.W[these], self.R[these] = problem.w, c - problem.u
            for scalar, value in zip(scalars, sums(c, problem.u, problem.w), strict=True):
                scalar[where] = value
        return (scalars[0], scalars[1], scalars[2]), used

    def _problem(
        self, these: Tensor, quadratic: Quadratic, c: Tensor, w: Tensor, r: Tensor, lam: Tensor, goal: Tensor
    ) -> Problem:
        # The greatest eigenvalue of a Gram of a columns of random masks (Marchenko & Pastur 1967).
        guess = self.gram.diagonal.max() * (1 + (c.shape[1] / self.gram.rows) ** 0.5) ** 2
        curvature = torch.maximum(self.curvature[these], guess).clamp_(min=torch.finfo(w.dtype).tiny)
        return Problem(quadratic, c, w, c - r, lam[these], self.yy[these], goal[these], curvature)


def working_sets(
    inside: Tensor, itemsize: int, budget: int
) -> tuple[Iterator[tuple[Tensor, Tensor]], Iterator[Tensor]]:
    """Split targets by their working sets.

    Args:
        inside: bool `[k, N]`; no row is all true.
        itemsize: bytes of a matrix entry.
        budget: bytes of a batch of gathered matrices.

    Returns:
        Batches of targets whose sets are small: their rows `[B]` and sets `[B, a]`, filled up with a padding column;
        and the rows of the other targets, as many at a time as fit. Targets with empty sets are in neither.
    """
    k, N = inside.shape
    # In blocks: a sum of bools converts all of them to int64 first.
    sizes = torch.cat([inside[rows].sum(1) for rows in slices(k, 2**24 // N)])
    order = torch.argsort(sizes, descending=True, stable=True)
    falling = -sizes[order].cpu().numpy()  # the one time that the device is waited for
    # A matrix of its own is worth it where reading it takes less time than 2N² operations, or than a share in reading
    # N² numbers: devices make some 16 operations while they read a byte.
    largest = min(budget / itemsize, N**2 * max(1.0, 32 / k) / 32) ** 0.5
    full, some = (int(np.searchsorted(falling, -limit)) for limit in (largest, 0))

    def narrow() -> Iterator[tuple[Tensor, Tensor]]:
        first = full
        while first < some:
            size = -int(falling[first])
            a = 8 * (-(-size // 8))
            # Half as large a set in the same batch would waste three quarters of its reads.
            similar = int(np.searchsorted(falling, (64 - size) / 2))
            last = min(some, first + max(1, budget // (itemsize * a * a)), max(first + 1, similar))
            rows = order[first:last]
            found = inside[rows].nonzero()
            length = sizes[rows]
            place = torch.arange(len(found), device=rows.device) - (length.cumsum(0) - length)[found[:, 0]]
            index = torch.full((len(rows), a), N - 1, device=rows.device)
            index[found[:, 0], place] = found[:, 1]
            yield rows, index
            first = last

    def wide() -> Iterator[Tensor]:
        step = max(1, budget // (16 * itemsize * N))
        return (order[first : min(first + step, full)] for first in range(0, full, step))

    return narrow(), wide()


def held_losses(held: Gram, C: Tensor, yy: Tensor, W: Tensor, fast: bool, budget: int) -> Tensor:
    """Mean squared error on held-out rows, from their moments about the fitted rows' means, in float64 `[k]`.

    Args:
        held: their Gram.
        C: `[k, N]`, their cross products.
        yy: float64 `[k]`.
        W: `[k, N]`, weights.
        fast: TF32 for targets with wide supports.
        budget: bytes on the device for supports.
    """
    loss = yy.clone()
    narrow, wide = working_sets(W != 0, W.element_size(), budget)
    for rows, index in narrow:
        w, c = W[rows[:, None], index], C[rows[:, None], index]
        wc, wgw, _ = sums(c, Batch(held.gather(index)).product(w), w)
        loss[rows] += wgw - 2 * wc
    for rows in wide:
        w = W[rows]
        wc, wgw, _ = sums(C[rows], held.product(w, fast), w)
        loss[rows] += wgw - 2 * wc
    return loss
