"""Call a user's function for one row after another, in this process or in several.

It is called as MadryLab's `datamodels` workers call theirs: `main(index=i, logdir=…)`, which returns `{key: array}`.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import itertools
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from bench import schema
from bench.errors import BenchError, nearest

if TYPE_CHECKING:
    from multiprocessing.connection import Connection
    from types import ModuleType

    from numpy.typing import NDArray

    from bench.schema import Array

_PATIENCE = 10.0  # seconds that a process gets to end


@dataclass(frozen=True)
class Worker:
    """The function that makes rows, by name: cheap to send to another process, which loads it there.

    Attributes:
        name: `module:function`, or `path/to/file.py:function`.
        arguments: what it finds in `sys.argv`.
    """

    name: str
    arguments: tuple[str, ...] = ()

    def load(self) -> tuple[Callable[..., Any], Path | None]:
        """The function and the file that it is in. From here on `sys.argv` is the worker's.

        Raises:
            BenchError: there is no such module, file or function, or it does not import.
        """
        target, colon, called = self.name.rpartition(":")
        if not (colon and target and called):
            raise BenchError(f"--worker is {self.name!r}: write MODULE:FUNCTION, such as train:main")
        sys.argv = [target, *self.arguments]
        try:
            module = _from_file(Path(target)) if target.endswith(".py") else _from_name(target)
        except BenchError:
            raise
        except (Exception, SystemExit) as error:
            raise BenchError(f"the worker {target!r} does not import: {_told(error)}") from error
        function = getattr(module, called, None)
        if not callable(function):
            there = [name for name, value in vars(module).items() if callable(value) and name[0] != "_"]
            raise BenchError(f"the worker {target!r} has no function {called!r}{nearest(called, there)}")
        origin = getattr(module, "__file__", None)
        return function, Path(origin) if origin else None


def _from_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise BenchError(f"--worker: there is no file {str(path)!r}")
    _importable(path.resolve().parent)  # as `python path/to/file.py` does
    called = f"bench_worker_{path.stem}"
    spec = importlib.util.spec_from_file_location(called, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[called] = module  # dataclasses and pickling look their module up by name
    spec.loader.exec_module(module)
    return module


def _from_name(name: str) -> ModuleType:
    _importable(Path.cwd())  # as `python -m` does
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise  # the module is there, and imports another that is not
        raise BenchError(
            f"--worker: there is no module {error.name!r} in {Path.cwd()} or among the installed packages"
        ) from error


def _importable(folder: Path) -> None:
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))


def _told(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split()).removesuffix(":")


@contextlib.contextmanager
def speaking_on_stderr() -> Iterator[None]:
    """What the worker prints goes to stderr, from C and from subprocesses too; its `sys.argv` ends with it."""
    arguments = sys.argv
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        sys.argv = arguments


@dataclass(frozen=True)
class Job:
    """What a process needs to make any row.

    Attributes:
        worker: the function; schema: what a row must be; folder: the store, as an absolute path.
        debug: show the traceback of a row that fails.
    """

    worker: Worker
    schema: dict[str, Array]
    folder: Path
    debug: bool = False


class Row(NamedTuple):
    """A finished row: its arrays, and what it took."""

    arrays: dict[str, NDArray[Any]]
    seconds: float


class Failure(NamedTuple):
    """A row that could not be made: why, and whether it is spec and worker that do not fit, as they will in no row."""

    why: str
    unfit: bool = False


def call(job: Job, function: Callable[..., Any], index: int) -> Row | Failure:
    """Make one row."""
    logdir = job.folder / "workers" / str(index)
    began = time.perf_counter()
    try:
        logdir.mkdir(parents=True, exist_ok=True)
        arrays = schema.row(function(index=index, logdir=str(logdir)), job.schema)
    except (schema.UnfitError, schema.UnstorableError) as error:
        return Failure(str(error), isinstance(error, schema.UnfitError))
    except (Exception, SystemExit) as error:  # one failed training does not stop the next
        if job.debug:
            traceback.print_exc()
        return Failure(_told(error))
    finally:
        with contextlib.suppress(OSError):  # most workers leave nothing in it
            logdir.rmdir()
    return Row(arrays, time.perf_counter() - began)


def in_turn(job: Job, function: Callable[..., Any], todo: list[int]) -> Generator[tuple[int, Row | Failure]]:
    """Make rows in this process, one after another."""
    for index in todo:
        yield index, call(job, function, index)


def in_processes(job: Job, todo: list[int], count: int) -> Generator[tuple[int, Row | Failure]]:
    """Make rows in `count` processes; one that dies costs its row alone. They end with this process."""
    from multiprocessing import connection, get_context

    context = get_context("spawn")  # nothing that a worker's first call leaves, CUDA or random state, is inherited
    left = iter(todo)
    processes: dict[Connection, Any] = {}
    at_work: dict[Connection, int] = {}

    def give(pipe: Connection, index: int) -> None:
        at_work[pipe] = index
        with contextlib.suppress(OSError):  # a process that is gone is noticed when its answer is awaited
            pipe.send(index)

    def start() -> Connection:
        ours, theirs = context.Pipe()
        processes[ours] = context.Process(target=_serve, args=(job, theirs))
        processes[ours].start()
        theirs.close()
        return ours

    try:
        for index in itertools.islice(left, count):
            give(start(), index)
        while at_work:
            for pipe in cast("list[Connection]", connection.wait(list(at_work))):
                index, following = at_work.pop(pipe), next(left, None)
                try:
                    made = pipe.recv()
                except (EOFError, OSError):
                    process = processes.pop(pipe)
                    process.join()
                    pipe.close()
                    made = Failure(f"its process ended with exit code {process.exitcode}")
                if following is not None:
                    give(pipe if pipe in processes else start(), following)
                yield index, made
    except BaseException:
        for process in processes.values():
            process.terminate()
        raise
    finally:
        for pipe, process in processes.items():
            pipe.close()  # which ends one that waits for work
            process.join(_PATIENCE)
            process.kill()
            process.join()


def _serve(job: Job, pipe: Connection) -> None:
    """One of several processes: make the rows that it is asked for, until nobody asks."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the first process, which ends this one
    os.dup2(2, 1)
    function, _ = job.worker.load()
    with contextlib.suppress(EOFError, OSError):
        while True:
            pipe.send(call(job, function, pipe.recv()))
