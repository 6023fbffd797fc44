"""`bench import heldout-influence` beside reading the same files' bytes, and beside `numpy.load` in a loop.

10,000 runs of 5,000 training and 1,000 test examples, subset ratio .7: 0.84 GB. Runs are 10,000 small files, so that
plain reading is no faster than a disk serves them. Beside it are numpy's loads of all arrays, as the published code
takes them, and of those scattered by index, which is what the import keeps. The import is the whole command, from its
start to a store with checksums.

Cold: the files are dropped from the page cache first, where the system knows how.

    tox -e benchmark -- -s tests/benchmarks/test_heldout_import_speed.py
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

RUNS, TRAIN, TEST, RATIO = 10_000, 5_000, 1_000, 0.7
NAMES = (*(f"{kind}_{split}" for kind in ("correctness", "index") for split in ("train", "removed", "test")),)

CALL = """
import pathlib, sys
from bench.cli import main
assert main(sys.argv[1:]) == 0
status = pathlib.Path("/proc/self/status")
print(*[line for line in status.read_text().splitlines() if line.startswith("VmHWM")] if status.exists() else "?")
"""


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder: Path = tmp_path_factory.mktemp("heldout") / "experiment"
    rng = np.random.default_rng(0)
    for run in range(RUNS):
        kept, removed = np.split(rng.permutation(TRAIN), [round(RATIO * TRAIN)])
        place = folder / f"{RATIO:g}" / str(run)
        place.mkdir(parents=True)
        np.savez(
            place / "aux_arrays.npz",
            correctness_train=rng.random(len(kept)) < 0.99,
            correctness_removed=rng.random(len(removed)) < 0.8,
            correctness_test=rng.random(TEST) < 0.8,
            index_train=kept,
            index_removed=removed,
            index_test=rng.permutation(TEST),
            subsample_idx=rng.permutation(kept),
        )
    yield folder
    shutil.rmtree(folder.parent)


def drop(files: list[Path]) -> None:
    if not hasattr(os, "posix_fadvise"):
        pytest.skip("this system cannot drop files from its page cache")
    os.sync()  # what is not written yet cannot be dropped
    for file in files:
        handle = os.open(file, os.O_RDONLY)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(handle)


def read(files: list[Path]) -> None:
    for file in files:
        file.read_bytes()


def load(files: list[Path]) -> None:
    for file in files:
        with np.load(file) as found:
            for name in (*NAMES, "subsample_idx"):
                found[name]


def scatter(files: list[Path]) -> None:
    masks, train_correct = np.zeros((2, len(files), TRAIN), bool)
    correct = np.zeros((len(files), TEST), bool)
    for run, file in enumerate(files):
        with np.load(file) as found:
            masks[run, found["subsample_idx"]] = True
            for split, into in (("train", train_correct), ("removed", train_correct), ("test", correct)):
                into[run, found[f"index_{split}"]] = found[f"correctness_{split}"]


def command(files: list[Path]) -> None:
    folder = files[0].parents[2]
    shutil.rmtree(folder.parent / "store", ignore_errors=True)
    words = ["import", "heldout-influence", str(folder), str(folder.parent / "store"), "--quiet"]
    ended = subprocess.run([sys.executable, "-c", CALL, *words], check=True, stdout=subprocess.PIPE, text=True)
    print("\n" + ended.stdout.splitlines()[-1])


WAYS: dict[str, Callable[[list[Path]], None]] = {
    "reading the files' bytes": read,
    "numpy.load in a loop": load,
    "numpy.load in a loop, scattered by index": scatter,
    "bench import heldout-influence": command,
}


@pytest.mark.benchmark
@pytest.mark.parametrize("cache", ["warm", "cold"])
@pytest.mark.parametrize("way", WAYS)
def test_import(benchmark: Any, beside: Callable[..., None], experiment: Path, way: str, cache: str) -> None:
    files = [experiment / f"{RATIO:g}" / str(run) / "aux_arrays.npz" for run in range(RUNS)]
    size = sum(file.stat().st_size for file in files)
    benchmark.group = f"{RUNS:,} runs, {size / 1e6:.0f} MB, {cache} page cache; MB"
    if cache == "cold":
        benchmark.pedantic(WAYS[way], args=(files,), setup=lambda: drop(files), rounds=3)
    else:
        read(files)
        benchmark.pedantic(WAYS[way], args=(files,), rounds=3)
    beside(way, size / 1e6, peer=way in list(WAYS)[:3])
