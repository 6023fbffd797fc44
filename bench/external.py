"""A store whose rows come from a user's own function, called as MadryLab's `datamodels` workers call it.

The function is called as `main(index=i, logdir=…)` and returns `{key: array}`, as a spec declares (`bench.schema`). The
store holds `{key}.npy` `[M, …]`, `_completed.npy` bool `[M]` and `spec.json`, which those tools read. Unlike theirs no
two processes share a memmap: finished rows are blocks (`bench.blocks`), which one process gathers front to back.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

import msgspec
import numpy as np

from bench import atomic, blocks, external_worker, hashing, schema, store
from bench.errors import BenchError, MethodError
from bench.external_worker import Job, Row, Worker
from bench.wording import counted, either

if TYPE_CHECKING:
    from types import TracebackType

    from bench.progress import Progress
    from bench.schema import Spec

_BLOCK_SECONDS = 1.0  # a row that takes longer is a block of its own; of shorter ones a kill loses so much work
_BLOCK_BYTES = 64 * 2**20
_SHARD_ROWS = 32  # neighbours, so that the short rows of a shard fit one block


class Identity(msgspec.Struct, frozen=True):
    """identity.json of such a store: what its rows come from. How many there are does not count, so it can grow.

    Attributes:
        worker: file and function, without folders; arguments: its command line.
        arrays: dtype and shape by key.
        source: hash of the code of the worker's file (what it imports is not looked at).
    """

    worker: str
    arguments: tuple[str, ...]
    arrays: dict[str, tuple[str, tuple[int, ...]]]
    source: str

    @classmethod
    def of(cls, worker: Worker, spec: Spec, file: Path | None) -> Identity:
        """Of the rows that `worker`, which was loaded from `file`, makes."""
        target, _, called = worker.name.rpartition(":")
        stem = Path(target).stem if target.endswith(".py") else target.rpartition(".")[2]
        arrays = {key: (array.dtype.str, array.shape) for key, array in spec.schema.items()}
        return cls(f"{stem}:{called}", worker.arguments, arrays, hashing.script(file) if file else "")

    @property
    def key(self) -> str:
        """Hash of all of it."""
        return hashing.digest(msgspec.to_builtins(self))

    def clash(self, other: Identity) -> str | None:
        """What made the rows of `other`, where they are not rows of this."""
        if self.worker != other.worker:
            return f"by the worker {other.worker!r}, not {self.worker!r}"
        if self.arguments != other.arguments:
            return f"with the worker's arguments {' '.join(other.arguments)!r}, not {' '.join(self.arguments)!r}"
        if self.arrays != other.arrays:
            return "with another schema"
        if self.source != other.source:
            return f"by other code of the worker {self.worker!r}: undo the change, or"
        return None


def read_identity(folder: Path) -> Identity | None:
    """What a store's rows come from; None where no worker made it."""
    try:
        return msgspec.json.decode((folder / "identity.json").read_bytes(), type=Identity)
    except (OSError, msgspec.DecodeError):
        return None


def _claim(folder: Path, who: Identity) -> None:
    """Refuse a folder that holds other rows, and take one that holds none.

    Raises:
        BenchError: it is another's, or it cannot be written.
    """
    path, old = folder / "identity.json", read_identity(folder)
    empty = not any((folder / "blocks").glob("*.npz")) and not any(folder.glob("*.npy"))
    if old is None and (path.exists() or not empty):
        raise BenchError(f"{folder} holds a ground truth that was not made by --worker: name another with --out")
    clash = None if old is None or empty else who.clash(old)  # a worker may be mended before its first row
    if clash is not None:
        raise BenchError(f"{folder} was made {clash}{'' if clash.endswith('or') else ':'} name another with --out")
    atomic.writable_folder(folder / "blocks")
    if old != who:
        atomic.write_text(path, msgspec.json.format(msgspec.json.encode(who)).decode() + "\n")


class Made(NamedTuple):
    """What is there after a run.

    Attributes:
        missing: rows that are not made; failed: why, by row, of those tried now.
        gathered: whether the arrays are there.
    """

    missing: list[int]
    failed: dict[int, str]
    gathered: bool

    def check(self) -> None:
        """Refuse rows that failed.

        Raises:
            MethodError: there are some.
        """
        if self.failed:
            row, why = min(self.failed.items())
            others = f" (and {counted(len(self.failed) - 1, 'other')})" if len(self.failed) > 1 else ""
            kept = "; _completed.npy says which rows the store holds" if self.gathered else ""
            raise MethodError(f"row {row}{others} failed: {why}{kept}; the same command tries again what failed")


