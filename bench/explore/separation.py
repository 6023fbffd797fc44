"""How well a ranking tells two groups apart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bench.explore.precision import wilson as wilson

if TYPE_CHECKING:
    from numpy.typing import NDArray

_Z = 1.959963984540054


@dataclass(frozen=True)
class Auc:
    """Area under the ROC curve: the chance that one of the group is ranked before one of the others, ties half.

    Attributes:
        value: from 0 to 1; 1/2 by chance.
        ci: 95% interval by DeLong, DeLong and Clarke-Pearson (1988), on the logit scale, so that it stays within 0 and
            1; None where it cannot be told, as with a group of one or a perfect ranking.
    """

    value: float
    ci: tuple[float, float] | None


def auc(value: NDArray[np.float64], group: NDArray[np.bool_]) -> Auc:
    """The area for a ranking by `value`, largest first; both groups have a member.

    Args:
        value: `[n]`; −inf for what is not known, which comes last.
        group: bool `[n]`.
    """
    from scipy.special import expit, logit
    from scipy.stats import rankdata

    # By ranks, as Sun and Xu (2014) do: the placements of each member among the others.
    ranks = rankdata(value)
    first, other = ranks[group], ranks[~group]
    m, n = len(first), len(other)
    among_others = (first - rankdata(value[group])) / n
    among_group = 1 - (other - rankdata(value[~group])) / m
    area = float(among_others.mean())
    if m < 2 or n < 2 or not 0 < area < 1:
        return Auc(area, None)
    error = np.sqrt(among_others.var(ddof=1) / m + among_group.var(ddof=1) / n)
    if not error:
        return Auc(area, None)
    half = _Z * error / (area * (1 - area))
    middle = logit(area)
    return Auc(area, (float(expit(middle - half)), float(expit(middle + half))))
