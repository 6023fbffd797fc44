"""Progress on stderr: a bar on a terminal, a plain line now and then otherwise; and a log file beside the results."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

_EVERY_SECONDS = 5.0


class Progress:
    """Where a run says what it does.

    Args:
        quiet: say nothing on stderr; the log is still written.
        log: file that every line is appended to, with the time.
    """

    def __init__(self, *, quiet: bool = False, log: Path | None = None) -> None:
        self.quiet, self.log = quiet, log

    def say(self, text: str) -> None:
        """One line."""
        if not self.quiet:
            print(text, file=sys.stderr, flush=True)
        self.log_only(text)

    def log_only(self, text: str) -> None:
        """One line, or several, in the log alone."""
        if self.log is not None:
            with self.log.open("a", encoding="utf-8") as file:
                file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n")

    @contextmanager
    def task(self, what: str, total: int, unit: str, done: int = 0) -> Iterator[Callable[[int], None]]:
        """Count `total` things; the value is called with how many more are done."""
        began = time.perf_counter()
        count = done

        if sys.stderr.isatty() and not self.quiet:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
                number = bar.add_task(what, total=total, completed=done)

                def advance(more: int) -> None:
                    nonlocal count
                    count += more
                    bar.advance(number, more)

                yield advance
        else:
            last = began

            def advance(more: int) -> None:
                nonlocal count, last
                count += more
                if count < total and time.perf_counter() - last > _EVERY_SECONDS:
                    last = time.perf_counter()
                    self.say(f"{what}: {count}/{total} {unit}")

            yield advance
        seconds = time.perf_counter() - began
        rate = (count - done) / max(seconds, 1e-9)
        self.say(f"{what}: {count}/{total} {unit}, {seconds:.1f} s ({rate:.0f}/s)")
