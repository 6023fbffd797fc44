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

_FOLDS = 20  # of a jackknife
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


@dataclass(frozen=True)
class Repeats:
    """What groups of one size do, by seed.

    Attributes:
        changes: float64 `[seeds, groups, targets]`.
        cluster: int `[groups]`: groups of equal number are no independent samples.
    """

    changes: NDArray[np.float64]
    cluster: NDArray[np.int64]


def ceiling(parts: Sequence[Repeats]) -> Estimate:
    """About the most that `over_groups` can be for the noise between seeds: `bench.stats.noise_ceiling`, mean of sizes.

    It is an estimate from few seeds, groups and targets, and a method may score above it by luck. Its interval is that
    of jackknives over up to 20 parts of the clusters and of the targets, whose variances are added, and holds the mean
    of the sizes' own intervals too, which near 0 reach further: it is rather too wide.

    Args:
        parts: by size.

    Returns:
        None for one seed, or fewer than `LEAST` groups of a size.
    """
    if any(len(part.changes) < 2 or part.changes.shape[1] < LEAST for part in parts):
        return Estimate(None)
    found = _best(parts)
    if found is None:
        return Estimate(None)
    value, low, high = found
    clusters = np.unique(np.concatenate([part.cluster for part in parts]))
    targets = np.arange(parts[0].changes.shape[2])
    variance, fewest = 0.0, _FOLDS
    for members in (clusters, targets):
        folds = min(len(members), _FOLDS)
        left = [_best(_without(parts, members[fold::folds], members is targets)) for fold in range(folds)]
        values = np.array([np.nan if one is None else one[0] for one in left])
        variance += (folds - 1) / folds * float(np.square(values - values.mean()).sum())
        fewest = min(fewest, folds)
    if fewest < 2 or not np.isfinite([low, high, variance]).all():
        return Estimate(value)
    half = t_quantile(1, fewest, 0.95) * float(np.sqrt(variance))
    return Estimate(value, (max(0.0, min(low, value - half)), min(1.0, max(high, value + half))))


def _without(parts: Sequence[Repeats], gone: NDArray[np.int64], targets: bool) -> list[Repeats]:
    """Without some targets, or some clusters of groups."""
    if targets:
        return [Repeats(np.delete(part.changes, gone, axis=2), part.cluster) for part in parts]
    kept = [~np.isin(part.cluster, gone) for part in parts]
    return [Repeats(part.changes[:, at], part.cluster[at]) for part, at in zip(parts, kept, strict=True)]


def _best(parts: Sequence[Repeats]) -> tuple[float, float, float] | None:
    """The ceiling and the ends of its interval, means of sizes; None where one has none."""
    if any(part.changes.shape[1] < 3 or not part.changes.shape[2] for part in parts):
        return None
    made = [noise_ceiling(part.changes) for part in parts]
    values = np.array([(one.lds, *one.ci) for one in made if one is not None]).mean(axis=0)
    return (float(values[0]), float(values[1]), float(values[2])) if np.isfinite(values[0]) else None


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
    """How far predictions are of the right size.

    Attributes:
        slope: of the least-squares line of actual on predicted changes: 1 where predictions are calibrated, below 1
            where they say too much, below 0 where they have the wrong sign.
        r2: 1 − Σ (actual − predicted)² / Σ (actual − its mean)², of the predictions as they are: no line is fitted, so
            that neither a wrong sign nor a wrong size can be merit, as they are in a squared correlation. At most 1;
            below 0 where predictions are further off than the mean of the actual changes is.
    """

    slope: Estimate
    r2: Estimate


def line(predicted: NDArray[np.float64], actual: NDArray[np.float64], *clusters: NDArray[np.int64]) -> Line:
    """Slope and R² over points.

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
        with np.errstate(invalid="ignore"):  # actual changes that are all equal have no R²
            variance += (count - 1) / count * np.square(left - left.mean(axis=0)).sum(axis=0)
    if not np.isfinite([slope, r2, *variance]).all():
        return Line(Estimate(_known(slope)), Estimate(_known(r2)))
    half = t_quantile(1, fewest, 0.95) * np.sqrt(variance)
    ends = float(r2 - half[1]), min(1.0, float(r2 + half[1]))
    return Line(Estimate(float(slope), (float(slope - half[0]), float(slope + half[0]))), Estimate(float(r2), ends))


def _moments(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sums that slope and R² follow from, `[points, 7]`, about the means, so that nothing cancels; last the errors'."""
    error = y - x
    x, y = x - x.mean(), y - y.mean()
    return np.stack([np.ones_like(x), x, y, x * x, x * y, y * y, error * error], axis=1)


def _of_moments(m: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    n, x, y, xx, xy, yy, errors = np.moveaxis(m, -1, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        vx, vy, c = xx - x * x / n, yy - y * y / n, xy - x * y / n
        return c / vx, 1 - errors / vy


def _known(value: NDArray[np.float64]) -> float | None:
    return float(value) if np.isfinite(value) else None


def _interval(low: float, high: float) -> Interval | None:
    return (low, high) if np.isfinite([low, high]).all() else None
