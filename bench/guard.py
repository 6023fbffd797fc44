"""Notice a method that opens the ground truth's own files, where the rows that judge it lie."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from bench.errors import EvalRowError

_state = threading.local()
_watching: list[Guard] = []
_hooked = False


class Guard:
    """While it is entered, opening a file below `folder` raises EvalRowError, in any thread, and is remembered.

    It catches mistakes (a path left in a notebook cell, a cache that points at the store), not malice: nothing
    inside one process can do that.

    Attributes:
        touched: the first file that was opened, or None.
    """

    def __init__(self, folder: Path) -> None:
        real = os.path.realpath(folder)
        self.prefixes = real + os.sep, real + "."  # the second: stores that were set aside
        self.touched: str | None = None

    def __enter__(self) -> Guard:
        """Start watching."""
        global _hooked
        if not _hooked:
            sys.addaudithook(_audit)  # cannot be removed; it does nothing while no guard is entered
            _hooked = True
        _watching.append(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop watching."""
        _watching.remove(self)

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
    if event != "open" or not _watching or getattr(_state, "lifted", False):
        return
    path = arguments[0]
    if not isinstance(path, str | bytes | os.PathLike):
        return
    real = os.path.realpath(os.fsdecode(path))
    for guard in _watching:
        if real.startswith(guard.prefixes):
            guard.touched = guard.touched or real
            raise EvalRowError(f"it opened {Path(real).name} of the ground truth, which holds the rows that judge")
