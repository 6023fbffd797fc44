"""Precision and recall of a ranking in which some of what is to be found may not be listed at all."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_RESAMPLES = 1000
_STREAM = 82  # of the root seed


@dataclass(frozen=True)
class Curve:
    """Precision and recall from the most suspicious candidate on, one point per distinct value.

    Attributes:
        recall, precision: float64, in the order of the ranking.
        average: area under their steps, as sklearn.metrics.average_precision_score has it; what is never listed is
            never found.
        ci: 95% interval by the percentiles of a bootstrap over targets, those that hold something to find and the
            others apart.
    """

    recall: NDArray[np.float64]
    precision: NDArray[np.float64]
    average: float
    ci: tuple[float, float]

    def recall_at(self, precision: float) -> float:
        """The largest recall that is reached with at least this precision; 0 where it never is."""
        enough = self.recall[self.precision >= precision]
        return float(enough.max()) if len(enough) else 0.0


def curve(value: NDArray[np.float64], right: NDArray[np.bool_], wanted: NDArray[np.bool_], seed: int) -> Curve:
    """The curve of one candidate per target.

    Args:
        value: `[n]`, how suspicious each target's candidate is; −inf where it has none.
        right: `[n]`, whether the candidate is what was to be found.
        wanted: `[n]`, whether there was something to find: a wrong candidate of such a target is an error and a miss.
        seed: of the bootstrap.
    """
    order = np.argsort(-value, kind="stable")
    order = order[np.isfinite(value[order])]
    ends = np.flatnonzero(np.append(np.diff(value[order]) != 0, True)) if len(order) else order
    whole = np.ones((1, len(value)))
    recall, precision = _points(whole, order, ends, right, wanted)
    average = float(_average(recall, precision)[0])
    # Resampling is counting how often each target is drawn; sorted once, a thousand resamples are a few sums.
    rng = np.random.default_rng([seed, _STREAM])
    weight = np.zeros((_RESAMPLES, len(value)))
    for group in (np.flatnonzero(wanted), np.flatnonzero(~wanted)):
        if len(group):
            weight[:, group] = rng.multinomial(len(group), np.full(len(group), 1 / len(group)), _RESAMPLES)
    averages = _average(*_points(weight, order, ends, right, wanted))
    low, high = np.quantile(averages, (0.025, 0.975))
    return Curve(recall[0], precision[0], average, (float(low), float(high)))


def _points(
    weight: NDArray[np.float64],
    order: NDArray[np.int64],
    ends: NDArray[np.int64],
    right: NDArray[np.bool_],
    wanted: NDArray[np.bool_],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Recall and precision `[resamples, points]`."""
    listed = np.cumsum(weight[:, order], axis=1)[:, ends]
    found = np.cumsum(weight[:, order] * right[order], axis=1)[:, ends]
    total = np.maximum((weight * wanted).sum(axis=1, keepdims=True), 1)
    return found / total, found / np.maximum(listed, 1)


def _average(recall: NDArray[np.float64], precision: NDArray[np.float64]) -> NDArray[np.float64]:
    made: NDArray[np.float64] = (np.diff(recall, axis=1, prepend=0.0) * precision).sum(axis=1)
    return made


def wilson(found: float, count: int) -> tuple[float, float]:
    """95% interval of a share by Wilson (1927): not empty even where all, or none, were found; then it ends at 1, or 0.

    Args:
        found: so many, or a mean of such counts.
        count: of how many, at least 1.
    """
    z = 1.959963984540054
    centre = (found + z * z / 2) / (count + z * z)
    half = z / (count + z * z) * np.sqrt(found * (count - found) / count + z * z / 4)
    low, high = max(0.0, float(centre - half)), min(1.0, float(centre + half))
    return 0.0 if found <= 0 else low, 1.0 if found >= count else high  # rounding leaves 1e-17 there


def thinned(values: Iterable[float], most: int = 200) -> NDArray[np.int64]:
    """Positions of at most so many of them, first and last among them: what a plot needs."""
    count = len(list(values))
    return np.unique(np.linspace(0, max(0, count - 1), min(most, count)).round().astype(np.int64))
