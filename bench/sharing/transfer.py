"""Several parts under way at the same time, and how many bytes have come."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import TypeVar

from bench.progress import Progress

T = TypeVar("T")
R = TypeVar("R")


class Megabytes:
    """Counts bytes, and says how many more megabytes there are now."""

    def __init__(self) -> None:
        self.bytes = 0

    def more(self, count: int) -> int:
        """After so many more bytes."""
        before, self.bytes = self.bytes, self.bytes + count
        return self.bytes // 10**6 - before // 10**6


def run(
    work: Callable[[T], R], todo: Sequence[T], size: Callable[[T], int], parallel: int, progress: Progress, what: str
) -> list[R]:
    """Call `work` on each of `todo`, in so many threads; gives what it returned, in any order.

    The first error is raised when the calls under way have ended; no other begins.

    Args:
        work: what to do.
        todo: with what.
        size: bytes of one.
        parallel: threads.
        progress: where to say how far it is.
        what: it is called there.
    """
    found: list[R] = []
    if not todo:
        return found
    done = Megabytes()
    with (
        progress.task(what, sum(map(size, todo)) // 10**6, "MB") as advance,
        ThreadPoolExecutor(parallel) as pool,
    ):
        waiting = {pool.submit(work, one): size(one) for one in todo}
        try:
            for future in as_completed(waiting):
                found.append(future.result())
                advance(done.more(waiting[future]))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return found
