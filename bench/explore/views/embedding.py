"""How `bench explore embedding` is shown."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bench.explore.blocks import Block, Heading, Lead, Picture, Plot, Table
from bench.explore.choice import class_cell, class_name
from bench.explore.coordinates import Embedded, Embedding, Point
from bench.explore.pictures import DENSITY
from bench.report import svg
from bench.report.markup import number
from bench.tables.text import Grid, lds
from bench.wording import counted

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

DOCUMENT = Embedding
TITLE = "Which examples does the model treat alike?"


def blocks(found: Embedding) -> list[Block]:
    """The planes, the nearest, and what they are worth."""
    one, other = ("target", "training example") if found.of == "targets" else ("training example", "target")
    made: list[Block] = [
        Lead(
            f"The scores of a {one}, one by each {other}, are a vector; two {one}s with like vectors "
            + ("depend on the same training examples" if found.of == "targets" else "help and harm the same targets")
            + ". So the vectors are places on a map that the model's behaviour draws, not the look of the examples "
            "(datamodel embedding, Ilyas et al. 2022, section 4.3)."
        )
    ]
    for at, method in enumerate(found.methods):
        if len(found.methods) > 1:
            made.append(Heading(method.method))
        made += _planes(found, method, at)
    if any(method.purity for method in found.methods):
        made.append(_purity(found))
    if found.picture:
        caption = (
            f"On the left a {one}; then the {found.shown} nearest others, nearest first: by the cosine of their "
            "vectors, which is written below each, and by the distance of their pixels. A blue frame: of the same "
            "class."
        )
        alt = f"{counted(len(found.methods[0].queries), one)} with the nearest by scores and by pixels"
        made.append(Picture("embedding-neighbours.png", alt, caption, density=DENSITY))
    for method in found.methods:
        made.append(_nearest(found, method))
    files = ", ".join(file for method in found.methods for file in method.files)
    made.append(Lead(f"Files beside this page: {files}."))
    return made


def _planes(found: Embedding, method: Embedded, at: int) -> list[Block]:
    what = "targets" if found.of == "targets" else "training examples"
    count = len(method.pca)
    drawn = f"{count:,} of {method.items:,} {what}, evenly spread" if count < method.items else f"{count:,} {what}"
    marks = ""
    if found.class_share is not None:
        marks = " Each is drawn as the number of its class"
        used = sorted({point.label for point in method.pca if point.label is not None})
        named = [f"{label} {found.class_names[label]}" for label in used if label < len(found.class_names)]
        marks += f" ({', '.join(named)})." if named else "."
    two = method.explained[:2]
    made: list[Block] = [
        Plot(
            f"pca-{at + 1}",
            f"The first two principal components, {method.method}",
            f"{drawn}; the components have {', '.join(f'{share:.0%}' for share in two)} of the variance",
            f"By {method.method}: {drawn}. Their vectors, scaled to length one, differ most along these two principal "
            f"components ({sum(two):.0%} of the variance).{marks} Points that lie together "
            "here may be apart in other components.",
            lambda: _scatter(method.pca, [f"component {i + 1} ({share:.0%})" for i, share in enumerate(two)]),
        )
    ]
    if method.umap is not None:
        made.append(
            Plot(
                f"umap-{at + 1}",
                f"UMAP's plane, {method.method}",
                drawn,
                f"The same by UMAP, which keeps neighbours together: which points are in one group means something, "
                f"how far groups lie apart and how large they are does not.{marks}",
                lambda: _scatter(method.umap or [], ["UMAP 1", "UMAP 2"]),
            )
        )
    return made


def _scatter(points: list[Point], titles: list[str]) -> Figure:
    """Classes as numbers, in colours that come again: the numbers tell them apart."""
    from matplotlib.figure import Figure

    width, height = 7.4, 5.2
    made: Figure = Figure(figsize=(width, height))
    axes = made.add_axes((0.6 / width, 0.45 / height, 1 - 0.75 / width, 1 - 0.6 / height))
    labels = sorted({-1 if point.label is None else point.label for point in points})
    for label in labels:
        mine = [point for point in points if (-1 if point.label is None else point.label) == label]
        size = 3 if label < 0 else 5.5 if label < 10 else 8
        style: dict[str, Any] = {"linestyle": "none", "markersize": size, "markeredgewidth": 0, "alpha": 0.85}
        axes.plot(
            [point.x for point in mine],
            [point.y for point in mine],
            marker="o" if label < 0 else f"${label}$",
            color=svg.SERIES[max(label, 0) % len(svg.SERIES)],
            **style,
        )
    axes.set_xlabel(titles[0])
    axes.set_ylabel(titles[1] if len(titles) > 1 else "")
    axes.grid()
    return made


def _purity(found: Embedding) -> Table:
    what = "targets" if found.of == "targets" else "training examples"
    header = ["neighbours by", "LDS", "of the same class", "95% interval", "more than raw, points", "95% interval"]
    known = [method for method in found.methods if method.purity is not None]
    rows = []
    for method in known:
        assert method.purity is not None
        purity = method.purity
        rows.append(
            [
                *(method.method, lds(found.about.methods.get(method.method))),
                *(f"{purity.share:.1%}", _interval(purity.share_ci)),
                *(_points(purity.difference), _interval(purity.difference_ci, signed=True)),
            ]
        )
    first = known[0].purity
    assert first is not None
    rows.append(["the examples themselves", "–", f"{first.raw:.1%}", _interval(first.raw_ci), "–", "–"])
    if found.class_share is not None:
        rows.append(["chance", "–", f"{found.class_share:.1%}", "–", "–", "–"])
    each = "target" if found.of == "targets" else "training example"
    note = (
        f"Of {first.items:,} {what} the {found.k} nearest others: by the cosine of vectors, or by Euclidean distance "
        "of what the examples hold (pixels or features). Intervals: over items, the differences item by item. Scores "
        f"know each {each}'s label, by the margin of the true class or by training on it, and the raw examples do not: "
        "that neighbours share a class is needed of a good embedding, and does not prove one."
    )
    return Table("Do near neighbours share a class?", header, rows, set(header[1:]), note)


def _points(value: float) -> str:
    return f"{100 * value:+z.1f}".replace("-", "−")


def _interval(ci: tuple[float, float] | None, signed: bool = False) -> str:
    if ci is None:
        return "–"
    low, high = (_points(value) if signed else f"{100 * value:.1f}".replace("-", "−") for value in ci)
    return f"[{low}, {high}]" if signed else f"[{low}, {high}]%"


def _nearest(found: Embedding, method: Embedded) -> Table:
    header = ["target" if found.of == "targets" else "training example"]
    header += [] if found.class_share is None else ["class"]
    header += ["nearest by cosine, nearest first"]
    rows = [
        [
            str(query.item),
            *([] if query.label is None else [class_name(query.label, found.class_names)]),
            _listed(query.nearest[: found.shown], found),
        ]
        for query in method.queries
    ]
    note = (
        "Numbers of examples; in brackets the class, then the cosine: 1 for vectors of one direction, 0 for vectors "
        f"that have nothing to do with each other. embedding.csv lists {found.k}."
    )
    return Table(f"Nearest neighbours by {method.method}", header, rows, {header[0]}, note)


def _listed(some: Any, found: Embedding) -> str:
    said = []
    for near in some:
        label = "" if near.label is None else f" ({class_cell(near.label, found.class_names)})"
        said.append(f"{near.item}{label} {number(near.cosine, 2)}")
    return ", ".join(said) or "none"


def frame(found: Embedding) -> pd.DataFrame:
    """One row per method, query and neighbour."""
    import pandas as pd

    rows = [
        {
            **{"method": method.method, "of": found.of, "query": query.item, "query_label": query.label},
            **{"rank": rank, "neighbour": near.item, "cosine": near.cosine, "label": near.label},
        }
        for method in found.methods
        for query in method.queries
        for rank, near in enumerate(query.nearest, 1)
    ]
    columns = ["method", "of", "query", "query_label", "rank", "neighbour", "cosine", "label"]
    return pd.DataFrame(rows, columns=columns).astype({"query_label": "Int64", "label": "Int64"})


def grid(found: Embedding) -> Grid:
    """The nearest of each query; above it, how many neighbours share a class."""
    header = (
        "method",
        "of target" if found.of == "targets" else "of training example",
        "class",
        "nearest (class) cosine",
    )
    rows = [
        (method.method, str(query.item), class_name(query.label, found.class_names), _listed(query.nearest, found))
        for method in found.methods
        for query in method.queries
    ]
    caption = []
    for method in found.methods:
        said = f"{found.about.setting}, {method.method}: {method.items:,} points"
        if method.purity is not None and found.class_share is not None:
            purity = method.purity
            said += (
                f"; of {found.k} nearest neighbours {purity.share:.1%} {_interval(purity.share_ci)} share the class, "
                f"by the examples themselves {purity.raw:.1%} (difference {_points(purity.difference)} "
                f"{_interval(purity.difference_ci, signed=True)} points), by chance {found.class_share:.1%}"
            )
        caption.append(f"{said}.")
    return Grid(header, rows, {header[1]}, caption, (), found.notes)
