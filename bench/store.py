"""The ground-truth store: masks and margins of subset models, in a folder that `np.load(…, mmap_mode="r")` can read.

    masks.npy       bool    [M, n_train]
    margins.npy     float32 [M, n_targets]
    _completed.npy  bool    [M]; false for a model that diverged
    logits.npy …    what else is recorded, see bench.recorded
    spec.json       the schema, as MadryLab's datamodels tools write it
    meta.json       `Meta`: what made it
    blocks/         the finished blocks that the three arrays are gathered from

Workers write blocks (`bench.blocks`); one process gathers them. The arrays are written front to back and renamed
into place, never through a memmap: a full disk is then an error, not a bus error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

import msgspec
import numpy as np

from bench import atomic, blocks, hashing, subsets
from bench.errors import BenchError, InputError
from bench.imported import Imported, read_imported
from bench.meta import ASKED, FORMAT, Asked, Identity, Meta, PlanMeta, read_meta, refuse_newer
from bench.recorded import BITS
from bench.rows import Rows, RowView
from bench.subsets import GROUPS, Group, Plan
from bench.wording import counted

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "ASKED",
    "FORMAT",
    "Asked",
    "Found",
    "GroundTruth",
    "Identity",
    "Meta",
    "PlanMeta",
    "Rows",
    "damaged",
    "find_blocks",
    "gather",
    "missing_rows",
    "read_meta",
    "refuse_newer",
    "verify",
]

_CHUNK_BYTES = 64 * 2**20


@dataclass(frozen=True)
class GroundTruth:
    """An opened store.

    Attributes:
        path: its folder.
        masks: bool memmap `[M, n_train]`; margins: float32 memmap `[M, n_targets]` (float16 where asked for).
        completed: bool `[M]`: rows that hold a trained model's margins.
        meta: what made it; None for a store that another tool wrote, or that was imported.
        imported: where it was imported from; None for others.
    """

    path: Path
    masks: NDArray[np.bool_]
    margins: NDArray[np.float32]
    completed: NDArray[np.bool_]
    meta: Meta | None = field(repr=False)
    imported: Imported | None = field(default=None, repr=False)

    @classmethod
    def open(cls, path: str | Path) -> GroundTruth:
        """Open a store for reading.

        Raises:
            InputError: it is not a store, or a file of it is missing, torn or of the wrong shape or dtype.
        """
        folder = Path(path)
        if not folder.is_dir():
            what = "it is a file" if folder.exists() else "there is no such folder"
            raise InputError(f"{folder} is not a ground-truth store: {what}; name a folder of bench train or import")
        masks, margins = _array(folder, "masks", 2, "b"), _array(folder, "margins", 2, "f")
        completed = _array(folder, "_completed", 1, "b")
        if not len(masks) == len(margins) == len(completed):
            raise InputError(
                f"{folder} is damaged: masks.npy has {counted(len(masks), 'row')}, margins.npy {len(margins)} and "
                f"_completed.npy {len(completed)}; gather or train it again"
            )
        imported = read_imported(folder)
        meta = read_meta(folder) if imported is None else None
        said = imported and (imported.n_rows, imported.n_train, imported.n_targets)
        if meta is not None:
            said = len(meta.subset_of_row), meta.n_train, meta.n_targets
        if said and said != (*masks.shape, margins.shape[1]):
            raise InputError(f"{folder} is damaged: meta.json is of arrays of other shapes; run the same command again")
        return cls(folder, masks, margins, np.array(completed), meta, imported)

    @property
    def plan(self) -> Plan:
        """The roles of the rows.

        Raises:
            InputError: the store does not say (it has no meta.json).
        """
        plan = self._needed().identity.plan
        return Plan(len(self.masks), plan.repeats, plan.eval_subsets, plan.tune_rows, plan.judge_only)

    def _needed(self) -> Meta:
        if self.imported is not None:
            raise InputError(
                f"{self.path} was imported, and no model of it was trained here: name a store of bench train"
            )
        if self.meta is None:
            raise InputError(f"{self.path} has no meta.json, which says which rows fit and which judge")
        return self.meta

    def array(self, name: str) -> NDArray[Any]:
        """Another array of the store as a memmap, one row per model: `logits`, `train_margins`, …; bits as bool.

        Raises:
            InputError: the store does not keep it.
        """
        if name not in self.schema:
            how = "import it with --keep" if self.imported is not None else f"train with --keep {name}"
            raise InputError(f"{self.path} keeps no {name!r}: it has {', '.join(self.schema)}; {how}")
        shape, dtype = self.schema[name]
        found = _array(self.path, name, len(shape) + 1, np.dtype(dtype).kind)
        return _bits(found, self.n_of(name)) if name in BITS else found

    @property
    def schema(self) -> dict[str, tuple[tuple[int, ...], str]]:
        """Shape of one row, and dtype, of each array.

        Raises:
            InputError: the store does not say (it has no meta.json).
        """
        if self.imported is not None:
            return {name: (shape, dtype) for name, (dtype, shape) in self.imported.schema.items()}
        return self._needed().schema

    def n_of(self, name: str) -> int:
        """Examples that the last but any class axis of an array is about: targets, or training examples."""
        return int((self.masks if name.startswith("train_") else self.margins).shape[1])

    def of_group(self, group: Group, n_rows: int | None = None) -> NDArray[np.int64]:
        """Completed rows of a group; of the first `n_rows` alone, by the roles that a plan of so many gives them.

        An eval subset one of whose models diverged is left out whole.
        """
        if self.imported is not None:
            return self.imported.index(group)
        meta = self._needed()
        if n_rows is None or n_rows == len(self.masks):
            codes = np.asarray(meta.group_of_row, np.int8)
        else:
            codes = replace(self.plan, n_rows=n_rows).layout()[1]
        rows = np.flatnonzero((codes == GROUPS.index(group)) & self.completed[: len(codes)])
        if group != "eval":
            return rows
        _, inverse, count = np.unique(np.asarray(meta.subset_of_row)[rows], return_inverse=True, return_counts=True)
        return rows[count[inverse] == meta.identity.plan.repeats] if len(rows) else rows

    def rows(self, index: NDArray[np.int64], *, as_stored: bool = False) -> Rows:
        """Some rows, marked read-only: copies, or views of an imported store's masks where the rows are neighbours.

        Args:
            index: row numbers.
            as_stored: leave everything where it is: rows that are no neighbours are then `RowView`s, read when they are
                indexed, and margins keep their stored dtype.
        """
        imported = self.imported
        at: Any = index
        if (
            imported is not None
            and len(index)
            and index[-1] - index[0] == len(index) - 1
            and (np.diff(index) == 1).all()
        ):
            at = slice(int(index[0]), int(index[-1]) + 1)
        subset = (
            np.asarray(self._needed().subset_of_row, np.int64)[index] if imported is None else imported.subset(index)
        )
        train = {name: self._view(name, index) for name in self.schema if name.startswith("train_")}
        if as_stored and not isinstance(at, slice):
            masks, values = RowView(self.masks, index), RowView(self.margins, index)
            return Rows(index, cast(Any, masks), cast(Any, values), subset, train)
        margins = np.asarray(_part(self.margins, at), None if as_stored else np.float32)
        made = Rows(index, np.asarray(_part(self.masks, at)), margins, subset, train)
        for value in (made.masks, made.margins, made.subset):
            value.setflags(write=False)
        return made

    def _view(self, name: str, index: NDArray[np.int64]) -> RowView:
        shape, dtype = self.schema[name]
        array = _array(self.path, name, len(shape) + 1, np.dtype(dtype).kind)
        return RowView(array, index, self.n_of(name) if name in BITS else None)


def _part(array: NDArray[Any], at: Any) -> NDArray[Any]:
    """Some rows: a copy, or of neighbours (a slice) a map of these alone, which reads nothing yet.

    A view of the whole map would not do for methods, since its `base` has the rows that judge.
    """
    if not isinstance(at, slice):
        return np.asarray(array[at])
    name, row = getattr(array, "filename", None), array[0].nbytes
    if not isinstance(array, np.memmap) or name is None or not row or not array.flags.c_contiguous:
        return np.array(array[at])
    return np.memmap(name, array.dtype, "r", array.offset + at.start * row, (at.stop - at.start, *array.shape[1:]))


def _bits(packed: NDArray[Any], count: int) -> NDArray[np.bool_]:
    return np.unpackbits(packed, axis=-1, count=count).view(np.bool_)


def _array(folder: Path, name: str, rank: int, kind: str) -> NDArray[Any]:
    path = folder / f"{name}.npy"
    try:
        array: NDArray[Any] = np.lib.format.open_memmap(path, mode="r")
    except FileNotFoundError as error:
        raise InputError(f"{folder} is not a finished ground-truth store: {path.name} is missing") from error
    except Exception as error:  # numpy has many words for a broken file
        raise InputError(f"{path} is torn or not a .npy file ({error}); run the same command again") from error
    if array.ndim != rank or array.dtype.kind != kind:
        raise InputError(f"{path} is {array.dtype} {list(array.shape)}, where a store has {rank} axes of kind {kind!r}")
    return array


class Found(msgspec.Struct):
    """The blocks of a store: the good ones by first row, and what is wrong with the others."""

    good: list[blocks.Header]
    bad: list[str]


def find_blocks(folder: Path, key: str) -> Found:
    """Check every block of a store; of two that overlap the first counts."""
    found = Found([], [])
    covered = 0
    for path in sorted((folder / "blocks").glob("rows-*.npz")):
        try:
            header, _ = blocks.read(path, key)
        except blocks.BlockError as error:
            found.bad.append(str(error))
            continue
        if header.start >= covered:
            found.good.append(header)
            covered = header.stop
    return found


def missing_rows(good: Iterable[blocks.Header], n_rows: int) -> Iterator[tuple[int, int]]:
    """Spans of rows below `n_rows` that no block covers."""
    at = 0
    for header in good:
        if at < min(header.start, n_rows):
            yield at, min(header.start, n_rows)
        at = max(at, header.stop)
    if at < n_rows:
        yield at, n_rows


def gather(folder: Path, meta: Meta) -> Meta:
    """Write the arrays of a store from its blocks, which must cover every row; returns the meta that was stored.

    Raises:
        BenchError: a block is missing or bad, or the folder cannot be written.
    """
    n_rows, who = len(meta.subset_of_row), meta.identity
    headers = list(meta.blocks)
    for start, stop in missing_rows(headers, n_rows):
        raise BenchError(f"{folder} lacks rows {start} to {stop - 1}: run the same command again to train them")
    subset = np.asarray(meta.subset_of_row, np.int64)
    step = max(1, _CHUNK_BYTES // max(1, meta.n_train))

    def chunks(name: str) -> Iterator[NDArray[Any]]:
        if name == "masks":
            for at in range(0, n_rows, step):
                yield subsets.masks(who.seed, subset[at : at + step], meta.n_train, who.alpha, who.sampling)
            return
        for header in headers:
            made = blocks.read(folder / "blocks" / blocks.name(header.start, header.stop), meta.key)[1][name]
            yield made[: n_rows - header.start]

    def writer(name: str) -> Callable[[BinaryIO], None]:
        shape, dtype = meta.schema[name]

        def write(file: BinaryIO) -> None:
            _npy_header(file, (n_rows, *shape), np.dtype(dtype))
            for chunk in chunks(name):
                file.write(np.ascontiguousarray(chunk, dtype).tobytes())

        return write

    try:
        for name in meta.schema:
            atomic.write(folder / f"{name}.npy", writer(name))
    except blocks.BlockError as error:
        raise BenchError(f"{folder}: {error}; run the same command again to train it anew") from error
    schema = {
        name: {"shape": list(shape), "dtype": "bool_" if dtype == "bool" else dtype}
        for name, (shape, dtype) in meta.schema.items()
    }
    spec = msgspec.json.format(msgspec.json.encode({"num_models": n_rows, "schema": schema}))
    atomic.write_text(folder / "spec.json", spec.decode() + "\n")
    completed = np.ones(n_rows, np.bool_)
    completed[meta.diverged] = False
    atomic.write(folder / "_completed.npy", lambda file: np.save(file, completed, allow_pickle=False))
    meta = msgspec.structs.replace(meta, checksums={name: hashing.file(folder / name) for name in meta.files})
    atomic.write_text(folder / "meta.json", msgspec.json.format(msgspec.json.encode(meta)).decode() + "\n")
    return meta


def _npy_header(file: BinaryIO, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    fields: Mapping[str, Any] = {
        "descr": np.lib.format.dtype_to_descr(dtype),
        "fortran_order": False,
        "shape": shape,
    }
    np.lib.format.write_array_header_1_0(file, dict(fields))


def damaged(folder: Path, meta: Meta) -> list[str]:
    """Which gathered files are missing or have another content than meta.json says, as sentences."""
    wrong = []
    for name in meta.files:
        path = folder / name
        if not path.is_file():
            wrong.append(f"{name} is missing")
        elif hashing.file(path) != meta.checksums.get(name):
            wrong.append(f"{name} has another content than its checksum in meta.json says")
    return wrong


def verify(folder: Path) -> list[str]:
    """Everything that is wrong with a store, as sentences; empty where it is sound.

    Checks the checksums of the arrays and of every block, that the rows' roles are those of the plan, that the
    masks are those of the seed, and that the margins are those of the blocks.

    Raises:
        InputError: it is not a store that was made here.
    """
    refuse_newer(folder)
    try:
        truth = GroundTruth.open(folder)
    except InputError as error:
        path = folder / "identity.json"
        if not path.is_file():
            raise
        wrong = [str(error)]
        with suppress(msgspec.DecodeError):
            wrong += find_blocks(folder, msgspec.json.decode(path.read_bytes(), type=Identity).key).bad
        return wrong
    meta = truth.meta
    if meta is None:
        return [f"{folder} has no meta.json: nothing can be checked but that the arrays open"]
    if meta.key != meta.identity.key:  # what it says cannot be relied on
        return ["meta.json is altered: its key is not that of its identity", *damaged(folder, meta)]
    flagged = sorted(row for block in meta.blocks for row in block.diverged if row < len(meta.subset_of_row))
    untrained = np.setdiff1d(np.flatnonzero(~truth.completed), flagged)
    wrong = [f"rows {_spans(untrained)} are not trained"] if len(untrained) else []
    if sorted(meta.diverged) != flagged or truth.completed[flagged].any():
        wrong.append("meta.json, the blocks and _completed.npy do not name the same rows as diverged")
    wrong += damaged(folder, meta)
    subset, group = truth.plan.layout()
    rows = (meta.subset_of_row, meta.group_of_row, meta.seed_of_row)
    if rows != (subset.tolist(), group.tolist(), meta.identity.seeds(len(subset))):
        wrong.append("meta.json is altered: its rows are not those of its plan")
    for start, stop in missing_rows(meta.blocks, len(subset)):
        wrong.append(f"meta.json names no block for rows {start} to {stop - 1}")
    step = max(1, _CHUNK_BYTES // max(1, meta.n_train))
    for at in range(0, len(subset), step):
        part = subset[at : at + step]
        who = meta.identity
        made = subsets.masks(who.seed, part, meta.n_train, who.alpha, who.sampling)
        for row in np.flatnonzero((made != truth.masks[at : at + step]).any(axis=1)):
            wrong.append(f"the mask of row {at + row} is not the one that its seed gives")
    opened = {}
    for name, (shape, dtype) in meta.schema.items():
        with suppress(InputError):  # it is named as damaged already
            opened[name] = _array(folder, name, len(shape) + 1, np.dtype(dtype).kind)
    for header in meta.blocks:
        path = folder / "blocks" / blocks.name(header.start, header.stop)
        try:
            found, stored = blocks.read(path, meta.key)
        except blocks.BlockError as error:
            wrong.append(f"the block {error}")
            continue
        if found != header:
            wrong.append(f"meta.json is altered: it says of the block {path.name} what the block does not")
        for name in stored.keys() & opened.keys():
            values, gathered = stored[name], opened[name][header.start : header.stop]
            if not np.array_equal(values[: len(subset) - header.start], gathered, equal_nan=True):
                wrong.append(f"{name}.npy and the block {path.name} differ")
    return wrong


def _spans(index: NDArray[np.int64]) -> str:
    pieces = np.split(index, np.flatnonzero(np.diff(index) > 1) + 1)
    return ", ".join(f"{p[0]}–{p[-1]}" if len(p) > 1 else str(p[0]) for p in pieces)
