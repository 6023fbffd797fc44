"""One block of finished rows on disk: a single file whose existence is its completion and whose checksum is its proof.

A block is an uncompressed `.npz`: one array per output (`margins`, …), each `[rows, …]`, and `header`, JSON bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from bench import atomic, hashing

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Header(msgspec.Struct, frozen=True):
    """What a block holds and what made it.

    Attributes:
        key: hash of everything that the rows come from (`bench.store.Identity.key`).
        start: first row; stop: one past the last.
        seconds: what training them took.
        checksum: sha256 of the arrays, by name.
        accuracy: mean share of targets that its models get right.
        diverged: rows whose margins were not finite, twice; retried: once.
    """

    key: str
    start: int
    stop: int
    seconds: float
    checksum: str
    accuracy: float = 0.0
    diverged: tuple[int, ...] = ()
    retried: tuple[int, ...] = ()


class BlockError(Exception):
    """A block that is torn, foreign or altered; its text says which and why."""


def name(start: int, stop: int) -> str:
    """File name of the block of rows `start … stop − 1`."""
    return f"rows-{start:09d}-{stop:09d}.npz"


def span(path: Path) -> tuple[int, int] | None:
    """The rows that a file's name promises, None where it is no block's name."""
    parts = path.stem.split("-")
    if path.suffix != ".npz" or len(parts) != 3 or parts[0] != "rows" or not all(p.isdecimal() for p in parts[1:]):
        return None
    return int(parts[1]), int(parts[2])


def checksum(arrays: Mapping[str, NDArray[Any]]) -> str:
    """sha256 over the names and contents of some arrays."""
    return hashing.digest({key: hashing.array(value) for key, value in arrays.items()})


def write(
    folder: Path, key: str, start: int, arrays: Mapping[str, NDArray[Any]], seconds: float, **found: Any
) -> Header:
    """Write the block of rows from `start`; all arrays have one row per model, `found` are other fields of `Header`.

    Raises:
        BenchError: the folder cannot be written or the disk is full; no partial block is left.
    """
    stop = start + len(next(iter(arrays.values())))
    header = Header(key, start, stop, round(seconds, 3), checksum(arrays), **found)
    path = folder / name(start, stop)
    content: dict[str, Any] = {"header": np.frombuffer(msgspec.json.encode(header), np.uint8), **arrays}
    atomic.write(path, lambda file: np.savez(file, **content))
    return header


def read(path: Path, key: str) -> tuple[Header, dict[str, NDArray[Any]]]:
    """Read and check a block.

    Raises:
        BlockError: it is torn, was made for another ground truth (`key`), or its content is not what its checksum says.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {k: archive[k] for k in archive.files}
        header = msgspec.json.decode(arrays.pop("header").tobytes(), type=Header)
    except Exception as error:  # zipfile and numpy have many words for one broken file
        raise BlockError(f"{path.name} is torn ({type(error).__name__})") from error
    if header.key != key:
        raise BlockError(f"{path.name} was made by other data, model, recipe or code")
    rows = (header.stop - header.start,)
    if (header.start, header.stop) != span(path) or any(a.shape[:1] != rows for a in arrays.values()):
        raise BlockError(f"{path.name} does not hold the rows that its name says")
    if checksum(arrays) != header.checksum:
        raise BlockError(f"{path.name} has another content than its checksum says")
    return header, arrays
