"""The noise ceiling: the best LDS that anyone could reach against models whose seeds differ, and shares of it."""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from bench.errors import InputError
from bench.stats.intervals import Floats, rank, t_quantile, two_way_stderr

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
        group: [M], the jackknife group of each subset.
        deleted: float64 [n_targets, n_groups], `per_target` without the subsets of a group.
    """

    lds: float
    ci: tuple[float, float]
    per_target: Floats = field(repr=False)
    reliability: float
    n_excluded: int
    group: npt.NDArray[np.intp] = field(repr=False)
    deleted: Floats = field(repr=False)


def noise_ceiling(repeats: npt.ArrayLike, *, level: float = 0.95) -> Ceiling | None:
    """The noise ceiling from R models per subset that differ only in their seed.

    Per target, r is the mean Spearman correlation over subsets between two single seeds; the mean of R seeds then has
    the reliability R·r/(1 + (R − 1)·r) (Spearman 1910; Brown 1910), and a perfect predictor of the expected margins
    correlates with that mean by its square root. Negative estimates count as zero.

    The interval is two-way, as `two_way_interval`, with subsets deleted in groups of equal size. The correlations of
    what is left come from their influences, r − Σ_{i∈g} h_i/(M − |g|), and each goes through the same formula.

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
    sizes = np.bincount(group)

    def work(block: slice) -> tuple[Floats, Floats]:
        rho, left_out = _between_seeds(array[:, :, block], group)
        return rho, rho[:, None] - left_out / (m - sizes)

    parts = map_blocks(work, blocks(n_targets, m * n_seeds))
    rho = np.concatenate([part[0] for part in parts])
    deleted = np.concatenate([part[1] for part in parts])
    reliability, per_target = _spearman_brown(rho, n_seeds)
    kept = np.isfinite(per_target)
    all_deleted = _spearman_brown(deleted, n_seeds)[1]
    values, replicates = per_target[kept], all_deleted[kept]
    if not len(values):
        return Ceiling(np.nan, (np.nan, np.nan), per_target, np.nan, n_targets, group, all_deleted)
    stderr = _jackknife_stderr(values, replicates)
    mean = float(values.mean())
    half = t_quantile(len(values), len(sizes), level) * stderr
    return Ceiling(
        lds=mean,
        ci=(max(0.0, mean - half), min(1.0, mean + half)),
        per_target=per_target,
        reliability=float(reliability[kept].mean()),
        n_excluded=int(n_targets - kept.sum()),
        group=group,
        deleted=all_deleted,
    )


def _jackknife_stderr(values: Floats, replicates: Floats) -> float:
    """Two-way standard error of the mean of `values` [T], from replicates [T, G] without each group of subsets."""
    n_groups = replicates.shape[1]
    scale = (n_groups - 1) / n_groups
    means = replicates.mean(axis=0)
    within = scale * np.square(replicates - replicates.mean(axis=1, keepdims=True)).sum(axis=1)
    return two_way_stderr(values, scale * float(np.square(means - means.mean()).sum()), within)


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

    The interval is that of the linearised ratio (Fieller's setting by the delta method; Cochran 1977, "Sampling
    techniques", 6.4), u_j = (L_j − R·C_j)/mean(C), whose two-way variance is taken as for the ceiling, the same groups
    of subsets deleted from both: the noise that LDS and ceiling share does not count.

    Args:
        per_target: [T], L_j, the LDS of each target; NaN where excluded.
        group_influence: [T, G], the influences h_i on L_j (`spearman_influence`) summed over each of `ceiling.group`.
        ceiling: of the same subsets and targets.
        level: nominal coverage.

    Returns:
        The share, or None where the ceiling cannot be told from zero or no target has both.
    """
    kept = np.isfinite(per_target) & np.isfinite(ceiling.per_target)
    if not kept.any() or not ceiling.ci[0] > 0:
        return None
    sizes = np.bincount(ceiling.group)
    own, best = per_target[kept], ceiling.per_target[kept]
    own_deleted = own[:, None] - group_influence[kept] / (len(ceiling.group) - sizes)
    ratio, scale = own.mean() / best.mean(), best.mean()
    stderr = _jackknife_stderr((own - ratio * best) / scale, (own_deleted - ratio * ceiling.deleted[kept]) / scale)
    half = t_quantile(len(own), len(sizes), level) * stderr
    return Share(float(ratio), (float(ratio - half), float(ratio + half)))


def _between_seeds(margins: npt.NDArray[np.generic], group: npt.NDArray[np.intp]) -> tuple[Floats, Floats]:
    """Mean correlation between two seeds [T], and its influences summed by group [T, groups], from [R, M, T]."""
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
    pairs = n_seeds * (n_seeds - 1) / 2
    sums = np.zeros((n_targets, int(group.max()) + 1))
    for label in range(sums.shape[1]):
        sums[:, label] = influence[:, group == label].sum(axis=1)
    return rho / pairs, sums / pairs


def _spearman_brown(r: Floats, n_seeds: int) -> tuple[Floats, Floats]:
    """Reliability of the mean of the seeds, and its square root."""
    positive = np.where(np.isnan(r), np.nan, np.clip(r, 0, 1))
    reliability: Floats = n_seeds * positive / (1 + (n_seeds - 1) * positive)
    return reliability, np.sqrt(reliability)
