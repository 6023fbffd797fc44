"""A folder at a URL, through fsspec: what is there, and parts of it written and read, each failure as one sentence."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from bench.errors import BenchError, InputError
from bench.sharing.manifest import MOST_BYTES, NAME, Manifest, Part, decode, intact

_EXTRAS = {"s3": "share-s3", "s3a": "share-s3", "hf": "share-hf"}
_FLAT = {"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "hf"}  # where folders are names, and a made one is a bucket
_BESIDE = {"README.md", "LICENSE"}  # what a repository of the Hugging Face hub has besides


class DamagedError(Exception):
    """A part that is missing, or has another content than its name says; its text says which of it."""


def options(given: Sequence[str]) -> dict[str, Any]:
    """Storage options of `key=value` words; true, false, null and what begins as JSON does are read as JSON.

    Raises:
        BenchError: a word is not so written.
    """
    found: dict[str, Any] = {}
    for word in given:
        name, equals, value = word.partition("=")
        if not equals or not name.isidentifier():
            raise BenchError(f"--option is {word!r}: write key=value, such as anon=true")
        found[name] = value
        if value in ("true", "false", "null") or value[:1] in ("{", "["):
            try:
                found[name] = json.loads(value)
            except ValueError as error:
                raise BenchError(f"--option {name} begins as JSON, and is none ({error}): {value}") from error
    return found


@dataclass(frozen=True)
class Found:
    """What is at a URL.

    Attributes:
        manifests: by name; torn: names of those that have another content than their names say.
        others: names of what no push writes; parts: whether there are any.
    """

    manifests: dict[str, Manifest]
    torn: list[str]
    others: list[str]
    parts: bool


@dataclass(frozen=True)
class Remote:
    """A folder at a URL.

    Attributes:
        url: as the user wrote it; fs: the file system; root: the folder in it.
    """

    url: str
    fs: Any = field(repr=False)
    root: str

    @classmethod
    def of(cls, url: str, given: dict[str, Any]) -> Remote:
        """Of a URL, or a local path.

        Raises:
            BenchError: there is no such kind of URL, what reads it is not installed, or an option is wrong.
        """
        from fsspec.core import url_to_fs

        scheme = url.partition("://")[0] if "://" in url else "file"
        try:
            fs, root = url_to_fs(os.path.expanduser(url) if scheme == "file" else url, **given)  # noqa: PTH111
        except ImportError as error:
            extra = _EXTRAS.get(scheme)
            how = f"pip install 'ldsbench[{extra}]'" if extra else str(error)
            raise BenchError(f"{url}: {scheme}:// needs a package that is not installed: {how}") from error
        except Exception as error:  # each file system has its own words
            raise BenchError(
                f"{url} cannot be opened ({_told(error)}): write a path, file://, s3:// or hf://"
            ) from error
        if not root.strip("/") and scheme != "memory":
            raise BenchError(f"{url} names no folder: add one, such as {url.rstrip('/')}/my-store")
        return cls(url, fs, root.rstrip("/"))

    @property
    def one_by_one(self) -> bool:
        """Whether two files must not be written at once: a repository of the hub takes a commit for each."""
        return "hf" in self._protocols and not self.root.startswith("buckets/")

    @property
    def _protocols(self) -> set[str]:
        named = self.fs.protocol
        return {named} if isinstance(named, str) else {*named}

    def look(self) -> Found:
        """Read every manifest, and see what else there is.

        Raises:
            BenchError: it cannot be listed, or a manifest is of a later version or not to be trusted.
        """
        for _ in range(3):
            manifests: dict[str, Manifest] = {}
            torn, others, parts = [], [], False
            try:
                for name, size, folder in self._listing():
                    if name == "parts" and folder:
                        parts = True
                    elif NAME.fullmatch(name) and not folder:
                        content = self._manifest(name, size)
                        if intact(content, name):
                            manifests[name] = decode(content, f"{self.url.rstrip('/')}/{name}")
                        else:
                            torn.append(name)
                    elif not name.startswith(".") and name not in _BESIDE:
                        others.append(name)
            except FileNotFoundError:  # a push has just replaced it by a fuller one
                continue
            return Found(manifests, torn, sorted(others), parts)
        raise BenchError(f"{self.url} changes faster than it can be read: run the same command again")

    def _listing(self) -> list[tuple[str, int, bool]]:
        with self._sentences("be listed"):
            self.fs.invalidate_cache()
            try:
                found = self.fs.ls(self.root, detail=True)
            except FileNotFoundError:
                return []
            except NotADirectoryError:
                found = [{"name": self.root, "type": "file"}]
        listed = [(one["name"].rstrip("/"), one.get("size") or 0, one["type"] == "directory") for one in found]
        if [(name.strip("/"), folder) for name, _, folder in listed] == [(self.root.strip("/"), False)]:
            raise BenchError(f"{self.url} is a file: name a folder")
        names = [(name.rpartition("/")[2], size, folder) for name, size, folder in listed]
        return [one for one, (name, _, _) in zip(names, listed, strict=True) if name.strip("/") != self.root.strip("/")]

    def _manifest(self, name: str, size: int) -> bytes:
        if size > MOST_BYTES:
            raise InputError(f"{self.url}/{name} has {size:,} bytes, and a manifest at most {MOST_BYTES:,}: remove it")
        with self._sentences("be read", FileNotFoundError):
            content: bytes = self.fs.cat_file(f"{self.root}/{name}")
        return content

    def parts(self) -> dict[str, int]:
        """Size of every part that is there, by the sha256 it is named by; what they hold is not read."""
        with self._sentences("be listed"):
            self.fs.invalidate_cache()
            try:
                found = self.fs.find(f"{self.root}/parts", detail=True)
            except FileNotFoundError:
                return {}
        return {name.rpartition("/")[2]: one.get("size") or 0 for name, one in found.items()}

    def part(self, wanted: Part) -> bytes:
        """A part's bytes, checked; what is wrong or breaks off is read once more.

        Raises:
            DamagedError: it is missing, or has another content than its name says. BenchError: it cannot be read.
        """
        try:
            return self._part(wanted)
        except (DamagedError, BenchError):
            return self._part(wanted)

    def _part(self, wanted: Part) -> bytes:
        path = f"{self.root}/parts/{wanted.sha256}"
        with self._sentences("be read", FileNotFoundError, DamagedError):
            try:
                content: bytes = self.fs.cat_file(path, start=0, end=wanted.size)
            except FileNotFoundError as error:
                self.fs.invalidate_cache()
                raise DamagedError("is missing") from error
            except Exception:
                if self.fs.size(path) == 0:  # of which S3 has no first byte to send
                    content = b""
                else:
                    raise
        if len(content) < wanted.size:
            raise DamagedError(f"has {len(content):,} bytes, not {wanted.size:,}")
        if not wanted.is_of(content):
            raise DamagedError("has another content than the sha256 in its name")
        return content

    def put(self, name: str, content: bytes) -> None:
        """Write a file, whole or not at all, tried twice.

        Raises:
            BenchError: it cannot be written.
        """
        try:
            self._put(name, content)
        except BenchError:
            self._put(name, content)

    def _put(self, name: str, content: bytes) -> None:
        path = f"{self.root}/{name}"
        with self._sentences("be written"):
            if _FLAT & self._protocols:
                self.fs.pipe_file(path, content)  # these show an object when all of it is there
                return
            folder, _, last = path.rpartition("/")
            self.fs.makedirs(folder, exist_ok=True)
            aside = f"{folder}/.{last}.{os.getpid()}.{os.urandom(4).hex()}.tmp"
            try:
                self.fs.pipe_file(aside, content)
                self.fs.mv(aside, path)
            except BaseException:
                with suppress(Exception):
                    self.fs.rm_file(aside)
                raise

    def remove(self, name: str) -> None:
        """Remove a file, where that is allowed."""
        with suppress(Exception):
            self.fs.rm_file(f"{self.root}/{name}")

    @contextmanager
    def _sentences(self, what: str, *others: type[Exception]) -> Iterator[None]:
        passed: tuple[type[Exception], ...] = (BenchError, *others)
        try:
            yield
        except passed:
            raise
        except Exception as error:  # each file system raises what its libraries raise
            raise BenchError(f"{self.url} cannot {what} ({_told(error)}); {_advice(error)}") from error


def _advice(error: Exception) -> str:
    word = type(error).__name__
    if "Credential" in word or isinstance(error, PermissionError):
        return "credentials come from the environment, or from --option; see the documentation of fsspec"
    if isinstance(error, FileNotFoundError):
        return "make the bucket or repository first"
    return "run the same command again: what was finished is kept"


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip() or 'no reason given'}"
