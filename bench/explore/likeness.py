"""Which training example each target resembles most, told from a score matrix alone.

The largest score of a target does not tell: hard training examples, whose loss gradients are long, have large scores
on every target of their class. So scores are seen as products of a vector per training example and one per target,
S = U Σ Vᵀ, and what is compared is their angle after most of what all examples share is taken out: the cosine of
U_i Σ^(p/2) and V_j Σ^(p/2), with p = 1/4 (p = 1 keeps all of it, p = 0 is a full whitening), training examples having
been given equal length first. Power and statistic were chosen among several dozen variants by planted copies on
digits/mlp, 30% of the targets, of seeds 100 and 101; seeds from 0 on are what results are told of.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

Statistic = Literal["cosine", "top", "gap", "z"]
STATISTICS: tuple[Statistic, ...] = get_args(Statistic)
POWER, STEPS = 0.25, 3
_LEAST = 1e-6  # of the largest singular value: below, those of float32 scores are noise
_BLOCK, _BLOCK_BYTES = 1024, 256 << 20
_TO_NORMAL = 1.4826  # of a median absolute deviation: the standard deviation, where values are normal


@dataclass(frozen=True)
class Pairs:
    """The training example that is named for each target.

    Attributes:
        train: int64 `[n_targets]`, −1 where the target's scores are not all finite.
        value: float64 `[n_targets]`, how suspicious: the larger, the more; −inf likewise.
    """

    train: NDArray[np.int64]
    value: NDArray[np.float64]


def pairs(scores: NDArray[np.floating], statistic: Statistic = "cosine") -> Pairs:
    """The most suspicious training example of each target.

    Args:
        scores: `[n_train, n_targets]`, perhaps a memmap; read by blocks of targets.
        statistic: `cosine`, as above; `top`, the largest score; `gap`, the largest minus the second, and `z`, the
            largest minus the median, both in units of the target's median absolute deviation.
    """
    n, m = scores.shape
    size = max(64, min(_BLOCK, _BLOCK_BYTES // (8 * n)))
    train, value = np.full(m, -1, np.int64), np.full(m, -np.inf)
    for at in np.array_split(np.arange(m), -(-m // size)):
        block = np.asarray(scores[:, at[0] : at[-1] + 1], np.float64)
        known = np.isfinite(block).all(axis=0)
        if known.any():
            train[at[known]], value[at[known]] = _of_block(block[:, known], statistic)
    return Pairs(train, value)


def _of_block(block: NDArray[np.float64], statistic: Statistic) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    if statistic == "cosine":
        block = cosines(block)
    best = block.argmax(axis=0)
    first = block[best, np.arange(block.shape[1])]
    if statistic in ("cosine", "top"):
        return best, first
    middle = np.median(block, axis=0)
    spread = np.maximum(_TO_NORMAL * np.median(np.abs(block - middle), axis=0), np.finfo(float).tiny)
    second = np.partition(block, -2, axis=0)[-2] if len(block) > 1 else first
    with np.errstate(over="ignore"):
        found = np.minimum((first - (second if statistic == "gap" else middle)) / spread, np.finfo(float).max)
    return best, found


def cosines(scores: NDArray[np.float64], power: float = POWER, steps: int = STEPS) -> NDArray[np.float64]:
    """Cosines of training examples and targets, once singular values are raised to a power.

    Training examples' rows are scaled until each has about one length in that space, as Tyler (1987), "A
    distribution-free M-estimator of multivariate scatter", scales observations: else a few long ones are the space.

    Args:
        scores: finite, `[n_train, n_targets]`.
        power: of the singular values, from 0 to 1.
        steps: decompositions; between them rows are scaled.

    Returns:
        float64 `[n_train, n_targets]`, from −1 to 1; 0 for a training example, or a target, whose scores are all 0.
    """
    rows = scores / _positive(np.sqrt(np.square(scores).mean(axis=1)))[:, None]
    for step in range(steps):
        u, s, v = _decomposed(rows)
        length = np.sqrt(np.square(u) @ s**power)
        if step < steps - 1:
            rows = rows / _positive(length)[:, None]
    across = np.sqrt(s**power @ np.square(v))
    made: NDArray[np.float64] = (u * s**power) @ v
    made /= _positive(length)[:, None]
    made /= _positive(across)
    made[~scores.any(axis=1)] = 0  # not what rounding leaves of them
    made[:, ~scores.any(axis=0)] = 0
    return made


def _positive(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """What can be divided by: 1 where there is nothing."""
    return np.where(values > 0, values, 1.0)


def _decomposed(rows: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """U, s, Vᵀ without what is noise, s relative to the largest; from the smaller of the two Gram matrices."""
    from scipy.linalg import eigh

    tall = rows.shape[0] >= rows.shape[1]
    values, vectors = eigh(rows.T @ rows if tall else rows @ rows.T)
    s = np.sqrt(np.maximum(values, 0))
    kept = s > _LEAST * max(float(s[-1]), np.finfo(float).tiny)
    s, vectors = s[kept], vectors[:, kept]
    if tall:
        u, v = rows @ vectors / s, vectors.T
    else:
        u, v = vectors, (vectors.T @ rows) / s[:, None]
    return u, s / s[-1] if len(s) else s, v
