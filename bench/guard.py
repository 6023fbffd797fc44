"""Notice a method that opens the ground truth's own files, where the rows that judge it lie."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from bench.errors import EvalRowError

_state = threading.local()
_watching: list[Guard] = []
_left: list[tuple[threading.Thread, Guard]] = []
_hooked = False


class Guard:
    """While it is entered, opening `folder` or a file below it raises EvalRowError, in any thread, and is remembered.

    Threads that were started meanwhile and still run when it is left (a library's pool may do so for good) are refused
    as before, until they end.

    It catches mistakes (a path left in a notebook cell, a cache that points at the store), not malice: nothing
    inside one process can do that. It sees what Python itself opens, by any of its ways; not what another process
    opens, nor a library's own C code, nor a thread that a left thread starts.

    Attributes:
        touched: the first file that was opened, or None.
    """

    def __init__(self, folder: Path) -> None:
        real = os.path.realpath(folder)
        self.folder, self.prefixes = real, (real + os.sep, real + ".")  # the second: stores that were set aside
        self.touched: str | None = None
        self._before: set[threading.Thread] = set()

    def refuse(self, real: str) -> None:
        """Raise, if that is a path of the store.

        Raises:
            EvalRowError: it is.
        """
        if real == self.folder or real.startswith(self.prefixes):
            self.touched = self.touched or real
            raise EvalRowError(f"it opened {Path(real).name} of the ground truth, which holds the rows that judge")

    def __enter__(self) -> Guard:
        """Start watching."""
        global _hooked
        if not _hooked:
            sys.addaudithook(_audit)  # cannot be removed; it does nothing while no guard is entered
            _hooked = True
        self._before = set(threading.enumerate())
        _watching.append(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop watching."""
        _watching.remove(self)
        still = [(thread, self) for thread in threading.enumerate() if thread not in self._before]
        _left[:] = [(thread, guard) for thread, guard in _left if thread.is_alive()] + still

    @staticmethod
    @contextmanager
    def lifted() -> Iterator[None]:
        """Let this thread read the files: for the harness itself."""
        before = getattr(_state, "lifted", False)
        _state.lifted = True
        try:
            yield
        finally:
            _state.lifted = before


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if event != "open" or not (_watching or _left) or getattr(_state, "lifted", False):
        return
    here = threading.get_ident()
    mine = [guard for thread, guard in _left if thread.ident == here and thread.is_alive()]
    path = arguments[0]
    if not (_watching or mine) or not isinstance(path, str | bytes | os.PathLike):
        return
    name = os.fsdecode(path)
    # of os.open the event does not tell dir_fd
    by_folder = arguments[1] is None and not Path(name).is_absolute()
    for real in [os.path.realpath(name), *(_below_open_folders(name) if by_folder else [])]:
        for guard in (*_watching, *mine):
            guard.refuse(real)


def _below_open_folders(name: str) -> Iterator[str]:
    """What a relative name may stand for, opened by the descriptor of a folder (where the system lists them)."""
    with suppress(OSError):
        for descriptor in Path("/proc/self/fd").iterdir():
            with suppress(OSError):
                folder = descriptor.readlink()
                if folder.is_dir() and os.path.lexists(folder / name):
                    yield os.path.realpath(folder / name)
