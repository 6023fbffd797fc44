"""Targets, or training examples, as points: the vectors of scores themselves, their components, who lies near whom."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal, get_args

import msgspec
import numpy as np

from bench.errors import InputError
from bench.explore import asked, choice, document, pictures, plane
from bench.explore.asked import at_most
from bench.explore.document import Document, Finding
from bench.explore.purity import Purity, class_share, purity, raw_nearest
from bench.explore.vectors import Of, Principal, Vectors, principal
from bench.report import images
from bench.report.markup import number
from bench.wording import counted

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bench.datasets import Data
    from bench.explore.subject import Subject

Project = Literal["pca", "umap"]
DRAWN = 2000  # points of a plot
_COMPONENTS, _K = 10, 10
_SHOWN, _PICTURED = 5, 12  # nearest, and queries, in a picture
_MATRIX_BYTES = 1 << 26  # a larger one is written only where it is asked for


class Near(msgspec.Struct, frozen=True, array_like=True):
    """A neighbour: its number, the cosine, and its class where it is known."""

    item: int
    cosine: float
    label: int | None


class Query(msgspec.Struct, frozen=True, kw_only=True):
    """One item with its nearest, nearest first."""

    item: int
    label: int | None
    nearest: list[Near]


class Point(msgspec.Struct, frozen=True, array_like=True):
    """An item in a plot: its number, its class where it is known, and where it lies."""

    item: int
    label: int | None
    x: float
    y: float


class Embedded(msgspec.Struct, frozen=True, kw_only=True):
    """What one method's scores make of the items.

    Attributes:
        method: whose scores.
        items: how many have a vector.
        explained: share of the variance by principal component.
        pca: the first two components; umap: UMAP's plane, None where it was not asked for.
        queries: items with their nearest.
        purity: None where classes are not known.
        files: what is written of it beside the document.
    """

    method: str
    items: int
    explained: list[float]
    pca: list[Point]
    umap: list[Point] | None
    queries: list[Query]
    purity: Purity | None
    files: list[str]


class Embedding(Document, frozen=True, kw_only=True):
    """Vectors of scores.

    Attributes:
        of: what the items are; k: neighbours; components: principal components; seed: of randomized algorithms.
        methods: one for each method.
        class_share: share of the other items that are of an item's class, mean over items: purity by chance.
        class_names: empty where classes are numbers.
        picture: whether there is a picture of the queries with their nearest; shown: how many of them a page shows.
    """

    of: Of
    k: int
    components: int
    seed: int
    methods: list[Embedded]
    class_share: float | None
    class_names: list[str]
    picture: bool
    shown: int


def embedding(
    subject: Subject,
    *,
    of: Of = "targets",
    components: int | None = None,
    query: Sequence[int] | None = None,
    k: int | None = None,
    project: Project = "pca",
    matrix: bool | None = None,
    seed: int = 0,
) -> Finding[Embedding]:
    """Targets as vectors of their scores over training examples, or training examples over targets.

    Args:
        subject: what is explored: by the methods that were asked for by name, else by the one of the best LDS.
        of: `targets`, or `train`.
        components: principal components that are kept (10, or as many as there are).
        query: items whose nearest are listed; by default six, spread over classes.
        k: nearest neighbours (10, or all others where they are fewer).
        project: `umap` draws UMAP's plane too.
        matrix: whether the vectors themselves are written; by default up to 64 MiB.
        seed: of randomized algorithms.

    Returns:
        With `pca` (of vectors scaled to length one, float32 `[items, components]`) and `matrix` (as the scores are,
        float32 `[items, numbers]`), whose rows are all items in their order, NaN where scores are not finite; and the
        table `coordinates`. Names go on with the method's where there are several.

    Raises:
        BenchError: a number out of range, no method with scores, or UMAP is not installed.
        InputError: an unknown word; an item that is asked for and has no scores, or only zeros.
    """
    began = time.monotonic()
    asked.one_of(of, "--of", get_args(Of))
    asked.one_of(project, "--project", get_args(Project))
    asked.root_seed(seed)
    subject.scored("explore embedding needs a method's scores")
    found = subject.best()
    if project == "umap":
        plane.installed()
    total, numbers = (subject.n_targets, subject.n_train)[:: 1 if of == "targets" else -1]
    what = "targets" if of == "targets" else "training examples"
    known = choice.known(found)
    least = min(int(there.sum()) for there in known.values())
    items = least if of == "targets" else total
    if items < 2:
        raise InputError(f"an embedding takes at least two {what}, and there is one")
    most = min(items, numbers if of == "targets" else least)
    components = (
        min(_COMPONENTS, most)
        if components is None
        else at_most(components, "--components", most, "directions there are")
    )
    k = min(_K, items - 1) if k is None else at_most(k, "--k", items - 1, f"other {what}")
    notes: list[str] = []
    if of == "targets":
        picked = choice.wanted(subject, known, query, notes)
    else:
        picked = _train_items(subject, query, known, notes)
    labels = None if subject.data is None else subject.data.test_y if of == "targets" else subject.data.train_y
    made, arrays, tables = [], {}, {}
    names: set[str] = set()
    for one in found:
        vectors = Vectors(one, of, np.flatnonzero(known[one.name]))
        suffix = "" if len(found) == 1 else f"-{_slug(one.name, names)}"
        components_of = principal(vectors, components, seed)
        flat = plane.umap(vectors, seed) if project == "umap" else None
        wanted = matrix if matrix is not None else 4 * total * numbers <= _MATRIX_BYTES
        arrays[f"pca{suffix}"] = _rows(components_of.coordinates, vectors.items, total)
        files = [f"embedding-pca{suffix}.npy"]
        if wanted:
            arrays[f"matrix{suffix}"] = _matrix(one.scores, of)
            files.append(f"embedding-matrix{suffix}.npy")
        else:
            size = 4 * total * numbers / 1e6
            why = f"it would take {size:,.0f} MB; --matrix writes it" if matrix is None else "it was not asked for"
            notes.append(f"{one.name}: the matrix itself is not written ({why})")
        if find_spec("pyarrow") is not None:
            tables[f"coordinates{suffix}"] = _table(of, vectors, labels, components_of, flat)
            files.append(f"embedding-coordinates{suffix}.parquet")
        queries, judged = [], None
        if query is None and not vectors.lengths.any():
            notes.append(f"{one.name}: all vectors are zero, since all its scores are 0, so no {what} have neighbours")
        else:
            queries = _queries(vectors, picked, query is not None, k, labels, notes, what)
            judged = None if subject.data is None else purity(vectors, subject.data, k, notes, what)
        made.append(
            Embedded(
                method=one.name,
                items=len(vectors.items),
                explained=[float(value) for value in components_of.explained],
                pca=_points(components_of.coordinates, vectors.items, labels),
                umap=None if flat is None else _points(flat, vectors.items, labels),
                queries=queries,
                purity=judged,
                files=files,
            )
        )
    if not tables:
        notes.append("no parquet file is written, which takes pyarrow: pip install 'ldsbench[parquet]'")
    drawn = None if subject.data is None else _drawn(made, subject.data, of, min(k, _SHOWN))
    shown = Embedding(
        verb="embedding",
        about=document.about(subject, {one.name: one.lds for one in found}, time.monotonic() - began),
        notes=[*subject.notes, *notes],
        of=of,
        k=k,
        components=components,
        seed=seed,
        methods=made,
        class_share=None if labels is None else class_share(labels),
        class_names=[] if subject.data is None else list(subject.data.class_names),
        picture=drawn is not None,
        shown=min(k, _SHOWN),
    )
    return Finding(shown, arrays=arrays, tables=tables, pictures={} if drawn is None else {"neighbours": drawn})


def _drawn(made: Sequence[Embedded], data: Data, of: Of, count: int) -> bytes | None:
    """Queries with their nearest by scores and by pixels; None of what is no image, or without queries."""
    pixels = images.Pixels.of(data)
    queries = list(dict.fromkeys(query.item for method in made for query in method.queries))[:_PICTURED]
    if pixels is None or not queries:
        return None
    x, y = (data.test_x, data.test_y) if of == "targets" else (data.train_x, data.train_y)
    by_pixels = raw_nearest(x, np.array(queries), count)
    panels = []
    for item, raw in zip(queries, by_pixels.tolist(), strict=True):

        def tile(other: int, below: str, item: int = item) -> pictures.Tile:
            return pictures.Tile(
                x[other], choice.class_name(int(y[other]), data.class_names), below, y[other] == y[item]
            )

        right = [tile(other, "") for other in raw]
        rows = [
            (method.method, [tile(near.item, number(near.cosine, 2)) for near in query.nearest[:count]], right)
            for method in made[:_SHOWN]
            for query in method.queries
            if query.item == item
        ]
        title = f"target {item}" if of == "targets" else f"example {item}"
        shown = pictures.Tile(x[item], choice.class_name(int(y[item]), data.class_names), "", False)
        panels.append(pictures.Panel(title, shown, rows))
    return pictures.grid(pixels, panels, count, "nearest by scores", "nearest by pixels")


def _train_items(
    subject: Subject, query: Sequence[int] | None, known: dict[str, NDArray[np.bool_]], notes: list[str]
) -> NDArray[np.int64]:
    for name, there in known.items():
        if not there.all():
            notes.append(
                f"{name}: {counted(int((~there).sum()), 'target is', 'targets are', form=',')} left out, whose scores "
                "are not all finite"
            )
    if query is None:
        labels = None if subject.data is None else subject.data.train_y
        return choice.over_classes(labels, subject.n_train, choice.COUNT)
    picked = choice.whole(query, "training example")
    wrong = picked[(picked < 0) | (picked >= subject.n_train)]
    if len(wrong):
        raise InputError(f"there is no training example {wrong[0]}: they are numbered 0 … {subject.n_train - 1}")
    return picked


def _slug(name: str, taken: set[str]) -> str:
    """The method's name as part of a file's, unlike the others."""
    made = re.sub(r"[^A-Za-z0-9=._-]+", "-", name)[:80].strip("-.") or "method"
    number, slug = 1, made
    while slug.lower() in taken:
        number += 1
        slug = f"{made}-{number}"
    taken.add(slug.lower())
    return slug


def _rows(values: NDArray[np.float64], items: NDArray[np.int64], total: int) -> NDArray[np.float32]:
    """A row for every item; NaN of those without a vector."""
    made = np.full((total, values.shape[1]), np.nan, np.float32)
    made[items] = values
    return made


def _matrix(scores: NDArray[np.floating], of: Of) -> NDArray[np.float32]:
    made: NDArray[np.float32] = (scores.T if of == "targets" else scores).astype(np.float32, order="C")
    if of == "targets":
        made[~np.isfinite(made).all(axis=1)] = np.nan
    return made


def _table(
    of: Of, vectors: Vectors, labels: NDArray[np.int64] | None, found: Principal, flat: NDArray[np.float64] | None
) -> Any:
    import pandas as pd

    columns: dict[str, Any] = {"target" if of == "targets" else "train": vectors.items}
    if labels is not None:
        columns["label"] = labels[vectors.items]
    for at in range(found.coordinates.shape[1]):
        columns[f"pc{at + 1}"] = found.coordinates[:, at].astype(np.float32)
    if flat is not None:
        columns |= {"umap1": flat[:, 0].astype(np.float32), "umap2": flat[:, 1].astype(np.float32)}
    return pd.DataFrame(columns)


def _label(labels: NDArray[np.int64] | None, item: int) -> int | None:
    return None if labels is None else int(labels[item])


def _points(values: NDArray[np.float64], items: NDArray[np.int64], labels: NDArray[np.int64] | None) -> list[Point]:
    """Evenly spread, at most so many as a plot draws; of a single component, on a line."""
    two = np.hstack([values, np.zeros((len(values), 1))])[:, :2]
    some = choice.spread(np.arange(len(items)), DRAWN)
    return [
        Point(int(items[at]), _label(labels, int(items[at])), *(float(f"{value:.5g}") for value in two[at]))
        for at in some
    ]


def _queries(
    vectors: Vectors,
    picked: NDArray[np.int64],
    named: bool,
    k: int,
    labels: NDArray[np.int64] | None,
    notes: list[str],
    what: str,
) -> list[Query]:
    places = np.searchsorted(vectors.items, picked)
    empty = vectors.lengths[places] == 0
    if empty.any():
        which = ", ".join(map(str, picked[empty]))
        if named:
            raise InputError(f"{vectors.one.name} scores {what} {which} 0 throughout: they have no neighbours")
        notes.append(f"{vectors.one.name}: {what} {which} have no neighbours, since all their scores are 0")
    places = places[~empty]
    at, cosines = vectors.nearest(places, k)
    return [
        Query(
            item=int(vectors.items[place]),
            label=_label(labels, int(vectors.items[place])),
            nearest=[
                Near(int(vectors.items[one]), round(cosine, 5), _label(labels, int(vectors.items[one])))
                for one, cosine in zip(line.tolist(), values.tolist(), strict=True)
                if np.isfinite(cosine)
            ],
        )
        for place, line, values in zip(places, at, cosines, strict=True)
    ]
