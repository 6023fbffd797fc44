"""Conflicting subpopulations: clusters of training examples that lower the margins of clusters of targets.

Clusters that were made from some scores differ in those scores even where there is nothing but noise. So clusters of
targets are made from one half of the training examples, those of training examples from one half of the targets, and
both are compared in the scores of the other halves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import stats

from bench.explore.clusters_document import Change, Check
from bench.explore.retraining import margins_without
from bench.stats.student import student

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bench.explore.clusters import Group
    from bench.progress import Progress
    from bench.recipes import Output
    from bench.train import Trainer

SHUFFLES = 1000
LEVEL = 0.05
_SLAB = 1024
_HALF, _SHUFFLE, _DRAWN = 81, 82, 83  # streams of the seed
SETS = 6


def halves(groups: Sequence[NDArray[np.int64]], count: int, seed: int, stream: int) -> NDArray[np.bool_]:
    """A random half of each group, bool `[count]`; of an odd one the smaller half."""
    rng = np.random.default_rng([seed, _HALF, stream])
    made = np.zeros(count, bool)
    for members in groups:
        made[rng.permutation(members)[: len(members) // 2]] = True
    return made


@dataclass(frozen=True)
class Pair:
    """Two clusters, by their positions.

    Attributes:
        train: which of training examples; targets: which of targets.
        pairs, elsewhere, mean, expected, z, p: as in `clusters_document.Conflict`.
    """

    train: int
    targets: int
    pairs: int
    elsewhere: float | None
    mean: float
    expected: float
    z: float
    p: float


@dataclass(frozen=True)
class Side:
    """Clusters of one side, in the half that they were not made from.

    Attributes:
        at: rows (or columns) of the scores, ascending.
        cluster: of each; group: of each, within which memberships are shuffled.
        owner: the group of each cluster, int64 `[count]`.
    """

    at: NDArray[np.int64]
    cluster: NDArray[np.int64]
    group: NDArray[np.int64]
    owner: NDArray[np.int64]

    @classmethod
    def of(cls, groups: Sequence[Group], half: NDArray[np.bool_]) -> Side:
        """Clusters are numbered on from group to group; `half` is what is looked at."""
        at, cluster, group, owner = [], [], [], list[int]()
        for number, one in enumerate(groups):
            mine = half[one.members]
            at.append(one.members[mine])
            cluster.append(one.cluster[mine] + len(owner))
            group.append(np.full(int(mine.sum()), number))
            owner += [number] * (int(one.cluster.max()) + 1)
        joined = np.concatenate(at)
        order = np.argsort(joined, kind="stable")
        return cls(joined[order], np.concatenate(cluster)[order], np.concatenate(group)[order], np.array(owner))

    def means(self, values: NDArray[np.float64], cluster: NDArray[np.int64] | None = None) -> NDArray[np.float64]:
        """Mean of each cluster `[count, …]` of values `[len(at), …]`; NaN of one without members here."""
        cluster = self.cluster if cluster is None else cluster
        member = (cluster[None] == np.arange(self.count)[:, None]).astype(np.float64)
        sizes = self.sizes
        made: NDArray[np.float64] = (member @ values) / np.where(sizes > 0, sizes, np.nan)[:, None]
        return made

    @property
    def count(self) -> int:
        """Clusters."""
        return len(self.owner)

    @property
    def sizes(self) -> NDArray[np.int64]:
        """Members here of each cluster."""
        return np.bincount(self.cluster, minlength=self.count)

    def shuffled(self, rng: np.random.Generator) -> NDArray[np.int64]:
        """The clusters of each group's members in random order."""
        made = np.empty_like(self.cluster)
        for number in np.unique(self.group):
            mine = self.group == number
            made[mine] = rng.permutation(self.cluster[mine])
        return made


