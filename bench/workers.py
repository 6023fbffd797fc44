"""Long-lived worker processes, one per GPU or share of the cores, that train blocks until there are none left.

A worker that dies, whatever kills it, is replaced, and its block is given to the next one that is free. The workers
map the examples from files, so that they share one copy of them in memory.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bench import atomic
from bench.errors import BenchError
from bench.work import Done, Feed, Span, Work

if TYPE_CHECKING:
    from multiprocessing.context import SpawnProcess

    from bench.launch import Request

_ARRAYS = ("train_x", "train_y", "test_x", "test_y")
_BLOCK_DEATHS = 12  # of workers at one block, before it is given up
_START_FAILURES = 2  # workers in a row that end by themselves before they are ready: the next one would as well
_START_KILLS = 50  # the same of workers that are killed: memory may be free again


@dataclass(frozen=True)
class _Job:
    """All that a worker is told: the request without its examples, which are in files of `examples`."""

    request: Request
    n_classes: int
    examples: Path
    key: str
    folder: Path


@dataclass
class _Worker:
    process: SpawnProcess
    connection: Connection
    device: str
    ready: bool = False
    span: Span | None = None


def train(
    request: Request, key: str, folder: Path, feed: Feed, devices: list[str], done: Callable[[Done], None]
) -> None:
    """Train all of `feed` in one process per entry of `devices`, one torch thread each: more would round otherwise.

    Raises:
        BenchError: a block cannot be trained or written, or keeps killing its workers. What was finished is kept.
    """
    with atomic.scratch() as examples:
        for name in _ARRAYS:
            np.save(examples / f"{name}.npy", getattr(request.data, name))
        bare: Any = replace(request, data=None, setting=replace(request.setting, dataset=None))  # type: ignore[arg-type]
        job = _Job(bare, request.data.n_classes, examples, key, folder)
        crew = _Crew(job, feed, done)
        try:
            for device in devices:
                crew.start(device)
            crew.run()
        finally:
            crew.stop()


class _Crew:
    def __init__(self, job: _Job, feed: Feed, done: Callable[[Done], None]) -> None:
        self.job, self.feed, self.done = job, feed, done
        self.workers: list[_Worker] = []
        self.context = multiprocessing.get_context("spawn")
        self.deaths: Counter[Span] = Counter()
        self.unready_deaths = 0

    def start(self, device: str) -> None:
        mine, its = self.context.Pipe()
        process = self.context.Process(
            target=_serve, args=(its, self.job, device), daemon=True, name=f"bench worker on {device}"
        )
        process.start()
        its.close()  # so that its death closes the pipe
        self.workers.append(_Worker(process, mine, device))

    def run(self) -> None:
        while self.workers:
            for one in self.workers:
                if one.ready and one.span is None:
                    self.feed_one(one)
            self.workers = [one for one in self.workers if one.process.exitcode is None or one.span or not one.ready]
            if not any(one.span or not one.ready for one in self.workers):
                return
            wait([one.connection for one in self.workers])
            for one in list(self.workers):
                self.listen(one)

    def feed_one(self, one: _Worker) -> None:
        span = self.feed.next()
        if span is None:
            return
        one.span = span
        with contextlib.suppress(OSError):  # it has died: its end of the pipe says so next
            one.connection.send(span)

    def listen(self, one: _Worker) -> None:
        try:
            if not one.connection.poll():
                return
            kind, said = one.connection.recv()
        except (EOFError, OSError):
            self.bury(one)
            return
        if kind == "ready":
            one.ready, self.unready_deaths = True, 0
        elif kind == "done":
            one.span = None
            if said.by_other:
                self.feed.shuffle()
            self.done(said)
        else:
            raise BenchError(said)

    def bury(self, one: _Worker) -> None:
        """Replace a dead worker and give its block to another."""
        one.process.join()
        self.workers.remove(one)
        how = _cause(one.process.exitcode)
        if one.span is not None:
            self.feed.put_back(one.span)
            self.deaths[one.span] += 1
            if self.deaths[one.span] >= _BLOCK_DEATHS:
                start, stop = one.span
                raise BenchError(
                    f"{_BLOCK_DEATHS} worker processes in turn {how} at rows {start} to {stop - 1}: take fewer "
                    "--workers if memory ran out; what was finished is kept"
                )
        elif not one.ready:
            self.unready_deaths += 1
            killed = one.process.exitcode is not None and one.process.exitcode < 0
            if self.unready_deaths >= (_START_KILLS if killed else _START_FAILURES):
                raise BenchError(
                    f"{self.unready_deaths} worker processes in a row {how} before they could start: take fewer "
                    "--workers, or none to train in this process"
                )
        self.start(one.device)

    def stop(self) -> None:
        for one in self.workers:
            one.process.terminate()
        for one in self.workers:
            one.process.join(10)
            one.process.kill()
            one.process.join()
            one.connection.close()


def _cause(code: int | None) -> str:
    if code is not None and code < 0:
        with contextlib.suppress(ValueError):
            return f"were killed by {signal.Signals(-code).name}"
    return f"exited with {code}"


def _serve(connection: Connection, job: _Job, device: str) -> None:
    """The worker's whole life."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    sys.stdout = sys.stderr
    import torch

    from bench.datasets import Data
    from bench.train import Trainer

    torch.set_num_threads(1)
    if device.startswith("cuda"):
        torch.cuda.set_device(device)
    # Copy-on-write maps: torch wants arrays that could be written.
    arrays = {name: np.load(job.examples / f"{name}.npy", mmap_mode="c") for name in _ARRAYS}
    data = Data(**arrays, n_classes=job.n_classes)
    request = replace(job.request, data=data)
    trainer = Trainer(request.setting.recipe, data, torch.device(device), protocol=request.protocol)
    work = Work(trainer, request, job.key, job.folder)
    try:
        connection.send(("ready", None))
        while True:
            span = connection.recv()
            try:
                said: tuple[str, Any] = "done", work.block(span)
            except BenchError as error:
                said = "refused", str(error)
            except Exception as error:
                said = "failed", f"training rows {span[0]} to {span[1] - 1} failed: {type(error).__name__}: {error}"
            connection.send(said)
    except (EOFError, BrokenPipeError):  # the parent needs no more
        return


def _leave_with_parent() -> None:
    """A parent that was killed cannot stop its workers: they notice."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
