"""The noise ceiling: the best LDS that anyone could reach against models whose seeds differ, and shares of it."""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from bench.errors import InputError
from bench.stats.intervals import Floats, GroupSums, rank, small_sample_shift, t_quantile, two_way_interval

_JACKKNIFE_GROUPS = 20


@dataclass(frozen=True)
class Ceiling:
    """The best LDS that any method could reach against a ground truth of several seeds per subset.

    Attributes:
        lds: mean over targets of `per_target`; NaN where no target has one.
        ci: its two-way confidence interval.
        per_target: float64 [n_targets]; NaN where a seed's margins are constant or hold NaN.
        reliability: mean over targets of the reliability of the seeds' mean.
        n_excluded: targets without a ceiling.
        n_seeds: models per subset.
        between: float64 [n_targets], r_j, the mean correlation between two seeds.
        shrinkage: s, the part of a deviation of r_j from the mean that is kept.
        group: [M], the jackknife group of each subset.
        deleted: float64 [n_targets, n_groups], `between` without the subsets of a group.
    """

    lds: float
    ci: tuple[float, float]
    per_target: Floats = field(repr=False)
    reliability: float
    n_excluded: int
    n_seeds: int
    between: Floats = field(repr=False)
    shrinkage: float
    group: npt.NDArray[np.intp] = field(repr=False)
    deleted: Floats = field(repr=False)


def noise_ceiling(repeats: npt.ArrayLike, *, level: float = 0.95) -> Ceiling | None:
    """The noise ceiling from R models per subset that differ only in their seed.

    Per target, r_j is the mean Spearman correlation over subsets between two single seeds. In the units of a normal
    copula, p = 2·sin(π·r/6), the mean of R seeds has the reliability R·p/(1 + (R − 1)·p) (Spearman 1910; Brown 1910),
    and a perfect predictor of the expected margins correlates with that mean by its square root q, which is Spearman's
    (6/π)·asin(q/2). Negative estimates count as zero.

    That formula is steep and concave near zero, where the noise of each r_j would lower the mean over targets. It is
    therefore applied to m + s·(r_j − m), m the mean of the r_j and s² = 1 − (their own subset noise)/(their variance),
    at least 0: values that vary as the true ones do (Louis 1984, "Estimating a population of parameter values using
    Bayes and empirical Bayes methods", J. Am. Stat. Assoc. 79:393). Their noise comes from the influences:
    T/(T − 1)·(mean of the r_j's variances − variance of m).

    The interval is `two_way_interval` of m, each end carried through the formula with s as it is. In simulations
    (`tests/test_coverage.py`) 95% intervals cover 92% to 96% from 50 subsets on, and 90% to 94% with 20.

    Args:
        repeats: [R, M, T], margins of seed, subset, target; may be a memmap.
        level: nominal coverage.

    Returns:
        The ceiling, or None for R = 1, which cannot tell noise from signal.

    Raises:
        InputError: not an array of numbers of three dimensions, or fewer than three subsets.
    """
    array = repeats if isinstance(repeats, np.ndarray) else np.asarray(repeats)
    if array.ndim != 3 or array.dtype.kind not in "biuf":
        raise InputError(
            f"repeats has shape {array.shape} and dtype {array.dtype}; give numbers [seeds, subsets, targets]"
        )
    n_seeds, m, n_targets = array.shape
    if n_seeds == 1:
        return None
    if m < 3 or not n_seeds or not n_targets:
        raise InputError(f"repeats has shape {array.shape}; give at least three subsets and one target")
    from bench.kernels.ranks import blocks, map_blocks

    # Interleaved groups: rows in sequence may come from one worker, hence share what is peculiar to it.
    group = np.arange(m) % min(m, _JACKKNIFE_GROUPS)
    by_group, each = GroupSums(group), GroupSums(np.arange(m))

    def work(block: slice) -> tuple[Floats, Floats, Floats, Floats]:
        r, h = _between_seeds(array[:, :, block])
        return r, by_group.sums(h), each(h), h.sum(axis=0)

    parts = map_blocks(work, blocks(n_targets, m * n_seeds))
    between, left_out, noise = (np.concatenate([part[at] for part in parts]) for at in range(3))
    deleted = between[:, None] - left_out / (m - np.bincount(group))
    kept = np.isfinite(between)
    r = between[kept]
    n_excluded = n_targets - len(r)
    if not len(r):
        nothing = np.full(n_targets, np.nan)
        ci = (np.nan, np.nan)
        return Ceiling(np.nan, ci, nothing, np.nan, n_excluded, n_seeds, between, np.nan, group, deleted)
    influence = sum(part[3] for part in parts) / len(r)
    correction = m / (m - 1)
    of_mean = correction * float(np.square(influence).sum()) / m**2
    shrinkage = _shrinkage(r, of_mean, correction * float(noise[kept].mean()) / m**2)
    reliability, per_target = _attainable(between, r.mean(), shrinkage, n_seeds)
    interval = two_way_interval(r, influence / m, noise[kept] / m**2, level=level)
    shifts = interval.low - r.mean(), interval.high - r.mean()
    low, high = (float(_attainable(r + d, r.mean() + d, shrinkage, n_seeds)[1].mean()) for d in shifts)
    return Ceiling(
        lds=float(per_target[kept].mean()),
        ci=(low, high),
        per_target=per_target,
        reliability=float(reliability[kept].mean()),
        n_excluded=n_excluded,
        n_seeds=n_seeds,
        between=between,
        shrinkage=shrinkage,
        group=group,
        deleted=deleted,
    )


