"""How far two methods name the same training examples: overlap of top lists, and rank-biased overlap.

Lists are int64 `[targets, k]`, training examples from the first place on, each at most once per target, −1 after the
last of a list that is shorter than k.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

P = 0.9  # persistence of a reader: 86% of the weight lies on the first ten places


def common(a: NDArray[np.int64], b: NDArray[np.int64], n_train: int) -> NDArray[np.int64]:
    """How many examples the first d places of both lists have in common, for every depth d from 1 on.

    Args:
        a: lists `[targets, k]`.
        b: lists of the same shape.
        n_train: numbers of examples are below it.

    Returns:
        int64 `[targets, k]`.
    """
    n_lists, k = a.shape
    targets, places = np.nonzero(b >= 0)
    keys = targets * n_train + b[targets, places]
    order = np.argsort(keys)
    keys, places = keys[order], places[order]
    of_a, place_a = np.nonzero(a >= 0)
    wanted = of_a * n_train + a[of_a, place_a]
    found = np.minimum(np.searchsorted(keys, wanted), max(0, len(keys) - 1))
    both = keys[found] == wanted if len(keys) else np.zeros(len(wanted), bool)
    # An example is common from the depth on at which both lists have it.
    depth = np.maximum(place_a[both], places[found[both]]) if len(keys) else np.empty(0, np.int64)
    counts = np.bincount(of_a[both] * k + depth, minlength=n_lists * k)
    made: NDArray[np.int64] = counts.reshape(n_lists, k).cumsum(axis=1)
    return made


def overlap(a: NDArray[np.int64], b: NDArray[np.int64], n_train: int) -> NDArray[np.float64]:
    """Share of the longer list that the other has as well, float64 `[targets]`; NaN where both are empty."""
    longer = np.maximum((a >= 0).sum(axis=1), (b >= 0).sum(axis=1))
    shared = common(a, b, n_train)[:, -1]
    return np.where(longer > 0, shared / np.maximum(longer, 1), np.nan)


def rbo(a: NDArray[np.int64], b: NDArray[np.int64], n_train: int, p: float = P) -> NDArray[np.float64]:
    """Rank-biased overlap, extrapolated: agreement at every depth, the first places weighing most.

    Webber, Moffat, Zobel (2010), "A similarity measure for indefinite rankings", equation 32 (RBO_EXT, for lists that
    may be of uneven length): 1 for equal lists, 0 for lists without a common example.

    Args:
        a: lists `[targets, k]`.
        b: lists of the same shape.
        n_train: numbers of examples are below it.
        p: a place weighs p times what the one before it weighs.

    Returns:
        float64 `[targets]`; NaN where both lists are empty.
    """
    k = a.shape[1]
    lengths = np.stack([(a >= 0).sum(axis=1), (b >= 0).sum(axis=1)])
    s, l = lengths.min(axis=0)[:, None], lengths.max(axis=0)[:, None]  # noqa: E741 (names of the paper)
    x = common(a, b, n_train).astype(np.float64)  # X_d
    d = np.arange(1, k + 1)[None, :]
    at_s = np.take_along_axis(x, np.maximum(s - 1, 0), axis=1)
    at_l = np.take_along_axis(x, np.maximum(l - 1, 0), axis=1)
    within = np.where(d <= l, x / d, 0.0)
    beyond = np.where((d > s) & (d <= l), at_s * (d - s) / (np.maximum(s, 1) * d), 0.0)
    rest = (at_l - at_s) / np.maximum(l, 1) + at_s / np.maximum(s, 1)
    made = (1 - p) / p * ((within + beyond) * p**d).sum(axis=1) + (rest * p**l)[:, 0]
    return np.where(l[:, 0] > 0, made, np.nan)


def chance_overlap(k: int, n_train: int) -> float:
    """Expected overlap of two random lists of k examples."""
    return k / n_train


def chance_rbo(k: int, n_train: int, p: float = P) -> float:
    """Expected rank-biased overlap of two random lists: at depth d they have d² / n_train in common."""
    d = np.arange(1, k + 1)
    return float((1 - p) / p * (d / n_train * p**d).sum() + k / n_train * p**k)
