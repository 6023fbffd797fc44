"""The training examples that each method says help and harm a target most, and how far methods name the same."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Literal

import msgspec
import numpy as np

from bench.explore import agreement, choice, document, pictures
from bench.explore.asked import at_most
from bench.explore.document import Document, Finding
from bench.report import gallery, images

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bench.datasets import Data
    from bench.explore.subject import Scored, Subject

METHODS = 12  # that are compared
SHOWN = 5  # methods in a picture, and examples on either side in it
PICTURED = 12  # targets in it
COMPARED = 1000  # targets that agreement is taken over
_K = 10
_BATCH_BYTES = 1 << 28
Side = Literal["helpful", "harmful"]
SIDES: tuple[Side, ...] = ("helpful", "harmful")
_NEEDS = "explore similar compares methods' scores"


class Named(msgspec.Struct, frozen=True, array_like=True):
    """A training example that a method names: its number, the score, and its class where it is known."""

    train: int
    score: float
    label: int | None


class Lists(msgspec.Struct, frozen=True, kw_only=True):
    """What one method names for the targets, in their order; lists are shorter where scores above (below) 0 end.

    Attributes:
        method: whose lists they are.
        helpful: the highest scores above 0, the highest first.
        harmful: the lowest scores below 0, the lowest first.
    """

    method: str
    helpful: list[list[Named]]
    harmful: list[list[Named]]


class Agreement(msgspec.Struct, frozen=True, kw_only=True):
    """How far two methods name the same examples on one side, as means over targets.

    Attributes:
        a, b: the methods; side: of the scores.
        overlap: share of the longer top list that the other has as well; rbo: rank-biased overlap, extrapolated.
        overlap_stderr, rbo_stderr: standard errors over targets.
        targets: for which at least one of the two names an example; where there is none, the others are None.
    """

    a: str
    b: str
    side: Side
    overlap: float | None
    overlap_stderr: float | None
    rbo: float | None
    rbo_stderr: float | None
    targets: int


class Own(msgspec.Struct, frozen=True, kw_only=True):
    """One method's lists in numbers, over the targets that are compared.

    Attributes:
        method: whose.
        helpful, harmful: share of the examples named that are of the target's class, mean over targets that have any;
            None without classes, or where none is named.
        helpful_stderr, harmful_stderr: standard errors over targets.
        helpful_length, harmful_length: examples named per target, at most k.
        tied: targets whose last place is shared with an example that is not named, on either side.
    """

    method: str
    helpful: float | None
    helpful_stderr: float | None
    harmful: float | None
    harmful_stderr: float | None
    helpful_length: float
    harmful_length: float
    tied: int


class Similar(Document, frozen=True, kw_only=True):
    """What methods name.

    Attributes:
        k: examples on either side; p: persistence of rank-biased overlap.
        targets: whose lists are here, ascending; target_labels: their classes, None where they are not known.
        lists: one for each method.
        agreement: of each pair of methods, on either side; compared: targets that it is taken over at most.
        chance_overlap, chance_rbo: what two random lists reach.
        own: one for each method; class_share: share of the training set that is of the target's class, mean over
            targets: what `own` is by chance.
        class_names: empty where classes are numbers.
        shown: targets of the picture, or of the table of features; shown_methods: methods of them; each: examples on
            either side in them.
        picture: whether there is a picture.
        target_features, train_features: what the examples of `shown` hold, by number, where there is no picture.
    """

    k: int
    p: float
    targets: list[int]
    target_labels: list[int] | None
    lists: list[Lists]
    agreement: list[Agreement]
    compared: int
    chance_overlap: float
    chance_rbo: float
    own: list[Own]
    class_share: float | None
    class_names: list[str]
    shown: list[int]
    shown_methods: list[str]
    each: int
    picture: bool
    target_features: dict[str, str]
    train_features: dict[str, str]


def similar(
    subject: Subject,
    *,
    k: int | None = None,
    targets: Sequence[int] | Literal["all"] | None = None,
    pictures: bool | None = None,
) -> Finding[Similar]:
    """The k most helpful and the k most harmful training examples of targets, by each method, and their agreement.

    Methods are those that were asked for by name, else the best variants of the best twelve. Agreement is taken over
    all targets, or over 1,000 of them, evenly spread.

    Args:
        subject: what is explored.
        k: examples on either side (10, or all training examples where they are fewer).
        targets: whose lists are kept; by default six, spread over classes.
        pictures: whether examples are shown as a picture; by default where they are images. Where there is none, what
            they hold is shown, and a note says why if it was asked for.

    Returns:
        With the picture `targets` where there is one.

    Raises:
        BenchError: k or a target out of range, or no method with scores.
        InputError: a target whose scores are not all finite, or a method that has no other.
    """
    began = time.monotonic()
    subject.scored(_NEEDS)
    found = subject.leading(METHODS)
    k = min(_K, subject.n_train) if k is None else at_most(k, "--k", subject.n_train, "training examples")
    known = choice.known(found)
    notes: list[str] = []
    wanted = choice.wanted(subject, known, targets, notes)
    compared = choice.spread(np.flatnonzero(np.any(list(known.values()), axis=0)), COMPARED)
    every = np.union1d(wanted, compared)
    tops = {one.name: _top(one, every, k) for one in found}
    data, here = subject.data, np.searchsorted(every, compared)
    own = [_own(one.name, tops[one.name], here[known[one.name][compared]], every, data) for one in found]
    for one in own:
        if one.tied:
            notes.append(
                f"{one.method}: on {one.tied:,} of {int(known[one.method][compared].sum()):,} targets the last place "
                "is one of several of equal score; of equals the first in the training set are named"
            )
    if len(compared) < int(np.any(list(known.values()), axis=0).sum()):
        notes.append(f"agreement is taken over {len(compared):,} of {subject.n_targets:,} targets, evenly spread")
    lists = [_lists(one.name, tops[one.name], np.searchsorted(every, wanted), data) for one in found]
    made = Similar(
        verb="similar",
        about=document.about(subject, {one.name: one.lds for one in found}, time.monotonic() - began),
        k=k,
        p=agreement.P,
        targets=wanted.tolist(),
        target_labels=None if data is None else data.test_y[wanted].tolist(),
        lists=lists,
        agreement=list(_agreements(found, tops, known, compared, every, subject.n_train)),
        compared=len(compared),
        chance_overlap=agreement.chance_overlap(k, subject.n_train),
        chance_rbo=agreement.chance_rbo(k, subject.n_train),
        own=own,
        class_share=None if data is None else _class_share(data, compared),
        class_names=[] if data is None else list(data.class_names),
        shown=wanted[:PICTURED].tolist(),
        shown_methods=[one.name for one in _shown(found)],
        each=min(k, SHOWN),
        picture=False,
        target_features={},
        train_features={},
    )
    return _with_examples(made, subject, pictures, [*subject.notes, *notes], began)


def _shown(found: Sequence[Scored]) -> list[Scored]:
    """What was asked for, and the best, up to five."""
    asked = [one for one in found if one.asked]
    picked = {one.name for one in [*asked, *(one for one in found if not one.asked)][: max(SHOWN, len(asked))]}
    return [one for one in found if one.name in picked]


def _top(
    one: Scored, targets: NDArray[np.int64], k: int
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.bool_]]:
    """Examples and scores `[targets, 2, k]`, and whether the last place is shared; of what is not finite none."""
    at = np.full((len(targets), 2, k), -1, np.int64)
    score = np.full((len(targets), 2, k), np.nan)
    tied = np.zeros(len(targets), bool)
    step = max(1, _BATCH_BYTES // (one.scores.itemsize * len(one.scores)))
    for start in range(0, len(targets), step):
        columns = one.columns(targets[start : start + step])
        columns[~np.isfinite(columns).all(axis=1)] = 0
        here = slice(start, start + len(columns))
        at[here], score[here] = gallery.top(columns, k)
        for side, pick in enumerate((np.greater_equal, np.less_equal)):
            last = score[here, side, -1]
            with np.errstate(invalid="ignore"):
                tied[here] |= pick(columns, last[:, None]).sum(axis=1) > k
    return at, score, tied


def _own(
    name: str,
    top: tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.bool_]],
    here: NDArray[np.int64],
    every: NDArray[np.int64],
    data: Data | None,
) -> Own:
    at, _, tied = top
    there = at[here] >= 0
    lengths = there.sum(axis=2).mean(axis=0) if len(here) else np.zeros(2)
    shares: list[tuple[float | None, float | None]] = [(None, None), (None, None)]
    if data is not None:
        same = (data.train_y[at[here]] == data.test_y[every[here]][:, None, None]) & there
        counts = there.sum(axis=2)
        each = np.where(counts > 0, same.sum(axis=2) / np.maximum(counts, 1), np.nan)
        shares = [_mean(each[:, side]) for side in range(2)]
    return Own(
        method=name,
        helpful=shares[0][0],
        helpful_stderr=shares[0][1],
        harmful=shares[1][0],
        harmful_stderr=shares[1][1],
        helpful_length=float(lengths[0]),
        harmful_length=float(lengths[1]),
        tied=int(tied[here].sum()),
    )


def _mean(values: NDArray[np.float64]) -> tuple[float | None, float | None]:
    """Mean and its standard error over targets, of what there is."""
    there = values[np.isfinite(values)]
    if not len(there):
        return None, None
    return float(there.mean()), float(there.std(ddof=1) / np.sqrt(len(there))) if len(there) > 1 else None


def _class_share(data: Data, targets: NDArray[np.int64]) -> float:
    return float((np.bincount(data.train_y, minlength=data.n_classes) / data.n_train)[data.test_y[targets]].mean())


def _agreements(
    found: Sequence[Scored],
    tops: dict[str, tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.bool_]]],
    known: dict[str, NDArray[np.bool_]],
    compared: NDArray[np.int64],
    every: NDArray[np.int64],
    n_train: int,
) -> Iterator[Agreement]:
    for at, one in enumerate(found):
        for other in found[at + 1 :]:
            both = np.searchsorted(every, compared[(known[one.name] & known[other.name])[compared]])
            for side, name in enumerate(SIDES):
                a, b = (tops[method.name][0][both, side] for method in (one, other))
                share, share_stderr = _mean(agreement.overlap(a, b, n_train))
                rbo, rbo_stderr = _mean(agreement.rbo(a, b, n_train))
                yield Agreement(
                    a=one.name,
                    b=other.name,
                    side=name,
                    overlap=share,
                    overlap_stderr=share_stderr,
                    rbo=rbo,
                    rbo_stderr=rbo_stderr,
                    targets=int(((a >= 0) | (b >= 0)).any(axis=1).sum()),
                )


def _lists(
    name: str,
    top: tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.bool_]],
    here: NDArray[np.int64],
    data: Data | None,
) -> Lists:
    made: list[list[list[Named]]] = []
    for side in range(2):
        made.append([])
        for examples, scores in zip(top[0][here, side].tolist(), top[1][here, side].tolist(), strict=True):
            there = [(e, s) for e, s in zip(examples, scores, strict=True) if e >= 0]
            made[-1].append(
                [Named(e, float(f"{s:.6g}"), None if data is None else int(data.train_y[e])) for e, s in there]
            )
    return Lists(method=name, helpful=made[0], harmful=made[1])


def _with_examples(
    made: Similar, subject: Subject, wanted: bool | None, notes: list[str], began: float
) -> Finding[Similar]:
    """With a picture of the examples, else with what they hold; and with the notes."""
    data = subject.data
    pixels = None if data is None else images.Pixels.of(data)
    files: dict[str, bytes] = {}
    target_features: dict[str, str] = {}
    train_features: dict[str, str] = {}
    if data is None:
        if wanted:
            notes.append(f"no pictures: {subject.path} has no examples ({subject.why}); they are named by number")
    elif pixels is not None and wanted is not False:
        files["targets"] = _drawn(made, data, pixels)
    else:
        if wanted:
            notes.append(
                f"no pictures: the examples of {subject.title} are not known to be images, so what they hold is shown "
                "in a table"
            )
        target_features = {str(target): choice.features(data.test_x[target]) for target in made.shown}
        named = {one.train for method in _of_shown(made) for side in method for some in side for one in some}
        train_features = {str(example): choice.features(data.train_x[example]) for example in sorted(named)}
    whole = msgspec.structs.replace(
        made,
        notes=notes,
        picture=bool(files),
        target_features=target_features,
        train_features=train_features,
        about=msgspec.structs.replace(made.about, seconds=round(time.monotonic() - began, 3)),
    )
    return Finding(whole, pictures=files)


def _of_shown(made: Similar) -> list[tuple[list[list[Named]], list[list[Named]]]]:
    """The two sides of each method that is shown, for the targets that are shown, as far as they are shown."""
    some = [one for one in made.lists if one.method in made.shown_methods]
    count = len(made.shown)
    return [
        ([row[: made.each] for row in one.helpful[:count]], [row[: made.each] for row in one.harmful[:count]])
        for one in some
    ]


def _drawn(made: Similar, data: Data, pixels: images.Pixels) -> bytes:
    names = [one.method for one in made.lists if one.method in made.shown_methods]
    sides = _of_shown(made)
    panels = []
    for at, target in enumerate(made.shown):
        label = int(data.test_y[target])

        def tiles(some: list[Named], label: int = label) -> list[pictures.Tile]:
            return [
                pictures.Tile(
                    data.train_x[one.train],
                    choice.class_name(int(data.train_y[one.train]), made.class_names),
                    choice.signed(one.score),
                    int(data.train_y[one.train]) == label,
                )
                for one in some
            ]

        rows = [(name, tiles(side[0][at]), tiles(side[1][at])) for name, side in zip(names, sides, strict=True)]
        shown = pictures.Tile(data.test_x[target], choice.class_name(label, made.class_names), "", False)
        panels.append(pictures.Panel(f"target {target}", shown, rows))
    return pictures.grid(pixels, panels, made.each, "most helpful", "most harmful")