@dataclass(frozen=True)
class Share:
    """An LDS as a share of the noise ceiling.

    Attributes:
        value: LDS over ceiling; above 1 where both are near and noise has it so.
        ci: its two-way confidence interval.
    """

    value: float
    ci: tuple[float, float]


def share_of_ceiling(
    per_target: Floats, group_influence: Floats, ceiling: Ceiling, *, level: float = 0.95
) -> Share | None:
    """What part of the attainable LDS a method reaches: R = mean of L_j over mean of C_j.

    The interval is Fieller's (1954, "Some problems in interval estimation", J. R. Stat. Soc. B 16:175): the R that
    mean(L) − R·mean(C) does not speak against, given the two-way covariance of both means. That is a jackknife over
    groups of subsets that are left out of LDS and ceiling alike, plus the covariance of L_j and C_j over targets less
    what of it is their own subset noise, as in `two_way_interval`: the noise that LDS and ceiling share does not count.
    As there, the result spans the intervals with and without the small-sample bias of Spearman's correlation. In
    simulations 95% intervals cover 94% to 98%; where a reliability of some .1 makes half of the draws have no share,
    those that have one cover less (85% with 20 subsets, 94% with 200).

    Args:
        per_target: [T], L_j, the LDS of each target; NaN where excluded.
        group_influence: [T, G], the influences h_i on L_j (`spearman_influence`) summed over each of `ceiling.group`.
        ceiling: of the same subsets and targets.
        level: nominal coverage.

    Returns:
        The share, or None where the ceiling cannot be told from zero or no target has both.
    """
    kept = np.isfinite(per_target) & np.isfinite(ceiling.between)
    if not kept.any() or not ceiling.ci[0] > 0:
        return None
    m, sizes = len(ceiling.group), np.bincount(ceiling.group)
    own, between, deleted = per_target[kept], ceiling.between[kept], ceiling.deleted[kept]
    own_deleted = own[:, None] - group_influence[kept] / (m - sizes)
    centre, s, seeds = between.mean(), ceiling.shrinkage, ceiling.n_seeds
    best = _attainable(between, centre, s, seeds)[1]
    # Of the mean, the groups move the centre that targets are shrunk to; of a target alone they do not.
    best_deleted = _attainable(deleted, deleted.mean(axis=0), s, seeds)[1]
    covariance = _jackknife(own_deleted.mean(axis=0), best_deleted.mean(axis=0))
    if (n := len(own)) > 1:
        noise = _jackknife(own_deleted, _attainable(deleted, centre, s, seeds)[1])
        covariance = covariance + _positive(np.cov(own, best) / n - noise / n**2)
    shift = small_sample_shift(between, m)
    means = own.mean(), best.mean()
    unbiased = means[0] + small_sample_shift(own, m), _attainable(between + shift, centre + shift, s, seeds)[1].mean()
    step = np.array([1, -means[0] / means[1]]) / means[1]  # of the ratio, in each mean
    stderr = float(np.sqrt(step @ covariance @ step))
    gap = abs(unbiased[0] / unbiased[1] - means[0] / means[1]) / stderr if stderr else 0.0
    t = t_quantile(n, len(sizes), level, gap)
    found = [_fieller(*both, covariance, t) for both in (means, unbiased)]
    if any(ends is None for ends in found):
        return None
    ends = [end for both in found if both is not None for end in both]
    return Share(float(means[0] / means[1]), (min(ends), max(ends)))


