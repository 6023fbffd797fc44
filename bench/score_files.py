"""A method's scores as files: the matrix, the arrays that belong to it, and what vouches for both.

    NAME.npy        the scores, [n_train, n_targets]
    NAME.extra.npz  what the method kept by `Task.keep`, if it did
    NAME.json       `Finished`: in a run, written last

All of it is written whole or not at all, and read without unpickling.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from bench import atomic, hashing
from bench.errors import InputError
from bench.results import Cost, SearchRow

if TYPE_CHECKING:
    from numpy.typing import NDArray

_RESERVED = ("file", "allow_pickle")  # arguments of numpy.savez


@dataclass(frozen=True)
class Attribution:
    """What a method made.

    Attributes:
        scores: float `[n_train, n_targets]`.
        cost: what it took.
        notes: what a reader of the table must know.
        extra: the arrays that it kept beside the scores, by name.
        searches: what it chose on the tune rows.
    """

    scores: NDArray[Any]
    cost: Cost
    notes: list[str]
    extra: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    searches: list[SearchRow] = field(default_factory=list)


class Finished(msgspec.Struct, frozen=True):
    """Beside a score matrix: what it came from and what it took; `extra` is the checksum of what was kept with it."""

    key: str
    checksum: str
    cost: Cost
    notes: list[str]
    extra: str | None = None
    searches: list[SearchRow] = []


def checked_extra(name: str, value: Any) -> NDArray[Any]:
    """A copy of an array that is to be kept.

    Raises:
        InputError: a name that is no word or that numpy.savez takes for itself, or a value that is not an array of
            real numbers or truth values.
    """
    if not name.isidentifier() or name in _RESERVED:
        raise InputError(f"task.keep cannot name an array {name!r}: use a word, other than {' and '.join(_RESERVED)}")
    try:
        array = np.asarray(value.detach().cpu() if hasattr(value, "detach") else value).copy()
    except (TypeError, ValueError) as error:
        raise InputError(f"task.keep was given a {name} that is not an array ({error}): keep arrays alone") from error
    if array.dtype.kind not in "biuf":
        raise InputError(f"task.keep was given {name} of type {array.dtype}: keep real numbers or truth values")
    return array


def extra_path(scores: Path) -> Path:
    """Where the arrays beside a score matrix are."""
    return scores.with_suffix(".extra.npz")


def write_arrays(path: Path, made: Attribution) -> None:
    """Write the scores, and what is kept with them; what another method has left beside `path` is removed first."""
    beside = extra_path(path)
    with atomic.writing(beside):
        beside.unlink(missing_ok=True)
    atomic.write(path, lambda file: np.save(file, made.scores, allow_pickle=False))
    if made.extra:
        arrays: dict[str, Any] = dict(made.extra)
        atomic.write(beside, lambda file: np.savez(file, **arrays))


def save_scores(path: Path, key: str, made: Attribution) -> None:
    """Write what a method made, and then what vouches for it beside it."""
    write_arrays(path, made)
    extra = hashing.file(extra_path(path)) if made.extra else None
    finished = Finished(key, hashing.file(path), made.cost, made.notes, extra, made.searches)
    atomic.write_text(path.with_suffix(".json"), msgspec.json.format(msgspec.json.encode(finished)).decode() + "\n")


def load_scores(path: Path, key: str) -> Attribution | None:
    """What a method has made, if it came from exactly what `key` says and is whole; else None."""
    with suppress(OSError, ValueError, msgspec.DecodeError):
        finished = msgspec.json.decode(path.with_suffix(".json").read_bytes(), type=Finished)
        if finished.key != key or hashing.file(path) != finished.checksum:
            return None
        beside = extra_path(path)
        if finished.extra is None:
            if beside.exists():  # nobody vouches for it
                return None
            extra = {}
        elif hashing.file(beside) == finished.extra:
            with np.load(beside, allow_pickle=False) as stored:
                extra = dict(stored)
        else:
            return None
        return Attribution(np.load(path, allow_pickle=False), finished.cost, finished.notes, extra, finished.searches)
    return None
