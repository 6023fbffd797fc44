"""Brittleness: how few training examples must go for the model to misclassify a target (Ilyas et al. 2022, sec. 4.1).

The flip that scores predict: the mean margin of full-set models, less the sum of the k highest positive scores, is
below 0; the smallest such k is predicted. What is verified: models trained without these k examples misclassify the
target on average over seeds. Flips are told by the max margin (true class's logit less the greatest other), whose sign
is whether the answer is right, whichever margin the scores are of.

Beside each predicted k stand as many random examples, and as many random ones of the target's class where that is at
most half of it: models that hardly know a class misclassify it whichever of its examples are gone. Then the smallest
size of a grid whose removal flips the target is searched for each method by bisection, starting from what is known of
its k. A target counts as flipped by removing at most a size where some removal of at most that size, the k highest of
a prefix, did flip it: what is reported is what was seen, and at least that many targets can be flipped.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from bench.errors import BenchError, InputError
from bench.explore import asked, calibration, choice
from bench.explore.document import Finding, about, finite
from bench.explore.flips_document import OF_CLASS, Brittleness, Case, Curve, Flips, Point, Reference, Tried
from bench.explore.flips_document import SIZES as SIZES
from bench.explore.retraining import margins_without, models_of, starts
from bench.explore.shares import Share
from bench.wording import counted

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bench.explore.subject import Scored, Subject
    from bench.train import Trainer

COUNT, SEEDS, MOST = 100, 5, 0.2
_FULL = 20  # models of the full training set
_DRAWS, _CLASS_DRAWS = 5, 2  # nested random groups at the grid's sizes, in all and per class
_METHODS = 5
_PICK, _RANDOM, _CLASS, _GRID = 17, 18, 19, 20  # streams of the root seed
_WHAT = "explore brittleness trains models"


def brittleness(
    subject: Subject,
    *,
    targets: Sequence[int] | None = None,
    count: int = COUNT,
    seeds: int | None = None,
    sizes: Sequence[float] = SIZES,
    most: float = MOST,
    seed: int = 0,
) -> Finding[Brittleness]:
    """Predict which removals flip targets, and train models without them.

    Args:
        subject: with examples; of its methods the leading five are looked at.
        targets: which; by default `count` random ones of those that full-set models classify rightly on average.
        count: of targets.
        seeds: models per group, 5 by default.
        sizes: shares of the training set, at which the smallest removal that flips is searched.
        most: share of the training set; targets whose predicted k is above count as not flipped.
        seed: of models, targets and random groups.

    Raises:
        BenchError: values out of range, no scores, no examples.
        InputError: no target is left; one that was asked for is not there, or has scores that are not finite; a
            negative seed.
    """
    begun = time.perf_counter()
    asked.root_seed(seed)
    trainer = subject.trainer(_WHAT)
    subject.scored("explore brittleness predicts flips by scores")
    methods = subject.leading(_METHODS)
    each = models_of(subject, seeds, SEEDS)
    if count < 1:
        raise BenchError(f"--count is {count}: at least one target is needed")
    if not 0 < most < 1:
        raise BenchError(f"--most is {most:g}: it is a share of the training set between 0 and 1")
    grid = asked.counts(sizes, subject.n_train)
    known = {one.name: one.known() for one in methods}
    notes = [
        f"{name}: left out, with scores that are not finite: {counted(int((~there).sum()), 'target')}"
        for name, there in known.items()
        if not there.all()
    ]
    wanted = None if targets is None else choice.named(subject, known, targets)
    bank = _Bank(subject, trainer, each, seed)
    right = np.flatnonzero(bank.before > 0)
    picked = _targets(subject, right, wanted, count, seed, notes)
    models = calibration.rows(subject, trainer, seed)
    slopes = {one.name: calibration.slope(one, models, known[one.name]) for one in methods}
    limit = int(most * subject.n_train)
    plans = [_plan(one, slopes[one.name], picked, known[one.name], bank.before, limit) for one in methods]
    _verify(bank, plans, grid, picked)
    controls = _Controls(bank, grid, picked)
    notes += [
        f"{n}: its scores have no positive slope, so that it predicts no flip" for n, b in slopes.items() if b <= 0
    ]
    if bank.lost:
        notes.append(f"{counted(bank.lost, 'model diverged and is', 'models diverged and are')} left out")
    document = Brittleness(
        verb="brittleness",
        about=about(
            subject, {one.name: one.lds for one in methods}, time.perf_counter() - begun, bank.trained + models.trained
        ),
        notes=[*subject.notes, *notes],
        output=calibration.output_of(subject),
        calibrated_by=models.said,
        seeds=each,
        full_models=bank.full_models,
        seed=seed,
        most=most,
        limit=limit,
        right=len(right),
        targets=[int(t) for t in picked],
        labels=[int(trainer.data.test_y[t]) for t in picked],
        classes=trainer.data.n_classes,
        class_names=tuple(trainer.data.class_names),
        methods=[_flips(plan, slopes[plan.one.name], grid, bank, picked) for plan in plans],
        random=Curve(_DRAWS, controls.points(controls.random)),
        same_class=Curve(_CLASS_DRAWS, controls.points(controls.same_class)),
        reference=Reference.of(subject.title),
    )
    return Finding(document)


def _targets(
    subject: Subject,
    right: NDArray[np.int64],
    named: NDArray[np.int64] | None,
    count: int,
    seed: int,
    notes: list[str],
) -> NDArray[np.int64]:
    """Those that are classified rightly on average, ascending."""
    if named is None:
        if not len(right):
            raise InputError(f"full-set models of {subject.title} classify no target rightly: there is none to flip")
        drawn = np.random.default_rng([seed, _PICK]).permutation(right)[:count]
        return np.sort(drawn)
    wrong = np.setdiff1d(named, right)
    left = np.intersect1d(named, right)
    if not len(left):
        raise InputError(
            f"--targets: full-set models misclassify {'these' if len(wrong) > 1 else f'target {wrong[0]}'} already, "
            "on average over seeds: there is nothing to flip"
        )
    if len(wrong):
        notes.append(f"left out, since full-set models misclassify them already: {', '.join(map(str, wrong))}")
    return left


class _Bank:
    """Trains what is asked for, each group once; margins of its own target alone are kept."""

    def __init__(self, subject: Subject, trainer: Trainer, seeds: int, seed: int) -> None:
        self.subject, self.trainer, self.seed = subject, trainer, seed
        self.labels = trainer.data.test_y
        self.starts = starts(subject, seeds, seed)
        self.full_models = len(starts(subject, max(_FULL, seeds), seed))
        self.lost, self.trained = 0, 0
        self._found: dict[bytes, NDArray[np.float32]] = {}
        self.before = self._full()

    def _full(self) -> NDArray[np.float64]:
        """Mean margin of full-set models, float64 `[n_targets]`."""
        begin = starts(self.subject, self.full_models, self.seed)
        made = self._train([np.zeros(0, np.int64)], begin, "full-set models", None)[0]
        if not np.isfinite(made).any():
            raise InputError(f"all models of {self.subject.title} on the full training set diverged")
        return np.asarray(np.nanmean(made.astype(np.float64), axis=0))

    def margins(
        self, groups: Sequence[NDArray[np.int64]], targets: NDArray[np.int64], what: str
    ) -> NDArray[np.float32]:
        """Margins of the targets of models without each group, float32 `[groups, seeds, targets]`."""
        keys = [np.sort(group).tobytes() for group in groups]
        new = {key: group for key, group in zip(keys, groups, strict=True) if key not in self._found}
        if new:
            made = self._train(list(new.values()), self.starts, what, targets)
            self._found.update(zip(new, made, strict=True))
        return np.stack([self._found[key] for key in keys])

    def _train(
        self,
        groups: list[NDArray[np.int64]],
        begin: Sequence[np.random.SeedSequence],
        what: str,
        targets: NDArray[np.int64] | None,
    ) -> NDArray[np.float32]:
        made = margins_without(
            self.trainer, groups, begin, self.seed, self.subject.progress, what, targets=targets, output="max"
        )
        self.trained += made.shape[0] * made.shape[1]
        self.lost += int(np.isnan(made).any(axis=2).sum())
        return made


@dataclass
class _Plan:
    """What one method predicts, and what came of it, by position among the targets.

    Attributes:
        one: the method; order: training examples by falling score, int64 `[targets, n_train]`.
        known: targets of finite scores.
        predicted: the smallest k that should flip, by position; absent where none does up to the limit.
        tried: by position and number removed.
        random, same_class: without as many others, by position.
    """

    one: Scored
    order: NDArray[np.int64]
    known: list[int]
    predicted: dict[int, int]
    tried: dict[int, dict[int, Tried]] = field(default_factory=dict)
    random: dict[int, Tried] = field(default_factory=dict)
    same_class: dict[int, Tried] = field(default_factory=dict)


def _plan(
    one: Scored,
    slope: float,
    targets: NDArray[np.int64],
    known: NDArray[np.bool_],
    before: NDArray[np.float64],
    limit: int,
) -> _Plan:
    scores = one.columns(targets).astype(np.float64)
    order = np.argsort(-scores, axis=1, kind="stable")
    there = [at for at, target in enumerate(targets) if known[target]]
    predicted = {}
    for at in there:
        k = smallest(slope * scores[at], float(before[targets[at]]), limit)
        if k is not None:
            predicted[at] = k
    return _Plan(one, order, there, predicted, {at: {} for at in there})


def smallest(scores: NDArray[np.floating], margin: float, limit: int) -> int | None:
    """The least number of the highest positive scores whose sum exceeds the margin; None above the limit."""
    positive = np.sort(scores[scores > 0])[::-1][:limit]
    total = np.cumsum(positive)
    k = int(np.searchsorted(total, margin, side="right")) + 1
    return k if k <= len(positive) else None


def _tried(removed: int, margins: NDArray[np.float32]) -> Tried:
    """Of one target's margins over seeds."""
    known = margins[np.isfinite(margins)].astype(np.float64)
    if not len(known):
        return Tried(removed, None, None, None)
    mean = float(known.mean())
    return Tried(removed, mean, float((known < 0).mean()), mean < 0)


