"""Work done by chunks that are halved when memory runs out, and what is said of it.

    for part, gradients in halving.each(lambda part: gradient(x[part]), len(x), step=64):
        …

Only the call itself is tried again: it must not have changed anything before it fails. What a loop does with the
results is not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock
from typing import TypeVar

from bench import memory
from bench.errors import InputError

T = TypeVar("T")
Say = Callable[[str], None]


class _Heard:
    """Of each kind of thing, the most that were tried at a time and the fewest that were done."""

    def __init__(self) -> None:
        self._counts: dict[str, tuple[int, int]] = {}
        self._lock = Lock()

    def hear(self, what: str, asked: int, done: int) -> None:
        with self._lock:
            most, fewest = self._counts.get(what, (asked, done))
            self._counts[what] = max(most, asked), min(fewest, done)

    def sentence(self) -> str:
        parts = (f"{most} {what} at a time: done {few} at a time" for what, (most, few) in self._counts.items())
        return ", and with ".join(parts)


_listening: list[_Heard] = []


@contextmanager
def told(say: Say) -> Iterator[None]:
    """Context after which `say` is told of chunks that were halved, in any thread: one sentence, however many were.

    `say` is such as `task.note`: a reader of a table must know why a method was slow.
    """
    heard = _Heard()
    _listening.append(heard)
    try:
        yield
    finally:
        _listening.remove(heard)
        if sentence := heard.sentence():
            say(f"memory ran out with {sentence}")


def _tell(what: str, asked: int, done: int) -> None:
    for heard in _listening:
        heard.hear(what, asked, done)


def each(work: Callable[[slice], T], count: int, step: int, what: str = "examples") -> Iterator[tuple[slice, T]]:
    """Call `work(slice)` for slices of `step` that together are `0 … count`, in order.

    A call that runs out of memory, on the host or on the device, is made again with half as many, down to one; later
    ones stay at that. Whoever listens (`told`) is told.

    Args:
        work: what to do with a slice; what it returns is handed on.
        count: how many there are.
        step: how many to begin with.
        what: they are, for the sentence.

    Yields:
        Each slice and what `work` made of it.

    Raises:
        InputError: `step` is less than 1.
        Exception: whatever `work` raises; that memory ran out, if it does so for a single one.
    """
    at = 0
    if step < 1:
        raise InputError(f"chunks of {step} {what} are asked for: it takes at least 1")
    while at < count:

        def some(number: int, start: int = at) -> T:
            return work(slice(start, start + number))

        asked = min(step, count - at)
        made, done = whole(some, asked, what)
        if done < asked:
            step = done
        yield slice(at, at + done), made
        del made  # the next one must find room
        at += done


def through(work: Callable[[slice], None], count: int, step: int, what: str = "examples") -> None:
    """`each`, of work that hands nothing on: it writes where nothing is added up, so that it may do so again."""
    for _ in each(work, count, step, what):
        pass


def whole(work: Callable[[int], T], step: int, what: str = "examples") -> tuple[T, int]:
    """Call `work(step)`, which takes `step` at a time, with half as many where memory runs out, down to one.

    For work that cannot go on where it stopped: it is begun anew. Arguments and errors are those of `each`.

    Returns:
        What it made, and at how many at a time.
    """
    if step < 1:
        raise InputError(f"chunks of {step} {what} are asked for: it takes at least 1")
    asked = step
    while True:
        try:
            made = work(step)
        except Exception as error:
            if step == 1 or not memory.ran_out(error):
                raise
        else:
            if step < asked:
                _tell(what, asked, step)
            return made, step
        memory.release()  # outside of the handler, which holds on to all that the call held
        step //= 2
