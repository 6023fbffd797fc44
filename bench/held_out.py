"""Which rows choose the penalty: one validation split, or folds, never with a mask on both sides."""

from __future__ import annotations

import operator

import numpy as np
from numpy.typing import ArrayLike

from bench.errors import InputError
from bench.gram import Design, Index
from bench.wording import counted


def whole(name: str, value: object) -> int:
    """`value` as an int.

    Raises:
        InputError: it is no whole number.
    """
    try:
        return operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise InputError(f"{name} is {value!r}; give a whole number.") from None


def real(name: str, value: object) -> float:
    """`value` as a float.

    Raises:
        InputError: it is no number.
    """
    if isinstance(value, int | float | np.integer | np.floating):
        return float(value)
    raise InputError(f"{name} is {value!r}; give a number.")


def check_split(validation: float, folds: int, seed: int) -> None:
    """Refuse options of a split that make no sense.

    Raises:
        InputError: one is out of range, or no whole number.
    """
    if whole("folds", folds) < 0 or folds == 1:
        raise InputError(f"folds is {folds}; give 2 or more, or 0 for one split.")
    if folds == 0 and not 0 < real("validation", validation) < 1:
        raise InputError(f"validation is {validation}; give a share of the masks in (0, 1).")
    if whole("seed", seed) < 0:
        raise InputError(f"seed is {seed}; give one of at least 0.")


def held_out(design: Design, validation: float, folds: int, seed: int, groups: ArrayLike | None) -> list[Index]:
    """Rows of each held-out part; rows of one group (one mask) are never parted.

    Args:
        design: the rows.
        validation: share of the groups to hold out, in one part; not used with `folds`.
        folds: 2 or more parts that together are all rows, or 0.
        seed: of the split.
        groups: `[m]`, rows of equal value belong together; by default those of equal mask.

    Raises:
        InputError: a parameter is out of range, or there are too few distinct masks.
    """
    check_split(validation, folds, seed)
    group = design.groups() if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1].reshape(-1)
    if len(group) != design.m:
        raise InputError(
            f"groups has {counted(len(group), 'entry', 'entries')} and masks {counted(design.m, 'row')}; give one per "
            "row."
        )
    distinct = int(group.max()) + 1
    if distinct < max(folds, 3):
        what = "distinct rows" if groups is None else "distinct groups"
        raise InputError(
            f"{'masks' if groups is None else 'groups'} has {distinct} {what}; choosing λ needs at least "
            f"{max(folds, 3)}, so give lam, or more models."
        )
    held = min(max(1, round(validation * distinct)), distinct - 1)
    order = np.random.default_rng(seed).permutation(distinct)
    parts = np.array_split(order, folds) if folds else [order[:held]]
    return [np.flatnonzero(np.isin(group, part)) for part in parts]
