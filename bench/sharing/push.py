"""Push a store to a URL: what is there already is not sent again, and the manifest comes last."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from bench.errors import BenchError, InputError
from bench.progress import Progress
from bench.sharing import local, manifest, transfer
from bench.sharing.manifest import Manifest, Part
from bench.sharing.remote import DamagedError, Found, Remote


class Pushed(msgspec.Struct, frozen=True):
    """What came of a push.

    Attributes:
        store, url: from where to where; title, key: of what; whole, rows, held: as of the manifest, and of `Chosen`.
        parts, bytes: that the store has; sent, bytes_sent: of these now.
    """

    store: str
    url: str
    title: str
    key: str
    whole: bool
    rows: int
    held: int
    parts: int
    bytes: int
    sent: int
    bytes_sent: int


class _Piece(NamedTuple):
    path: Path
    offset: int
    part: Part


def push(
    folder: Path,
    url: str,
    options: dict[str, Any],
    progress: Progress,
    *,
    parallel: int = 4,
    recheck: bool = False,
) -> Pushed:
    """Send a store, or the blocks that it has so far, to a URL.

    Args:
        folder: the store; links to files elsewhere are followed.
        url: a URL that fsspec knows, or a local path: empty, or with pushes of the same ground truth.
        options: for the file system of the URL.
        progress: where to say what happens.
        parallel: parts that are on their way at the same time, each in memory.
        recheck: read the parts that are there, and send those anew that are damaged; else their sizes are compared.

    Raises:
        BenchError: the store is damaged, the URL holds something else, or cannot be read or written.
    """
    mine = local.read(folder)
    for sentence in mine.bad:
        progress.say(f"{folder.name}: {sentence}; it is left out")
    remote = Remote.of(url, options)
    _refuse(remote, mine)
    entries, done = [], transfer.Megabytes()
    with progress.task(f"reading {folder.name}", local.sizes(folder, mine.files) // 10**6, "MB") as advance:
        for name in mine.files:
            checksum = mine.checksums.get(name)
            entries.append(
                local.entry(folder, name, manifest.PART_BYTES, checksum, lambda more: advance(done.more(more)))
            )
    made = Manifest(manifest.FORMAT, mine.kind, mine.key, mine.title, mine.whole, mine.rows, tuple(entries))
    name, content = made.encode()
    manifest.decode(content, f"{url}/{name}")  # what no reader would take is not sent
    pieces = {}
    for entry in entries:
        offset = 0
        for part in entry.parts:
            pieces[part.sha256] = _Piece(folder / entry.path, offset, part)
            offset += part.size
    there = remote.parts()
    todo = [one for one in pieces.values() if recheck or there.get(one.part.sha256) != one.part.size]
    sent = _send(remote, todo, {*there} if recheck else set(), progress, 1 if remote.one_by_one else parallel)
    found = _refuse(remote, mine)
    if name not in found.manifests:
        remote.put(name, content)
        try:
            found = _refuse(remote, mine)
        except BenchError:  # somebody else has pushed another store there in the meantime
            remote.remove(name)
            raise
    needless = [other for other, older in found.manifests.items() if other != name and older.within(made)]
    for other in needless + found.torn:
        remote.remove(other)
    return Pushed(
        store=str(folder),
        url=url,
        title=mine.title,
        key=mine.key,
        whole=mine.whole,
        rows=mine.rows,
        held=mine.rows if mine.whole else manifest.covered(entries),
        parts=len(pieces),
        bytes=sum(one.part.size for one in pieces.values()),
        sent=len(sent),
        bytes_sent=sum(sent),
    )


def _refuse(remote: Remote, mine: local.Local) -> Found:
    """What is at the URL, all of it of this store."""
    found = remote.look()
    for name, other in found.manifests.items():
        if other.key != mine.key:
            raise BenchError(
                f"{remote.url} holds another store, {other.title} (key {other.key[:12]} in {name}), not {mine.title} "
                f"(key {mine.key[:12]}): name another URL"
            )
    if found.others:
        raise BenchError(f"{remote.url} holds other files, such as {found.others[0]}: name an empty folder")
    return found


def _send(remote: Remote, todo: list[_Piece], doubtful: set[str], progress: Progress, parallel: int) -> list[int]:
    """Send parts, of those that are `doubtful` only where they turn out damaged; gives the sizes of what was sent."""

    def send(one: _Piece) -> int:
        if one.part.sha256 in doubtful:
            try:
                remote.part(one.part)
                return 0
            except DamagedError as error:
                progress.say(f"parts/{one.part.sha256} {error}; it is sent again")
        with one.path.open("rb") as file:
            file.seek(one.offset)
            content = file.read(one.part.size)
        if not one.part.is_of(content):
            raise InputError(f"{one.path} has changed while it was pushed: run the same command again")
        remote.put(f"parts/{one.part.sha256}", content)
        return one.part.size

    return [size for size in transfer.run(send, todo, _size, parallel, progress, "sending") if size]


def _size(one: _Piece) -> int:
    return one.part.size
