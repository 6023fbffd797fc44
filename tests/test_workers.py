"""Worker processes: killed at random, again and again, and nothing can be told from the result."""

import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bench import atomic, store, workers
from bench.datasets import Architecture, Data, Recipe, Setting
from bench.errors import BenchError
from bench.launch import Request, make
from bench.progress import Progress
from bench.subsets import Plan
from bench.work import Feed, Work


@pytest.fixture
def slow_request(toy: Setting, toy_data: Data) -> Request:
    """120 rows in 30 blocks of some 0.1 s."""
    slow = replace(toy, recipe=replace(toy.recipe, epochs=120))
    return Request(slow, toy_data, Plan(120), device="cpu", block_rows=4)


def assert_equal_stores(a: Path, b: Path) -> None:
    for name in ("masks.npy", "_completed.npy"):
        np.testing.assert_array_equal(np.load(a / name), np.load(b / name))
    np.testing.assert_allclose(np.load(a / "margins.npy"), np.load(b / "margins.npy"), atol=1e-4)
    assert store.verify(a) == store.verify(b) == []


def crew() -> list[int]:
    return [p.pid for p in multiprocessing.active_children() if p.pid and p.name.startswith("bench worker")]


@contextmanager
def killer(folder: Path, times: int) -> Iterator[list[int]]:
    """Kills a random worker of this process so many times; the value lists whom.

    Most kills come at any moment, starting workers included; every fifth one in the middle of training.
    """
    killed: list[int] = []
    over = threading.Event()

    def blocks() -> int:
        return len(list((folder / "blocks").glob("rows-*")))

    def kill() -> None:
        while len(killed) < times and not over.wait(random.uniform(0.02, 0.5)):
            before = blocks()
            while len(killed) % 5 == 0 and blocks() == before and not over.wait(0.01):
                pass
            with suppress(ProcessLookupError, IndexError):
                pid = random.choice(crew())
                os.kill(pid, signal.SIGKILL)
                killed.append(pid)

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        yield killed
    finally:
        over.set()
        thread.join()


@pytest.mark.parametrize("count", [1, 2])
def test_workers_do_not_matter(tmp_path: Path, toy_request: Request, quiet: Progress, count: int) -> None:
    make(toy_request, tmp_path / "threads", quiet)
    make(replace(toy_request, workers=count), tmp_path / "processes", quiet)
    assert_equal_stores(tmp_path / "threads", tmp_path / "processes")
    assert crew() == []


def test_convolutions_in_workers(tmp_path: Path, toy: Setting, quiet: Progress) -> None:
    """Their roundings grow while they train: processes must compute as threads do, on as many threads each."""
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((120, 3, 32, 32), np.float32), np.arange(120) % 2
    data = Data(x[:80], y[:80], x[80:], y[80:], 2)
    recipe = Recipe(Architecture("cnn", (8, 16)), epochs=8, batch_size=16, lr=0.05)
    request = Request(replace(toy, recipe=recipe), data, Plan(20), device="cpu", block_rows=5)
    for name, count in (("threads", None), ("one", 1), ("two", 2)):
        make(replace(request, workers=count), tmp_path / name, quiet)
    threads, one, two = (np.load(tmp_path / name / "margins.npy") for name in ("threads", "one", "two"))
    np.testing.assert_allclose(one, threads, atol=1e-4)
    np.testing.assert_allclose(two, threads, atol=1e-4)


