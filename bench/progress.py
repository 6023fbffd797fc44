"""Progress on stderr: a bar on a terminal, a plain line now and then otherwise; and a log file beside the results."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

_EVERY_SECONDS = 5.0


class Advance(Protocol):
    """Say that so many more things are done, and how accurate they are on average."""

    def __call__(self, more: int, accuracy: float | None = None) -> None:
        """Count them."""


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
    def task(self, what: str, total: int, unit: str, done: int = 0) -> Iterator[Advance]:
        """Count `total` things; the value is called with how many more are done, and how accurate these are."""
        began = time.perf_counter()
        counted = _Counted(done, total, unit)

        if sys.stderr.isatty() and not self.quiet:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[found]}"),
                TimeRemainingColumn(),
            )
            with Bar(*columns, console=Console(stderr=True), transient=True, speed_estimate_period=600) as bar:
                number = bar.add_task(what, total=total, completed=done, found="")

                def advance(more: int, accuracy: float | None = None) -> None:
                    counted.add(more, accuracy)
                    bar.update(number, advance=more, found=counted.found(time.perf_counter() - began))

                yield advance
        else:
            last = began

            def advance(more: int, accuracy: float | None = None) -> None:
                nonlocal last
                counted.add(more, accuracy)
                now = time.perf_counter()
                if counted.count < total and now - last > _EVERY_SECONDS:
                    last = now
                    left = counted.left(now - began)
                    self.say(f"{what}: {counted.count}/{total} {unit}, {counted.found(now - began)}, {left} left")

            yield advance
        seconds = time.perf_counter() - began
        self.say(f"{what}: {counted.count}/{total} {unit}, {seconds:.1f} s, {counted.found(seconds)}")


class _Counted:
    """What is done so far: how many things, how fast, how accurate."""

    def __init__(self, done: int, total: int, unit: str) -> None:
        self.done, self.count, self.total, self.unit = done, done, total, unit
        self.right, self.judged = 0.0, 0

    def add(self, more: int, accuracy: float | None) -> None:
        self.count += more
        if accuracy is not None:
            self.right += more * accuracy
            self.judged += more

    def rate(self, seconds: float) -> float:
        return (self.count - self.done) / max(seconds, 1e-9)

    def found(self, seconds: float) -> str:
        rate = self.rate(seconds)
        text = f"{rate:.3g} {self.unit}/s"
        return f"{text}, accuracy {self.right / self.judged:.1%}" if self.judged else text

    def left(self, seconds: float) -> str:
        """Time until the rest is done at this rate, as h:mm:ss."""
        if self.count == self.done:
            return "?"
        rest = round((self.total - self.count) / max(self.rate(seconds), 1e-9))
        return f"{rest // 3600}:{rest // 60 % 60:02}:{rest % 60:02}"
