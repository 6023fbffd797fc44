"""meta.json of a store that was imported: where its arrays come from, and which rows fit, tune and judge.

No model of such a store was trained here: it has no setting, no seed and no blocks, only arrays and what vouches for
them.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from bench import hashing
from bench.errors import InputError
from bench.meta import FORMAT, read_header
from bench.subsets import GROUPS, Group

KIND: Literal["imported"] = "imported"
Measure = Literal["logsumexp", "max", "margin", "loss", "output", "correctness"]
"""What a store's margins are: of a known kind, margins of an unknown one, minus losses, what is larger for better
models and not said, or whether the model is right, 1 or 0."""

_CHUNK_BYTES = 32 * 2**20
LEAK = "LEAK: fitted on the rows that judge"
_MEASURES = {
    "margin": "margins of a kind that is not said",
    "loss": "minus losses",
    "output": "outputs of a kind that is not said",
    "correctness": "correctness",
}


class Origin(msgspec.Struct, frozen=True):
    """A file that was imported: the sha256 of its bytes (`Imported.read`: of those that were read), and how many."""

    sha256: str
    size: int


class Roles(msgspec.Struct, frozen=True):
    """Rows `[start, stop)` that fit, tune and judge; together they are all rows."""

    fit: tuple[int, int]
    tune: tuple[int, int]
    eval: tuple[int, int]

    def of(self, group: Group) -> tuple[int, int]:
        """First row of a group, and one past its last."""
        span: tuple[int, int] = getattr(self, group)
        return span


class Imported(msgspec.Struct, frozen=True):
    """What an imported store holds.

    Attributes:
        format: of meta.json; kind: that it is this.
        key: hash of all that the rows come from (`made` fills it in).
        source: name of the format that was read.
        origin: file of the source → its hash and size.
        dataset: what the source calls it, empty where it does not say; split: `test` or `train`, what the targets are.
        alpha: kept fraction; output: what the margins are.
        n_rows, n_train, n_targets: shapes.
        roles: which rows do what.
        leak: whether all rows fit and judge, which was asked for by --allow-leak; what comes of it is stamped.
        first_of: row → the earlier row that it shares its mask with.
        schema: dtype and shape of one row of each array.
        checksums: sha256 of each file of the store; of arrays, see `read`.
        notes: what a reader of results must know.
        order: what was compared with a dataset's examples and their order, and what was not.
        versions: of the packages that wrote it.
        seed: what the randomness of methods comes from.
    """

    format: int
    kind: Literal["imported"]
    key: str
    source: str
    origin: dict[str, Origin]
    dataset: str
    split: str
    alpha: float
    output: Measure
    n_rows: int
    n_train: int
    n_targets: int
    roles: Roles
    first_of: dict[int, int]
    schema: dict[str, tuple[str, tuple[int, ...]]]
    checksums: dict[str, str]
    notes: list[str] = []
    versions: dict[str, str] = {}
    seed: int = 0
    leak: bool = False
    order: list[str] = []

    def keyed(self) -> Imported:
        """The same with its key, the hash of what the rows come from and of what they are for."""
        parts = [self.source, {name: file.sha256 for name, file in self.origin.items()}, self.roles]
        parts += [self.dataset, self.split, self.alpha, self.output, self.seed]
        parts += ["leak"] if self.leak else []
        return msgspec.structs.replace(self, key=hashing.digest(parts))

    @property
    def title(self) -> str:
        """What it is of, for tables and messages."""
        return f"{self.dataset or 'a dataset without a name'}, {self.split} targets"

    @property
    def measured(self) -> str:
        """What the margins are, in words."""
        return _MEASURES.get(self.output, f"{self.output} margins")

    @property
    def stamps(self) -> list[str]:
        """What every result of the store must show."""
        return [LEAK] if self.leak else []

    @property
    def judge_only(self) -> bool:
        """Whether only the rows that judge were read and checked: no other is used."""
        return self.roles.fit[0] == self.roles.fit[1]

    @property
    def read(self) -> tuple[int, int]:
        """Rows `[start, stop)` that were read; checksums of arrays are of their headers and these rows."""
        return self.roles.eval if self.judge_only else (0, self.n_rows)

    @property
    def spans(self) -> str:
        """The roles of the rows, in words."""
        spans = ((group, self.roles.of(group)) for group in GROUPS)
        return ", ".join(f"{group} {first}–{stop - 1}" for group, (first, stop) in spans if stop > first)

    def index(self, group: Group) -> NDArray[np.int64]:
        """Rows of a group."""
        return np.arange(*self.roles.of(group), dtype=np.int64)

    def subset(self, index: NDArray[np.int64]) -> NDArray[np.int64]:
        """For each row the first row that has the same mask."""
        if not self.first_of:
            return index.copy()
        first = np.arange(self.n_rows, dtype=np.int64)
        first[list(self.first_of)] = list(self.first_of.values())
        return first[index]

    def text(self) -> str:
        """As JSON."""
        return msgspec.json.format(msgspec.json.encode(self)).decode() + "\n"


def read_imported(folder: Path) -> Imported | None:
    """meta.json of an imported store; None where there is none, or a trained store's, or one that is torn.

    Raises:
        InputError: it is an imported store's, and of a format that this version does not know, or lacks a field.
    """
    try:
        header = read_header(folder)
    except InputError:  # which read_meta raises as well
        return None
    if header is None or header.kind != KIND:
        return None
    path = folder / "meta.json"
    if header.format != FORMAT:
        raise InputError(f"{path} is of format {header.format}, and this version reads {FORMAT}: import it again")
    try:
        return msgspec.json.decode(path.read_bytes(), type=Imported)
    except msgspec.DecodeError as error:
        raise InputError(f"{path} cannot be read ({error}): it is torn or altered; import it again") from error


def lines(imported: Imported) -> list[str]:
    """What there is of it, as text."""
    arrays = [f"{name} {dtype} {[imported.n_rows, *shape]}" for name, (dtype, shape) in imported.schema.items()]
    size = sum(file.size for file in imported.origin.values())
    return [
        f"imported from {imported.source}: {imported.title}, alpha {imported.alpha:g}, {imported.measured}",
        *imported.stamps,
        f"rows: {imported.n_rows} ({imported.spans}{'; the others were not read' if imported.judge_only else ''})",
        f"arrays: {', '.join(arrays)}",
        f"files: {', '.join(imported.origin)} ({size:,} bytes)",
        *imported.order,
        *(f"note: {note}" for note in imported.notes),
    ]


def verify(folder: Path, imported: Imported) -> list[str]:
    """Everything that is wrong with an imported store, as sentences; empty where it is sound.

    Checks that the files are those that were imported, and that the roles are what the key was made of.
    """
    wrong = []
    if imported.keyed().key != imported.key:
        wrong.append("meta.json is altered: its key is not that of its files and roles")
    if not _sound(imported):
        wrong.append("meta.json is altered: its fit, tune and eval rows are not all rows, each once")
    for name, checksum in imported.checksums.items():
        path = folder / name
        if not path.is_file():
            wrong.append(f"{name} is missing")
        elif _checksum(path, imported) != checksum:
            wrong.append(f"{name} has another content than its checksum in meta.json says")
    return wrong


def _sound(imported: Imported) -> bool:
    """Whether fit, tune and eval rows are all rows, each once; or only those that judge are there; or all leak."""
    roles, every = imported.roles, (0, imported.n_rows)
    if imported.judge_only:
        return roles.fit == roles.tune == (0, 0) and 0 <= roles.eval[0] < roles.eval[1] <= imported.n_rows
    if imported.leak and roles == Roles(every, (0, 0), every):
        return True
    spans = sorted(roles.of(group) for group in GROUPS)
    return [spans[0][0], spans[0][1], spans[1][1], spans[2][1]] == [0, spans[1][0], spans[2][0], imported.n_rows]


def _checksum(path: Path, imported: Imported) -> str:
    if imported.read == (0, imported.n_rows) or path.suffix != ".npy" or path.stem not in imported.schema:
        return hashing.file(path)
    try:
        return of_rows(path, *imported.read)
    except (OSError, ValueError):
        return ""


def of_rows(path: Path, start: int, stop: int) -> str:
    """sha256 of a .npy file's header and of some of its rows, which are next to each other."""
    array: np.memmap[Any, Any] = np.lib.format.open_memmap(path, mode="r")
    row = array[0].nbytes
    running = hashlib.sha256()
    with path.open("rb") as file:
        running.update(file.read(array.offset))
        file.seek(array.offset + start * row)
        left = (stop - start) * row
        while part := file.read(min(left, _CHUNK_BYTES)):
            running.update(part)
            left -= len(part)
    return running.hexdigest()
