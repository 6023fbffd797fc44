"""How well predicted changes agree with real ones: correlations, slopes and their intervals.

Changes are matrices `[groups, targets]`: what the margin of each target does without each group. The same groups are
removed for all targets, so that neither groups nor targets are many independent samples of pairs: intervals count both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from bench.stats import noise_ceiling, spearman_influence, two_way_interval
from bench.stats.intervals import t_quantile

if TYPE_CHECKING:
    from numpy.typing import NDArray

LEAST = 5  # groups of one size that a correlation over groups takes
Interval = tuple[float, float]


class Estimate(msgspec.Struct, frozen=True):
    """A number with its 95% interval; None where there is none."""

    value: float | None
    ci: Interval | None = None


@dataclass(frozen=True)
class Part:
    """Groups of one size: predicted and actual changes, float64 `[groups, targets]`, and which groups are one sample.

    Attributes:
        predicted, actual: of the margins.
        cluster: int `[groups]`: groups of equal number are no independent samples.
    """

    predicted: NDArray[np.float64]
    actual: NDArray[np.float64]
    cluster: NDArray[np.int64]


def over_groups(parts: Sequence[Part]) -> Estimate:
    """Spearman's correlation over groups of one size, mean over the sizes and over targets, as an LDS has it.

    Within one size it is no merit to know that removing more does more. A target whose predictions are constant, or
    not finite, counts 0; one whose actual changes are not finite is left out. The interval is two-way
    (`bench.stats.two_way_interval`): over targets and over clusters of groups.
    """
    n_targets = parts[0].actual.shape[1]
    n_clusters = 1 + max(int(part.cluster.max()) for part in parts)
    values = np.zeros(n_targets)
    grouped = np.zeros((n_targets, n_clusters))
    kept = np.ones(n_targets, bool)
    for part in parts:
        kept &= np.isfinite(part.actual).all(axis=0)
        rho, influence = spearman_influence(part.predicted.T, part.actual.T)
        said = np.isfinite(rho)
        values[said] += rho[said] / len(parts)
        for at in range(len(part.cluster)):
            grouped[:, part.cluster[at]] += influence[:, at] / (len(part.cluster) * len(parts))
    if not kept.any():
        return Estimate(None)
    used = np.unique(np.concatenate([part.cluster for part in parts]))
    own = grouped[np.ix_(kept, used)]
    found = two_way_interval(values[kept], own.mean(axis=0), np.square(own).sum(axis=1))
    return Estimate(float(values[kept].mean()), _interval(found.low, found.high))


def ceiling(by_seed: Sequence[NDArray[np.float64]]) -> float | None:
    """The best that `over_groups` could be, by `bench.stats.noise_ceiling`; of `[seeds, groups, targets]` by size."""
    found = []
    for changes in by_seed:
        if len(changes) < 2 or changes.shape[1] < LEAST:
            return None
        best = noise_ceiling(changes)
        assert best is not None
        found.append(best.lds)
    return float(np.mean(found)) if np.isfinite(found).all() else None


@dataclass(frozen=True)
class Points:
    """Points of groups of one size.

    Attributes:
        predicted, actual: changes, float64 `[points]`.
        cluster: int `[points]`: points of equal number are no independent samples.
    """

    predicted: NDArray[np.float64]
    actual: NDArray[np.float64]
    cluster: NDArray[np.int64]


def over_points(parts: Sequence[Points]) -> Estimate:
    """Spearman's correlation over points of one size, mean over sizes; the interval is of clusters of points."""
    total = 0.0
    sums = np.zeros(1 + max(int(part.cluster.max()) for part in parts))
    for part in parts:
        rho, influence = spearman_influence(part.predicted, part.actual)
        if not np.isfinite(rho):
            return Estimate(None)
        total += float(rho) / len(parts)
        sums += np.bincount(part.cluster, weights=influence, minlength=len(sums)) / (len(influence) * len(parts))
    used = np.unique(np.concatenate([part.cluster for part in parts]))
    found = two_way_interval(np.array([total]), sums[used], np.zeros(1))
    return Estimate(total, _interval(found.low, found.high))


@dataclass(frozen=True)
class Line:
    """The least-squares line of actual on predicted changes.

    Attributes:
        slope: 1 where predictions are calibrated, below 1 where they say too much.
        r2: share of the variance of the actual changes that the line explains, squared Pearson correlation.
    """

    slope: Estimate
    r2: Estimate


def line(predicted: NDArray[np.float64], actual: NDArray[np.float64], *clusters: NDArray[np.int64]) -> Line:
    """Fit it over points.

    Args:
        predicted: float64 `[points]`.
        actual: likewise.
        clusters: int `[points]` each, such as of the targets and of the groups. The variances of jackknives over each
            are added; what both hold is not taken off, so that intervals are rather too wide.
    """
    moments = _moments(predicted, actual)
    slope, r2 = _of_moments(moments.sum(axis=0))
    variance, fewest = np.zeros(2), len(predicted)
    for cluster in clusters:
        labels = np.unique(cluster, return_inverse=True)[1]
        count = int(labels.max()) + 1
        fewest = min(fewest, count)
        if count < 2:
            return Line(Estimate(_known(slope)), Estimate(_known(r2)))
        own = np.stack([np.bincount(labels, weights=column) for column in moments.T], axis=1)
        left = np.stack(_of_moments(moments.sum(axis=0) - own), axis=1)
        variance += (count - 1) / count * np.square(left - left.mean(axis=0)).sum(axis=0)
    if not np.isfinite([slope, r2, *variance]).all():
        return Line(Estimate(_known(slope)), Estimate(_known(r2)))
    half = t_quantile(1, fewest, 0.95) * np.sqrt(variance)
    ends = max(0.0, float(r2 - half[1])), min(1.0, float(r2 + half[1]))
    return Line(Estimate(float(slope), (float(slope - half[0]), float(slope + half[0]))), Estimate(float(r2), ends))


def _moments(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sums that slope and R² follow from, `[points, 6]`, about the means, so that nothing cancels."""
    x, y = x - x.mean(), y - y.mean()
    return np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=1)


def _of_moments(m: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    n, x, y, xx, xy, yy = np.moveaxis(m, -1, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        vx, vy, c = xx - x * x / n, yy - y * y / n, xy - x * y / n
        return c / vx, c * c / (vx * vy)


def _known(value: NDArray[np.float64]) -> float | None:
    return float(value) if np.isfinite(value) else None


def _interval(low: float, high: float) -> Interval | None:
    return (low, high) if np.isfinite([low, high]).all() else None
