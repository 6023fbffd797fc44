"""Counterfactuals: what scores predict of models without groups of training examples, beside what such models do.

A method predicts of a group G that without it the margin of target j changes by −b · Σ_{k ∈ G} scores[k, j], b its
slope (`bench.explore.calibration`). Groups are the highest scores of targets by each of the leading methods, random
examples, random examples of one class, and what users name. Every method predicts all of them, also those that others
have picked: none is judged by its own choice alone, whose predictions are high by selection.

Real changes are of models without the group, less models of the full training set with the same seeds.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bench import hashing
from bench.errors import BenchError, InputError
from bench.explore import asked, calibration, choice, effects
from bench.explore.document import Finding, about
from bench.explore.effects import Estimate, Part, Points, Repeats
from bench.explore.removals_document import KINDS, Cell, Counterfactual, Half, Kind, Predicted, Scatter
from bench.explore.removals_document import SIZES as SIZES
from bench.explore.retraining import margins_without, models_of, starts
from bench.scorer import lds
from bench.stats import noise_ceiling
from bench.wording import counted

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bench.explore.subject import Scored, Subject

COUNT, SEEDS, DRAWS, HALVES = 30, 3, 20, 200
_METHODS = 5  # that pick groups
_DRAWN, _POINTS = 3, 150  # methods of the scatter plot, and its points per kind
_OF_CLASS = 0.75  # of a class may be removed: models that hardly know a class are another matter
_PICK, _RANDOM, _CLASS, _HALF, _SCATTER = 21, 22, 23, 24, 25  # streams of the root seed
_WHAT = "explore counterfactual trains models"
_Z = 1.959963984540054


@dataclass(frozen=True)
class Removed:
    """A group.

    Attributes:
        kind: why it is removed; size: how much of it was asked for.
        members: training examples, int64.
        origin: position of its target, number of its draw or file; a class's draws follow each other.
        cluster: groups of one number are no independent samples: those of one target, and one draw of all sizes.
    """

    kind: Kind
    size: int
    members: NDArray[np.int64]
    origin: int
    cluster: int


def counterfactual(
    subject: Subject,
    *,
    targets: Sequence[int] | None = None,
    count: int = COUNT,
    sizes: Sequence[float] = SIZES,
    draws: int = DRAWS,
    halves: int = HALVES,
    files: Sequence[str | Path] = (),
    seeds: int | None = None,
    seed: int = 0,
) -> Finding[Counterfactual]:
    """Predict changes, train models without groups, compare.

    Args:
        subject: with examples; all its methods predict, the leading five pick groups.
        targets: which to look at; by default `count` random ones.
        count: of targets.
        sizes: shares of the training set to remove.
        draws: random groups of each size, and as many of classes, in turn.
        halves: random removals of as much as the ground truth's subsets leave out (1 − α of the training set); 0 for
            none. Of these the correlation should be the LDS, which is of random subsets of that size: the same again
            on new subsets and models. Of the smaller `sizes` it is lower, since the effects of fewer examples are
            smaller beside the noise between seeds.
        files: index files, a group each (`bench.explore.asked.index_file`).
        seeds: models per group, 3 by default.
        seed: of models, targets and groups.

    Returns:
        The document, with arrays: `removed`, bool `[groups, n_train]`; `groups`, int64 `[groups, 3]`: the place of its
        kind in `KINDS`, how many examples it has, the target whose highest scores it is or −1; `actual`, float32
        `[groups, targets]` and `predicted`, float32 `[methods, groups, targets]`: changes of margins.

    Raises:
        BenchError: values out of range, no scores, no examples.
        InputError: an index file that cannot be read; a target that was asked for is not there, or has scores that
            are not finite; a negative seed.
    """
    begun = time.perf_counter()
    asked.root_seed(seed)
    trainer = subject.trainer(_WHAT)
    methods = list(subject.scored("explore counterfactual compares what scores predict"))
    pickers = subject.leading(_METHODS)
    each = models_of(subject, seeds, SEEDS)
    counts = asked.counts(sizes, subject.n_train)
    for flag, value, least in (("--count", count, 1), ("--draws", draws, effects.LEAST), ("--halves", halves, 0)):
        if value < least or (flag == "--halves" and 0 < value < 3):
            what = "0, or at least 3" if flag == "--halves" else f"at least {least}"
            raise BenchError(f"{flag} is {value}: it takes {what}")
    named = _files(files, subject.n_train)
    known = {one.name: one.known() for one in methods}
    picked, notes = _targets(subject, targets, count, known, seed)
    models = calibration.rows(subject, trainer, seed)
    slopes = {one.name: calibration.slope(one, models, known[one.name]) for one in methods}
    groups = _groups(subject, pickers, known, picked, counts, draws, seed, trainer.data.train_y)
    groups += [Removed("file", len(group), group, at, -1 - at) for at, group in enumerate(named.values())]
    made = margins_without(
        trainer,
        [np.zeros(0, np.int64), *(group.members for group in groups)],
        starts(subject, each, seed),
        seed,
        subject.progress,
        "models without groups",
        output=calibration.output_of(subject),
        targets=None if named else picked,
    )
    lost = int(np.isnan(made).any(axis=2).sum())
    if not np.isfinite(made[0]).any():
        raise InputError(f"all models of {subject.title} on the full training set diverged")
    changes = (made[1:].astype(np.float64) - made[0]).swapaxes(0, 1)  # [seeds, groups, targets]
    everything = np.arange(subject.n_targets) if named else picked
    where = np.searchsorted(everything, picked)
    actual = _mean(changes)
    halved = _Halves(subject, trainer, halves, seed) if halves else None
    masks = np.zeros((len(groups), subject.n_train), bool)
    for mask, group in zip(masks, groups, strict=True):
        mask[group.members] = True
    kinds = [kind for kind in KINDS if any(group.kind == kind for group in groups)]
    found, predictions = [], []
    names = {one.name for one in pickers}
    drawn = {one.name for one in pickers[:_DRAWN]}
    for one in methods:
        predicted = -slopes[one.name] * calibration.sums(one.scores, masks, everything)
        there = known[one.name][everything]
        predicted[:, ~there] = np.nan
        world = _World(groups, predicted, actual, where)
        found.append(
            Predicted(
                name=one.name,
                lds=one.lds,
                slope=slopes[one.name],
                picks=one.name in names,
                score=effects.over_groups(world.parts(("top", "random", "class"))),
                targets=int(there[where].sum()),
                cells=[cell for kind in kinds for cell in world.cells(kind)],
                half=None if halved is None else halved.of(one, subject),
                scatter=world.scatter(kinds, seed) if one.name in drawn else None,
                checksum=_checksum(subject, one),
            )
        )
        predictions.append(predicted[:, where])
    if lost:
        notes.append(
            f"{counted(lost, 'model without a group diverged and is', 'models without groups diverged and are')} left "
            "out"
        )
    by_seed = changes[:, :, where]
    document = Counterfactual(
        verb="counterfactual",
        about=about(
            subject,
            {one.name: one.lds for one in methods},
            time.perf_counter() - begun,
            made.shape[0] * made.shape[1] + models.trained + (halved.trained if halved else 0),
        ),
        notes=[*subject.notes, *notes],
        output=calibration.output_of(subject),
        calibrated_by=models.said,
        seeds=each,
        seed=seed,
        targets=[int(t) for t in picked],
        sizes=counts,
        groups={kind: sum(group.kind == kind for group in groups) for kind in kinds},
        files={name: len(group) for name, group in named.items()},
        ceiling=effects.ceiling(_sized(by_seed, groups, ("top", "random", "class"))),
        cell_ceilings={
            kind: effects.ceiling(_sized(by_seed, groups, (kind,))) for kind in ("random", "class") if kind in kinds
        },
        removed_half=halved.removed if halved else 0,
        halves=halves,
        half_seeds=halved.seeds if halved else 0,
        half_ceiling=halved.ceiling if halved else Estimate(None),
        methods=found,
    )
    origin = [picked[group.origin] if group.kind == "top" else -1 for group in groups]
    listed = np.array([[KINDS.index(g.kind), len(g.members), at] for g, at in zip(groups, origin, strict=True)])
    arrays = {"removed": masks, "groups": listed, "actual": actual[:, where].astype(np.float32)}
    return Finding(document, {**arrays, "predicted": np.stack(predictions).astype(np.float32)})


def _files(files: Sequence[str | Path], n_train: int) -> dict[str, NDArray[np.int64]]:
    """Groups by the name of their file."""
    found = {str(path): asked.index_file(path, n_train) for path in files}
    for name, group in found.items():
        if len(group) == n_train:
            raise InputError(f"{name} names all {n_train} training examples: leave at least one to train on")
    return found


def _targets(
    subject: Subject,
    named: Sequence[int] | None,
    count: int,
    known: dict[str, NDArray[np.bool_]],
    seed: int,
) -> tuple[NDArray[np.int64], list[str]]:
    """Those to look at, ascending, and what is said of methods whose scores are not all finite."""
    notes = []
    for name, there in known.items():
        if not there.all():
            notes.append(
                f"{name}: {counted(int((~there).sum()), 'target has', 'targets have')} scores that are not finite: "
                "these count 0"
            )
    if named is not None:
        return choice.named(subject, known, named), notes
    drawn = np.random.default_rng([seed, _PICK]).permutation(subject.n_targets)[:count]
    return np.sort(drawn), notes


def _groups(
    subject: Subject,
    pickers: Sequence[Scored],
    known: dict[str, NDArray[np.bool_]],
    targets: NDArray[np.int64],
    counts: Sequence[int],
    draws: int,
    seed: int,
    labels: NDArray[np.int64],
) -> list[Removed]:
    """Those of all sizes. A draw is nested: what is removed at one size is part of what is removed at the next."""
    made: list[Removed] = []
    for one in pickers:
        order = np.argsort(-one.columns(targets), axis=1, kind="stable")
        for at, target in enumerate(targets):
            if known[one.name][target]:
                made += [Removed("top", k, order[at, :k], at, at) for k in counts]
    n_targets = len(targets)
    classes = np.unique(labels)
    for draw in range(draws):
        order = np.random.default_rng([seed, _RANDOM, draw]).permutation(subject.n_train)
        made += [Removed("random", k, order[:k], draw, n_targets + draw) for k in counts]
        mine = np.flatnonzero(labels == classes[draw % len(classes)])
        order = np.random.default_rng([seed, _CLASS, draw]).permutation(mine)
        some = [k for k in counts if k <= _OF_CLASS * len(mine)]
        made += [Removed("class", k, order[:k], draw, n_targets + draws + draw) for k in some]
    return [group for group in made if len(group.members) < subject.n_train]


def _mean(changes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Over seeds that did not diverge; NaN where all did."""
    there = np.isfinite(changes)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(there, changes, 0).sum(axis=0) / there.sum(axis=0))


