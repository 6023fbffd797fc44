"""Which subset and which seed each row has, and which rows fit, tune and judge.

All of it is a function of the row's number, never of how many rows there are or who trains them: a ground truth
that grows keeps its rows. The rows come in periods of `11 + 2·repeats`: two eval subsets (each trained with
`repeats` seeds), one tune row and ten fit rows; 1,500 rows with two repeats are 200 eval subsets × 2, 100 tune rows
and 1,000 fit rows. Once there are enough eval subsets (tune rows), all that would be more of them are fit rows.
With `judge_only` there is nothing but eval subsets, `repeats` rows each.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import comb, lgamma, log
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from bench.errors import BenchError

if TYPE_CHECKING:
    from numpy.typing import NDArray

Group = Literal["fit", "tune", "eval"]
Sampling = Literal["exact", "bernoulli"]
Protocol = Literal["expectation", "single-model"]
PROTOCOLS: tuple[str, ...] = get_args(Protocol)
_MOST_ROWS = 10**9
_MASK, _MODEL = 0, 1  # streams of one root seed
CHECKPOINT = 2


@dataclass(frozen=True)
class Plan:
    """The roles of `n_rows` rows.

    Attributes:
        n_rows: subset models in all.
        repeats: seeds per eval subset.
        eval_subsets: at most so many eval subsets.
        tune_rows: at most so many tune rows.
        judge_only: all rows are eval rows, for methods that fit nothing; the two limits do not count.
    """

    n_rows: int
    repeats: int = 2
    eval_subsets: int = 200
    tune_rows: int = 100
    judge_only: bool = False

    def __post_init__(self) -> None:
        """Refuse plans that cannot judge anything.

        Raises:
            BenchError: a count out of range, or fewer than two whole eval subsets or one fit row.
        """
        if self.repeats < 1:
            raise BenchError(f"--repeats is {self.repeats}: each eval subset needs at least one seed")
        if self.eval_subsets < 2:
            raise BenchError(f"--eval-subsets is {self.eval_subsets}: a rank correlation needs at least 2")
        if self.tune_rows < 0:
            raise BenchError(f"--tune-rows is {self.tune_rows}: it cannot be negative")
        if self.n_rows > _MOST_ROWS:
            raise BenchError(f"--models is {self.n_rows}: more than {_MOST_ROWS} are not planned for")
        if self.judge_only and (self.n_rows < self.smallest or self.n_rows % self.repeats):
            raise BenchError(
                f"--models is {self.n_rows}: with --judge-only it is at least two subsets × {self.repeats} seeds each, "
                f"and a multiple of {self.repeats}"
            )
        if self.n_rows < self.smallest:
            raise BenchError(
                f"--models is {self.n_rows}: with {self.repeats} seeds per eval subset it takes at least "
                f"{self.smallest} rows to have two eval subsets and fit rows"
            )

    @property
    def smallest(self) -> int:
        """Rows up to the end of the second eval subset."""
        return 2 * self.repeats + (0 if self.judge_only else 5)

    def layout(self) -> tuple[NDArray[np.int64], NDArray[np.int8]]:
        """`subset_of_row` (the first row that has the same mask) and the group of each row (index into GROUPS)."""
        if self.judge_only:
            subset = np.arange(self.n_rows) // self.repeats * self.repeats
            return subset.astype(np.int64), np.full(self.n_rows, GROUPS.index("eval"), np.int8)
        period = 11 + 2 * self.repeats
        within = np.arange(self.n_rows) % period
        turn = np.arange(self.n_rows) // period
        second = self.repeats + 5
        in_first, in_second = within < self.repeats, (within >= second) & (within < second + self.repeats)
        subset_number = 2 * turn + in_second
        is_eval = (in_first | in_second) & (subset_number < self.eval_subsets)
        is_tune = (within == second + self.repeats) & (turn < self.tune_rows)
        group = np.where(is_eval, GROUPS.index("eval"), np.where(is_tune, GROUPS.index("tune"), GROUPS.index("fit")))
        start = turn * period + np.where(in_second, second, 0)
        subset = np.where(is_eval, start, np.arange(self.n_rows))
        # An eval subset whose seeds the end cuts off would have fewer repeats than the others: its rows fit.
        cut = is_eval & (start + self.repeats > self.n_rows)
        group[cut] = GROUPS.index("fit")
        return subset.astype(np.int64), group.astype(np.int8)


GROUPS: tuple[Group, ...] = ("fit", "tune", "eval")


def subset_size(n_train: int, alpha: float) -> int:
    """Examples kept: round(alpha·n_train).

    Raises:
        BenchError: alpha outside (0, 1), or nothing or everything kept.
    """
    size = round(alpha * n_train) if 0 < alpha < 1 else 0
    if not 0 < size < n_train:
        raise BenchError(f"--alpha is {alpha}: it must keep some but not all of {n_train} training examples")
    return size


def kept(seed: int, subset: int, n_train: int, alpha: float, sampling: Sampling = "exact") -> NDArray[np.int64]:
    """Sorted indices of the examples that subset number `subset` keeps.

    The subset of a smaller alpha is part of the same number's subset of a larger one: what changes between the
    ground truths of several alphas is then the alpha, not the luck of the draw.

    Args:
        seed: root seed.
        subset: its number.
        n_train: training examples.
        alpha: kept fraction.
        sampling: `exact` keeps exactly `subset_size` examples, `bernoulli` each with probability alpha.
    """
    rng = np.random.default_rng(np.random.SeedSequence([seed, _MASK, subset]))
    if sampling == "bernoulli":
        return np.flatnonzero(rng.random(n_train) < alpha)
    chosen = rng.permutation(n_train)[: subset_size(n_train, alpha)]
    chosen.sort()
    return chosen


def masks(
    seed: int, subset_of_row: NDArray[np.int64], n_train: int, alpha: float, sampling: Sampling = "exact"
) -> NDArray[np.bool_]:
    """The masks of some rows, bool `[len(subset_of_row), n_train]`."""
    made = np.zeros((len(subset_of_row), n_train), np.bool_)
    for i, subset in enumerate(subset_of_row):
        made[i, kept(seed, int(subset), n_train, alpha, sampling)] = True
    return made


def check_classes(
    seed: int,
    subset_of_row: NDArray[np.int64],
    labels: NDArray[np.int64],
    alpha: float,
    sampling: Sampling = "exact",
    *,
    allow_empty: bool = False,
) -> None:
    """Refuse subsets that keep no example of a class: their models cannot know it.

    With `allow_empty` those alone that keep no example at all.

    Subsets are drawn and looked at only where classes are so rare that one could be missing.

    Raises:
        BenchError: there is such a subset.
    """
    if allow_empty:
        if sampling == "exact":
            return
        labels = np.zeros_like(labels)
    classes, counts = np.unique(labels, return_counts=True)
    # Each class is missed with probability (1 − α)^count; with exactly so many kept, with less.
    if len(subset_of_row) * ((1 - alpha) ** counts).sum() < 1e-9:
        return
    for subset in np.unique(subset_of_row):
        there = np.bincount(labels[kept(seed, int(subset), len(labels), alpha, sampling)], minlength=classes[-1] + 1)
        missing = classes[there[classes] == 0]
        if len(missing) and allow_empty:
            raise BenchError(f"the subset of row {subset} keeps no example at all: raise --alpha from {alpha}")
        if len(missing):
            of = counts[classes == missing[0]][0]
            raise BenchError(
                f"the subset of row {subset} keeps none of the {of} training examples of class {missing[0]}: raise "
                f"--alpha from {alpha}, leave that class out of the dataset, or let it be with --allow-empty-classes"
            )


def check_distinct(seed: int, plan: Plan, n_train: int, alpha: float) -> None:
    """Refuse subsets of exact size of which rows of two groups have the same: what is fitted on would judge.

    Subsets are drawn and looked at only where there are so few that this could happen.

    Raises:
        BenchError: there are such rows.
    """
    subset_of_row, group_of_row = plan.layout()
    size = subset_size(n_train, alpha)
    logarithm = lgamma(n_train + 1) - lgamma(size + 1) - lgamma(n_train - size + 1)
    if logarithm > 2 * log(plan.n_rows) + log(1e9):
        return
    possible = comb(n_train, size)
    first: dict[bytes, int] = {}
    for row, subset in enumerate(subset_of_row):
        other = first.setdefault(kept(seed, int(subset), n_train, alpha).tobytes(), row)
        if group_of_row[other] != group_of_row[row]:
            mine, its = GROUPS[group_of_row[row]], GROUPS[group_of_row[other]]
            raise BenchError(
                f"{mine} row {row} would have the same subset as {its} row {other}, since {n_train} examples have only "
                f"{possible:,} subsets of {size}: take another --alpha than {alpha}, another --seed or fewer --models"
            )


def model_seed(seed: int, row: int, protocol: Protocol = "expectation") -> np.random.SeedSequence:
    """What initialisation and batch order of row `row` come from.

    By the protocol `expectation` every row has a seed of its own; by `single-model` all have that of checkpoint 0,
    which is then what the rows would be with every example kept.
    """
    return np.random.SeedSequence([seed, _MODEL, row]) if protocol == "expectation" else checkpoint_seed(seed, 0)


def checkpoint_seed(seed: int, number: int) -> np.random.SeedSequence:
    """The same for full-set checkpoint `number`: a stream of its own, so that no method shares a model with a row.

    (By the protocol `single-model` the rows share the seed of checkpoint 0, not its examples.)
    """
    return np.random.SeedSequence([seed, CHECKPOINT, number])
