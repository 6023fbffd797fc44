"""The rows that judge, and the verdict on a score matrix: LDS, its place between chance and ceiling, its spread."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.scorer import LDS, MarginRanks, Trace, lds, summarise
from bench.stats import (
    Ceiling,
    Difference,
    Null,
    Sample,
    Share,
    Spread,
    holm,
    letters,
    noise_ceiling,
    paired_difference,
    permutation_null,
    rank_intervals,
    share_of_ceiling,
    spread_over_targets,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bench.store import Rows
    from bench.subsets import Protocol

PERMUTATIONS = 9_999
_MOST_DRAWN = 40_000_000  # numbers in all permutations together: fewer are drawn where subsets are many
_SAME_SEED = "every model has the same seed, so that nothing of its margins is noise"
_ONE_SEED = "one seed per subset cannot tell noise from signal: train with --repeats 2 or more"
_CONSTANT = "no target's margins vary over the subsets"
_FEW_SUBSETS = "fewer than three eval subsets: train more models"


@dataclass(frozen=True)
class Verdict:
    """What is said of one method.

    Attributes:
        lds: the score, with its interval.
        sample: what comparisons with other methods need.
        null: what chance would reach with these predictions.
        share: of the ceiling; None without one.
        spread: over targets.
        one_seed: the score against a single model per subset, the first of its seeds; None where there is but one.
    """

    lds: LDS
    sample: Sample = field(repr=False)
    null: Null = field(repr=False)
    share: Share | None
    spread: Spread
    one_seed: LDS | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Judge:
    """The rows that judge: one margin per eval subset and target, the mean over the subset's seeds.

    Attributes:
        masks: bool `[subsets, n_train]`; margins: float32 `[subsets, n_targets]`; ranks: of the margins.
        ceiling: from the seeds' agreement; None with one seed. why_no_ceiling: then the reason.
        labels: int `[n_targets]`, the targets' classes; None where they are not known.
        first: ranks of the margins of the first seeds alone; None where there is but one.
    """

    masks: NDArray[np.bool_]
    margins: NDArray[np.float32]
    ranks: MarginRanks = field(repr=False)
    ceiling: Ceiling | None
    why_no_ceiling: str | None = None
    labels: NDArray[np.int64] | None = None
    first: MarginRanks | None = field(default=None, repr=False)

    @classmethod
    def of(
        cls,
        rows: Rows,
        repeats: int,
        labels: NDArray[np.int64] | None = None,
        protocol: Protocol = "expectation",
    ) -> Judge:
        """From eval rows, the seeds of a subset next to each other."""
        by_seed = rows.margins.reshape(len(rows) // repeats, repeats, -1)
        with np.errstate(invalid="ignore"):  # ∞ − ∞ is NaN, and such a target is excluded
            margins = by_seed.mean(1)
        one = _ONE_SEED if protocol == "expectation" else _SAME_SEED
        why = one if repeats == 1 else _FEW_SUBSETS if len(margins) < 3 else None
        ceiling = None if why else noise_ceiling(by_seed.swapaxes(0, 1))
        if ceiling is not None and not np.isfinite([ceiling.lds, *ceiling.ci]).all():
            ceiling, why = None, _CONSTANT
        first = None if repeats == 1 else MarginRanks.of(by_seed[:, 0])
        return cls(rows.masks[::repeats], margins, MarginRanks.of(margins), ceiling, why, labels, first)

    def score(self, scores: NDArray[Any]) -> LDS:
        """LDS of a score matrix; a target that it says nothing on counts as 0."""
        return lds(scores, self.masks, self.margins, ranks=self.ranks, undefined="zero")

    def verdict(self, scores: NDArray[Any], *, permutations: int = PERMUTATIONS) -> Verdict:
        """All that is said of a score matrix.

        Args:
            scores: `[n_train, n_targets]`.
            permutations: at most so many are drawn: fewer, but not under 999, where subsets are beyond 4,000.
        """
        n_targets, m = self.ranks.ranks.shape
        trace = Trace(n_targets, m, None if self.ceiling is None else self.ceiling.group)
        found = lds(scores, self.masks, self.margins, ranks=self.ranks, undefined="zero", trace=trace)
        kept = np.isfinite(found.per_target)
        drawn = min(permutations, max(999, _MOST_DRAWN // m))
        labels = np.zeros(n_targets, np.int64) if self.labels is None else self.labels
        return Verdict(
            lds=found,
            sample=Sample(found.per_target, found.influence, trace.sketch),
            null=permutation_null(trace.ranks, self.ranks.ranks, kept, permutations=drawn),
            share=None if self.ceiling is None else share_of_ceiling(found.per_target, trace.grouped, self.ceiling),
            spread=spread_over_targets(found.per_target, labels, self.variance),
            one_seed=None if self.first is None else one_seed(trace.ranks, self.first),
        )

    @property
    def variance(self) -> NDArray[np.float64]:
        """Of each target's margin over subsets [n_targets]; NaN where margins are not finite."""
        with np.errstate(invalid="ignore"):
            variance: NDArray[np.float64] = self.margins.var(axis=0, dtype=np.float64)
        return variance

    def control(self, seed: int) -> Verdict:
        """The verdict on independent normal scores: where chance stands on this ground truth."""
        rng = np.random.default_rng([seed, 7])
        return self.verdict(rng.standard_normal((self.masks.shape[1], self.margins.shape[1]), np.float32))


