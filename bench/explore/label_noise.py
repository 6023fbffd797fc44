"""Mislabelled training examples, told by what each does to the models' answer on itself.

An example with a wrong label is answered as its label says only by models that were trained on it: its own margin, of
the label it has, falls most when it is left out. So does that of rare and hard examples with right labels; how far the
two are told apart is what planted wrong labels show. Feldman (2020), "Does learning require memorization?"; Koh and
Liang (2017), "Understanding black-box predictions via influence functions", section 5.4.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec
import numpy as np

from bench import memorization
from bench.errors import BenchError, InputError
from bench.explore import asked, choice, document, labels, pairs, separation
from bench.explore.document import Document, Finding
from bench.explore.planted import check_models, planted

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bench.datasets import Data
    from bench.explore.labels import Labels
    from bench.explore.subject import Scored, Subject

    Values = Mapping[str, tuple[NDArray[np.float64], bool]]

MEMORIZATION, UNSEEN, ALL, CHANCE = "memorization", "margin, unseen", "margin, all models", "random order"
_LISTED = 100
_PICTURED, _ACROSS = 24, 8
_POINTS = 300
_RANDOM = 83  # a stream of the root seed
Meaning = Literal["noisy", "clean"]


class Suspicion(msgspec.Struct, frozen=True, kw_only=True):
    """A training example that may be mislabelled.

    Attributes:
        method: or the baseline, that says so; rank: its place in that list, from 1.
        train: the example; value: how suspicious.
        holds: the beginning of what it holds, where it is no image.
        label: the one that models were trained with; right: the right one, where wrong labels are known.
        wrong: whether they differ; None where that is not known.
    """

    method: str
    rank: int
    train: int
    value: float
    label: int
    right: int | None = None
    wrong: bool | None = None
    holds: str = ""


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """How well a ranking tells wrong labels.

    Attributes:
        name: of the method or baseline; baseline: which of them.
        auc: area under the ROC curve; ci: its 95% interval by DeLong.
        found: wrong labels among as many first examples as there are wrong labels; precision: their share.
        precision_ci: its 95% interval by Wilson.
        inspected, recalls: share of the wrong labels among the first examples, by the share that is looked at.
    """

    name: str
    baseline: bool
    auc: float
    ci: tuple[float, float] | None
    found: int
    precision: float
    precision_ci: tuple[float, float]
    inspected: list[float]
    recalls: list[float]


class Mislabel(Document, frozen=True, kw_only=True):
    """What `bench explore mislabel` finds.

    Attributes:
        how: `planted`, wrong labels were planted; `file`, they are those of a file; `own`, the run's own models and
            labels, nothing was trained.
        wrong: wrong labels, where they are known; share: of the training examples; seed: root seed.
        told: how well each ranking tells them; empty where they are not known.
        suspicions: the first examples of each ranking; shown: how many are in the table.
        picture: whether there is one; class_names: empty where classes are numbers.
        lds: of the methods, on the training examples as targets; missing: why a method is not among them.
    """

    how: Literal["planted", "file", "own"]
    wrong: int | None
    share: float | None
    seed: int
    told: list[Told]
    suspicions: list[Suspicion]
    shown: int
    picture: bool
    class_names: list[str]
    lds: dict[str, float | None]
    missing: dict[str, str]


def mislabel(
    subject: Subject,
    *,
    k: int = 10,
    plant: bool = True,
    share: float = 0.1,
    labels_file: str | Path | None = None,
    labels_are: Meaning = "noisy",
    models: int = 1500,
    most: int = 5,
    seed: int = 0,
    out: str | Path | None = None,
) -> Finding[Mislabel]:
    """Rank training examples by how likely their labels are wrong, and say how well that works.

    Args:
        subject: what is explored.
        k: examples that the table shows.
        plant: train models on the training examples with wrong labels, as their own targets; otherwise rank the run's
            own training examples by memorization, which the store must keep outputs for.
        share: of the labels to be made wrong.
        labels_file: labels from a file in place of planted ones: one whole number per training example.
        labels_are: whether those of the file are `noisy`, and the dataset's right, or `clean`, and the dataset's noisy.
        models: of the ground truth.
        most: methods, the best by LDS, one variant of each.
        seed: of the wrong labels and the models.
        out: where the run with wrong labels is kept and used again; nowhere by default.

    Raises:
        BenchError: no examples; an argument out of range.
        InputError: a file of labels that does not fit; a store without outputs on its training examples.
    """
    began = time.perf_counter()
    data = subject.examples("explore mislabel ranks training examples by their labels")
    asked.at_most(k, "--k", data.n_train, "training examples")
    asked.at_most(most, "--most", 1000, "methods")
    asked.root_seed(seed)
    check_models(models)
    if not plant and labels_file is not None and labels_are == "noisy":
        raise BenchError("--no-plant trains nothing, so noisy labels cannot be trained on: add --labels-are clean")
    given = None
    if labels_file is not None:
        given = labels.of_file(labels_file, data, noisy=labels_are == "noisy")
    elif plant:
        given = labels.flipped(data, share, seed)
    notes = list(subject.notes)
    leading = subject.leading(most) if plant else []
    lds: dict[str, float | None] = {}
    missing: dict[str, str] = {}
    trained = 0
    if plant:
        assert given is not None
        values, lds, missing, trained = _trained(
            subject, data, given, leading, models, seed, None if out is None else Path(out)
        )
        notes += [f"{name} is left out: {why}" for name, why in missing.items()]
    else:
        values = _own(subject)
    if given is not None:
        values = {**values, CHANCE: (np.random.default_rng([seed, _RANDOM]).random(data.n_train), True)}
    now = data.train_y if given is None else given.trained
    suspicions = _suspicions(values, now, given, k)
    picture = _picture(data, suspicions, given)
    if picture is None:
        suspicions = [
            msgspec.structs.replace(one, holds=choice.features(data.train_x[one.train])) for one in suspicions
        ]
        notes.append("the examples are not known to be images, so there is no picture of them")
    told = [] if given is None else [_told(name, *value, given.wrong) for name, value in values.items()]
    made = Mislabel(
        verb="mislabel",
        about=document.about(subject, {one.name: one.lds for one in leading}, time.perf_counter() - began, trained),
        notes=notes,
        how="own" if not plant else "planted" if labels_file is None else "file",
        wrong=None if given is None else int(given.wrong.sum()),
        share=None if given is None else float(given.wrong.mean()),
        seed=seed,
        told=told,
        suspicions=suspicions,
        shown=k,
        picture=picture is not None,
        class_names=list(data.class_names),
        lds=lds,
        missing=missing,
    )
    return Finding(made, pictures={} if picture is None else {"suspects": picture})


def _trained(
    subject: Subject,
    data: Data,
    given: Labels,
    leading: Sequence[Scored],
    models: int,
    seed: int,
    out: Path | None,
) -> tuple[Values, dict[str, float | None], dict[str, str], int]:
    """How suspicious each example is by each method and baseline; LDS, what is missing, and models trained."""
    noisy = replace(data, train_y=given.trained, test_x=data.train_x, test_y=given.trained)
    what = "labels" if given.source is None else "labels-file"
    with planted(subject, what, noisy, leading, out, models, seed, needed=False) as run:
        made: dict[str, tuple[NDArray[np.float64], bool]] = {}
        for one in run.subject.methods:
            made[one.name] = _diagonal(one), False
        truth = run.subject.truth
        rows = truth.rows(np.flatnonzero(truth.completed), as_stored=True)
        made |= _of_models(rows.masks, rows.margins)
        return made, {one.name: one.lds for one in run.subject.methods}, run.missing, run.models


def _diagonal(one: Scored) -> NDArray[np.float64]:
    """What keeping each example does to its own margin: self-influence, the larger the more suspicious."""
    return np.array([one.scores[at, at] for at in range(len(one.scores))], np.float64)


def _of_models(masks: Any, margins: Any) -> dict[str, tuple[NDArray[np.float64], bool]]:
    """By memorization, and by margins alone: low where models that did not see an example contradict its label."""
    told = memorization.own(masks, margins)
    total, rows = np.zeros(len(told.memorization)), 0
    for at in range(0, len(margins), 256):
        part = np.asarray(margins[at : at + 256], np.float64)
        total, rows = total + part.sum(axis=0), rows + len(part)
    return {
        MEMORIZATION: (told.memorization.astype(np.float64), False),
        UNSEEN: (-told.consistency.astype(np.float64), True),
        ALL: (-total / rows, True),
    }


def _own(subject: Subject) -> dict[str, tuple[NDArray[np.float64], bool]]:
    """The run's own training examples, from outputs on them that its store keeps."""
    truth = subject.truth
    name = next((name for name in ("train_margins", "train_correct") if name in truth.schema), None)
    if name is None:
        raise InputError(
            f"{truth.path} keeps no outputs on its training examples, which --no-plant ranks them by: name a "
            "store of bench train --keep train-margins"
        )
    rows = truth.rows(np.flatnonzero(truth.completed), as_stored=True)
    return _of_models(rows.masks, rows.train[name])


