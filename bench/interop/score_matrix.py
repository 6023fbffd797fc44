"""A score matrix that was imported, and what vouches for it.

    NAME.npy          [n_train, n_targets], float32 or float64; positive = keeping the example raises the margin
    NAME.origin.json  `ScoreOrigin`: which files it was made of, how they were read, and what readers must know

The matrix is written in chunks of rows: one that is mapped from disk, transposed or not, need not fit in memory.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

import bench
from bench import atomic, hashing
from bench.errors import BenchError, InputError
from bench.imported import Origin
from bench.interop import options
from bench.interop.torch_zip import BF16, widened
from bench.wording import counted

if TYPE_CHECKING:
    from bench.store import GroundTruth

Array = NDArray[Any]

_CHUNK_BYTES = 32 * 2**20
_FORMAT = 1


class Fitted(msgspec.Struct, frozen=True):
    """Rows of a store that scores were made from: the sha256 of its masks.npy, and spans `[start, stop)` of rows."""

    masks: str
    spans: list[tuple[int, int]]


class ScoreOrigin(msgspec.Struct, frozen=True):
    """Where a score matrix comes from.

    Attributes:
        format: of this file; source: name of the format that was read, or of the method that made it.
        orientation: rows,columns of the files; sign: theirs. The matrix is turned to `train,test` and `+`.
        n_train, n_targets: its shape.
        origin: file → its hash and size.
        checksum: sha256 of the .npy beside (of the .extra.npz, where there is no matrix).
        stamps: what every table must show; notes: what else a reader must know.
        versions: of the packages that wrote it.
        fitted: rows that it was made from, where they are known.
    """

    format: int
    source: str
    orientation: str
    sign: str
    n_train: int
    n_targets: int
    origin: dict[str, Origin]
    checksum: str
    stamps: list[str] = []
    notes: list[str] = []
    versions: dict[str, str] = {}
    fitted: Fitted | None = None


class Matrix(Protocol):
    """What is written: an array, or something that is indexed like one."""

    @property
    def shape(self) -> tuple[int, ...]: ...  # noqa: D102

    @property
    def dtype(self) -> np.dtype[Any]: ...  # noqa: D102

    def __getitem__(self, at: Any) -> Array: ...


class Stacked:
    """Matrices of as many columns, one below the other, indexed as one matrix is."""

    def __init__(self, parts: Sequence[Array]) -> None:
        self.parts = parts
        self.shape = (sum(len(part) for part in parts), parts[0].shape[1])
        self.dtype = parts[0].dtype if len({part.dtype for part in parts}) == 1 else np.dtype(np.float64)

    def __getitem__(self, at: tuple[slice, slice]) -> Array:
        rows, columns = at
        assert rows == slice(None)
        return np.concatenate([widened(part[:, columns]) for part in self.parts])


class Read(NamedTuple):
    """Scores as a file has them: `[rows, columns]`, where they come from, and what to say of them."""

    values: Matrix
    files: Sequence[Path]
    notes: Sequence[str] = ()


def origin_path(scores: Path) -> Path:
    """Where the origin of a score matrix is written."""
    return scores.with_suffix(".origin.json")


def origins(files: Sequence[Path]) -> dict[str, Origin]:
    """Hash and size of files, by their names (with folders, where two have the same name)."""
    one_each = sorted(set(files))
    alone = len({path.name for path in one_each}) == len(one_each)
    return {path.name if alone else str(path): Origin(hashing.file(path), path.stat().st_size) for path in one_each}


def read_origin(scores: Path) -> ScoreOrigin | None:
    """The origin of a score matrix; None where there is none, or one of another matrix."""
    try:
        found = msgspec.json.decode(origin_path(scores).read_bytes(), type=ScoreOrigin)
        return found if found.checksum == hashing.file(scores) else None
    except (OSError, msgspec.DecodeError):
        return None


def write_origin(scores: Path, *, beside: Path | None = None, **fields: Any) -> None:
    """Write what vouches for a score matrix beside it; or for the file `beside`, where there is no matrix."""
    made = ScoreOrigin(
        format=_FORMAT,
        checksum=hashing.file(beside or scores),
        versions={"ldsbench": bench.__version__, "numpy": np.__version__},
        **fields,
    )
    atomic.write_text(origin_path(scores), msgspec.json.format(msgspec.json.encode(made)).decode() + "\n")


def fitted(truth: GroundTruth, *groups: NDArray[np.int64]) -> Fitted | None:
    """What says that scores were made from some rows of a store; None where its masks have no checksum."""
    masks, rows = _masks(truth), np.sort(np.concatenate(groups))
    if masks is None or not len(rows):
        return None
    parts = np.split(rows, np.flatnonzero(np.diff(rows) != 1) + 1)
    return Fitted(masks, [(int(part[0]), int(part[-1]) + 1) for part in parts])


def judged_by_own(origin: ScoreOrigin | None, truth: GroundTruth, judging: NDArray[np.int64]) -> NDArray[np.int64]:
    """Those of the rows `judging` of a store that scores are known to be made from."""
    if origin is None or origin.fitted is None or origin.fitted.masks != _masks(truth):
        return judging[:0]
    inside = np.zeros(len(truth.masks), bool)
    for start, stop in origin.fitted.spans:
        inside[start:stop] = True
    return judging[inside[judging]]


def _masks(truth: GroundTruth) -> str | None:
    vouching = truth.imported or truth.meta
    return None if vouching is None else vouching.checksums.get("masks.npy")


def stamp(scores: Path, source: str, stamps: Sequence[str], rows: Fitted | None = None) -> None:
    """Say of scores that a method has made, `[n_train, n_targets]` and +, what must be shown and what rows they are of.

    An older origin beside them is removed; there is none where there is nothing to say.
    """
    with atomic.writing(origin_path(scores)):
        origin_path(scores).unlink(missing_ok=True)
    if stamps or rows is not None:
        n_train, n_targets = np.load(scores, mmap_mode="r", allow_pickle=False).shape
        write_origin(
            scores,
            source=source,
            orientation="train,test",
            sign="+",
            n_train=n_train,
            n_targets=n_targets,
            origin={},
            stamps=list(stamps),
            fitted=rows,
        )


def target(path: str) -> Path:
    """The .npy to write.

    Raises:
        BenchError: it does not end in .npy, or something is there already.
    """
    dest = Path(path)
    if dest.suffix != ".npy":
        raise BenchError(f"DEST is {path!r}: scores are written as .npy, so name a file that ends so")
    for one in (dest, origin_path(dest)):
        if one.exists() or one.is_symlink():
            raise BenchError(f"{one} is there already: name another file for the scores, or remove it")
    return dest


def import_(given: argparse.Namespace, name: str, read: Read) -> list[str]:
    """Write scores that were read, turned to [n_train, n_targets] and +; gives what to print.

    Raises:
        BenchError: orientation or sign is missing, the shape is not that of --store, a score is not finite, or the
            place cannot be written. Nothing is left behind then.
    """
    sense, dest = options.sense(given, name), target(given.dest)
    first = read.files[0]
    if len(read.values.shape) != 2:
        raise InputError(f"{first} has shape {list(read.values.shape)}, where [{sense.orientation}] is needed")
    if 0 in read.values.shape:
        raise InputError(f"{first} is empty, of shape {list(read.values.shape)}, where [{sense.orientation}] is needed")
    shape = read.values.shape if sense.orientation == "train,test" else read.values.shape[::-1]
    if given.store is not None:
        _fits(Path(given.store), first, shape, sense.orientation, fixed=given.fixed[0] is not None)
    origin = origins(read.files)
    try:
        _write(dest, read, sense, first)
        write_origin(
            dest,
            source=name,
            orientation=sense.orientation,
            sign=sense.sign,
            n_train=shape[0],
            n_targets=shape[1],
            origin=origin,
            notes=list(read.notes),
        )
    except BaseException:
        dest.unlink(missing_ok=True)  # nobody vouches for it
        raise
    done = [("transposed", sense.orientation == "test,train"), ("sign turned", sense.sign == "-")]
    turned = ", ".join(word for word, holds in done if holds) or "as they are"
    return [
        f"{dest}: scores [{shape[0]}, {shape[1]}] of {first}{_others(len(read.files))}: {turned}",
        f"{origin_path(dest)}: where they come from",
        *(f"note: {note}" for note in read.notes),
    ]


def _others(count: int) -> str:
    return f" and {counted(count - 1, 'more file')}" if count > 1 else ""


def _fits(store: Path, path: Path, shape: tuple[int, ...], orientation: str, *, fixed: bool) -> None:
    from bench.store import GroundTruth

    truth = GroundTruth.open(store)
    wanted = truth.masks.shape[1], truth.margins.shape[1]
    if shape == wanted:
        return
    if shape == wanted[::-1]:
        other = next(one for one in options.ORIENTATIONS if one != orientation)
        advice = "transpose the file" if fixed else f"add --orientation {other}"
        raise InputError(
            f"{path} looks transposed: read as {orientation} it is of {counted(shape[0], 'example')} and "
            f"{counted(shape[1], 'target')}, and {store} of {wanted[0]} and {wanted[1]}; {advice}"
        )
    raise InputError(
        f"{path} is of {counted(shape[0], 'example')} and {counted(shape[1], 'target')} (read as {orientation}), and "
        f"{store} of {wanted[0]} and {wanted[1]}: are they of another dataset?"
    )


def _write(dest: Path, read: Read, sense: options.Sense, path: Path) -> None:
    values, across = read.values, sense.orientation == "test,train"
    n_train, n_targets = values.shape[::-1] if across else values.shape
    dtype = np.dtype(np.float64 if values.dtype == np.float64 else np.float32)
    step = max(1, _CHUNK_BYTES // (n_targets * dtype.itemsize))

    def fill(file: Any) -> None:
        fields = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": (n_train, n_targets)}
        np.lib.format.write_array_header_1_0(file, fields)
        for start in range(0, n_train, step):
            part = slice(start, start + step)
            chunk = widened(values[:, part].T if across else values[part, :])
            finite = np.isfinite(chunk)
            if not finite.all():
                row, column = (int(i) for i in np.argwhere(~finite)[0])
                raise InputError(_not_finite(path, start + row, column, chunk[row, column], values.dtype))
            file.write((chunk.astype(dtype) * dtype.type(sense.factor)).tobytes())

    atomic.write(dest, fill)


def _not_finite(path: Path, example: int, at: int, value: Any, dtype: np.dtype[Any]) -> str:
    why = "" if np.isnan(value) else " (float16 overflow, beyond 65504)" if dtype == np.float16 else ""
    kind = "bfloat16" if dtype == BF16 else dtype
    return (
        f"{path}: the score of example {example} for target {at} is {value}{why}, in {kind}: compute it again in "
        "float32, or leave the target out"
    )
