"""Leakage: targets that are copies of training examples, told from score matrices; and how well that is told.

A training example has most to do with the models' answer on its own copy. How much of that is seen depends on the
example: one that models would answer as well without it, since it is like many others, hardly moves any margin, its
copy's included. Only where an example is memorised does an exact copy of it stand out by the size of its score; so
directions are compared, not sizes (`bench.explore.likeness`).
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from bench.errors import BenchError, InputError
from bench.explore import asked, choice, document, pairs, planted, precision
from bench.explore.document import Document, Finding
from bench.explore.likeness import STATISTICS, Statistic
from bench.explore.likeness import pairs as pairs_of
from bench.report.images import Pixels
from bench.wording import either

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from bench.datasets import Data
    from bench.explore.copies import Copies
    from bench.explore.likeness import Pairs
    from bench.explore.subject import Scored, Subject

PRECISION = 0.95
EUCLIDEAN, CORRELATED, FEATURES = "pixels, distance", "pixels, correlation", "features, cosine"
_FEW = 2  # numbers of an example: of two numbers every correlation is 1 or −1
_SIMILARITY = "similarity"  # the method that compares what enters the last layer
_LISTED = 50  # suspects of each method that are kept
_PICTURED = 8
_POINTS = 200


class Suspect(msgspec.Struct, frozen=True, kw_only=True):
    """A pair that may be a duplicate.

    Attributes:
        method: or the baseline, that names it; rank: its place in that method's list, from 1.
        target, train: the pair; target_label, train_label: classes, None where there are no examples.
        value: how suspicious.
        nearer: training examples that are nearer to the target in pixels (Euclidean); None as above.
        target_holds, train_holds: the beginning of what they hold, of examples that are no images.
        agree: how many of the methods, this one included, name this training example for the target.
    """

    method: str
    rank: int
    target: int
    train: int
    target_label: int | None = None
    train_label: int | None = None
    value: float
    nearer: int | None = None
    agree: int
    target_holds: str = ""
    train_holds: str = ""


class Rated(msgspec.Struct, frozen=True, kw_only=True):
    """How well one method finds copies of one kind.

    Attributes:
        name: of the method or baseline; baseline: which of them.
        kind: of the copies, or `all`; planted: how many.
        named: of them, whose best training example is the one that was copied.
        average: average precision; ci: its 95% interval by a bootstrap over targets.
        recall: the largest at a precision of .95 or more; recall_ci: 95% interval by Wilson.
        recalls, precisions: the curve.
    """

    name: str
    baseline: bool
    kind: str
    planted: int
    named: int
    average: float
    ci: tuple[float, float]
    recall: float
    recall_ci: tuple[float, float]
    recalls: list[float]
    precisions: list[float]


class Evaluation(msgspec.Struct, frozen=True, kw_only=True):
    """Copies that were planted, and how they were found.

    Attributes:
        share: of the targets; seed: root seed; models: of the ground truth.
        kinds: copies by kind; others: targets as they were; near: of them, whose nearest training example is nearer in
            pixels than the farthest re-encoded copy (or noisy one) is to its original: natural near-duplicates.
        rated: by method and kind, methods in the order of their LDS, then baselines.
        statistics: average precision over all kinds, by method and statistic.
        lds: of the methods on these examples.
        missing: why a method is not among them.
    """

    share: float
    seed: int
    models: int
    kinds: dict[str, int]
    others: int
    near: int
    rated: list[Rated]
    statistics: dict[str, dict[str, float]]
    lds: dict[str, float | None]
    missing: dict[str, str]


class Leakage(Document, frozen=True, kw_only=True):
    """What `bench explore leakage` finds.

    Attributes:
        statistic: what pairs are ranked by.
        suspects: the most suspicious pairs of each method, and the nearest by pixels.
        shown: of each method, in tables and pictures; picture: whether there is one.
        class_names: empty where classes are numbers.
        evaluation: on planted copies; None where it was left out.
    """

    statistic: str
    suspects: list[Suspect]
    shown: int
    picture: bool
    class_names: list[str]
    evaluation: Evaluation | None = None


def leakage(
    subject: Subject,
    *,
    k: int = 10,
    statistic: Statistic = "cosine",
    evaluate: bool | None = None,
    share: float = 0.3,
    models: int = 1500,
    most: int = 5,
    seed: int = 0,
    out: str | Path | None = None,
) -> Finding[Leakage]:
    """Rank pairs of a target and a training example that may be duplicates, and say how well that works.

    Args:
        subject: what is explored.
        k: pairs of each method that are shown.
        statistic: what they are ranked by (`bench.explore.likeness.pairs`).
        evaluate: plant copies among the targets, train models, run the methods, and look for the copies; by default
            where there are examples.
        share: of the targets that become copies.
        models: of the ground truth with copies.
        most: methods, the best by LDS, one variant of each.
        seed: of the copies and the models.
        out: where the run with copies is kept and used again; nowhere by default.

    Raises:
        BenchError: no scores; no examples, where an evaluation is asked for; an argument out of range.
        InputError: scores without any target whose values are all finite.
    """
    began = time.perf_counter()
    if statistic not in STATISTICS:
        raise BenchError(f"--statistic is {statistic!r}: use {', '.join(STATISTICS)}")
    asked.at_most(k, "--k", subject.n_targets, "targets")
    asked.at_most(most, "--most", 1000, "methods")
    subject.scored("explore leakage reads score matrices")
    asked.root_seed(seed)
    planted.check_models(models)
    if not 0 < share < 1:
        raise BenchError(f"--share is {share:g}: it takes a share of the targets, between 0 and 1")
    leading = subject.leading(most)
    notes = list(subject.notes)
    if evaluate is None and subject.data is None:
        notes.append(f"No copies were planted and looked for: {subject.path} has no examples, {subject.why}")
    evaluate = subject.data is not None if evaluate is None else evaluate
    if evaluate:
        subject.examples("explore leakage trains models on planted copies, which --no-evaluate leaves out")
    found = {one.name: _known(one, statistic, notes) for one in leading}
    suspects, picture = _suspects(subject, found, k)
    rated = None
    if evaluate:
        rated = _evaluation(subject, leading, statistic, share, models, seed, None if out is None else Path(out))
        notes += [f"{name} is not evaluated: {why}" for name, why in rated.missing.items()]
    if subject.data is not None and picture is None:
        notes.append("the examples are not known to be images, so there is no picture of the pairs")
    made = Leakage(
        verb="leakage",
        about=document.about(
            subject,
            {one.name: one.lds for one in leading},
            time.perf_counter() - began,
            0 if rated is None else rated.models,
        ),
        notes=notes,
        statistic=statistic,
        suspects=suspects,
        shown=k,
        picture=picture is not None,
        class_names=[] if subject.data is None else list(subject.data.class_names),
        evaluation=rated,
    )
    return Finding(made, pictures={} if picture is None else {"pairs": picture})


def _known(one: Scored, statistic: Statistic, notes: list[str]) -> Pairs:
    made = pairs_of(one.scores, statistic)
    left = int((made.train < 0).sum())
    if left == len(made.train):
        raise InputError(f"{one.name} has no target whose scores are all finite: nothing can be ranked")
    if left:
        notes.append(
            f"{one.name}: {left} of {len(made.train)} targets {either(left, 'has', 'have')} scores that are not "
            f"finite, and {either(left, 'is', 'are')} left out"
        )
    return made


def _suspects(subject: Subject, found: Mapping[str, Pairs], k: int) -> tuple[list[Suspect], bytes | None]:
    """The lists, and the picture of their first pairs where examples are images."""
    data = subject.data
    named = dict(found)
    if data is not None:
        named[_baseline(data, EUCLIDEAN)] = nearest(data, EUCLIDEAN)
    told = data is not None and Pixels.of(data) is None
    made: list[Suspect] = []
    for name, pair in named.items():
        order = np.argsort(-pair.value, kind="stable")[: max(k, _LISTED)]
        for rank, target in enumerate(order[pair.train[order] >= 0].tolist(), 1):
            train = int(pair.train[target])
            made.append(
                Suspect(
                    method=name,
                    rank=rank,
                    target=target,
                    train=train,
                    target_label=None if data is None else int(data.test_y[target]),
                    train_label=None if data is None else int(data.train_y[train]),
                    value=float(pair.value[target]),
                    nearer=None if data is None else _nearer(data, target, train),
                    agree=sum(int(other.train[target]) == train for other in found.values()),
                    target_holds=choice.features(data.test_x[target]) if data is not None and told else "",
                    train_holds=choice.features(data.train_x[train]) if data is not None and told else "",
                )
            )
    if data is None:
        return made, None
    rows = [
        (name, [(one.target, one.train) for one in made if one.method == name][: min(k, _PICTURED)]) for name in named
    ]
    return made, pairs.sheet(data, rows)


def _nearer(data: Data, target: int, train: int) -> int:
    apart = np.square(data.train_x - data.test_x[target]).reshape(data.n_train, -1).sum(axis=1)
    return int((apart < apart[train]).sum())


def _baseline(data: Data, how: str) -> str:
    """What a baseline is called: by pixels, or of what is no image by the examples themselves."""
    return how if Pixels.of(data) is not None else how.replace("pixels", "examples")


def nearest(data: Data, how: str) -> Pairs:
    """The nearest training example of each target in what examples hold: the baseline.

    Args:
        data: the examples.
        how: `EUCLIDEAN`, by distance, or `CORRELATED`, by the correlation of their numbers.
    """
    from sklearn.metrics.pairwise import cosine_similarity, euclidean_distances

    from bench.explore.likeness import Pairs

    ours, theirs = (x.reshape(len(x), -1).astype(np.float64) for x in (data.train_x, data.test_x))
    if how == CORRELATED:
        ours, theirs = (x - x.mean(axis=1, keepdims=True) for x in (ours, theirs))
    train, value = np.empty(len(theirs), np.int64), np.empty(len(theirs))
    step = max(1, (128 << 20) // (8 * len(ours)))
    for at in range(0, len(theirs), step):
        part = theirs[at : at + step]
        like = cosine_similarity(ours, part) if how == CORRELATED else -euclidean_distances(ours, part)
        best = like.argmax(axis=0)
        train[at : at + step], value[at : at + step] = best, like[best, np.arange(len(part))]
    return Pairs(train, value)


def _evaluation(
    subject: Subject,
    leading: Sequence[Scored],
    statistic: Statistic,
    share: float,
    models: int,
    seed: int,
    out: Path | None,
) -> Evaluation:
    from bench.explore import copies
    from bench.explore.subject import Scored

    made = copies.plant(subject.examples("explore leakage trains models"), share, seed)
    nothing = np.empty((subject.n_train, 0))
    wanted = [*leading] if any(one.name == _SIMILARITY for one in leading) else [*leading, Scored(_SIMILARITY, nothing)]
    with planted.planted(subject, "copies", made.data, wanted, out, models, seed) as run:
        methods = run.subject.methods
        rows: dict[str, tuple[Pairs, bool]] = {}
        asked_for = {one.name for one in leading}
        for one in methods:
            if one.name in asked_for:
                rows[one.name] = pairs_of(one.scores, statistic), False
        rows[_baseline(made.data, EUCLIDEAN)] = nearest(made.data, EUCLIDEAN), True
        if made.data.test_x[0].size > _FEW:
            rows[_baseline(made.data, CORRELATED)] = nearest(made.data, CORRELATED), True
        for one in methods:
            if one.name == _SIMILARITY:
                rows[FEATURES] = pairs_of(one.scores, "top"), True
        statistics: dict[str, dict[str, float]] = {
            one.name: {what: _curve(made, pairs_of(one.scores, what), None, seed).average for what in STATISTICS}
            for one in methods
            if one.name in asked_for
        }
        lds = {one.name: one.lds for one in methods if one.name in asked_for}
    kinds = [None, *range(len(made.kinds))]
    return Evaluation(
        share=share,
        seed=seed,
        models=run.models,
        kinds={name: int((made.kind == number).sum()) for number, name in enumerate(made.kinds)},
        others=made.data.n_targets - len(made.targets),
        near=_near(made),
        rated=[_rated(made, name, *row, kind, seed) for name, row in rows.items() for kind in kinds],
        statistics=statistics,
        lds=lds,
        missing={name: why for name, why in run.missing.items() if name in asked_for},
    )


def _of_kind(made: Copies, kind: int | None) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Targets that count for a kind, all but copies of other kinds; and which of them are copies."""
    number = np.full(made.data.n_targets, -1)
    number[made.targets] = made.kind
    at = np.flatnonzero((number < 0) | (number == kind)) if kind is not None else np.arange(len(number))
    return at, number[at] >= 0


