"""Differences in means: what a target's margin gains, on average, where a training example is kept."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_CHUNK_BYTES = 1 << 28  # of masks as float32


def difference_in_means(masks: NDArray[np.bool_], margins: NDArray[Any]) -> NDArray[np.float32]:
    """Each target's mean margin over the rows that keep an example, minus the mean over the others.

    Args:
        masks: bool `[m, n_train]`; an array, or what is indexed like one. Read by chunks of rows.
        margins: real `[m, n_targets]`; the same.

    Returns:
        float32 `[n_train, n_targets]`; 0 for an example that all rows keep, or none.
    """
    m, n_train = masks.shape
    step = max(1, _CHUNK_BYTES // (4 * n_train))
    mean = sum(margins[at : at + step].sum(0, dtype=np.float64) for at in range(0, m, step)) / m
    n_with = np.zeros((n_train, 1))
    sum_with = np.zeros((n_train, margins.shape[1]))
    rest = np.zeros(margins.shape[1])  # of the centring: float32 rounds
    for at in range(0, m, step):
        kept = np.asarray(masks[at : at + step]).T.astype(np.float32)
        centred = (margins[at : at + step] - mean).astype(np.float32)
        n_with += kept.sum(1, keepdims=True, dtype=np.float64)
        sum_with += kept @ centred
        rest += centred.sum(0, dtype=np.float64)
    n_without = m - n_with
    seen_both = (n_with > 0) & (n_without > 0)
    difference = sum_with / np.maximum(n_with, 1) - (rest - sum_with) / np.maximum(n_without, 1)
    return np.where(seen_both, difference, 0).astype(np.float32)
