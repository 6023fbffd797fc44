"""The mean of independent values, with Student's interval."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

Mean = tuple[float | None, float | None, tuple[float, float] | None]


def student(values: NDArray[np.float64], level: float = 0.95) -> Mean:
    """Mean, standard error and interval; None for what so few values do not tell."""
    from scipy.special import stdtrit

    if len(values) < 2:
        return (float(values[0]) if len(values) else None), None, None
    mean, stderr = float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values)))
    half = float(stdtrit(len(values) - 1, (1 + level) / 2)) * stderr
    return mean, stderr, (mean - half, mean + half)