def _suspicions(values: Values, now: NDArray[np.int64], given: Labels | None, k: int) -> list[Suspicion]:
    made = []
    for name, (value, _) in values.items():
        if name == CHANCE:
            continue
        order = np.argsort(-np.where(np.isfinite(value), value, -np.inf), kind="stable")[: max(k, _LISTED)]
        for rank, train in enumerate(order[np.isfinite(value[order])].tolist(), 1):
            made.append(
                Suspicion(
                    method=name,
                    rank=rank,
                    train=train,
                    value=float(value[train]),
                    label=int(now[train]),
                    right=None if given is None else int(given.right[train]),
                    wrong=None if given is None else bool(given.wrong[train]),
                )
            )
    return made


def _picture(data: Data, suspicions: Sequence[Suspicion], given: Labels | None) -> bytes | None:
    """The most suspicious examples by the first ranking."""
    some = [one for one in suspicions if one.method == suspicions[0].method][:_PICTURED]
    names = data.class_names or [str(number) for number in range(data.n_classes)]
    said = []
    for one in some:
        below = "" if given is None else f"is {names[one.right or 0]}" if one.wrong else "label is right"
        said.append(f"says {names[one.label]}\n{below}")
    return pairs.faces(data, [one.train for one in some], said, _ACROSS)


def _told(name: str, value: NDArray[np.float64], baseline: bool, wrong: NDArray[np.bool_]) -> Told:
    # What is not known, of an example that all models hold, or none, is not suspected.
    known = np.where(np.isfinite(value), value, -np.inf)
    found = separation.auc(known, wrong)
    order = np.argsort(-known, kind="stable")
    count = int(wrong.sum())
    first = int(wrong[order[:count]].sum())
    recalls = np.append(0, np.cumsum(wrong[order])) / count
    some = np.unique(np.linspace(0, len(order), min(_POINTS, len(order) + 1)).round().astype(np.int64))
    return Told(
        name=name,
        baseline=baseline,
        auc=found.value,
        ci=found.ci,
        found=first,
        precision=first / count,
        precision_ci=separation.wilson(first, count),
        inspected=(some / len(order)).round(4).tolist(),
        recalls=recalls[some].round(4).tolist(),
    )
