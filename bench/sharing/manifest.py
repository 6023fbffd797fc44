"""What a push says it holds, and what several of them hold together.

A manifest comes from elsewhere, so nothing of it is believed before it is checked: names of files are those that a
store has, in its folder or in `blocks`; sizes are bounded, and every byte is fetched by its sha256.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal

import msgspec

from bench import blocks
from bench.errors import InputError

FORMAT = 1
PART_BYTES = 64 * 2**20
NAME = re.compile(r"manifest-([0-9a-f]{64})\.json")
MOST_BYTES = 256 * 2**20  # of a manifest
_MOST_PART = 2**30  # a part is held in memory
_SHA256 = re.compile(r"[0-9a-f]{64}")
_MOST_NAME = 200

Kind = Literal["trained", "imported", "worker", "arrays"]
RECORDS: dict[Kind, str] = {"trained": "meta.json", "imported": "meta.json", "worker": "gathered.json"}


class Part(msgspec.Struct, frozen=True):
    """A stretch of a file: the sha256 of its bytes, and how many."""

    sha256: str
    size: int

    def is_of(self, content: bytes) -> bool:
        """Whether these are its bytes."""
        return len(content) == self.size and hashlib.sha256(content).hexdigest() == self.sha256


class Entry(msgspec.Struct, frozen=True):
    """A file of a store: where in the store it is, and its parts, front to back."""

    path: str
    parts: tuple[Part, ...]

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return sum(part.size for part in self.parts)

    @property
    def rows(self) -> range | None:
        """The rows that a block holds, by its name; None of other files."""
        folder, _, name = self.path.rpartition("/")
        found = blocks.span(Path(name)) if folder == "blocks" else None
        return None if found is None else range(*found)


class Manifest(msgspec.Struct, frozen=True):
    """What a push holds.

    Attributes:
        format: of the manifest.
        kind: what made the store: `trained` and `imported` here, a `worker`, or another tool's `arrays`.
        key: hash of what the rows come from: two pushes with the same key hold rows of one ground truth.
        title: the same in words.
        whole: whether the arrays are there; else it is blocks alone.
        rows: rows of the arrays; where there are none, those that were asked for.
        files: sorted by path.
    """

    format: int
    kind: Kind
    key: str
    title: str
    whole: bool
    rows: int
    files: tuple[Entry, ...]

    def encode(self) -> tuple[str, bytes]:
        """Its name at the URL, and its bytes."""
        content = msgspec.json.format(msgspec.json.encode(self), indent=1) + b"\n"
        return f"manifest-{hashlib.sha256(content).hexdigest()}.json", content

    def within(self, other: Manifest) -> bool:
        """Whether `other` makes this one needless: it is as whole, and has all blocks of it, byte for byte."""
        mine = {entry for entry in self.files if entry.rows is not None}
        return self.whole <= other.whole and self.rows <= other.rows and bool(mine) and mine <= set(other.files)


class _Header(msgspec.Struct):
    format: int


def intact(content: bytes, name: str) -> bool:
    """Whether a manifest has the content that its name says."""
    named = NAME.fullmatch(name)
    return named is not None and hashlib.sha256(content).hexdigest() == named[1]


def decode(content: bytes, where: str) -> Manifest:
    """Read and check a manifest.

    Args:
        content: its bytes.
        where: its URL; the last part of it names the hash of the bytes.

    Raises:
        InputError: it is damaged, of a later version, or names what no store has.
    """
    if not intact(content, where.rpartition("/")[2]):
        raise InputError(
            f"{where} is damaged: it has another content than the sha256 in its name; push the store again"
        )
    try:
        header = msgspec.json.decode(content, type=_Header)
        if header.format > FORMAT:
            raise InputError(f"{where} is of format {header.format}, and this version knows {FORMAT}: update ldsbench")
        found = msgspec.json.decode(content, type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{where} is no manifest of bench push ({error}): remove it") from error
    _check(found, where)
    return found


def _check(found: Manifest, where: str) -> None:
    if not _SHA256.fullmatch(found.key) or found.rows < 0 or not found.title.isprintable():
        raise InputError(f"{where} is no manifest of bench push: its key, rows or title make no sense; remove it")
    seen = set()
    for entry in found.files:
        if not _harmless(entry.path):
            raise InputError(f"{where} names the file {entry.path!r}, which no store has: do not trust who wrote it")
        if entry.path in seen:
            raise InputError(f"{where} names the file {entry.path!r} twice: do not trust who wrote it")
        seen.add(entry.path)
        for part in entry.parts:
            if not _SHA256.fullmatch(part.sha256) or not 0 < part.size <= _MOST_PART:
                raise InputError(
                    f"{where}: a part of {entry.path} has the size {part.size} and the name {part.sha256[:80]!r}, and "
                    f"parts have 1 to {_MOST_PART} bytes and 64 hexadecimal digits: do not trust who wrote it"
                )
    needed = {RECORDS.get(found.kind, "spec.json") if found.whole else "identity.json"}
    if found.kind not in ("trained", "worker") and not found.whole:
        raise InputError(
            f"{where} is of a part of {found.kind} arrays, which are shared whole: do not trust who wrote it"
        )
    if needed - seen:
        raise InputError(f"{where} names no {min(needed)}, which a store of its kind has: push the store again")


def _harmless(path: str) -> bool:
    """Whether a path is a file in the store's folder, or a block."""
    folder, slash, name = path.rpartition("/")
    if slash:
        return folder == "blocks" and name.isascii() and blocks.span(Path(name)) is not None
    odd = not name.isprintable() or name[:1] in ("", ".") or "\\" in name or name == "blocks"
    if os.name == "nt":
        odd = odd or bool({*':*?<>|"'} & {*name}) or name[-1] in ". "
    return not odd and len(name.encode()) <= _MOST_NAME


class Chosen(msgspec.Struct, frozen=True):
    """What the manifests at a URL hold together.

    Attributes:
        kind, key, title, whole, rows: as of `Manifest`.
        files: path → file.
        held: rows that its blocks hold; `rows` where the arrays are there.
    """

    kind: Kind
    key: str
    title: str
    whole: bool
    rows: int
    files: dict[str, Entry]
    held: int


def choose(manifests: Mapping[str, Manifest], url: str) -> Chosen:
    """Put together what several pushes hold.

    Of whole stores the one with the most rows is taken as it is, with the blocks of others that come after its rows.
    Where none is whole, all blocks are taken; of two for the same rows, one.

    Raises:
        InputError: they are of different stores.
    """
    # By name where nothing else decides, so that every reader takes the same.
    order = sorted(manifests, key=lambda name: (not manifests[name].whole, -manifests[name].rows, name))
    first = manifests[order[0]]
    for name in order[1:]:
        if manifests[name].key != first.key:
            raise InputError(
                f"{url} holds two stores, {first.title} in {order[0]} and {manifests[name].title} in {name}: remove one"
            )
    files = {entry.path: entry for entry in first.files}
    for name in order[1:]:
        for entry in manifests[name].files:
            rows = entry.rows
            if rows is not None and (not first.whole or rows.start >= first.rows):
                files.setdefault(entry.path, entry)
    held = first.rows if first.whole else min(covered(files.values()), first.rows)
    return Chosen(first.kind, first.key, first.title, first.whole, first.rows, files, held)


def covered(entries: Iterable[Entry]) -> int:
    """Rows that blocks hold, each counted once."""
    count = at = 0
    spans = [entry.rows for entry in entries if entry.rows is not None]
    for span in sorted(spans, key=lambda span: (span.start, span.stop)):
        count += max(0, span.stop - max(at, span.start))
        at = max(at, span.stop)
    return count
