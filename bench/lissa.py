"""LiSSA: an inverse times vectors by a Neumann series whose every term takes another batch of the data.

Agarwal, Bullins and Hazan (2017), "Second-order stochastic optimization for machine learning in linear time",
section 3, in the form of Koh and Liang (2017): h ← b + h − (A_B + r I) h / σ with A_B the matrix of a random batch;
h / σ tends to (A + r I)⁻¹ b where σ is above the eigenvalues, and repeats are averaged.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from bench.errors import BenchError, InputError

DEEPEST = 5000
LEFT = 0.05
_LOOK_EVERY = 10
_DOUBLINGS = 5


class DivergedError(BenchError):
    """The series grows: its scale is too small."""


@dataclass(frozen=True)
class Series:
    """How the series is made.

    Attributes:
        scale: σ, whose inverse is the step, which the noise that batches leave grows with. `auto` is the largest
            eigenvalue plus the ridge, or where batches are random the largest scale with which a given depth leaves 5%
            of the slowest direction, if that is more; doubled (five times at most) where it diverges: batches have
            larger eigenvalues than the whole.
        depth: terms; `auto` leaves 5% of the slowest direction, with the smallest scale, but is at most 5,000.
        batch: examples a term, drawn anew each time without repeats; as many as there are, or more, is all of them.
        repeats: series to average.
    """

    scale: float | Literal["auto"] = "auto"
    depth: int | Literal["auto"] = "auto"
    batch: int = 64
    repeats: int = 1

    def __post_init__(self) -> None:
        """Refuse what makes no series.

        Raises:
            InputError: a number that is not above 0, or not finite.
        """
        for name in ("scale", "depth", "batch", "repeats"):
            value = getattr(self, name)
            if value != "auto" and not 0 < value < math.inf:
                raise InputError(f"{name} of LiSSA is {value}: it must be above 0, and finite")

    def first_scale(self, largest: float, ridge: float, n: int) -> float:
        """σ to begin with, for a matrix of this largest eigenvalue, over so many examples."""
        if self.scale != "auto":
            return self.scale
        noiseless = self.batch >= n
        gentlest = 0.0 if self.depth == "auto" or noiseless else ridge / -math.expm1(math.log(LEFT) / self.depth)
        return max(largest + ridge, gentlest)

    def terms(self, scale: float, ridge: float) -> int:
        """Terms of the series: (1 − ridge/scale)^terms is what is left of a direction without curvature."""
        if self.depth != "auto":
            return self.depth
        rate = min(ridge / scale, 0.5)
        return min(DEEPEST, math.ceil(math.log(LEFT) / math.log1p(-rate))) if rate > 0 else DEEPEST


@dataclass(frozen=True)
class Solution:
    """What `solve` found.

    Attributes:
        x: `[k, n_parameters]`.
        residual: ‖b − (A + r I) x‖ / ‖b‖ with A of all examples, `[k]`: noise of the batches and what a short series
            leaves, together.
        scale: σ that it took; terms: of each series.
    """

    x: Tensor
    residual: Tensor
    scale: float
    terms: int


def solve(
    product: Callable[[Tensor, Tensor | None], Tensor],
    b: Tensor,
    ridge: float,
    n: int,
    largest: float,
    how: Series,
    seed: int,
) -> Solution:
    """About (A + `ridge` I)⁻¹ b for each row of `b` `[k, n_parameters]`.

    Args:
        product: the matrix of some examples (None: of all) times each row of `[k, n_parameters]`.
        b: right-hand sides; all share their batches.
        ridge: r, added to the diagonal.
        n: number of examples.
        largest: eigenvalue of A.
        how: scale, depth, batches.
        seed: of the batches.

    Raises:
        DivergedError: the series grows beyond what a positive semidefinite A allows.
    """
    scale = how.first_scale(largest, ridge, n)
    for left in reversed(range(_DOUBLINGS + 1)):
        depth = how.terms(scale, ridge)
        try:
            x = _sum(product, b, ridge, n, scale, depth, how, seed)
        except DivergedError:
            if how.scale != "auto" or not left:
                raise
            scale *= 2
        else:
            off = (b - product(x, None) - ridge * x).norm(dim=1)
            return Solution(x, off / b.norm(dim=1).clamp_min(torch.finfo(b.dtype).tiny), scale, depth)
    raise AssertionError


def _sum(
    product: Callable[[Tensor, Tensor | None], Tensor],
    b: Tensor,
    ridge: float,
    n: int,
    scale: float,
    depth: int,
    how: Series,
    seed: int,
) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    limit = 10 * b.norm(dim=1) * (scale / ridge if ridge else math.inf)
    total = torch.zeros_like(b)
    for _ in range(how.repeats):
        h = b.clone()
        for term in range(1, depth + 1):
            some = torch.randperm(n, generator=draw)[: how.batch].to(b.device) if how.batch < n else None
            pushed = product(h, some)
            h.mul_(1 - ridge / scale).sub_(pushed, alpha=1 / scale).add_(b)
            if (term % _LOOK_EVERY == 0 or term == depth) and not bool((h.norm(dim=1) <= limit).all()):
                raise DivergedError(
                    f"LiSSA diverges with scale {scale:g} (seen after {term} terms): give a larger scale, or a larger "
                    f"batch than {how.batch}"
                )
        total += h
    return total.div_(scale * how.repeats)