def _sized(changes: NDArray[np.float64], groups: Sequence[Removed], kinds: Sequence[str]) -> list[Repeats]:
    """Changes `[seeds, groups, targets]` by size."""
    sizes = sorted({group.size for group in groups if group.kind in kinds})
    rows = [[at for at, group in enumerate(groups) if group.kind in kinds and group.size == size] for size in sizes]
    return [Repeats(changes[:, some], np.array([groups[at].cluster for at in some], np.int64)) for some in rows]


@dataclass(frozen=True)
class _World:
    """What one method predicts, and what happened.

    Attributes:
        groups: that were removed.
        predicted, actual: changes `[groups, targets]`; predicted ones NaN where scores are not finite.
        where: int `[targets looked at]`, among all targets.
    """

    groups: Sequence[Removed]
    predicted: NDArray[np.float64]
    actual: NDArray[np.float64]
    where: NDArray[np.int64]

    def parts(self, kinds: Sequence[str]) -> list[Part]:
        """Groups of each size, seen on the targets looked at; groups whose models all diverged are left out."""
        sizes = sorted({group.size for group in self.groups if group.kind in kinds})
        return [self._part(kinds, size) for size in sizes]

    def _part(self, kinds: Sequence[str], size: int) -> Part:
        rows = np.array(self._rows(kinds, size), np.int64)
        cluster = np.array([self.groups[at].cluster for at in rows], np.int64)
        return Part(self.predicted[np.ix_(rows, self.where)], self.actual[np.ix_(rows, self.where)], cluster)

    def _rows(self, kinds: Sequence[str], size: int | None) -> list[int]:
        return [
            at
            for at, group in enumerate(self.groups)
            if group.kind in kinds and (size is None or group.size == size) and np.isfinite(self.actual[at]).all()
        ]

    def points(self, kind: Kind, size: int | None) -> tuple[Any, Any, Any, Any]:
        """Predicted, actual, target and cluster of groups, float64 and int64 `[points]`, where both are known."""
        rows = self._rows((kind,), size)
        if kind == "top":
            target = self.where[[self.groups[at].origin for at in rows]].reshape(-1, 1)
        else:
            whole = np.arange(self.actual.shape[1]) if kind == "file" else self.where
            target = np.tile(whole, (len(rows), 1))
        at = np.array(rows, np.int64).reshape(-1, 1)
        predicted, actual = self.predicted[at, target], self.actual[at, target]
        cluster = np.array([self.groups[row].cluster for row in rows], np.int64).reshape(-1, 1)
        good = np.isfinite(predicted) & np.isfinite(actual)
        return predicted[good], actual[good], target[good], np.broadcast_to(cluster, target.shape)[good]

    def cells(self, kind: Kind) -> list[Cell]:
        """All sizes together, and each of several."""
        sizes = sorted({group.size for group in self.groups if group.kind == kind})
        return [self._cell(kind, size) for size in (None, *(sizes if kind != "file" and len(sizes) > 1 else ()))]

    def _cell(self, kind: Kind, size: int | None) -> Cell:
        predicted, actual, target, cluster = self.points(kind, size)
        rows = self._rows((kind,), size)
        spearman, line = Estimate(None), effects.Line(Estimate(None), Estimate(None))
        if kind in ("random", "class"):
            parts = self.parts((kind,)) if size is None else [self._part((kind,), size)]
            if all(len(part.cluster) >= effects.LEAST for part in parts):
                spearman = effects.over_groups(parts)
        elif len(predicted) >= effects.LEAST:
            spearman = effects.over_points(self._points(kind, size))
        if len(predicted) >= effects.LEAST:
            several = len(np.unique(cluster)) > 1 and kind != "top"
            line = effects.line(predicted, actual, target, *((cluster,) if several else ()))
        return Cell(
            kind=kind,
            removed=size,
            groups=len(rows),
            points=len(predicted),
            spearman=spearman,
            slope=line.slope,
            r2=line.r2,
        )

    def _points(self, kind: Kind, size: int | None) -> list[Points]:
        """By size; groups of files have each their own, and are taken together."""
        sizes = {group.size for group in self.groups if group.kind == kind}
        each = sorted(sizes) if size is None and kind != "file" else [size]
        return [Points(*self.points(kind, one)[:3]) for one in each]

    def scatter(self, kinds: Sequence[Kind], seed: int) -> Scatter:
        """Random points of each kind."""
        made: dict[str, list[tuple[float, float]]] = {}
        for kind in kinds:
            predicted, actual, *_ = self.points(kind, None)
            some = np.random.default_rng([seed, _SCATTER]).permutation(len(predicted))[:_POINTS]
            pairs = np.round(np.stack([predicted[some], actual[some]], axis=1), 4)
            made[kind] = [(float(x), float(y)) for x, y in pairs]
        return Scatter(made)


