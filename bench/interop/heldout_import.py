"""Import runs of google-research/heldout-influence-estimation: a store of masks and correctness per subset ratio.

Runs are read in blocks that are kept in STORE.importing until the store is whole, so that an interrupted import goes
on where it was; a block is read anew when one of its files has changed.

Several threads read, so that waiting for a disk costs nothing; what bounds the speed is one core's work on each run
(tests/benchmarks/test_heldout_import_speed.py): SHA-256 for the origin, the archive's checksums, and putting arrays in
order.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

import bench
from bench import atomic, hashing
from bench.errors import BenchError, InputError
from bench.imported import KIND, Imported, Origin
from bench.interop import heldout_runs, order
from bench.interop.heldout_runs import FILE, Run, RunError
from bench.interop.order import Side
from bench.interop.release_import import refuse_mixed, roles, target, write_spec
from bench.meta import FORMAT
from bench.progress import Progress
from bench.wording import counted, either

SOURCE = "heldout-influence"
_BLOCK = 250  # runs
_ARRAYS = ("mask", "train_correct", "correct")
_THREADS = 8  # more than most have cores: where files are not in memory, disks serve several readers at a time
_AT_ONCE = 10  # runs that a thread is given; handing over each would take a fifth of the time
_NAMED = 5  # runs that an error names
_FEWEST = 3  # runs: one to fit on, and two that judge


@dataclass(frozen=True)
class Part:
    """One ratio: its folder, the store to make, its runs by number, and the gaps among the numbers."""

    ratio: float
    store: Path
    folders: list[Path]
    missing: list[tuple[int, int]]


def run(given: argparse.Namespace) -> list[str]:
    """Make one store, or one per ratio below one folder; gives what to print.

    Raises:
        BenchError: bad usage, runs that are missing or torn (unless they are to be left out), or a place that cannot
            be written. What was read is kept for the next time.
    """
    source, store = Path(given.source), Path(given.store)
    found = heldout_runs.ratios(source)
    asked = given.ratio or sorted(found)
    for ratio in asked:
        if ratio not in found:
            raise BenchError(f"--ratio is {ratio:g}: {source} has {', '.join(f'{one:g}' for one in sorted(found))}")
    parts = []
    for ratio in asked:
        folders = heldout_runs.runs(found[ratio])
        place = target(store if len(asked) == 1 else store / f"alpha-{ratio:g}")
        parts.append(Part(ratio, place, folders, heldout_runs.absent(folders)))
    progress = Progress(quiet=given.quiet)
    return [line for part in parts for line in _make(part, given, progress)]


def _make(part: Part, given: argparse.Namespace, progress: Progress) -> list[str]:
    aside = part.store.absolute().with_name(f"{part.store.name}.importing")
    atomic.writable_folder(aside)
    origin: dict[str, Origin] = {}
    faults = [
        f"run {first} is missing" if first == last else f"runs {first} to {last} are missing"
        for first, last in part.missing
    ]
    sizes: tuple[int, int] | None = None
    paths: list[Path] = []
    n_runs = len(part.folders)
    blocks = [_Block.of(aside, start, part.folders[start : start + _BLOCK]) for start in range(0, n_runs, _BLOCK)]
    known = sum(len(block.folders) for block in blocks if block.told is not None)
    if known:
        were, have = either(known, "was", "were"), either(known, "has", "have")
        progress.say(f"{known} of {n_runs} runs {were} read before, and {have} not changed")
    what = f"reading ratio {part.ratio:g}"
    with progress.task(what, n_runs, "runs", known) as advance, ThreadPoolExecutor(_THREADS) as pool:
        for block in blocks:
            told = block.told
            if told is None or sizes not in (None, told.sizes):
                told = block.read(pool, part.ratio, sizes)
                advance(len(block.folders) if block.told is None else 0)
            faults += told.faults
            origin.update(told.origin)
            if told.sizes is not None:
                sizes = told.sizes
                paths.append(block.path)
    if not paths:
        with suppress(OSError):  # what an earlier import has kept may be there
            aside.rmdir()
    if faults and not given.skip_torn:
        more = f" (and {len(faults) - _NAMED} more)" if len(faults) > _NAMED else ""
        kept = f" (what was read is kept in {aside.name})" if paths else ""
        raise InputError(
            f"{part.folders[0].parent if part.folders else part.store}: {'; '.join(faults[:_NAMED])}{more}: get them "
            f"again, or leave them out with --skip-torn{kept}"
        )
    if not paths or sizes is None:
        raise InputError(f"{given.source}: no run of ratio {part.ratio:g} can be read")
    for fault in faults:
        progress.say(f"left out: {fault}")
    lines = _gather(part, given, paths, sizes, origin, faults)
    shutil.rmtree(aside)
    return lines


class _Told(msgspec.Struct, frozen=True):
    """What a block says of itself: training examples and targets, its files, and what is wrong with others."""

    sizes: tuple[int, int] | None
    origin: dict[str, Origin]
    faults: list[str]


@dataclass(frozen=True)
class _Block:
    """Some runs; the file that keeps what was read of them; and what it says, if it is there already."""

    folders: list[Path]
    path: Path
    told: _Told | None

    @classmethod
    def of(cls, aside: Path, start: int, folders: list[Path]) -> _Block:
        """Look for it; of other files than those that are there now it has another name."""
        stamp = hashing.digest([[folder.name, *_stat(folder / FILE)] for folder in folders])
        path = aside / f"runs-{start:09d}-{stamp[:16]}.npz"
        told = None
        with suppress(OSError, ValueError, KeyError, zipfile.BadZipFile, msgspec.DecodeError), np.load(path) as stored:
            told = msgspec.json.decode(stored["told"].tobytes(), type=_Told)
        return cls(folders, path, told)

    def read(self, pool: ThreadPoolExecutor, ratio: float, sizes: tuple[int, int] | None) -> _Told:
        """Read the runs, and keep what is good of them; a run of other sizes than those given, if any, is not."""
        runs: list[Run] = []
        faults: list[str] = []
        origin: dict[str, Origin] = {}
        every = list(self._runs(pool, ratio))
        if sizes is None:  # those that most have: an odd first run must not have all others refused
            sizes = next(iter(Counter(one.sizes for one in every if isinstance(one, Run)).most_common(1)), (None,))[0]
        found: Run | RunError
        for folder, found in zip(self.folders, every, strict=True):
            if isinstance(found, Run) and sizes is not None and found.sizes != sizes:
                n_train, n_targets = found.sizes
                others = "{} and {}".format(*sizes)
                found = RunError(f"has {n_train} training and {n_targets} test examples, where others have {others}")
            if isinstance(found, RunError):
                faults.append(f"{folder.name}/{FILE} {found}")
                continue
            runs.append(found)
            origin[f"{ratio:g}/{folder.name}/{FILE}"] = Origin(found.sha256, found.size)
        if not runs:
            return _Told(None, {}, faults)
        told = _Told(sizes, origin, faults)
        content: dict[str, Any] = {name: np.stack([getattr(one, name) for one in runs]) for name in _ARRAYS}
        content["told"] = np.frombuffer(msgspec.json.encode(told), np.uint8)
        atomic.write(self.path, lambda out: np.savez(out, **content))
        return told

    def _runs(self, pool: ThreadPoolExecutor, ratio: float) -> Iterator[Run | RunError]:
        parts = [self.folders[at : at + _AT_ONCE] for at in range(0, len(self.folders), _AT_ONCE)]
        return chain.from_iterable(pool.map(lambda part: [_run(folder, ratio) for folder in part], parts))


def _run(folder: Path, ratio: float) -> Run | RunError:
    try:
        return heldout_runs.read(folder / FILE, ratio)
    except RunError as error:
        return error


def _stat(path: Path) -> tuple[int, int]:
    try:
        found = path.stat()
    except OSError:
        return (-1, -1)
    return found.st_size, found.st_mtime_ns


def _gather(
    part: Part,
    given: argparse.Namespace,
    paths: list[Path],
    sizes: tuple[int, int],
    origin: dict[str, Origin],
    faults: list[str],
) -> list[str]:
    n_train, n_targets = sizes
    m = len(origin)
    why = f"{FILE} has no classes: examples are where its index_… put them"
    sides = [
        Side("training examples", "train", n_train, why_not=why),
        Side("targets", "test", n_targets, why_not=why),
    ]
    compared = order.checked(given, part.folders[0].parent, sides)
    if m < _FEWEST:
        raise InputError(
            f"{part.folders[0].parent} has {counted(m, 'readable run')}, where 1 to fit on and 2 to judge are needed"
        )
    parts = roles(m, given.eval_rows or f"last:{max(2, m // 5)}", given.tune_rows)
    schema: dict[str, tuple[str, tuple[int, ...]]] = {
        "masks": ("bool", (n_train,)),
        "margins": ("float32", (n_targets,)),
        "correct": ("uint8", (-(-n_targets // 8),)),
        "train_correct": ("uint8", (-(-n_train // 8),)),
    }
    with atomic.folder(part.store) as folder, atomic.writing(part.store):
        digests: list[bytes] = []
        with ExitStack() as stack:  # written front to back: a full disk is an error then, and not a bus error
            out = {name: stack.enter_context((folder / f"{name}.npy").open("wb")) for name in schema}
            for name, (dtype, shape) in schema.items():
                header = {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": (m, *shape)}
                np.lib.format.write_array_header_1_0(out[name], header)
            for packed in _stored(paths):
                out["masks"].write(np.unpackbits(packed["mask"], axis=1, count=n_train).tobytes())
                right = np.unpackbits(packed["correct"], axis=1, count=n_targets)
                out["margins"].write(right.astype(np.float32).tobytes())
                out["correct"].write(packed["correct"].tobytes())
                out["train_correct"].write(packed["train_correct"].tobytes())
                digests += [hashlib.blake2b(one.tobytes(), digest_size=16).digest() for one in packed["mask"]]
        first_of = _first_of(digests)
        refuse_mixed(part.folders[0].parent, first_of, parts)
        np.save(folder / "_completed.npy", np.ones(m, np.bool_), allow_pickle=False)
        write_spec(folder, m, schema)
        files = [*(f"{name}.npy" for name in schema), "_completed.npy", "spec.json"]
        meta = Imported(
            format=FORMAT,
            kind=KIND,
            key="",
            source=SOURCE,
            origin=origin,
            dataset=given.dataset or Path(given.source).absolute().name,
            split="test",
            alpha=part.ratio,
            output="correctness",
            n_rows=m,
            n_train=n_train,
            n_targets=n_targets,
            roles=parts,
            first_of=first_of,
            schema=schema,
            checksums={name: hashing.file(folder / name) for name in files},
            order=compared,
            notes=[f"left out: {fault}" for fault in faults],
            versions={"ldsbench": bench.__version__, "numpy": np.__version__},
        ).keyed()
        atomic.write_text(folder / "meta.json", meta.text())
    gone = len(faults) + sum(last - first for first, last in part.missing)  # of a gap one is counted
    left_out = f"; {counted(gone, 'run is', 'runs are')} left out (meta.json says which)" if faults else ""
    return [
        f"{part.store}: {m} runs × {counted(n_targets, 'target')} of {meta.title}, alpha {part.ratio:g}, "
        f"correctness{left_out}",
        f"  rows: {meta.spans}",
        *(f"  {line}" for line in compared),
    ]


def _stored(paths: list[Path]) -> Iterator[dict[str, NDArray[Any]]]:
    for path in paths:
        try:
            with np.load(path) as stored:
                found = {name: stored[name] for name in _ARRAYS}
        except (OSError, ValueError, KeyError, zipfile.BadZipFile, zlib.error) as error:
            raise BenchError(f"{path} is torn ({error}): remove it, and run the same command again") from error
        yield found


def _first_of(digests: list[bytes]) -> dict[int, int]:
    first: dict[bytes, int] = {}
    return {row: at for row, digest in enumerate(digests) if (at := first.setdefault(digest, row)) != row}