def _curve(made: Copies, found: Pairs, kind: int | None, seed: int) -> precision.Curve:
    at, wanted = _of_kind(made, kind)
    right = wanted & (found.train[at] == made.truth[at])
    return precision.curve(found.value[at], right, wanted, seed)


def _rated(made: Copies, name: str, found: Pairs, baseline: bool, kind: int | None, seed: int) -> Rated:
    at, wanted = _of_kind(made, kind)
    line = _curve(made, found, kind, seed)
    total = int(wanted.sum())
    recall = line.recall_at(PRECISION)
    some = precision.thinned(line.recall, _POINTS)
    return Rated(
        name=name,
        baseline=baseline,
        kind="all" if kind is None else made.kinds[kind],
        planted=total,
        named=int((wanted & (found.train[at] == made.truth[at])).sum()),
        average=line.average,
        ci=line.ci,
        recall=recall,
        recall_ci=precision.wilson(round(recall * total), total),
        recalls=line.recall[some].round(4).tolist(),
        precisions=line.precision[some].round(4).tolist(),
    )


def _near(made: Copies) -> int:
    """Targets that are no copies and are as near to a training example as re-encoded, or noisy, copies are."""
    last = made.targets[made.kind == len(made.kinds) - 1]
    found = nearest(made.data, EUCLIDEAN)
    x, y = (value.reshape(len(value), -1) for value in (made.data.train_x, made.data.test_x))
    limit = np.linalg.norm(x[made.truth[last]] - y[last], axis=1).max()
    return int(((made.truth < 0) & (-found.value <= limit)).sum())
