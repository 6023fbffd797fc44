"""How the LDS varies over targets: what a mean hides."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bench.errors import InputError
from bench.stats.intervals import Floats

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
FIFTHS = 5


@dataclass(frozen=True)
class Spread:
    """One method's LDS over targets.

    Attributes:
        quantiles: at `QUANTILES`.
        negative: share of targets below zero.
        by_class: mean over the targets of each class; NaN where none has a correlation.
        by_variance: mean over each fifth of the targets, by the variance of their margins over subsets, least first:
            what little variance there is may be the seeds' alone. NaN where there are fewer targets than fifths.
    """

    quantiles: tuple[float, ...]
    negative: float
    by_class: dict[int, float]
    by_variance: tuple[float, ...]


def spread_over_targets(per_target: Floats, labels: npt.ArrayLike, variance: npt.ArrayLike) -> Spread:
    """Describe one method's LDS per target.

    Args:
        per_target: [T]; NaN where excluded, and left out.
        labels: integers [T], the class of each target.
        variance: [T], of its margins over subsets; NaN counts as the greatest.

    Raises:
        InputError: lengths that differ.
    """
    classes, spread = np.asarray(labels), np.asarray(variance, np.float64)
    if not per_target.shape == classes.shape == spread.shape:
        shapes = f"{per_target.shape}, {classes.shape} and {spread.shape}"
        raise InputError(f"per_target, labels and variance have shapes {shapes}; give one value for each target")
    kept = np.isfinite(per_target)
    values = per_target[kept]
    if not len(values):
        nan = float("nan")
        return Spread((nan,) * len(QUANTILES), nan, {int(c): nan for c in np.unique(classes)}, (nan,) * FIFTHS)
    order = np.argsort(spread[kept], kind="stable")
    return Spread(
        quantiles=tuple(float(q) for q in np.quantile(values, QUANTILES)),
        negative=float((values < 0).mean()),
        by_class={int(c): _mean(per_target[kept & (classes == c)]) for c in np.unique(classes)},
        by_variance=tuple(_mean(values[part]) for part in np.array_split(order, FIFTHS)),
    )


def _mean(values: Floats) -> float:
    return float(values.mean()) if len(values) else float("nan")
