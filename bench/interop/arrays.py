"""Check large .npy files in one pass: the hash of their bytes, and whether they are masks and margins at all.

A file is read front to back in chunks, so that memory does not grow with it.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench import atomic
from bench.errors import InputError

Array = NDArray[Any]
Visit = Callable[[int, Array], None]  # the first row of a chunk, and the chunk

CHUNK_BYTES = 32 * 2**20
_FLOAT16_MAX = 65504
_NAMED = 5  # rows that an error names; of the others it says how many
_ROW_SIGMAS, _MEAN_SIGMAS, _SLACK = 8, 6, 0.01  # of subsets drawn one example at a time, and a hundredth to spare


def opened(path: Path, what: str, rank: int, dtypes: Iterable[str]) -> np.memmap[Any, Any]:
    """A .npy file as a memmap.

    Args:
        path: the file.
        what: the shape, as the error says it.
        rank: axes it must have.
        dtypes: names of the types it may have.

    Raises:
        InputError: it cannot be read, is torn, or has another shape or type.
    """
    try:
        array: np.memmap[Any, Any] = np.lib.format.open_memmap(path, mode="r")
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}; name another file") from error
    except Exception as error:  # numpy has many words for a broken file
        raise InputError(f"{path} is torn or not a .npy file of numbers ({error}): get it again") from error
    if array.ndim != rank:
        raise InputError(f"{path} has shape {list(array.shape)}, where {what} is needed")
    if not array.size:
        raise InputError(f"{path} is empty, of shape {list(array.shape)}, where {what} is needed")
    if array.dtype.name not in dtypes or not array.dtype.isnative:
        raise InputError(f"{path} is of type {array.dtype}, where {' or '.join(dtypes)} is needed: convert it")
    if not array.flags.c_contiguous:
        raise InputError(
            f"{path} is stored column by column (Fortran order): write it anew with numpy.ascontiguousarray"
        )
    return array


def stream(
    path: Path,
    array: np.memmap[Any, Any],
    visit: Visit,
    advance: Callable[[int], object],
    rows: tuple[int, int] | None = None,
) -> str:
    """Call `visit` with each chunk of rows of an opened file, and `advance` with its bytes.

    Args:
        path: the file.
        array: it, opened.
        visit: is called with the first row of a chunk, and the chunk.
        advance: is called with the number of its bytes.
        rows: `[first, last + 1)` that are read; None for all.

    Returns:
        The sha256 of the file; where not all rows are read, of its header and of those that are.
    """
    first, last = rows or (0, len(array))
    running = hashlib.sha256()
    row = array.itemsize * int(np.prod(array.shape[1:]))
    step = max(1, CHUNK_BYTES // row)
    with path.open("rb") as file:
        running.update(file.read(array.offset))
        buffer = bytearray(step * row)
        file.seek(array.offset + first * row)
        for start in range(first, last, step):
            count = min(step, last - start)
            part = memoryview(buffer)[: count * row]
            if file.readinto(part) != len(part):
                raise InputError(f"{path} has become shorter while it was read: get it again")
            running.update(part)
            visit(start, np.frombuffer(part, array.dtype).reshape(count, *array.shape[1:]))
            advance(len(part))
        while rows is None and (rest := file.read(CHUNK_BYTES)):
            running.update(rest)
    return running.hexdigest()


def _named(rows: list[int], count: int) -> str:
    shown = ", ".join(map(str, rows))
    return f"row{'s' * (count > 1)} {shown}{f' and {count - len(rows)} more' if count > len(rows) else ''}"


class Rows:
    """Row numbers that have something in common: a few, and how many there are."""

    def __init__(self) -> None:
        self.first: list[int] = []
        self.count = 0

    def add(self, start: int, holds: Any) -> None:
        """Take those rows of a chunk for which `holds`, bool `[rows]`, is true."""
        found = np.flatnonzero(holds)
        self.count += len(found)
        self.first += (start + found[: _NAMED - len(self.first)]).tolist()

    def __str__(self) -> str:
        return _named(self.first, self.count)


class Finite:
    """A visit that looks for rows that are not finite."""

    def __init__(self, path: Path) -> None:
        self.path, self.dtype = path, ""
        self.nan, self.infinite = Rows(), Rows()

    def __call__(self, start: int, chunk: Array) -> None:
        """Look at a chunk."""
        flat = chunk.reshape(len(chunk), -1)
        self.dtype = chunk.dtype.name
        odd = ~np.isfinite(flat).all(1)
        if odd.any():
            nan = np.isnan(flat).any(1)
            self.nan.add(start, nan)
            self.infinite.add(start, odd & ~nan)

    def check(self) -> None:
        """Refuse the file.

        Raises:
            InputError: a row holds a NaN, or an infinity.
        """
        if self.nan.count:
            others = f", and {self.infinite} infinities" if self.infinite.count else ""
            raise InputError(
                f"{self.path}: {self.nan} hold{'s' * (self.nan.count == 1)} NaN{others}: leave these models out, in "
                "masks and margins alike"
            )
        if self.infinite.count:
            over = f"float16 overflow, beyond {_FLOAT16_MAX}" if self.dtype == "float16" else "no margin of a model"
            raise InputError(
                f"{self.path}: {self.infinite} hold{'s' * (self.infinite.count == 1)} infinities ({over}): write it "
                "anew in float32, or leave these models out"
            )


class Masks:
    """A visit that makes a digest of each mask, and looks for rows that are no subsets of the size of alpha."""

    def __init__(self, path: Path, shape: tuple[int, ...], alpha: float, rows: tuple[int, int] | None = None) -> None:
        self.path, self.alpha = path, alpha
        self.first, stop = rows or (0, shape[0])
        self.n_rows, self.n_train = stop - self.first, shape[1]
        self.digests = np.empty((self.n_rows, 2), np.uint64)
        self.kept = 0
        self.not_bool, self.odd = Rows(), Rows()
        self.odd_size = 0
        sigma = np.sqrt(self.n_train * alpha * (1 - alpha))
        self.slack = _ROW_SIGMAS * sigma + _SLACK * self.n_train

    def __call__(self, start: int, chunk: Array) -> None:
        """Look at a chunk."""
        self.not_bool.add(start, (chunk.view(np.uint8) > 1).any(1))
        kept = np.count_nonzero(chunk, axis=1)
        self.kept += int(kept.sum())
        odd = (kept == 0) | (kept == self.n_train) | (np.abs(kept - self.alpha * self.n_train) > self.slack)
        if odd.any() and not self.odd.count:
            self.odd_size = int(kept[odd][0])
        self.odd.add(start, odd)
        for row, bits in enumerate(np.packbits(chunk, axis=1), start - self.first):
            self.digests[row] = np.frombuffer(hashlib.blake2b(bits.tobytes(), digest_size=16).digest(), np.uint64)

    def check(self) -> None:
        """Refuse the file.

        Raises:
            InputError: a row is not 0/1, keeps too few or too many, or all of them together do.
        """
        if self.not_bool.count:
            raise InputError(f"{self.path}: {self.not_bool} with bytes other than 0 and 1: the file is damaged")
        share = self.kept / (self.n_rows * self.n_train)
        sigma = np.sqrt(self.alpha * (1 - self.alpha) / (self.n_rows * self.n_train))
        if abs(share - self.alpha) > _MEAN_SIGMAS * sigma + _SLACK:
            raise InputError(
                f"{self.path}: its masks keep {share:.1%} of the examples on average, where alpha {self.alpha:g} is "
                f"{self.alpha:.0%}: is it the file of another alpha?"
            )
        if self.odd.count:
            raise InputError(
                f"{self.path}: {self.odd} keep{'s' * (self.odd.count == 1)} {self.odd_size} of {self.n_train} "
                f"examples, where alpha is {self.alpha:g}: leave out models that were not "
                "trained, in masks and margins alike"
            )

    def first_of(self) -> dict[int, int]:
        """Row → the first row with the same mask, for rows that are not the first."""
        order = np.lexsort((self.digests[:, 1], self.digests[:, 0]))  # stable: equal ones stay in the order of rows
        ordered = self.digests[order]
        same = np.concatenate([[False], (ordered[1:] == ordered[:-1]).all(1)])
        starts = np.maximum.accumulate(np.where(same, 0, np.arange(len(order))))
        found = np.flatnonzero(same)
        rows, earlier = (order[one] + self.first for one in (found, starts[found]))
        return dict(sorted(zip(rows.tolist(), earlier.tolist(), strict=True)))


def place(source: Path, target: Path, *, copy: bool, symbolic: bool = True) -> str:
    """Have a file at `target`: the same one where that is possible, else a copy; says which.

    Args:
        source: the file.
        target: where it shall be.
        copy: make a copy in any case.
        symbolic: whether a symbolic link will do, as between file systems.

    Raises:
        BenchError: a copy cannot be written.
    """
    source = source.resolve()
    if not copy:
        with suppress(OSError):
            os.link(source, target)
            return "hard link"
        if symbolic:
            with suppress(OSError):
                target.symlink_to(source)
                return "symbolic link"
    with source.open("rb") as file:
        atomic.write(target, lambda out: shutil.copyfileobj(file, out, CHUNK_BYTES))
    return "copy"
