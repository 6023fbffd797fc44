"""Numbers and groups of examples as users write them."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench import npy
from bench.errors import BenchError, InputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def numbers(text: str, flag: str, count: int, what: str = "targets") -> list[int]:
    """`3,17,40-45` as ascending numbers, each once.

    Raises:
        BenchError: it is not so written, or a number is not in 0 … count − 1.
    """
    found: set[int] = set()
    for word in text.split(","):
        first, dash, last = word.strip().partition("-")
        if not _is_number(first) or (dash and not _is_number(last)):
            raise BenchError(f"{flag} is {text!r}: write numbers and spans of {what}, such as 3,17,40-45")
        start, stop = int(first), int(last or first)
        if start > stop:
            raise BenchError(f"{flag} has {word!r}, whose end is before its start: write {stop}-{start}")
        if stop >= count:
            raise BenchError(f"{flag} has {stop}, and there are {count} {what}, numbered 0 … {count - 1}")
        found.update(range(start, stop + 1))
    return sorted(found)


def _is_number(word: str) -> bool:
    """Whether it is of the digits 0 to 9 alone."""
    return word.isascii() and word.isdecimal()


def _whole(word: str) -> int:
    if not _is_number(word.removeprefix("-")):
        raise ValueError(f"{word!r} is no whole number")
    return int(word)


def from_file(place: Path, what: str) -> NDArray[Any]:
    """Values from a file: .npy, .json of a list, or text with white space or commas between whole numbers.

    Args:
        place: the file.
        what: is in it, in the plural.

    Returns:
        Whatever it holds: the caller looks at type and shape.

    Raises:
        InputError: it cannot be read.
    """
    import json

    import numpy as np

    try:
        if place.suffix == ".npy":
            return npy.load(place)
        text = place.read_text("utf-8-sig")  # some editors put a mark at the beginning
        if place.suffix == ".json":
            found = json.loads(text)
            if isinstance(found, list) and len({isinstance(one, list) for one in found}) > 1:
                raise ValueError("some of its entries are lists, and some are not")
            return np.array(found)
        return np.array([_whole(word) for word in text.replace(",", " ").split()])
    except OSError as error:
        raise InputError(f"{place}: {error.strerror or error}; name a file of {what}") from error
    except (ValueError, OverflowError, RecursionError) as error:
        why = "its lists differ in length" if "inhomogeneous" in str(error) else error
        raise InputError(f"{place} is not a list of {what}: {why}") from error


def index_file(path: str | Path, n_train: int) -> NDArray[np.int64]:
    """Training examples from a file: numbers in .npy, in .json as a list, or in text with white space or commas.

    Returns:
        int64, ascending, each once.

    Raises:
        InputError: it cannot be read, is empty, or names an example that is not there.
    """
    import numpy as np

    place = Path(path)
    values = from_file(place, "training examples' numbers")
    if values.dtype.kind in "OSU":  # words, what JSON has besides, and numbers that are too large for numpy's
        if values.ndim == 1 and all(type(one) is int for one in values):
            most = max(values, key=abs)
            raise InputError(f"{place} names training example {most}: they are numbered 0 … {n_train - 1}")
        raise InputError(f"{place} is not a list of training examples' numbers: write it as [3, 17, 40]")
    if values.dtype == bool and values.shape == (n_train,):
        values = np.flatnonzero(values)
    if values.size == 0:
        raise InputError(f"{place} names no training example: an empty group cannot be removed")
    if values.ndim != 1 or values.dtype.kind not in "iu":
        raise InputError(f"{place} holds {values.dtype} {list(values.shape)}, where a list of numbers is needed")
    wrong = values[(values < 0) | (values >= n_train)]
    if len(wrong):
        raise InputError(f"{place} names training example {wrong[0]}: they are numbered 0 … {n_train - 1}")
    return np.unique(values.astype(np.int64))


def one_of(value: object, flag: str, allowed: Sequence[str]) -> None:
    """Refuse a word that is none of those allowed.

    Raises:
        InputError: it is not.
    """
    if value not in allowed:
        raise InputError(f"{flag} is {value!r}: it takes {' or '.join(allowed)}")


def at_least(value: int, flag: str, least: int) -> int:
    """A whole number that is not too small.

    Raises:
        BenchError: it is.
    """
    if value < least:
        raise BenchError(f"{flag} is {value}: it takes {least} or more")
    return value


def at_most(value: int, flag: str, count: int, what: str) -> int:
    """A whole number from 1 to `count`.

    Raises:
        BenchError: it is not.
    """
    try:
        operator.index(value)
    except TypeError as error:
        raise BenchError(f"{flag} is {value!r}: it takes a whole number from 1 to {count}") from error
    if not 1 <= value <= count:
        raise BenchError(f"{flag} is {value}: it takes 1 to {count}, the number of {what}")
    return value


def shares(text: str, flag: str) -> list[float]:
    """`0.01,0.05` as numbers between 0 and 1.

    Raises:
        BenchError: it is not so written, empty, or a number is not between 0 and 1.
    """
    try:
        found = [float(word) for word in text.split(",") if word.strip()]
    except ValueError as error:
        raise BenchError(f"{flag} is {text!r}: write shares of the training set, such as 0.01,0.05") from error
    for share in found:
        if not 0 < share < 1:
            raise BenchError(f"{flag} has {share:g}: it takes shares of the training set, between 0 and 1")
    if not found:
        raise BenchError(f"{flag} is empty: name at least one share of the training set, such as 0.01")
    return found


def root_seed(value: int) -> int:
    """A seed.

    Raises:
        InputError: it is negative.
    """
    if value < 0:
        raise InputError(f"--seed is {value}: it cannot be negative")
    return value


def counts(sizes: Sequence[float], n_train: int) -> list[int]:
    """Shares of the training set as numbers of examples, ascending, each once; at least one and not all.

    Raises:
        BenchError: as `shares`.
    """
    found = shares(",".join(map(str, sizes)), "--sizes")
    return sorted({min(n_train - 1, max(1, round(share * n_train))) for share in found})