def conflicting(
    scores: NDArray[np.floating], train: Side, targets: Side, seed: int, shuffles: int = SHUFFLES
) -> tuple[list[Pair], int]:
    """Pairs of clusters whose mean score is below 0, and below what random memberships give.

    Memberships of training examples are shuffled within their groups, so that what is compared is a cluster with as
    many random training examples of the same class. In units of the standard deviation over shuffles, a pair's mean is
    compared with the most extreme of all pairs in each shuffle, so that p is of all pairs together (Westfall and Young
    1993, single-step minP).

    Args:
        scores: `[n_train, n_targets]`.
        train: clusters of training examples.
        targets: clusters of targets.
        seed: of the shuffles.
        shuffles: how many.

    Returns:
        Pairs with p ≤ 0.05 and a mean below 0, the most negative first; and how many were looked at.
    """
    values = np.empty((len(train.at), targets.count))  # mean of each training example's scores in each cluster
    for at in range(0, len(values), _SLAB):
        slab = np.asarray(scores[train.at[at : at + _SLAB]], np.float64)[:, targets.at]
        values[at : at + _SLAB] = targets.means(slab.T).T
    means = train.means(values)
    looked_at = np.isfinite(means)
    values = np.where(np.isfinite(values), values, 0)
    rng = np.random.default_rng([seed, _SHUFFLE])
    drawn = np.stack([train.means(values, train.shuffled(rng)) for _ in range(shuffles)])
    expected, spread = drawn.mean(axis=0), drawn.std(axis=0)
    # A cluster that is its whole group has no other memberships: it cannot be beyond chance.
    usable = looked_at & (spread > 1e-9 * np.abs(means).max(initial=0, where=looked_at))
    z = np.full(means.shape, np.inf)
    z[usable] = (means - expected)[usable] / spread[usable]
    lowest = np.sort(((drawn - expected)[:, usable] / spread[usable]).min(axis=1, initial=np.inf))
    p = (1 + np.searchsorted(lowest, z, side="right")) / (shuffles + 1)
    total, sizes = np.where(looked_at, means, 0) * targets.sizes, targets.sizes
    found = []
    for a, b in np.argwhere(usable & (means < 0) & (p <= LEVEL)):
        rest = (targets.owner == targets.owner[b]) & looked_at[a]
        rest[b] = False
        others = float(total[a, rest].sum() / sizes[rest].sum()) if sizes[rest].any() else None
        pairs = int(train.sizes[a] * sizes[b])
        numbers = (float(table[a, b]) for table in (means, expected, z, p))
        found.append(Pair(int(a), int(b), pairs, others, *numbers))
    return sorted(found, key=lambda one: (one.mean, one.train, one.targets)), int(looked_at.sum())


def checked(
    trainer: Trainer,
    pairs: Sequence[tuple[NDArray[np.int64], NDArray[np.int64]]],
    seeds: Sequence[np.random.SeedSequence],
    root_seed: int,
    output: Output,
    progress: Progress,
    sets: int = SETS,
) -> tuple[list[Check], int]:
    """Models without the training clusters, beside models without as many random examples of the same classes.

    Args:
        trainer: of the setting.
        pairs: training examples that are removed, and targets whose mean margin is looked at.
        seeds: what the models of each set come from.
        root_seed: what random sets come from.
        output: which margin.
        progress: where to say how far it is.
        sets: random sets of each training cluster.

    Returns:
        A check of each pair, and how many models were trained.

    Raises:
        InputError: a cluster is all there is to train on.
    """
    labels = trainer.data.train_y
    groups: list[NDArray[np.int64]] = [np.empty(0, np.int64)]
    place: dict[bytes, int] = {}
    for number, (removed, _) in enumerate(pairs):
        if removed.tobytes() in place:
            continue
        place[removed.tobytes()] = len(groups)
        groups.append(removed)
        rng = np.random.default_rng([root_seed, _DRAWN, number])
        groups += [_alike(removed, labels, rng) for _ in range(sets)]
    what = "retraining without clusters"
    found = margins_without(trainer, groups, seeds, root_seed, progress, what, output=output)
    made = []
    for removed, targets in pairs:
        at = place[removed.tobytes()]
        mean = np.asarray(found[:, :, targets], np.float64).mean(axis=2)
        full, without, random = mean[0], mean[at], mean[at + 1 : at + 1 + sets]
        made.append(
            Check(
                removed=len(removed),
                seeds=len(seeds),
                sets=sets,
                rise=_over_seeds(without - full),
                random=_over_both(random - full),
                difference=_over_both(without - random),
            )
        )
    return made, len(groups) * len(seeds)


def _alike(removed: NDArray[np.int64], labels: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """As many random examples, as many of each class."""
    classes, counts = np.unique(labels[removed], return_counts=True)
    picked = [
        rng.permutation(np.flatnonzero(labels == label))[:count] for label, count in zip(classes, counts, strict=True)
    ]
    return np.sort(np.concatenate(picked))


def _over_seeds(values: NDArray[np.float64]) -> Change:
    """Mean of `[seeds]`, those that diverged left out, with the interval of Student's t."""
    return averaged(values[np.isfinite(values)])


def averaged(values: NDArray[np.float64]) -> Change:
    """Mean with its 95% interval of Student's t; without one where there is but one value."""
    mean, _, ci = student(values)
    return Change(mean=mean, ci=ci)


def _over_both(values: NDArray[np.float64]) -> Change:
    """Mean of `[sets, seeds]` with an interval for other sets and other seeds.

    Its variance is that of the means of sets over the number of sets, plus that of the means of seeds over the number
    of seeds: somewhat too large, since both hold what is left of either. Degrees of freedom are those of the fewer.
    """
    values = values[:, np.isfinite(values).all(axis=0)]
    if not values.size:
        return Change(mean=None)
    mean = float(values.mean())
    if min(values.shape) < 2:
        return Change(mean=mean)
    variance = sum(float(values.mean(axis=axis).var(ddof=1)) / values.shape[1 - axis] for axis in (0, 1))
    half = float(stats.t.ppf(0.975, min(values.shape) - 1)) * variance**0.5
    return Change(mean=mean, ci=(mean - half, mean + half))
