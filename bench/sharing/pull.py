"""Pull a store from a URL: every part is checked, and the folder becomes a store when all of it is there.

Until then it is `STORE.partial`: `store/` holds the files as far as they are there, and `pull.json` says of which
store. What of them is whole is found by its content, so a pull that was interrupted goes on wherever it was.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from bench import atomic
from bench.errors import BenchError, InputError
from bench.progress import Progress
from bench.sharing import local, transfer
from bench.sharing.manifest import RECORDS, Chosen, Entry, Part, choose, covered
from bench.sharing.remote import DamagedError, Remote
from bench.wording import counted


class Pulled(msgspec.Struct, frozen=True):
    """What came of a pull.

    Attributes:
        url, store: from where to where; title, key: of what; whole, rows, held: as of `Chosen`.
        files, bytes: that were wanting in the store; fetched, bytes_fetched: parts of these that were fetched now.
    """

    url: str
    store: str
    title: str
    key: str
    whole: bool
    rows: int
    held: int
    files: int
    bytes: int
    fetched: int
    bytes_fetched: int


class _Note(msgspec.Struct, frozen=True):
    """pull.json: whose beginning a `.partial` folder is."""

    key: str
    title: str


class _Piece(NamedTuple):
    path: Path
    name: str
    offset: int
    part: Part


def pull(url: str, folder: Path, options: dict[str, Any], progress: Progress, *, parallel: int = 4) -> Pulled:
    """Have the store at a URL as a folder.

    Args:
        url: what bench push wrote to.
        folder: where to: nothing or an empty folder, or a store of the same ground truth, which gets what it lacks.
        options: for the file system of the URL.
        progress: where to say what happens.
        parallel: parts that are on their way at the same time, each in memory.

    Raises:
        BenchError: the URL holds no store or a damaged one, or the folder holds something else or cannot be written.
    """
    remote = Remote.of(url, options)
    found = remote.look()
    if found.torn:
        raise BenchError(
            f"{url}: {found.torn[0]} is damaged: it has another content than the sha256 in its name; push the store "
            "again"
        )
    if not found.manifests:
        what = "a push that has not ended: run it again" if found.parts else "no store: name the URL of a bench push"
        raise BenchError(f"{url} holds {what}")
    chosen = choose(found.manifests, url)
    if folder.name in ("", ".."):
        folder = folder.resolve()
    wanted = _wanted(folder, chosen, url)
    pieces = _bring(remote, folder, wanted, chosen, progress, parallel) if wanted else []
    return Pulled(
        url=url,
        store=str(folder),
        title=chosen.title,
        key=chosen.key,
        whole=chosen.whole,
        rows=chosen.rows,
        held=chosen.held,
        files=len(wanted),
        bytes=sum(entry.size for entry in wanted.values()),
        fetched=len(pieces),
        bytes_fetched=sum(one.part.size for one in pieces),
    )


def _bring(
    remote: Remote, folder: Path, wanted: dict[str, Entry], chosen: Chosen, progress: Progress, parallel: int
) -> list[_Piece]:
    """Fetch files into the folder, by way of its `.partial`; gives the parts that were fetched."""
    partial, url = folder.with_name(f"{folder.name}.partial"), remote.url.rstrip("/")
    with _writing(folder):
        _begin(partial, chosen)
        pieces = _lacking(partial / "store", wanted, progress)
        missing = sum(one.part.size for one in pieces)
        free = shutil.disk_usage(partial).free
        if free < missing:
            raise BenchError(f"{folder} needs {missing:,} bytes more, and {free:,} are free there: free some space")
        damaged = _fetch(remote, pieces, progress, parallel)
        if damaged:
            more = f" (and {len(damaged) - 1} other part{'s' * (len(damaged) > 2)})" if len(damaged) > 1 else ""
            raise BenchError(
                f"{url}/{damaged[0]}{more}: push the store again with --recheck; what is whole is kept in {partial}, "
                "and the same pull goes on from there"
            )
        _finish(partial / "store", folder, wanted, chosen, url)
        shutil.rmtree(partial)
    return pieces


def _wanted(folder: Path, chosen: Chosen, url: str) -> dict[str, Entry]:
    """What of the store a folder lacks; all of it where there is nothing yet.

    Raises:
        BenchError: the folder holds something else.
    """
    if folder.exists() and not folder.is_dir():
        raise BenchError(f"{folder} is a file: name another folder")
    if not folder.is_dir() or not any(folder.iterdir()):
        return chosen.files
    try:
        here = local.identify(folder)
    except InputError as error:
        raise BenchError(
            f"{folder} is not empty, and no store that could be added to ({error}): name another"
        ) from error
    if here.key != chosen.key:
        raise BenchError(
            f"{folder} is another store, {here.title} (key {here.key[:12]}), than {url}, {chosen.title} (key "
            f"{chosen.key[:12]}): name another folder"
        )
    lacking = {name: entry for name, entry in chosen.files.items() if not _whole(folder / name, entry)}
    return _of_whole(folder, here, chosen, lacking, url) if chosen.whole else _of_blocks(here, chosen, lacking)


def _of_whole(folder: Path, here: local.Local, chosen: Chosen, lacking: dict[str, Entry], url: str) -> dict[str, Entry]:
    """All that differs, unless the folder holds arrays, or blocks, that the whole store knows nothing of."""
    record = RECORDS.get(chosen.kind, "spec.json")
    if record in lacking and (folder / record).exists() and here.whole and here.rows >= chosen.rows:
        raise BenchError(
            f"{folder} is whole, with {counted(here.rows, 'row')}, and was not made of what {url} holds: name another "
            "folder"
        )
    for path in sorted((folder / "blocks").glob("rows-*.npz")):
        name = f"blocks/{path.name}"
        rows = Entry(name, ()).rows
        if name not in chosen.files and rows is not None and rows.start < chosen.rows:
            raise BenchError(f"{folder} has the block {path.name}, which {url} cuts otherwise: name another folder")
    return lacking


def _of_blocks(here: local.Local, chosen: Chosen, lacking: dict[str, Entry]) -> dict[str, Entry]:
    """The blocks of rows that the folder has not got."""
    mine = [Entry(name, ()) for name in here.files]
    have, wanted = covered(mine), {}
    for name, entry in lacking.items():
        if entry.rows is not None and covered([*mine, entry]) > have:
            wanted[name] = entry
    if wanted and "identity.json" in lacking and "identity.json" not in here.files:
        wanted["identity.json"] = chosen.files["identity.json"]
    return wanted


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise BenchError(
            f"cannot write {error.filename or folder}: {reason}; make room, or name a folder that can be written, and "
            "pull again: what is whole is kept"
        ) from error


def _begin(partial: Path, chosen: Chosen) -> None:
    note = partial / "pull.json"
    if partial.is_symlink() or (partial.exists() and not partial.is_dir()):
        raise BenchError(f"{partial} is in the way of the pull: move it away")
    if partial.is_dir() and any(partial.iterdir()):
        try:
            old = msgspec.json.decode(note.read_bytes(), type=_Note)
        except (OSError, msgspec.DecodeError) as error:
            raise BenchError(f"{partial} is in the way of the pull, and not of an earlier one: move it away") from error
        if old.key != chosen.key:
            raise BenchError(f"{partial} is the beginning of another store, {old.title}: remove it, or pull elsewhere")
    partial.mkdir(parents=True, exist_ok=True)
    atomic.write_text(note, msgspec.json.encode(_Note(chosen.key, chosen.title)).decode() + "\n")
    (partial / "store").mkdir(exist_ok=True)
    if any(entry.rows is not None for entry in chosen.files.values()):
        (partial / "store" / "blocks").mkdir(exist_ok=True)


def _open(path: Path) -> int:
    # A link that somebody left there must not lead the bytes elsewhere.
    return os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0), 0o666)


def _whole(path: Path, entry: Entry) -> bool:
    try:
        if path.stat().st_size != entry.size:
            return False
        with path.open("rb") as file:
            return all(part.is_of(file.read(part.size)) for part in entry.parts)
    except OSError:
        return False


def _lacking(place: Path, wanted: dict[str, Entry], progress: Progress) -> list[_Piece]:
    """The parts that are not there yet; files get their sizes."""
    pieces, kept = [], 0
    for name, entry in wanted.items():
        path, offset = place / name, 0
        with os.fdopen(_open(path), "r+b") as file:
            there = os.fstat(file.fileno()).st_size
            file.truncate(entry.size)
            for part in entry.parts:
                file.seek(offset)
                if offset + part.size <= there and part.is_of(file.read(part.size)):
                    kept += part.size
                else:
                    pieces.append(_Piece(path, name, offset, part))
                offset += part.size
    if kept:
        progress.say(f"{place.parent.name}: {kept:,} bytes of an earlier pull are there")
    return pieces


def _fetch(remote: Remote, pieces: list[_Piece], progress: Progress, parallel: int) -> list[str]:
    """Fetch parts to where they belong; gives sentences on the damaged ones, which do not keep the others back."""

    def fetch(one: _Piece) -> str | None:
        try:
            content = remote.part(one.part)
        except DamagedError as error:
            return f"parts/{one.part.sha256} of {one.name}, from byte {one.offset}, {error}"
        with os.fdopen(_open(one.path), "r+b") as file:
            file.seek(one.offset)
            file.write(content)
        return None

    found = transfer.run(fetch, pieces, lambda one: one.part.size, parallel, progress, "fetching")
    return sorted(sentence for sentence in found if sentence is not None)


def _finish(place: Path, folder: Path, wanted: dict[str, Entry], chosen: Chosen, url: str) -> None:
    """Make the files the store, or part of the one that is there."""
    for name in wanted:
        with (place / name).open("rb") as file:
            os.fsync(file.fileno())
    if not folder.is_dir() or not any(folder.iterdir()):
        for path in [*place.glob("*"), *place.glob("blocks/*")]:
            if path != place / "blocks" and path.relative_to(place).as_posix() not in wanted:
                path.unlink()  # of an earlier pull, and no longer in the store
        _check(place, chosen, url)
        if folder.is_dir():
            folder.rmdir()
        place.rename(folder)
        return
    if any(entry.rows is not None for entry in wanted.values()):
        (folder / "blocks").mkdir(exist_ok=True)
    record = RECORDS.get(chosen.kind, "spec.json")
    for name in sorted(wanted, key=lambda name: (name == record, not name.startswith("blocks/"), name)):
        (place / name).replace(folder / name)


def _check(place: Path, chosen: Chosen, url: str) -> None:
    """Whether the files are what the manifest called them."""
    try:
        found = local.identify(place)
    except InputError as error:
        raise InputError(f"{url} holds no store that can be used ({error}): push it again") from error
    if (found.kind, found.key) != (chosen.kind, chosen.key):
        raise InputError(f"{url} holds another store, {found.title}, than its manifest says: do not trust who wrote it")