def _verify(bank: _Bank, plans: Sequence[_Plan], grid: list[int], targets: NDArray[np.int64]) -> None:
    """Train without the predicted k, with as many others, and search the grid."""
    pairs = [(plan, at, k) for plan in plans for at, k in plan.predicted.items()]
    labels, train_y = bank.labels[targets], bank.trainer.data.train_y
    n_train = len(train_y)
    kinds = [plan.order[at, :k] for plan, at, k in pairs]
    # Of each target groups of its own: intervals count targets as independent.
    random = [_draw(np.arange(n_train), k, [bank.seed, _RANDOM, int(targets[at]), k]) for _, at, k in pairs]
    pools = [np.flatnonzero(train_y == labels[at]) for _, at, _ in pairs]
    some = [number for number, (*_, k) in enumerate(pairs) if k <= OF_CLASS * len(pools[number])]
    same = [
        _draw(pools[number], k, [bank.seed, _CLASS, int(targets[at]), k])
        for number in some
        for _, at, k in [pairs[number]]
    ]
    if pairs:
        made = bank.margins([*kinds, *random, *same], targets, "models without predicted examples")
        for number, (plan, at, k) in enumerate(pairs):
            plan.tried[at][k] = _tried(k, made[number, :, at])
            plan.random[at] = _tried(k, made[len(pairs) + number, :, at])
        for number, margins in zip(some, made[2 * len(pairs) :], strict=True):
            plan, at, k = pairs[number]
            plan.same_class[at] = _tried(k, margins[:, at])
    _search(bank, plans, grid, targets)


