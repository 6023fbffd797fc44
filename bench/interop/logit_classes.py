"""The class of each target, told by logits and margins: that whose logit minus the others' makes the margin."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Kind = Literal["max", "logsumexp"]

_MODELS = 32  # that are compared: one tells nearly all, several settle ties
_TARGETS = 5_000  # at a time
_ROUNDING = 2.0**-8  # of float16 logits and margins, beside the largest logit: eight times what rounding makes
_FARTHER = 3  # times as far off as the best or as rounding is, the second best must be


def told(margins: Array, logits: Array, kind: Kind, rows: tuple[int, int]) -> NDArray[np.int64]:
    """The targets' classes.

    Args:
        margins: `[M, n_targets]`, of a file of margins.
        logits: `[M, n_targets, n_classes]`, of the same models.
        kind: of the margins.
        rows: `[start, stop)`, models that may be looked at; some of them are.

    Returns:
        int64 `[n_targets]`; −1 where no class fits, or more than one.
    """
    chosen = np.unique(np.linspace(rows[0], rows[1] - 1, _MODELS).astype(np.int64))
    found = [
        _told(margins[chosen, at : at + _TARGETS], logits[chosen, at : at + _TARGETS], kind)
        for at in range(0, margins.shape[1], _TARGETS)
    ]
    return np.concatenate(found)


def _told(margins: Array, logits: Array, kind: Kind) -> NDArray[np.int64]:
    margins, logits = np.asarray(margins, np.float32), np.asarray(logits, np.float32)
    if logits.shape[2] < 2:
        return np.full(logits.shape[1], -1)
    with np.errstate(all="ignore"):  # models whose logits overflow tell nothing
        off = np.abs(_margins(logits, kind) - margins[:, :, None])
        scale = np.abs(logits).max(axis=2) + np.abs(margins)
    usable = np.isfinite(off).all(axis=2) & np.isfinite(scale)
    off[~usable] = np.nan
    labels = np.full(logits.shape[1], -1)
    (known,) = np.nonzero(usable.any(axis=0))
    distance = np.nanmedian(off[:, known], axis=0)
    slack = _ROUNDING * (1 + np.nanmedian(np.where(usable, scale, np.nan)[:, known], axis=0))
    best, second = np.partition(distance, 1, axis=1)[:, :2].T
    sure = (best <= slack) & (second > _FARTHER * np.maximum(best, slack))
    labels[known[sure]] = distance.argmin(axis=1)[sure]
    return labels


def _margins(logits: Array, kind: Kind) -> Array:
    """Of every class, `[models, targets, classes]`."""
    if kind == "max":
        second, first = np.moveaxis(np.partition(logits, -2, axis=2)[:, :, -2:], 2, 0)
        others = np.where(logits == first[:, :, None], second[:, :, None], first[:, :, None])
        return np.asarray(logits - others)
    top = logits.max(axis=2, keepdims=True)
    shares = np.exp(logits - top)
    others = shares.sum(axis=2, keepdims=True) - shares
    return np.asarray(logits - top - np.log(others))
