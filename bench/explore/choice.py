"""Which targets are looked at, and how examples, classes and scores are written in words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from bench.errors import InputError
from bench.wording import either

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bench.explore.subject import Scored, Subject

COUNT = 6
_FEATURES = 8


def known(found: Sequence[Scored]) -> dict[str, NDArray[np.bool_]]:
    """Targets whose scores are all finite, bool `[n_targets]` by method.

    Raises:
        InputError: a method has none.
    """
    made = {one.name: one.known() for one in found}
    for name, there in made.items():
        if not there.any():
            raise InputError(f"{name} has no target whose scores are all finite: leave it out")
    return made


def left_out(name: str, known: NDArray[np.bool_]) -> str:
    """How many targets of a method are left out, for the notes."""
    out = int((~known).sum())
    which = f"{out:,} of {len(known):,} targets {either(out, 'is', 'are')}"
    return f"{name}: {which} left out, whose scores are not all finite"


def wanted(
    subject: Subject,
    there: dict[str, NDArray[np.bool_]],
    targets: Sequence[int] | Literal["all"] | None,
    notes: list[str],
) -> NDArray[np.int64]:
    """The targets that are asked for, ascending, each once; by default some that all methods have, spread over classes.

    Args:
        subject: what is explored.
        there: as `known` gives it.
        targets: their numbers, or `all`, which are those that at least one method has.
        notes: what is left out is added to them.

    Raises:
        InputError: as `named`; or no target is left.
    """
    for name, mine in there.items():
        if not mine.all():
            notes.append(left_out(name, mine))
    if targets is None:
        whole = np.flatnonzero(np.all(list(there.values()), axis=0))
        if not len(whole):
            raise InputError("there is no target whose scores are finite by all methods: name fewer with --method")
        labels = None if subject.data is None else subject.data.test_y[whole]
        return whole[over_classes(labels, len(whole), COUNT)]
    if isinstance(targets, str):
        return np.flatnonzero(np.any(list(there.values()), axis=0))
    return named(subject, there, targets)


def named(subject: Subject, there: dict[str, NDArray[np.bool_]], targets: Sequence[int]) -> NDArray[np.int64]:
    """The targets that are asked for by their numbers, ascending, each once.

    Raises:
        InputError: none is named, one is out of range, or a method has no finite scores of it.
    """
    picked = whole(targets, "target")
    for target in picked:
        if not 0 <= target < subject.n_targets:
            raise InputError(
                f"there is no target {target}: there are {subject.n_targets}, numbered 0 … {subject.n_targets - 1}"
            )
        for name, mine in there.items():
            if not mine[target]:
                raise InputError(
                    f"{name} has scores of target {target} that are not finite: leave the target or the method out"
                )
    return picked


def whole(numbers: Sequence[int], what: str) -> NDArray[np.int64]:
    """Numbers that are asked for, ascending, each once.

    Args:
        numbers: as they were given.
        what: has these numbers, in the singular.

    Raises:
        InputError: there is none, or they are not a list of whole numbers.
    """
    try:
        values = np.asarray(numbers)
    except ValueError as error:  # lists of lists that differ in length
        raise InputError(f"{what}s are {numbers!r}, where a list of whole numbers is needed") from error
    if not values.size:
        raise InputError(f"no {what} is named: name at least one")
    if values.ndim != 1 or values.dtype.kind not in "iu":
        raise InputError(f"{what}s are {values.dtype} {list(values.shape)}, where a list of whole numbers is needed")
    return np.unique(values.astype(np.int64))


def over_classes(labels: NDArray[np.int64] | None, count: int, most: int) -> NDArray[np.int64]:
    """Positions of at most so many of `count` examples, ascending: of different classes as far as there are.

    Args:
        labels: int64 `[count]`; without, they are spread evenly.
        count: examples.
        most: how many.
    """
    if labels is None or count <= most:
        return spread(np.arange(count), most)
    classes = np.unique(labels)
    picked = spread(classes, most)
    # From the middle of a class, since files often begin with what is easy or ordered; further ones beside it.
    made: list[int] = []
    for turn in range(most):
        for label in picked:
            there = np.flatnonzero(labels == label)
            if turn < len(there) and len(made) < most:
                made.append(int(np.roll(there, -(len(there) // 2))[turn]))
    return np.array(sorted(made), np.int64)


def spread(values: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    """At most so many of the values, evenly spread over them."""
    if len(values) <= most:
        return values
    return values[np.linspace(0, len(values) - 1, most).round().astype(np.int64)]


def class_name(label: int | None, names: Sequence[str]) -> str:
    """A class as users see it."""
    if label is None:
        return "–"
    return names[label] if label < len(names) else f"class {label}"


def class_cell(label: int | None, names: Sequence[str]) -> str:
    """The same where a column says that it is a class: without names its number alone."""
    if label is None:
        return "–"
    return names[label] if names else str(label)


def features(example: NDArray[np.float32]) -> str:
    """The first values of an example that is no image."""
    values = example.reshape(-1)
    said = ", ".join(f"{value:.2f}" for value in values[:_FEATURES].tolist()).replace("-", "−")
    return said if len(values) <= _FEATURES else f"{said}, … ({len(values)} values)"


def signed(value: float) -> str:
    """A score of three digits with its sign."""
    return f"{value:+.3g}".replace("-", "−")
