"""From pairwise tests to a ranking that says what it does not know."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from bench.errors import InputError


def holm(p_values: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Holm's adjusted p-values (1979, "A simple sequentially rejective multiple test procedure", Scand. J. Stat. 6:65).

    The k-th smallest of n is multiplied by n − k + 1, made no smaller than those before it, and at most 1; below the
    level, the chance that any true hypothesis is rejected is below it too, whatever the dependence.

    Args:
        p_values: [n]; NaN stays NaN and is not counted.
    """
    p = np.asarray(p_values, np.float64)
    out = np.full(p.shape, np.nan)
    known = np.flatnonzero(~np.isnan(p))
    order = known[np.argsort(p[known], kind="stable")]
    steps = p[order] * np.arange(len(order), 0, -1)
    out[order] = np.minimum(np.maximum.accumulate(steps), 1.0) if len(order) else steps
    return out


def rank_intervals(values: npt.ArrayLike, differ: npt.ArrayLike) -> list[tuple[int, int]]:
    """Ranks that each method may have, all at once.

    The best rank that is left to a method is one more than the methods that are proven better, the worst that which
    those proven worse leave (Al Mohamad, Goeman & van Zwet 2022, "Simultaneous confidence intervals for ranks with
    application to ranking institutions", Biometrics 78:238). With tests that hold at the level together (`holm` over
    all pairs) the intervals do.

    Args:
        values: [k], LDS, larger is better.
        differ: bool [k, k], symmetric: the pair is told apart.
    """
    lds, apart = np.asarray(values, np.float64), _square(differ, len(np.atleast_1d(values)))
    better, worse = apart & (lds[None, :] > lds[:, None]), apart & (lds[None, :] < lds[:, None])
    return [(1 + int(b), len(lds) - int(w)) for b, w in zip(better.sum(1), worse.sum(1), strict=True)]


def letters(differ: npt.ArrayLike) -> list[str]:
    """Letters of the methods, best first: two that share one cannot be told apart, two that share none can.

    The compact letter display by insertion and absorption (Piepho 2004, "An algorithm for a letter-based
    representation of all-pairwise comparisons", J. Comput. Graph. Stat. 13:456).

    Args:
        differ: bool [k, k], symmetric, in the order of the table.

    Returns:
        [k] strings such as "a", "ab"; after 26 letters they go on as "a1".
    """
    apart = _square(differ, len(np.atleast_1d(differ)))
    groups = [set(range(len(apart)))] if len(apart) else []
    for i, j in zip(*np.nonzero(np.triu(apart)), strict=True):
        split: list[set[int]] = []
        for group in groups:
            split += [group - {int(i)}, group - {int(j)}] if {int(i), int(j)} <= group else [group]
        groups = [g for at, g in enumerate(split) if not _absorbed(g, at, split)]
    ordered = sorted(groups, key=lambda g: sorted(g))
    names = [chr(97 + n % 26) + (str(n // 26) if n >= 26 else "") for n in range(len(ordered))]
    return ["".join(name for name, g in zip(names, ordered, strict=True) if k in g) for k in range(len(apart))]


def _absorbed(group: set[int], at: int, all_groups: Sequence[set[int]]) -> bool:
    """Whether another group holds all of this one (of equals the first stays)."""
    return any(group < other or (group == other and n < at) for n, other in enumerate(all_groups) if n != at)


def _square(differ: npt.ArrayLike, k: int) -> npt.NDArray[np.bool_]:
    apart = np.asarray(differ, bool).reshape(k, k) if k == 0 else np.asarray(differ, bool)
    if apart.shape != (k, k) or not np.array_equal(apart, apart.T) or apart.diagonal().any():
        raise InputError(f"differ has shape {apart.shape}; give a symmetric [{k}, {k}] matrix with an empty diagonal")
    return apart
