"""What of a store in a folder is to be shared: which files, and what vouches for them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from bench import blocks, external, hashing, imported, schema, store
from bench.errors import BenchError, InputError
from bench.sharing.manifest import Entry, Kind, Part

_IDENTITY = "identity.json"
_MEND = "the same bench train command mends it"


@dataclass(frozen=True)
class Local:
    """A store in a folder.

    Attributes:
        kind, key, title, whole, rows: as of `bench.sharing.manifest.Manifest`.
        files: paths in it that are shared, sorted; links among them are followed.
        checksums: sha256 of some of them, as the store itself says.
        bad: sentences on blocks that are left out; wrong: on what makes it unfit to be shared.
    """

    kind: Kind
    key: str
    title: str
    whole: bool
    rows: int
    files: list[str]
    checksums: dict[str, str] = field(default_factory=dict)
    bad: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)


def read(folder: Path) -> Local:
    """A store in a folder that is fit to be shared: whole, or blocks of it.

    Raises:
        InputError: it is no store, or one that is damaged.
    """
    found = identify(folder)
    if found.wrong:
        raise InputError(f"{folder}: {found.wrong[0]}")
    return found


def identify(folder: Path) -> Local:
    """A store in a folder, be it damaged.

    Raises:
        InputError: whose rows they are cannot be told.
    """
    if not folder.is_dir():
        what = "it is a file" if folder.exists() else "there is no such folder"
        raise InputError(f"{folder} is not a ground-truth store: {what}")
    members = sorted(path.parent.name for path in folder.glob("alpha-*/identity.json"))
    if members and not (folder / _IDENTITY).exists():
        raise InputError(f"{folder} is a family of stores: share each by itself, such as {folder / members[0]}")
    store.refuse_newer(folder)
    worker = external.read_identity(folder)
    if worker is not None:
        return _of_worker(folder, worker)
    found = imported.read_imported(folder)
    if found is not None and found.read != (0, found.n_rows):
        raise InputError(f"{folder} was imported with --judge-only, most of it unread: import it without to share it")
    if found is not None:
        names = sorted({*found.checksums, "meta.json"})
        title = f"{found.title} ({found.source})"
        return Local("imported", found.key, title, True, found.n_rows, names, found.checksums)
    if (folder / _IDENTITY).is_file() or (folder / "meta.json").is_file():
        return _trained(folder)
    if (folder / "spec.json").is_file() and (folder / "_completed.npy").is_file():
        return _arrays(folder)
    raise InputError(f"{folder} is not a ground-truth store: it has neither identity.json nor spec.json and arrays")


def _trained(folder: Path) -> Local:
    path, meta, wrong = folder / _IDENTITY, None, []
    try:
        meta = store.read_meta(folder)
    except InputError as error:
        wrong.append(str(error))
    try:
        who = msgspec.json.decode(path.read_bytes(), type=store.Identity)
    except (OSError, msgspec.DecodeError) as error:
        if meta is None or path.exists():
            raise InputError(f"{path} cannot be read ({error}): {_MEND}") from error
        who = meta.identity
    found = store.find_blocks(folder, who.key)
    files = {name for name in (_IDENTITY, store.ASKED) if (folder / name).is_file()} | _names(found.good)
    title = who.about
    if meta is None or meta.key != who.key:
        asked = 0
        with suppress(OSError, msgspec.DecodeError):
            asked = msgspec.json.decode((folder / store.ASKED).read_bytes(), type=store.Asked).models
        return _unfinished("trained", who.key, title, asked, files, found, wrong)
    used = _names(meta.blocks)
    for name in sorted(used - files):
        try:
            blocks.read(folder / name, who.key)
        except blocks.BlockError as error:
            wrong.append(f"the block {error}; {_MEND}")
    files |= {*used, *meta.files, "meta.json"}
    rows = len(meta.subset_of_row)
    return Local("trained", who.key, title, True, rows, sorted(files), meta.checksums, found.bad, wrong)


def _of_worker(folder: Path, who: external.Identity) -> Local:
    found, record, wrong = store.find_blocks(folder, who.key), None, []
    files, title, path = {_IDENTITY, *_names(found.good)}, f"rows of the worker {who.worker}", folder / "gathered.json"
    if path.is_file():
        try:
            record = msgspec.json.decode(path.read_bytes(), type=external.Gathered)
            rows = schema.read_spec(folder / "spec.json").n_rows
        except (msgspec.DecodeError, BenchError) as error:
            record = None
            wrong.append(f"gathered.json or spec.json cannot be read ({error}); {_MEND}")
    if record is None:
        return _unfinished("worker", who.key, title, 0, files, found, wrong)
    wrong += [f"the block {bad}; {_MEND}" for bad in found.bad]
    files |= {*record.checksums, path.name}
    return Local("worker", who.key, title, True, rows, sorted(files), record.checksums, found.bad, wrong)


def _unfinished(
    kind: Kind, key: str, title: str, asked: int, files: set[str], found: store.Found, wrong: list[str]
) -> Local:
    if not found.good:
        why = f" ({found.bad[0]})" if found.bad else ""
        wrong = [*wrong, f"no block of it is finished{why}: there is nothing to share yet"]
    rows = max((asked, *(header.stop for header in found.good)))
    return Local(kind, key, title, False, rows, sorted(files), {}, found.bad, wrong)


def _arrays(folder: Path) -> Local:
    spec = schema.read_spec(folder / "spec.json")
    names = ["spec.json", "_completed.npy", *(f"{key}.npy" for key in spec.schema)]
    sums = {name: _hash(folder, name) for name in names}  # nothing else says whose rows they are
    return Local("arrays", hashing.digest(sums), "arrays of another tool", True, spec.n_rows, sorted(names), sums)


def _names(headers: list[blocks.Header]) -> set[str]:
    return {f"blocks/{blocks.name(header.start, header.stop)}" for header in headers}


def _hash(folder: Path, name: str) -> str:
    try:
        return hashing.file(folder / name)
    except OSError as error:
        raise _unreadable(folder / name, error) from error


def _unreadable(path: Path, error: OSError) -> InputError:
    link = f"is a link to {path.readlink()}, and " if path.is_symlink() else ""
    return InputError(f"{path} {link}cannot be read: {error.strerror or error}; bench verify says what else is wrong")


def entry(folder: Path, name: str, size: int, checksum: str | None, advance: Callable[[int], object]) -> Entry:
    """Read a file of a store, and say what parts of `size` bytes it has.

    Args:
        folder: the store.
        name: the file's path in it.
        size: of a part.
        checksum: sha256 that the whole must have, or None.
        advance: called with each part's bytes.

    Raises:
        InputError: it cannot be read, or has another content.
    """
    parts, running = [], hashlib.sha256()
    try:
        with (folder / name).open("rb") as file:
            while content := file.read(size):
                parts.append(Part(hashlib.sha256(content).hexdigest(), len(content)))
                if checksum is not None:
                    running.update(content)
                advance(len(content))
    except OSError as error:
        raise _unreadable(folder / name, error) from error
    if checksum is not None and running.hexdigest() != checksum:
        raise InputError(
            f"{folder / name} has another content than the store's own checksum says: bench verify says what else is "
            "wrong, and nothing was pushed"
        )
    return Entry(name, tuple(parts))


def sizes(folder: Path, names: list[str]) -> int:
    """Bytes of some files together.

    Raises:
        InputError: one cannot be read.
    """
    total = 0
    for name in names:
        try:
            total += (folder / name).stat().st_size
        except OSError as error:
            raise _unreadable(folder / name, error) from error
    return total
