"""What chance reaches: the distribution of an LDS when the eval subsets' margins are dealt out at random."""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from bench.errors import InputError
from bench.stats.intervals import Floats

_MAX_BYTES = 256 << 20
_ROUNDING = 1e-6  # of float32 products: a permutation that leaves everything in place must count

Ranks = npt.NDArray[np.int32]


@dataclass(frozen=True)
class Null:
    """The permutation distribution of one LDS.

    Attributes:
        p_value: two-sided, (1 + #{|permuted| ≥ |observed|})/(1 + permutations); NaN where no target has a correlation.
        stderr: standard deviation over all permutations, exact.
        ci: the middle 95% of the permutations drawn.
        draws: float64 [permutations].
    """

    p_value: float
    stderr: float
    ci: tuple[float, float]
    draws: Floats = field(repr=False)


def permutation_null(
    x: Ranks,
    y: Ranks,
    kept: npt.NDArray[np.bool_] | None = None,
    *,
    permutations: int = 9_999,
    seed: int = 0,
    max_bytes: int = _MAX_BYTES,
) -> Null:
    """Permutation test of a mean of Spearman correlations over targets that share their subsets.

    Subsets are exchangeable when the scores say nothing about them (Pitman 1937; Good 2005, "Permutation, parametric
    and bootstrap tests of hypotheses", ch. 3). Whole subsets change places, all targets at once, so the dependence
    between targets stays in the null, for the predictions as for the margins. With centred ranks scaled to length one,
    the statistic under a permutation π is Σ_i K[i, π(i)], K = (1/T) Σ_j x_j y_jᵀ: one product serves all permutations.
    Its mean over all of them is 0 and its variance Σ K²/(M − 1).

    Args:
        x: int32 [T, M], centred ranks of the predictions (`bench.stats.intervals.rank`); zeros where there are none.
        y: the same of the margins. Subsets of one mask must not stand in several columns.
        kept: bool [T], the targets that the mean is over; by default those with ranks of both. Of them, those
            without ranks count as 0.
        permutations: how many are drawn.
        seed: of the draws, which depend on it and on M alone: methods meet the same permutations.
        max_bytes: bound on temporaries.

    Raises:
        InputError: the shapes differ, or there are fewer than two subsets or one permutation.
    """
    if x.shape != y.shape or x.ndim != 2 or x.shape[1] < 2:
        raise InputError(f"x has shape {x.shape} and y {y.shape}; give equal shapes with at least two subsets")
    if permutations < 1:
        raise InputError(f"permutations is {permutations}; draw at least one")
    from bench.kernels.ranks import blocks, map_blocks
    from bench.kernels.shuffle import add_permuted

    both = x.any(axis=1) & y.any(axis=1)
    n_kept = int((both if kept is None else kept).sum())
    m = x.shape[1]
    if not n_kept:
        return Null(np.nan, np.nan, (np.nan, np.nan), np.full(permutations, np.nan))
    used = np.flatnonzero(both if kept is None else both & kept)
    lengths = np.sqrt(_squares(x, used) * _squares(y, used)) * n_kept
    draws, observed, square = np.zeros(permutations), 0.0, 0.0
    parts = blocks(permutations, m)
    # Half for the product and what is added to it, half for the ranks of both in both types.
    rows, step = max(1, min(m, max_bytes // (16 * m))), max(1, max_bytes // (32 * m))
    for first in range(0, m, rows):
        product = np.zeros((min(rows, m - first), m), np.float32)
        for at in range(0, len(used), step):
            some = used[at : at + step]
            scaled = x[some, first : first + rows].astype(np.float32)
            scaled /= lengths[at : at + step, None]
            product += scaled.T @ y[some].astype(np.float32)
        here = np.arange(len(product))
        observed += float(product[here, first + here].sum(dtype=np.float64))
        square += float(sum(np.square(row, dtype=np.float64).sum() for row in product))

        def work(part: slice, first: int = first, product: npt.NDArray[np.float32] = product) -> None:
            add_permuted(product, first, seed, part.start, draws[part])

        map_blocks(work, parts)
    extreme = int((np.abs(draws) >= abs(observed) - _ROUNDING).sum())
    low, high = np.quantile(draws, [0.025, 0.975])
    return Null((1 + extreme) / (1 + permutations), float(np.sqrt(square / (m - 1))), (float(low), float(high)), draws)


def _squares(ranks: Ranks, used: npt.NDArray[np.intp]) -> Floats:
    return np.array([float(row @ row) for row in (ranks[j].astype(np.float64) for j in used)])