def _draw(pool: NDArray[np.int64], size: int, stream: Sequence[int]) -> NDArray[np.int64]:
    return np.random.default_rng(list(stream)).permutation(pool)[:size]


def _search(bank: _Bank, plans: Sequence[_Plan], grid: list[int], targets: NDArray[np.int64]) -> None:
    """The smallest size of the grid that flips, for all methods and targets at once."""
    for turn in range(len(grid) + 1):
        wanted = []
        for plan in plans:
            for at in plan.known:
                size = _next(plan.tried[at], grid)
                if size is not None:
                    wanted.append((plan, at, size))
        if not wanted:
            return
        what = f"models without the highest scores, search {turn + 1}"
        made = bank.margins([plan.order[at, :size] for plan, at, size in wanted], targets, what)
        for (plan, at, size), margins in zip(wanted, made, strict=True):
            plan.tried[at][size] = _tried(size, margins[:, at])


def _next(tried: dict[int, Tried], grid: list[int]) -> int | None:
    """What to try next, if anything: the middle of the sizes between what did not flip and what did."""
    flipped = min((size for size, one in tried.items() if one.flipped), default=None)
    held = [size for size, one in tried.items() if not one.flipped and (flipped is None or size < flipped)]
    low = max(held, default=0)
    open_ = [size for size in grid if size > low and (flipped is None or size < flipped)]
    if not open_:
        return None
    if not tried:
        return grid[-1]  # nothing is known: most of those that no k is predicted for do not flip at all
    return open_[(len(open_) - 1) // 2]


class _Controls:
    """Random groups and groups of the target's class, of the grid's sizes, each draw nested in itself."""

    def __init__(self, bank: _Bank, grid: list[int], targets: NDArray[np.int64]) -> None:
        labels, train_y = bank.labels[targets], bank.trainer.data.train_y
        self.grid, self.n_train, self.n_targets = grid, len(train_y), len(targets)
        whole = np.arange(len(train_y))
        pools = {(-1, draw): whole for draw in range(_DRAWS)}
        for label in np.unique(labels):
            members = np.flatnonzero(train_y == label)
            pools |= {(int(label), draw): members for draw in range(_CLASS_DRAWS)}
        orders = {key: _draw(pool, len(pool), [bank.seed, _GRID, key[0] + 1, key[1]]) for key, pool in pools.items()}
        least = min(len(pools[int(label), 0]) for label in np.unique(labels))
        few = [size for size in grid if size <= OF_CLASS * least]
        todo = [(key, size) for key in orders for size in (grid if key[0] == -1 else few)]
        made = bank.margins([orders[key][:size] for key, size in todo], targets, "models without random examples")
        with np.errstate(invalid="ignore"):
            flipped = _mean(made) < 0

        def ever(label: int, sizes: int) -> NDArray[np.floating]:
            """Flipped by this size or a smaller one, mean over draws `[sizes, targets]`."""
            mine = flipped[[key[0] == label for key, _ in todo]].reshape(-1, sizes, len(targets))
            return np.asarray(np.maximum.accumulate(mine, axis=1).mean(axis=0))

        self.random = ever(-1, len(grid)).mean(axis=1)
        own = np.zeros((len(few), len(targets)))
        for label in np.unique(labels) if few else ():
            own[:, labels == label] = ever(int(label), len(few))[:, labels == label]
        self.same_class = own.mean(axis=1)

    def points(self, shares: NDArray[np.float64]) -> list[Point]:
        """Of shares by size, the smallest first; of a class, those of the grid that are at most half of it."""
        return [
            Point(size, size / self.n_train, Share.counted(float(share) * self.n_targets, self.n_targets))
            for size, share in zip(self.grid, shares, strict=False)
        ]


def _mean(margins: NDArray[np.float32]) -> NDArray[np.float64]:
    """Over seeds that did not diverge `[groups, targets]`; NaN where all did."""
    there = np.isfinite(margins)
    total = np.where(there, margins, 0).sum(axis=1, dtype=np.float64)
    with np.errstate(invalid="ignore"):
        return np.asarray(total / there.sum(axis=1))


def _flips(plan: _Plan, slope: float, grid: list[int], bank: _Bank, where: NDArray[np.int64]) -> Flips:
    """What came of a method's plan; `where` are the targets."""
    cases = [_case(plan, at, bank, where) for at in plan.known]
    predicted = [case for case in cases if case.k is not None]
    n_train = plan.order.shape[1]

    def flipped(kind: str) -> Share:
        there = [tried for case in predicted if (tried := getattr(case, kind)) is not None]
        return Share.counted(sum(bool(tried.flipped) for tried in there), len(there))

    points = []
    for size in grid:
        seen = sum(case.smallest is not None and case.smallest <= size for case in cases)
        points.append(Point(size, size / n_train, Share.counted(seen, len(cases))))
    done, chance = flipped("removed"), flipped("random")
    return Flips(
        name=plan.one.name,
        lds=plan.one.lds,
        slope=slope,
        targets=len(cases),
        predicted=Share.counted(len(predicted), len(cases)),
        median=finite(np.median([case.k for case in predicted if case.k])) if predicted else None,
        verified=done,
        random=chance,
        same_class=flipped("same_class"),
        times=done.count / chance.count if chance.count else None,
        at_least=done.ci[0] / chance.ci[1] if done.ci and chance.ci else None,
        both=Share.counted(done.count, len(cases)),
        points=points,
        cases=cases,
    )


def _case(plan: _Plan, at: int, bank: _Bank, where: NDArray[np.int64]) -> Case:
    tried, k, target = plan.tried[at], plan.predicted.get(at), int(where[at])
    return Case(
        target=target,
        label=int(bank.labels[target]),
        before=float(bank.before[target]),
        k=k,
        removed=None if k is None else tried[k],
        random=plan.random.get(at),
        same_class=plan.same_class.get(at),
        smallest=min((size for size, one in tried.items() if one.flipped), default=None),
        tried=[tried[size] for size in sorted(tried)],
    )
