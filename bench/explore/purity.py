"""How many of an item's nearest neighbours share its class, by its vector of scores and by the example itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import numpy as np

from bench.explore import choice
from bench.explore.vectors import Vectors, first

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bench.datasets import Data

JUDGED = 1000  # items at most that it is taken over
_NORMAL = 1.959964  # 97.5% quantile


class Purity(msgspec.Struct, frozen=True, kw_only=True):
    """Share of the k nearest neighbours that are of an item's class, mean over items, with 95% intervals over them.

    Attributes:
        share: of neighbours by the embedding; raw: by Euclidean distance of the examples themselves.
        difference: `share` minus `raw`, item by item.
        share_ci, raw_ci, difference_ci: None of a single item.
        items: over how many.
    """

    share: float
    share_ci: tuple[float, float] | None
    raw: float
    raw_ci: tuple[float, float] | None
    difference: float
    difference_ci: tuple[float, float] | None
    items: int


def purity(vectors: Vectors, data: Data, k: int, notes: list[str], what: str) -> Purity | None:
    """Of the embedding's neighbours, and of raw examples', over the same items."""
    x, y = (data.test_x, data.test_y) if vectors.of == "targets" else (data.train_x, data.train_y)
    labels = y[vectors.items]
    there = np.flatnonzero(vectors.lengths > 0)
    if len(there) < len(labels):
        notes.append(f"{vectors.one.name}: {len(labels) - len(there):,} {what} have no scores but 0, and no neighbours")
    if len(there) <= k:
        notes.append(f"{vectors.one.name}: there are too few {what} for the purity of neighbourhoods")
        return None
    places = choice.spread(there, JUDGED)
    if len(places) < len(there):
        notes.append(f"{vectors.one.name}: purity is that of {len(places):,} {what}, evenly spread, among all")
    found = (labels[vectors.nearest(places, k)[0]] == labels[places][:, None]).mean(axis=1)
    raw = (labels[raw_nearest(x[vectors.items], places, k)] == labels[places][:, None]).mean(axis=1)
    intervals = [_interval(values) for values in (found, raw, found - raw)]
    return Purity(
        share=intervals[0][0],
        share_ci=intervals[0][1],
        raw=intervals[1][0],
        raw_ci=intervals[1][1],
        difference=intervals[2][0],
        difference_ci=intervals[2][1],
        items=len(places),
    )


def raw_nearest(x: NDArray[np.float32], places: NDArray[np.int64], k: int) -> NDArray[np.int64]:
    """The k nearest other examples by Euclidean distance of what they hold, nearest first; int64 `[len(places), k]`."""
    from sklearn.metrics.pairwise import euclidean_distances

    flat = x.reshape(len(x), -1)
    distances = euclidean_distances(flat[places], flat).astype(np.float64)
    distances[np.arange(len(places)), places] = np.inf
    return first(-distances, k)[0]


def _interval(values: NDArray[np.float64]) -> tuple[float, tuple[float, float] | None]:
    mean = float(values.mean())
    if len(values) < 2:
        return mean, None
    half = _NORMAL * float(values.std(ddof=1) / np.sqrt(len(values)))
    return mean, (mean - half, mean + half)


def class_share(labels: NDArray[np.int64]) -> float:
    """Share of the other items that are of an item's class, mean over items: purity by chance."""
    counts = np.bincount(labels)
    return float((counts * (counts - 1)).sum() / (len(labels) * (len(labels) - 1)))