def make(
    worker: Worker,
    spec: Spec,
    folder: Path,
    progress: Progress,
    *,
    shard: tuple[int, int] = (0, 1),
    processes: int | None = None,
    debug: bool = False,
) -> Made:
    """Make the rows of a store that are missing, and gather it; what is there and right is kept.

    Args:
        worker: what makes a row.
        spec: what a row consists of, and how many there are.
        folder: the store.
        progress: where to say what happens.
        shard: `(i, n)`: only every n-th stretch of rows, from the i-th.
        processes: so many at the same time; None calls the worker in this process, one row after another.
        debug: show the traceback of a row that fails.

    Returns:
        What is there. The arrays are gathered where no row is left but those that failed now.

    Raises:
        BenchError: the worker cannot be loaded or does not fit the spec, the folder is another's or cannot be written.
    """
    folder = folder.absolute()  # a worker may change the working directory
    with external_worker.speaking_on_stderr():
        function, file = worker.load()
        who = Identity.of(worker, spec, file)
        _claim(folder, who)
        found = store.find_blocks(folder, who.key)
        for bad in found.bad:
            progress.say(f"{folder.name}: {bad}; rows that are missing are made anew")
        missing = _missing(found, spec.n_rows)
        todo = _of_shard(missing, spec.n_rows, shard)
        failed: dict[int, str] = {}
        if todo:
            job = Job(worker, spec.schema, folder, debug)
            rows = (
                external_worker.in_processes(job, todo, processes)
                if processes
                else external_worker.in_turn(job, function, todo)
            )
            done = spec.n_rows - len(missing)
            with (
                contextlib.closing(rows),
                progress.task(f"calling {who.worker}", spec.n_rows, "rows", done) as advance,
                _Finished(folder / "blocks", who.key) as finished,
            ):
                for index, made in rows:
                    if isinstance(made, Row):
                        finished.add(index, made)
                        advance(1)
                        done += 1
                    elif made.unfit and not done:
                        raise BenchError(f"the worker {worker.name!r} does not fit the spec: row {index}: {made.why}")
                    else:
                        progress.say(f"row {index} failed: {made.why}")
                        failed[index] = made.why
            found = store.find_blocks(folder, who.key)
            missing = _missing(found, spec.n_rows)
    gathered = len(missing) < spec.n_rows and failed.keys() >= set(missing)
    if gathered:
        _gather(folder, spec, found.good, progress)
    return Made(missing, failed, gathered)


def _missing(found: store.Found, n_rows: int) -> list[int]:
    return [row for span in store.missing_rows(found.good, n_rows) for row in range(*span)]


