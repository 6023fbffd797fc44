"""Planted subgroups: are clusters of scores the subgroups that the model was never told of?

Classes are merged in pairs drawn at random, models are trained on the merged labels, and the targets of each merged
class are clustered by their scores into as many clusters as it has hidden classes. The adjusted Rand index (Hubert and
Arabie 1985) says how well clusters and hidden classes agree: 1 fully, 0 as by chance.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bench.errors import UnmetError
from bench.explore import clusters
from bench.explore.asked import at_least
from bench.explore.clusters_document import Agreement, Change, Evaluation
from bench.explore.conflicts import averaged
from bench.explore.planted import NotPlantedError, check_models, planted
from bench.report.images import shape_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bench.datasets import Data
    from bench.explore.clusters import Normalise
    from bench.explore.subject import Scored, Subject

PLANT = "explore subpopulations plants subgroups"
_PAIRING, _NUMBERS, _MODEL = 84, 85, 86  # streams of the seed
SEEDS = 3  # of k-means
_EVAL_SUBSETS = 50  # of the planted ground truth: its LDS is not shown
_DRAWN = "random numbers"
Clustering = Callable[["NDArray[np.int64]", int, int], "NDArray[np.int64]"]


@dataclass(frozen=True)
class Plant:
    """Examples with subgroups that their labels do not tell.

    Attributes:
        data: the examples; hidden: the subgroup of each target, int64 `[n_targets]`.
        what: was planted, as a sentence.
        names: of each class of `data`.
    """

    data: Data
    hidden: NDArray[np.int64]
    what: str
    names: list[str]


def plant(data: Data, seed: int, number: int = 0) -> Plant:
    """Merge classes in random pairs; of an odd number one stays alone. Of two classes, turn random images upside down.

    Raises:
        NotPlantedError: there are two classes, and the examples are no images.
    """
    rng = np.random.default_rng([seed, _PAIRING, number])
    if data.n_classes > 2:
        order = rng.permutation(data.n_classes)
        merged = np.empty(data.n_classes, np.int64)
        merged[order] = np.arange(data.n_classes) // 2
        count = int(merged.max()) + 1
        told = [data.class_names[at] if data.class_names else str(at) for at in range(data.n_classes)]
        names = ["+".join(told[at] for at in np.flatnonzero(merged == label)) for label in range(count)]
        made = replace(
            data,
            train_y=merged[data.train_y],
            test_y=merged[data.test_y],
            n_classes=count,
            class_names=tuple(names),
            origin={**data.origin, "planted": f"classes merged to {', '.join(names)}"},
        )
        what = "The classes were merged in random pairs, and models were trained on the merged labels alone"
        return Plant(made, data.test_y, what, names)
    shape = shape_of(data)
    if shape is None:
        raise NotPlantedError(f"{PLANT} by merging classes or turning images, and there are two classes and no images")
    names = [data.class_names[label] if data.class_names else str(label) for label in range(2)]
    (train, _), (test, turned) = (_turned(x, shape, rng) for x in (data.train_x, data.test_x))
    made = replace(data, train_x=train, test_x=test, origin={**data.origin, "planted": "images turned upside down"})
    what = "There are but two classes: a random half of all images were turned upside down, in training set and targets"
    return Plant(made, turned, what, names)


def _turned(
    x: NDArray[np.float32], shape: tuple[int, int, int], rng: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """A random half of the images turned by 180°, and 1 for those."""
    which = np.zeros(len(x), np.int64)
    which[rng.permutation(len(x))[: len(x) // 2]] = 1
    made = x.copy()
    pictures = made.reshape(len(x), *shape)
    pictures[which == 1] = pictures[which == 1][..., ::-1, ::-1]
    return made, which


def check(models: int, pairings: int) -> None:
    """Refuse arguments of `evaluate`, before anything is done.

    Raises:
        BenchError: one is out of range.
    """
    check_models(models, _EVAL_SUBSETS)
    at_least(pairings, "--pairings", 1)


def evaluate(
    subject: Subject,
    wanted: Sequence[Scored],
    out: Path | None,
    *,
    normalise: Normalise,
    models: int,
    pairings: int,
    seed: int,
) -> Evaluation:
    """Plant subgroups, run methods, cluster by each, and compare.

    Args:
        subject: whose examples, model and recipe are taken.
        wanted: methods.
        out: as for `planted`; each pairing has a run of its own there.
        normalise: as for `clusters.embedding`, of scores. Pixels and features are compared by plain cosine.
        models: of each planted ground truth.
        pairings: how often to plant.
        seed: of pairings, models and k-means.

    Raises:
        NoExamplesError: there are no examples.
        NotPlantedError: nothing can be planted, no group is large enough, or no method can run.
        BenchError: what `bench run` raises.
    """
    data = subject.examples(PLANT)
    names: list[str] = []
    sizes: list[int] = []
    found: dict[tuple[str, bool], list[float]] = {}
    missing: dict[str, str] = {}
    for number in range(pairings):
        made = plant(data, seed, number)
        groups = _groups(made)
        what = "subgroups" if number == 0 else f"subgroups{number + 1}"
        with planted(subject, what, made.data, wanted, out, models, seed, eval_subsets=_EVAL_SUBSETS) as run:
            missing |= run.missing
            for label, members in groups:
                names.append(made.names[label])
                sizes.append(len(members))
            for name, raw, cluster in _embeddings(run.subject, made, normalise, seed):
                found.setdefault((name, raw), []).extend(
                    [_agreement(made.hidden[members], members, cluster) for _, members in groups]
                )
            trained = run.models
    complete = {key: values for key, values in found.items() if len(values) == len(names)}
    for name, _ in found.keys() - complete.keys():
        missing[name] = "not all pairings have scores by it"
    baseline = f"{_described(data)}, spectral"
    return Evaluation(
        what=made.what,
        groups=names,
        sizes=sizes,
        models=trained,
        pairings=pairings,
        seeds=SEEDS,
        baseline=baseline,
        rows=_rows(complete, baseline),
        missing=missing,
    )


def _groups(made: Plant) -> list[tuple[int, NDArray[np.int64]]]:
    """Merged classes of at least two hidden subgroups, with their targets, which are more than the subgroups."""
    found = []
    for label in range(made.data.n_classes):
        members = np.flatnonzero(made.data.test_y == label)
        subgroups = len(np.unique(made.hidden[members]))
        if 1 < subgroups < len(members):
            found.append((label, members))
    if not found:
        raise NotPlantedError(f"{PLANT}, and no group has targets of two of them: there are too few targets")
    return found


def _agreement(hidden: NDArray[np.int64], members: NDArray[np.int64], cluster: Clustering) -> float:
    """Adjusted Rand index, mean over seeds of k-means."""
    from sklearn.metrics import adjusted_rand_score

    count = len(np.unique(hidden))
    return float(np.mean([adjusted_rand_score(hidden, cluster(members, count, one)) for one in range(SEEDS)]))


def _embeddings(run: Subject, made: Plant, normalise: Normalise, seed: int) -> Iterator[tuple[str, bool, Clustering]]:
    """What to cluster by: each method's scores, the examples as they are, the model's features, random numbers."""
    n_train, n_targets = run.n_train, run.n_targets
    for one in run.methods:
        yield one.name, False, _of_scores(one.scores, normalise, one.known())
    numbers = np.random.default_rng([seed, _NUMBERS]).standard_normal((n_train, n_targets))
    yield _DRAWN, True, _of_scores(numbers, normalise, np.ones(n_targets, bool))
    pixels = made.data.test_x.reshape(n_targets, -1)
    yield f"{_described(made.data)}, spectral", True, _spectral_of(pixels)
    yield f"{_described(made.data)}, k-means", True, _k_means_of(pixels)
    features = _features(run, seed)
    if features is not None:
        yield "the model's features, spectral", True, _spectral_of(features)


def _described(data: Data) -> str:
    return "examples" if shape_of(data) is None else "pixels"


def _of_scores(scores: NDArray[np.floating], normalise: Normalise, known: NDArray[np.bool_]) -> Clustering:
    """Targets that have no finite scores are a cluster of their own."""
    lengths, others = clusters.Lengths.of(scores, known), np.arange(len(scores))
    kept: dict[bytes, NDArray[np.float32]] = {}

    def cluster(members: NDArray[np.int64], count: int, seed: int) -> NDArray[np.int64]:
        mine, found = known[members], np.full(len(members), -1)
        if mine.sum() >= count:
            key = members.tobytes()
            if key not in kept:
                kept[key] = clusters.embedding(scores, "targets", members[mine], others, normalise, lengths)
            found[mine] = clusters.spectral(kept[key], count, seed)
        return found

    return cluster


def _spectral_of(vectors: NDArray[np.float32]) -> Clustering:
    return lambda members, count, seed: clusters.spectral(clusters.unit(vectors[members]), count, seed)


def _k_means_of(vectors: NDArray[np.float32]) -> Clustering:
    from sklearn.cluster import KMeans

    def cluster(members: NDArray[np.int64], count: int, seed: int) -> NDArray[np.int64]:
        found: NDArray[np.int64] = KMeans(count, n_init=10, random_state=seed).fit_predict(vectors[members])
        return found

    return cluster


def _features(run: Subject, seed: int) -> NDArray[np.float32] | None:
    """What enters the last layer of one model trained on all planted examples; None where there is no such layer."""
    from bench.features import penultimate

    trainer = run.trainer(PLANT)
    vector = trainer.train([np.arange(run.n_train)], [np.random.SeedSequence([seed, _MODEL])])[0]
    flat = trainer.flat()
    module = flat.load(vector).eval()
    try:
        found: NDArray[np.float32] = penultimate(module, trainer.inputs("test")[0]).cpu().numpy()
    except UnmetError:
        return None
    return found


def _rows(found: dict[tuple[str, bool], list[float]], baseline: str) -> list[Agreement]:
    against = found[baseline, True]
    made = []
    for (name, raw), values in found.items():
        whole = averaged(np.array(values))
        assert whole.mean is not None
        apart: Change | None = None if name == baseline else averaged(np.array(values) - np.array(against))
        ci = None if whole.ci is None else (whole.ci[0], min(1.0, whole.ci[1]))  # no index is above 1
        made.append(Agreement(name=name, raw=raw, mean=whole.mean, ci=ci, groups=values, difference=apart))
    return sorted(made, key=lambda one: -one.mean)