def _jackknife(first: Floats, second: Floats) -> Floats:
    """Covariance [2, 2] from replicates [G] without each group; of several pairs [T, G], their sum."""
    n_groups = first.shape[-1]
    both = np.stack([x - x.mean(axis=-1, keepdims=True) for x in (first, second)]).reshape(2, -1)
    return np.asarray((n_groups - 1) / n_groups * both @ both.T)


def _positive(covariance: Floats) -> Floats:
    """The nearest covariance without negative variances in any direction."""
    values, vectors = np.linalg.eigh(covariance)
    return np.asarray(vectors * np.maximum(values, 0) @ vectors.T)


def _fieller(top: float, bottom: float, covariance: Floats, t: float) -> tuple[float, float] | None:
    """Interval of top / bottom; None where the bottom cannot be told from zero, so that it has no end."""
    v = t**2 * covariance
    a, b, c = bottom**2 - v[1, 1], top * bottom - v[0, 1], top**2 - v[0, 0]
    if a <= 0 or bottom <= 0:
        return None
    half = np.sqrt(max(0.0, b**2 - a * c))
    return float((b - half) / a), float((b + half) / a)


def _between_seeds(margins: npt.NDArray[np.generic]) -> tuple[Floats, Floats]:
    """Mean correlation between two seeds [T] and its influences [T, M], from [R, M, T]."""
    from bench.kernels.ranks import correlate_rows

    n_seeds, m, n_targets = margins.shape
    ranks = [rank(np.ascontiguousarray(seed.T, np.float64)) for seed in margins]
    rho, influence = np.zeros(n_targets), np.zeros((n_targets, m))
    one_rho, one_influence = np.empty(n_targets), np.empty((n_targets, m))
    for first in range(n_seeds):
        for second in range(first + 1, n_seeds):
            correlate_rows(ranks[first], ranks[second], one_rho, one_influence)
            rho += one_rho
            influence += one_influence
    influence[np.isnan(rho)] = 0.0
    pairs = n_seeds * (n_seeds - 1) / 2
    return rho / pairs, influence / pairs


def _shrinkage(r: Floats, of_mean: float, of_one: float) -> float:
    """What part of their deviations from the mean makes the r_j vary as the true ones do; of a single one, all."""
    n = len(r)
    if n == 1:
        return 1.0
    variance = float(r.var(ddof=1))
    own = max(0.0, of_one - of_mean) * n / (n - 1)
    return float(np.sqrt(1 - own / variance)) if own < variance else 0.0


def _attainable(r: Floats, centre: Floats | np.float64, shrinkage: float, n_seeds: int) -> tuple[Floats, Floats]:
    """Reliability of the mean of the seeds, and Spearman's correlation of a perfect predictor with it."""
    pearson = 2 * np.sin(np.pi / 6 * np.clip(centre + shrinkage * (r - centre), 0, 1))
    reliability: Floats = np.minimum(1, n_seeds * pearson / (1 + (n_seeds - 1) * pearson))
    return reliability, 6 / np.pi * np.arcsin(np.sqrt(reliability) / 2)