class _Halves:
    """Models on new random subsets as large as the ground truth's, and as many seeds each: the LDS once more.

    Smaller random removals (the kind `random`) are no such check: their effects are smaller beside the seeds' noise.
    """

    def __init__(self, subject: Subject, trainer: Any, count: int, seed: int) -> None:
        meta = subject.truth.meta
        self.seeds = 1 if meta is None else meta.identity.plan.repeats
        gone = calibration.random_complements(subject, count, [seed, _HALF])
        made = margins_without(
            trainer,
            gone,
            self.seeds,
            seed,
            subject.progress,
            "models on random subsets",
            output=calibration.output_of(subject),
            apart=True,
        )
        whole = np.isfinite(made).all(axis=(1, 2))
        self.trained, self.removed = made.shape[0] * made.shape[1], len(gone[0])
        self.masks = np.ones((count, subject.n_train), bool)
        for mask, group in zip(self.masks, gone, strict=True):
            mask[group] = False
        self.masks, made = self.masks[whole], made[whole]
        if len(made) < 3:
            raise InputError(f"models of {subject.title} on random subsets diverged: --halves 0 leaves them out")
        self.margins = made.mean(axis=1)
        best = noise_ceiling(made.swapaxes(0, 1)) if self.seeds > 1 else None
        good = best is not None and np.isfinite([best.lds, *best.ci]).all()
        self.ceiling = Estimate(best.lds, best.ci) if best is not None and good else Estimate(None)

    def of(self, one: Scored, subject: Subject) -> Half:
        """One method's correlation, and how far it is from its LDS.

        The variances of both are added, as if they were of different targets; they are of the same ones, which differ
        alike in both, so that the interval of the difference is rather too wide (conservative).
        """
        found = lds(one.scores, self.masks, self.margins, undefined="zero")
        row = next((r for r in subject.board.methods if r.name == one.name), None) if subject.board else None
        difference = Estimate(None)
        if row is not None and row.lds is not None and np.isfinite(found.mean):
            value = found.mean - row.lds
            half = _Z * float(np.hypot(found.stderr, row.stderr)) if row.stderr is not None else np.nan
            difference = Estimate(value, (value - half, value + half) if np.isfinite(half) else None)
        mean = None if not np.isfinite(found.mean) else found.mean
        ci = found.ci if np.isfinite(found.ci).all() else None
        return Half(
            spearman=Estimate(mean, ci),
            lds=None if row is None else row.lds,
            lds_ci=None if row is None else row.ci,
            difference=difference,
        )


def _checksum(subject: Subject, one: Scored) -> str | None:
    """Of the run's score file; None of scores from elsewhere."""
    rows = [] if subject.board is None else subject.board.methods
    path = next((row.scores for row in rows if row.name == one.name), None)
    return None if path is None else hashing.file(subject.path / path)
