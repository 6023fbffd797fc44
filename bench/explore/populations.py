"""Subpopulations: what targets and training examples are alike in, and which of them are at odds."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import msgspec
import numpy as np

from bench.errors import BenchError, InputError
from bench.explore import asked, choice, cluster_pictures, clusters, conflicts, document, retraining, subgroups
from bench.explore.clusters import NORMALISE, Group, Lengths, Normalise
from bench.explore.clusters_document import Cluster, Component, Conflict, Divided, Evaluation, Subpopulations
from bench.explore.document import Finding
from bench.explore.planted import NotPlantedError
from bench.explore.subject import NoExamplesError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bench.explore.subject import Scored, Subject

CLUSTERS = 3
CHECKED = 3
SEEDS = 8
_COMPONENTS = 4
_TYPICAL = 8  # examples that are named of a cluster, and at either end of a component
_LISTED = 20  # conflicts
_MOST_VECTORS = 2000  # targets that components are made from
_EVALUATED = 5  # methods
_SLAB = 1024
_WHAT = "explore subpopulations"
Within = Literal["class", "all"]
Parts = list[tuple[int | None, "NDArray[np.int64]"]]


def subpopulations(
    subject: Subject,
    *,
    n_clusters: int | None = None,
    within: Within | None = None,
    normalise: Normalise = "helpful",
    check: int | None = None,
    seeds: int | None = None,
    evaluate: bool | None = None,
    models: int = 1000,
    pairings: int = 1,
    seed: int = 0,
    out: Path | None = None,
) -> Finding[Subpopulations]:
    """Cluster targets and training examples by their scores, find clusters at odds, and say how good clusters are.

    The method that was asked for by name is clustered, the first of several, else the best by LDS; the five best are
    evaluated.

    Args:
        subject: what is explored.
        n_clusters: clusters of each group; by default 3, of small groups fewer.
        within: divide each `class`, which is the default where classes are known, or `all` at once.
        normalise: as for `clusters.embedding`.
        check: how many conflicts to check by retraining; by default 3, where there is something to train on.
        seeds: models per set of examples that is removed; by default 8, of a single-model store one.
        evaluate: whether subgroups are planted; by default where that can be done.
        models: of each planted ground truth.
        pairings: how often subgroups are planted.
        seed: of everything that is drawn.
        out: where planted runs are kept, to be used again.

    Raises:
        BenchError: an argument out of range, no scores, or no examples where they are asked for.
        InputError: an unknown word, or no target whose scores are all finite.
    """
    began = time.perf_counter()
    if within is not None:
        asked.one_of(within, "--within", get_args(Within))
    asked.one_of(normalise, "--normalise", NORMALISE)
    asked.root_seed(seed)
    asked.at_least(check or 0, "--check", 0)
    subgroups.check(models, pairings)
    each = retraining.models_of(subject, seeds, SEEDS)
    subject.scored(f"{_WHAT} clusters scores")
    method = subject.best()[0]
    if check:
        subject.examples(f"{_WHAT} --check trains models")
    if evaluate:
        subject.examples(subgroups.PLANT)
    notes = list(subject.notes)
    known = method.known()
    if not known.any():
        raise InputError(f"{method.name} has no target whose scores are all finite: name another method")
    if not known.all():
        notes.append(choice.left_out(method.name, known))
    within = within or ("all" if subject.data is None else "class")
    parts = _parts(subject, within, known, notes)
    count = _count(n_clusters, parts)
    groups, found, looked_at = _divided(method, known, parts, count, normalise, seed, notes)
    described = {
        "targets": _clusters(subject, "targets", groups["targets"], _helpful(method, groups["targets"])),
        "train": _clusters(subject, "train", groups["train"], None),
    }
    pairs = [
        Conflict(
            train=described["train"][one.train].name,
            targets=described["targets"][one.targets].name,
            mean=one.mean,
            pairs=one.pairs,
            elsewhere=one.elsewhere,
            expected=one.expected,
            z=one.z,
            p=one.p,
        )
        for one in found[:_LISTED]
    ]
    pairs, trained = _checked(subject, pairs, described, CHECKED if check is None else check, each, seed, notes)
    evaluation = _evaluation(subject, out, evaluate, normalise, models, pairings, seed, notes)
    if evaluation is not None:
        trained += evaluation.models * pairings
    components = _components(method, known, seed, notes)
    names = {
        method.name: method.lds,
        **{one.name: one.lds for one in (subject.leading(_EVALUATED) if evaluation else ())},
    }
    labels = _labels(subject, described, components)
    made = Subpopulations(
        verb="subpopulations",
        about=document.about(subject, names, time.perf_counter() - began, trained),
        notes=notes,
        method=method.name,
        normalise=normalise,
        within=within,
        clusters=count,
        seed=seed,
        classes=[] if subject.data is None else list(subject.data.class_names),
        target_labels=labels[0],
        train_labels=labels[1],
        divided=[Divided(label=g.label, targets=len(g.members), silhouette=g.silhouette) for g in groups["targets"]],
        targets=described["targets"],
        train=described["train"],
        components=components,
        conflicts=pairs,
        conflicts_found=len(found),
        pairs=looked_at,
        evaluation=evaluation,
    )
    pictures = {} if subject.data is None else cluster_pictures.of(made, subject.data)
    return Finding(msgspec.structs.replace(made, pictures=tuple(pictures)), pictures=pictures)


def _parts(subject: Subject, within: Within, known: NDArray[np.bool_], notes: list[str]) -> dict[str, Parts]:
    """What is divided: label and members, of training examples and of targets."""
    if within == "all":
        return {"train": [(None, np.arange(subject.n_train))], "targets": [(None, np.flatnonzero(known))]}
    data = subject.examples(f"{_WHAT} --within class needs classes")
    made: dict[str, Parts] = {"train": [], "targets": []}
    for label in range(data.n_classes):
        train, targets = np.flatnonzero(data.train_y == label), np.flatnonzero((data.test_y == label) & known)
        made["train"] += [(label, train)] if len(train) else []
        made["targets"] += [(label, targets)] if len(targets) else []
        for what, some in (("targets with finite scores", targets), ("training examples", train)):
            if not len(some):
                notes.append(f"Class {_class(subject, label)} has no {what}, and is not divided")
    return made


def _class(subject: Subject, label: int) -> str:
    names = () if subject.data is None else subject.data.class_names
    return names[label] if names else str(label)


def _count(wanted: int | None, parts: dict[str, Parts]) -> int:
    if wanted is None:
        return CLUSTERS
    asked.at_least(wanted, "--clusters", 1)
    for side, what in (("targets", "targets"), ("train", "training examples")):
        label, members = min(parts[side], key=lambda part: len(part[1]))
        if wanted > len(members):
            where = "there are" if label is None else f"class {label} has"
            raise BenchError(f"--clusters is {wanted}, and {where} {len(members)} {what}: take at most so many")
    return wanted


def _divided(
    method: Scored,
    known: NDArray[np.bool_],
    parts: dict[str, Parts],
    count: int,
    normalise: Normalise,
    seed: int,
    notes: list[str],
) -> tuple[dict[str, list[Group]], list[conflicts.Pair], int]:
    """Clusters from one half of the scores, and pairs of them that are at odds in the other."""
    scores, lengths = method.scores, Lengths.of(method.scores, known)
    train_half = conflicts.halves([members for _, members in parts["train"]], len(scores), seed, 0)
    target_half = conflicts.halves([members for _, members in parts["targets"]], len(known), seed, 1)
    split = train_half.any() and target_half.any()
    rows = np.flatnonzero(train_half) if split else np.arange(len(scores))
    columns = np.flatnonzero(target_half) if split else np.flatnonzero(known)
    groups = {
        "targets": clusters.divided(scores, "targets", parts["targets"], rows, normalise, lengths, count, seed),
        "train": clusters.divided(scores, "train", parts["train"], columns, normalise, lengths, count, seed),
    }
    if not split:
        notes.append("There are too few examples to look for clusters at odds")
        return groups, [], 0
    sides = (conflicts.Side.of(groups["train"], ~train_half), conflicts.Side.of(groups["targets"], ~target_half))
    return groups, *conflicts.conflicting(scores, *sides, seed)


def _clusters(subject: Subject, side: str, groups: Sequence[Group], means: NDArray[np.float64] | None) -> list[Cluster]:
    """Clusters with their names, from group to group; `means`: scores of training examples `[clusters, n_train]`."""
    data = subject.data
    labels = None if data is None else data.test_y if side == "targets" else data.train_y
    made: list[Cluster] = []
    for group in groups:
        prefix = "" if group.label is None else _class(subject, group.label)
        for number in range(int(group.cluster.max()) + 1):
            at = np.flatnonzero(group.cluster == number)
            members, cosines = group.members[at], group.middle[at]
            counts = () if labels is None else np.bincount(labels[members])
            best = [] if means is None else np.argsort(-means[len(made)], kind="stable")[:_TYPICAL].tolist()
            made.append(
                Cluster(
                    name=_name(prefix, number),
                    side=side,
                    label=group.label,
                    members=members.tolist(),
                    cosines=[round(float(value), 4) for value in cosines],
                    typical=members[np.argsort(-cosines, kind="stable")[:_TYPICAL]].tolist(),
                    helpful=best,
                    labels={str(label): int(n) for label, n in enumerate(counts) if n},
                )
            )
    return made


def _name(prefix: str, number: int) -> str:
    """`3b`, `coat b`."""
    letter = chr(ord("a") + number) if number < 26 else f"#{number + 1}"
    return f"{prefix}{letter}" if prefix.isdecimal() or not prefix else f"{prefix} {letter}"


def _helpful(method: Scored, groups: Sequence[Group]) -> NDArray[np.float64]:
    """Mean score of each training example for each cluster of targets, float64 `[clusters, n_train]`."""
    columns = [g.members[g.cluster == number] for g in groups for number in range(int(g.cluster.max()) + 1)]
    made = np.empty((len(columns), len(method.scores)))
    for at in range(0, len(method.scores), _SLAB):
        slab = np.asarray(method.scores[at : at + _SLAB], np.float64)
        for place, members in enumerate(columns):
            made[place, at : at + _SLAB] = slab[:, members].mean(axis=1)
    return made


def _checked(
    subject: Subject,
    pairs: list[Conflict],
    described: dict[str, list[Cluster]],
    most: int,
    seeds: int,
    seed: int,
    notes: list[str],
) -> tuple[list[Conflict], int]:
    """The same, the first of them checked by retraining; and how many models that took."""
    if not most or not pairs:
        return pairs, 0
    if subject.data is None:
        notes.append(f"Clusters at odds were not checked by retraining: {subject.path} has no examples, {subject.why}")
        return pairs, 0
    members = {(one.side, one.name): np.array(one.members) for side in described.values() for one in side}
    whole = subject.n_train
    able = [one for one in pairs if len(members["train", one.train]) < whole][:most]
    removed = [(members["train", one.train], members["targets", one.targets]) for one in able]
    trainer = subject.trainer(f"{_WHAT} --check trains models")
    starts = retraining.starts(subject, seeds, seed)
    meta = subject.truth.meta
    output = "logsumexp" if meta is None else meta.identity.output
    checks, trained = conflicts.checked(trainer, removed, starts, seed, output, subject.progress)
    found = dict(zip([(one.train, one.targets) for one in able], checks, strict=True))
    return [msgspec.structs.replace(one, check=found.get((one.train, one.targets))) for one in pairs], trained


def _evaluation(
    subject: Subject,
    out: Path | None,
    wanted: bool | None,
    normalise: Normalise,
    models: int,
    pairings: int,
    seed: int,
    notes: list[str],
) -> Evaluation | None:
    """By default where it can be done; a note says why not."""
    if wanted is False:
        return None
    try:
        return subgroups.evaluate(
            subject,
            subject.leading(_EVALUATED),
            out,
            normalise=normalise,
            models=models,
            pairings=pairings,
            seed=seed,
        )
    except (NoExamplesError, NotPlantedError) as error:
        if wanted:
            raise
        notes.append(f"Clusters were not compared with planted subgroups: {error}")
        return None


def _components(method: Scored, known: NDArray[np.bool_], seed: int, notes: list[str]) -> list[Component]:
    """Of vectors in which every training example counts the same (`balanced`)."""
    scores, lengths, targets = method.scores, Lengths.of(method.scores, known), np.flatnonzero(known)
    if len(targets) > _MOST_VECTORS:
        targets = np.sort(np.random.default_rng([seed, 87]).permutation(targets)[:_MOST_VECTORS])
        notes.append(f"Principal components are of {_MOST_VECTORS:,} targets drawn at random")
    others = np.arange(len(scores))
    others = others[:: max(1, -(-len(targets) * len(others) // clusters.MOST_NUMBERS))]
    vectors = clusters.embedding(scores, "targets", targets, others, "balanced", lengths)
    try:
        found = clusters.principal(vectors, _COMPONENTS)
    except BenchError as error:
        notes.append(f"There are no principal components: {error}")
        return []
    made = []
    for share, projection, loading in zip(found.shares, found.projections.T, found.loadings, strict=True):
        by_target, by_train = np.argsort(-projection, kind="stable"), np.argsort(-loading, kind="stable")
        made.append(
            Component(
                share=float(share),
                high_targets=targets[by_target[:_TYPICAL]].tolist(),
                low_targets=targets[by_target[::-1][:_TYPICAL]].tolist(),
                high_train=others[by_train[:_TYPICAL]].tolist(),
                low_train=others[by_train[::-1][:_TYPICAL]].tolist(),
            )
        )
    return made


def _labels(
    subject: Subject, described: dict[str, list[Cluster]], components: Sequence[Component]
) -> tuple[dict[str, int], dict[str, int]]:
    """Classes of the targets and of the training examples that are named."""
    if subject.data is None:
        return {}, {}
    targets = {at for one in described["targets"] for at in one.typical}
    train = {at for one in described["targets"] for at in one.helpful}
    train |= {at for one in described["train"] for at in one.typical}
    targets |= {at for one in components for at in (*one.high_targets, *one.low_targets)}
    train |= {at for one in components for at in (*one.high_train, *one.low_train)}
    y, train_y = subject.data.test_y, subject.data.train_y
    return {str(at): int(y[at]) for at in sorted(targets)}, {str(at): int(train_y[at]) for at in sorted(train)}