def test_thirty_kills_and_damaged_blocks(
    tmp_path: Path, slow_request: Request, quiet: Progress, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Torn, altered and foreign blocks lie there, then workers die at random moments, at least 30 times."""
    whole, killed_at = tmp_path / "whole", tmp_path / "killed"
    make(slow_request, whole, quiet)
    other = replace(slow_request, seed=1, plan=Plan(12))
    make(other, tmp_path / "other", quiet)
    written = sorted((whole / "blocks").iterdir())
    (killed_at / "blocks").mkdir(parents=True)
    (killed_at / "blocks" / written[0].name).write_bytes(written[0].read_bytes()[:-100])
    flipped = bytearray(written[1].read_bytes())
    flipped[len(flipped) // 2] ^= 4
    (killed_at / "blocks" / written[1].name).write_bytes(flipped)
    shutil.copy(tmp_path / "other" / "blocks" / written[2].name, killed_at / "blocks")
    shutil.copy(written[3], killed_at / "blocks")  # a good one: it is kept
    kept = (killed_at / "blocks" / written[3].name).stat().st_mtime_ns

    monkeypatch.setattr(workers, "_START_KILLS", 100)
    monkeypatch.setattr(atomic, "_STALE_S", 0.0)
    kills = 0
    while kills < 30:  # the whole may be done before: then some of it is taken away again
        with killer(killed_at, 30 - kills) as killed:
            made = make(replace(slow_request, workers=2), killed_at, quiet)
        assert made is not None
        kills += len(killed)
        if kills < 30:
            for path in sorted((killed_at / "blocks").glob("rows-*"))[4:]:
                path.unlink()
    assert (killed_at / "blocks" / written[3].name).stat().st_mtime_ns == kept
    assert_equal_stores(killed_at, whole)
    before = {p.name: p.stat().st_mtime_ns for p in (killed_at / "blocks").iterdir()}
    make(replace(slow_request, workers=2), killed_at, quiet)
    assert before == {p.name: p.stat().st_mtime_ns for p in (killed_at / "blocks").iterdir()}  # none trained twice
    assert list((killed_at / "blocks").glob(".*")) == []  # nor half a file left by those that were killed
    assert crew() == []


def test_a_block_that_kills_its_workers_is_given_up(
    tmp_path: Path, toy_request: Request, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As memory that runs out does: one sentence, and the other workers are stopped."""
    monkeypatch.setattr(workers, "_BLOCK_DEATHS", 2)

    class Deadly(workers._Crew):
        def feed_one(self, one: workers._Worker) -> None:
            super().feed_one(one)
            if one.span == (0, 8):
                one.process.kill()

    monkeypatch.setattr(workers, "_Crew", Deadly)
    (tmp_path / "s" / "blocks").mkdir(parents=True)
    with pytest.raises(BenchError, match="2 worker processes in turn were killed by SIGKILL at rows 0 to 7"):
        workers.train(toy_request, "key", tmp_path / "s", Feed([(0, 8), (8, 16)]), ["cpu"], lambda _: None)
    assert crew() == []


def test_workers_that_cannot_start(tmp_path: Path, toy_request: Request, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "_serve", sys.exit)  # a function that the child can find and that ends at once
    with pytest.raises(BenchError, match="2 worker processes in a row exited with 1 before they could start"):
        workers.train(toy_request, "key", tmp_path, Feed([(0, 8)]), ["cpu"], lambda _: None)


def test_an_error_in_a_worker_is_a_sentence(tmp_path: Path, toy_request: Request) -> None:
    """The folder of blocks is a file: every worker fails to write."""
    (tmp_path / "blocks").write_text("")
    with pytest.raises(BenchError, match="cannot write"):
        workers.train(toy_request, "key", tmp_path, Feed([(0, 8)]), ["cpu", "cpu"], lambda _: None)
    assert crew() == []


def test_workers_leave_with_a_killed_parent(tmp_path: Path) -> None:
    source = tmp_path / "noise.py"
    source.write_text(
        '"""Noise."""\nimport numpy as np\nfrom bench.datasets import Architecture, Data, Dataset, Recipe\n'
        'class Noise(Dataset):\n    models = {"logreg": Recipe(Architecture("logreg"), 2000, 8, 0.1)}\n'
        "    def load(self, files):\n        x = np.random.default_rng(0).standard_normal((80, 5), np.float32)\n"
        "        return Data(x[:60], np.arange(60) % 2, x[60:], np.arange(20) % 2, 2)\n"
    )
    words = ["train", f"{source}/logreg", "--models", "2000", "--device", "cpu", "--workers", "1"]
    parent = subprocess.Popen(
        [sys.executable, "-m", "bench", *words, "--quiet", "--out", str(tmp_path / "s")], start_new_session=True
    )
    try:
        deadline = time.monotonic() + 120
        while not list((tmp_path / "s").glob("blocks/rows-*")):
            assert parent.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        group = os.getpgid(parent.pid)
        parent.kill()
        parent.wait()
        while _alive(group):
            assert time.monotonic() < deadline, "a worker outlives its parent"
            time.sleep(0.05)
    finally:
        parent.kill()


def _alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def test_two_runs_on_one_store(
    tmp_path: Path, slow_request: Request, quiet: Progress, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole job twice at the same time: neither waits for the other, and little is trained twice."""
    trained: list[int] = []
    lock, real = threading.Lock(), Work._train

    def counted(self: Work, rows: Any) -> Any:
        with lock:
            trained.extend(rows)
        return real(self, rows)

    monkeypatch.setattr(Work, "_train", counted)

    def one() -> None:
        make(slow_request, tmp_path / "both", Progress(quiet=True))

    threads = [threading.Thread(target=one) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(set(trained)) == list(range(120))
    assert len(trained) < 200
    make(slow_request, tmp_path / "whole", quiet)
    assert_equal_stores(tmp_path / "both", tmp_path / "whole")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 400 kB."""
    where = tmp_path / "disk"
    where.mkdir()
    mounted = shutil.which("mount") and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(where)], capture_output=True, check=False
    )
    if not mounted or mounted.returncode:
        pytest.skip("no right to mount a file system")
    try:
        yield where
    finally:
        subprocess.run(["umount", "-l", str(where)], check=False)


@pytest.mark.parametrize("count", [None, 1])
def test_full_disk(tmp_path: Path, small_disk: Path, toy_request: Request, quiet: Progress, count: int | None) -> None:
    """In a thread or in a worker: a sentence, and with space again the same command goes on from what was finished."""
    request = replace(toy_request, plan=Plan(400), workers=count)
    filler = small_disk / "filler"
    filler.write_bytes(bytes(300_000))
    with pytest.raises(BenchError, match=r"No space left on device.*free some space"):
        make(request, small_disk / "s", quiet)
    before = {p.name: p.stat().st_mtime_ns for p in (small_disk / "s" / "blocks").glob("rows-*")}
    assert 0 < len(before) < 50
    filler.unlink()
    make(request, small_disk / "s", quiet)
    after = {p.name: p.stat().st_mtime_ns for p in (small_disk / "s" / "blocks").glob("rows-*")}
    assert {name: after[name] for name in before} == before
    make(replace(request, workers=None), tmp_path / "whole", quiet)
    assert_equal_stores(small_disk / "s", tmp_path / "whole")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("count", [None, 1, 2])
def test_workers_on_a_gpu(tmp_path: Path, toy_request: Request, quiet: Progress, count: int | None) -> None:
    """Several processes may share one GPU; margins are the CPU's but for rounding."""
    make(toy_request, tmp_path / "cpu", quiet)
    make(replace(toy_request, device="cuda", workers=count), tmp_path / "cuda", quiet)
    one, two = (np.load(tmp_path / name / "margins.npy") for name in ("cpu", "cuda"))
    np.testing.assert_allclose(one, two, atol=1e-3)
    assert store.verify(tmp_path / "cuda") == []
