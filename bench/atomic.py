"""Write files whole or not at all."""

from __future__ import annotations

import errno
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from bench.errors import BenchError

_STALE_S = 600.0
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn a failure to write `path` into one sentence.

    Raises:
        BenchError: the disk is full, or the folder cannot be written.
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        if error.errno in _FULL or error.errno is None:  # numpy's own "n requested and m written" has no number
            advice = "free some space and run the same command again; what was finished is kept"
        else:
            advice = "name a folder that can be written with --out"
        raise BenchError(f"cannot write {path}: {reason}; {advice}") from error


def write(path: Path, fill: Callable[[BinaryIO], object]) -> None:
    """Call `fill` with a file that becomes `path` when all of it is on disk: written aside, fsynced, renamed.

    Raises:
        BenchError: it cannot be written (see `writing`). Nothing is left behind, and an older `path` stays.
    """
    aside = path.with_name(_aside(path.name))
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with aside.open("wb") as file:
                fill(file)
                file.flush()
                os.fsync(file.fileno())
            aside.replace(path)
            _sync_folder(path.parent)
        finally:
            with suppress(OSError):
                aside.unlink(missing_ok=True)


def sweep(folder: Path) -> None:
    """Remove what processes of this machine that are no more have left half written in `folder`.

    Not what was written to lately: containers may share a host's name, and not its processes.
    """
    for path in folder.glob(f".*.{socket.gethostname()}.*.tmp"):
        pid = path.name.split(".")[-3]
        with suppress(OSError):
            if pid.isdecimal() and not _alive(int(pid)) and time.time() - path.stat().st_mtime >= _STALE_S:
                shutil.rmtree(path) if path.is_dir() else path.unlink()


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder for files that other processes read, removed afterwards; those of killed processes go as well."""
    place = Path(tempfile.gettempdir())
    sweep(place)
    made = place / _aside("bench")
    with writing(made):
        made.mkdir()
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


@contextmanager
def folder(path: Path) -> Iterator[Path]:
    """A new folder that becomes `path` when the block ends well: made aside, renamed, else removed.

    Raises:
        BenchError: it cannot be written.
    """
    aside = path.with_name(_aside(path.name))
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        sweep(path.parent)
        aside.mkdir()
    try:
        yield aside
        with writing(path):
            if path.is_dir():
                path.rmdir()  # an empty one; any other is an error
            aside.rename(path)
            _sync_folder(path.parent)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _aside(name: str) -> str:
    return f".{name}.{socket.gethostname()}.{os.getpid()}.{os.urandom(4).hex()}.tmp"


def _alive(pid: int) -> bool:
    if os.name == "nt":  # where signal 0 is Ctrl-C
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # another user's
        return True
    return True


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8, whole or not at all."""
    write(path, lambda file: file.write(text.encode()))


def writable_folder(path: Path) -> None:
    """Make `path` if it is not there, and make sure that files can be written in it.

    Raises:
        BenchError: it cannot be made or written.
    """
    if path.exists() and not path.is_dir():
        raise BenchError(f"cannot write into {path}: it is a file, not a folder; name another folder with --out")
    probe = path / f".probe.{os.getpid()}"
    with writing(path):
        path.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"")
        probe.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    # The rename itself must survive a power cut; not every file system lets a folder be opened and synced.
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