def _of_shard(rows: list[int], n_rows: int, shard: tuple[int, int]) -> list[int]:
    number, shards = shard
    size = max(1, min(_SHARD_ROWS, n_rows // (4 * shards)))  # each shard has some, of few rows too
    return [row for row in rows if row // size % shards == number]


class _Finished:
    """Finished rows on their way to disk: several short ones make a block; what is left is written on leaving."""

    def __init__(self, folder: Path, key: str) -> None:
        self.folder, self.key = folder, key
        self.waiting: dict[int, Row] = {}
        self.seconds, self.bytes = 0.0, 0

    def __enter__(self) -> _Finished:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: BaseException | TracebackType | None) -> None:
        if kind is None or not issubclass(kind, BenchError):  # a full disk is not asked again
            self.write()

    def add(self, index: int, row: Row) -> None:
        """Take a row, and write it where it is time to."""
        self.waiting[index] = row
        self.seconds += row.seconds
        self.bytes += sum(value.nbytes for value in row.arrays.values())
        if self.seconds >= _BLOCK_SECONDS or self.bytes >= _BLOCK_BYTES:
            self.write()

    def write(self) -> None:
        """Write what is waiting, a block for each stretch of neighbours."""
        rows = np.array(sorted(self.waiting), np.int64)
        for stretch in np.split(rows, np.flatnonzero(np.diff(rows) > 1) + 1) if len(rows) else ():
            part = [self.waiting[index] for index in stretch.tolist()]
            arrays = {_inside(key): np.stack([row.arrays[key] for row in part]) for key in part[0].arrays}
            blocks.write(self.folder, self.key, int(stretch[0]), arrays, sum(row.seconds for row in part))
        self.waiting.clear()
        self.seconds, self.bytes = 0.0, 0


def _inside(key: str) -> str:
    """What an array is called in a block: a key alone may be a word, or end in one, that numpy's archives use."""
    return f"{key}="


class Gathered(msgspec.Struct, frozen=True):
    """gathered.json: what the arrays were gathered from, and their checksums."""

    origin: str
    checksums: dict[str, str]

    def damaged(self, folder: Path) -> list[str]:
        """Which files are missing or have another content, as sentences."""
        paths = {name: folder / name for name in self.checksums}
        return [f"{name} is missing" for name, path in paths.items() if not path.is_file()] + [
            f"{name} has another content than its checksum in gathered.json says"
            for name, path in paths.items()
            if path.is_file() and hashing.file(path) != self.checksums[name]
        ]


def _read_gathered(folder: Path) -> Gathered | None:
    try:
        return msgspec.json.decode((folder / "gathered.json").read_bytes(), type=Gathered)
    except (OSError, msgspec.DecodeError):
        return None


def _origin(spec: Spec, used: list[blocks.Header]) -> str:
    return hashing.digest([spec.text(), [(header.start, header.stop, header.checksum) for header in used]])


def _gather(folder: Path, spec: Spec, good: list[blocks.Header], progress: Progress) -> None:
    """Write the arrays from the blocks, where they are not there already."""
    used = [header for header in good if header.start < spec.n_rows]
    origin, old = _origin(spec, used), _read_gathered(folder)
    if old is not None and old.origin == origin:
        damage = old.damaged(folder)
        if not damage:
            return
        for wrong in damage:
            progress.say(f"{folder.name}: {wrong}; it is gathered anew")
    completed = np.zeros(spec.n_rows, np.bool_)
    for header in used:
        completed[header.start : header.stop] = True

    def fill(files: list[BinaryIO]) -> None:
        for file, array in zip(files, spec.schema.values(), strict=True):
            descr = np.lib.format.dtype_to_descr(array.dtype)
            fields = {"descr": descr, "fortran_order": False, "shape": (spec.n_rows, *array.shape)}
            np.lib.format.write_array_header_1_0(file, fields)
        at = 0
        for header in used:
            _blank(files, spec, header.start - at)
            made = blocks.read(folder / "blocks" / blocks.name(header.start, header.stop), header.key)[1]
            for file, key in zip(files, spec.schema, strict=True):
                file.write(made[_inside(key)][: spec.n_rows - header.start].tobytes())
            at = header.stop
        _blank(files, spec, spec.n_rows - at)

    try:
        _write_together([folder / f"{key}.npy" for key in spec.schema], fill)
    except blocks.BlockError as error:
        raise BenchError(f"{folder}: {error}; run the same command again to make it anew") from error
    atomic.write_text(folder / "spec.json", spec.text())
    atomic.write(folder / "_completed.npy", lambda file: np.save(file, completed, allow_pickle=False))
    names = [*(f"{key}.npy" for key in spec.schema), "spec.json", "_completed.npy"]
    record = Gathered(origin, {name: hashing.file(folder / name) for name in names})
    atomic.write_text(folder / "gathered.json", msgspec.json.format(msgspec.json.encode(record)).decode() + "\n")


def _blank(files: list[BinaryIO], spec: Spec, count: int) -> None:
    """Rows that failed: NaN where there is one, so that whoever forgets to ask _completed.npy notices."""
    for file, array in zip(files, spec.schema.values(), strict=True):
        one = np.full(array.shape, np.nan if array.dtype.kind in "fc" else 0, array.dtype).tobytes()
        for _ in range(count):
            file.write(one)


def _write_together(paths: list[Path], fill: Callable[[list[BinaryIO]], None]) -> None:
    """Write several files in one pass over the blocks: all arrays of a row come from the same reading."""

    def open_next(files: list[BinaryIO]) -> None:
        if len(files) == len(paths):
            fill(files)
        else:
            atomic.write(paths[len(files)], lambda file: open_next([*files, file]))

    open_next([])


def status(folder: Path, who: Identity) -> list[str]:
    """What there is of a store that a worker makes, as text."""
    found = store.find_blocks(folder, who.key)
    done = sum(block.stop - block.start for block in found.good)
    told = [
        f"rows of the worker {who.worker}: {', '.join(who.arrays)}",
        f"rows: {done} done, in {counted(len(found.good), 'block')}",
    ]
    if done:
        told.append(f"speed: {sum(block.seconds for block in found.good) / done:.3g} s per row and worker")
    return [*told, *(f"bad: {sentence}" for sentence in found.bad)]


def verify(folder: Path) -> list[str] | None:
    """Everything that is wrong with a store that a worker made, as sentences; None where none made it."""
    who = read_identity(folder)
    if who is None:
        return None
    found, record = store.find_blocks(folder, who.key), _read_gathered(folder)
    if record is None:
        return [*found.bad, "it is not gathered yet: gathered.json is missing or torn"]
    wrong = [*found.bad, *record.damaged(folder)]
    try:
        spec = schema.read_spec(folder / "spec.json")
    except BenchError as error:
        return [*wrong, str(error)]
    missing = _missing(found, spec.n_rows)
    if missing:
        wrong.append(
            f"{len(missing)} of {spec.n_rows} rows {either(len(missing), 'is', 'are')} not made, the first is row "
            f"{missing[0]}"
        )
    if record.origin != _origin(spec, [header for header in found.good if header.start < spec.n_rows]):
        wrong.append("the arrays were gathered from other blocks than there are")
    return wrong