def one_seed(predicted: NDArray[np.int32], margins: MarginRanks) -> LDS:
    """LDS against a single model per subset, as most published figures are, of predictions whose ranks are known.

    Args:
        predicted: int32 `[n_targets, n_subsets]`, as `bench.scorer.Trace.ranks`; a row of zeros says nothing and counts
            as 0.
        margins: of one model per subset; no two subsets are the same.
    """
    from bench.kernels import ranks as kernel

    n_targets, m = predicted.shape
    rho, noise, total = np.full(n_targets, np.nan), np.zeros(n_targets), np.zeros(m)
    parts = kernel.blocks(n_targets, m)
    space = kernel.Workspace(parts, m)

    def work(block: slice) -> NDArray[np.float64]:
        h = space.influence[: block.stop - block.start]
        kernel.correlate_rows(predicted[block], margins.ranks[block], rho[block], h)
        noise[block] = np.square(h).sum(axis=1)
        made: NDArray[np.float64] = h.sum(axis=0)
        return made

    for part in kernel.map_blocks(work, parts):
        total += part
    silent = np.where((predicted == 0).all(axis=1), kernel.CONSTANT, 0).astype(np.uint8)
    fine = np.zeros(n_targets, np.uint8)
    return summarise(rho, total, noise, fine, margins.kinds, silent, np.arange(m), 0.95, "zero")


@dataclass(frozen=True)
class Ranking:
    """How far the order of methods is known.

    Attributes:
        pairs: positions (i, j), i before j, with the difference of j from i and its p-value after Holm's correction.
        ranks: [k] best and worst rank that each may have.
        groups: [k] letters: methods that share one cannot be told apart.
    """

    pairs: list[tuple[int, int, Difference, float]]
    ranks: list[tuple[int, int]]
    groups: list[str]


def ranking(means: Sequence[float], samples: Sequence[Sample], *, level: float = 0.95) -> Ranking:
    """Compare all pairs of methods on the same subsets and targets.

    Args:
        means: LDS of each method, best first.
        samples: of the same methods.
        level: simultaneous coverage of the rank intervals; pairs are told apart below 1 − level.
    """
    k = len(means)
    found = [(i, j, paired_difference(samples[i], samples[j], level=level)) for i in range(k) for j in range(i + 1, k)]
    adjusted = holm([difference.p_value for *_, difference in found])
    differ = np.zeros((k, k), bool)
    for (i, j, _), p in zip(found, adjusted, strict=True):
        differ[i, j] = differ[j, i] = p < 1 - level
    pairs = [(*one, float(p)) for one, p in zip(found, adjusted, strict=True)]
    return Ranking(pairs, rank_intervals(means, differ), letters(differ))
