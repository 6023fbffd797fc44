"""Work done by chunks that are halved when memory runs out, and what is said of it.

    for part, gradients in halving.each(lambda part: gradient(x[part]), len(x), step=64):
        …

Only the call itself is tried again: it must not have changed anything before it fails. What a loop does with the
results is not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from bench import memory
from bench.errors import InputError

T = TypeVar("T")
Say = Callable[[str], None]

_listening: list[Say] = []


@contextmanager
def told(say: Say) -> Iterator[None]:
    """Context in which `say` is told of every chunk that was halved, such as `task.note`; in all threads."""
    _listening.append(say)
    try:
        yield
    finally:
        _listening.remove(say)


def each(work: Callable[[slice], T], count: int, step: int, what: str = "examples") -> Iterator[tuple[slice, T]]:
    """Call `work(slice)` for slices of `step` that together are `0 … count`, in order.

    A call that runs out of memory, on the host or on the device, is made again with half as many, down to one; later
    ones stay at that. Whoever listens (`told`) is told once, at the end: a reader of a table must know why it was slow.

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
    if step < 1:
        raise InputError(f"chunks of {step} {what} are asked for: it takes at least 1")
    asked, at = step, 0
    while at < count:
        part = slice(at, min(at + step, count))
        try:
            made = work(part)
        except Exception as error:
            if part.stop - at == 1 or not memory.ran_out(error):
                raise
            starved = True
        else:
            starved = False
        if starved:  # outside of the handler, which holds on to all that the call held
            memory.release()
            step = max(1, (part.stop - at) // 2)
            continue
        yield part, made
        del made  # the next one must find room
        at = part.stop
    if step < asked:
        for say in _listening:
            say(f"memory ran out with {min(asked, count)} {what} at a time: done {step} at a time")
