"""Making a ground truth: shards, kills, interrupts and full disks, in this process and in real ones."""

import errno
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench import blocks, cli, launch, store, subsets
from bench.errors import BenchError
from bench.launch import Request, make
from bench.progress import Progress
from bench.recorded import Recorded
from bench.subsets import Plan
from bench.train import Trainer, pick_device

# A dataset that the command line can train in a moment: blocks of 128 rows, some 50 ms each.
TOY = '''"""Noise."""

import numpy as np

from bench.datasets import Architecture, Data, Dataset, Recipe


class Noise(Dataset):
    models = {"logreg": Recipe(Architecture("logreg"), epochs=EPOCHS, batch_size=8, lr=0.1)}

    def load(self, files):
        rng = np.random.default_rng(0)
        x, y = rng.standard_normal((50, 5)).astype(np.float32), np.arange(50) % 2
        return Data(x[:40], y[:40], x[40:], y[40:], 2)
'''


@pytest.fixture
def noise(tmp_path: Path) -> str:
    return noise_setting(tmp_path, 10)


def noise_setting(folder: Path, epochs: int) -> str:
    path = folder / "noise.py"
    path.write_text(TOY.replace("EPOCHS", str(epochs)))
    return f"{path}/logreg"


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "bench", *map(str, arguments)]


def start(*arguments: object) -> subprocess.Popen[str]:
    """A process that Ctrl-C reaches, also where the tests themselves run in a shell's background, which ignores it."""
    return subprocess.Popen(
        command(*arguments),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def finished(folder: Path) -> dict[str, tuple[int, bytes]]:
    found = sorted((folder / "blocks").glob("rows-*.npz"))
    return {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in found}


def wait_for_blocks(process: subprocess.Popen[str], folder: Path, count: int) -> None:
    """Until so many blocks are there, the process still at work."""
    deadline = time.monotonic() + 120
    while len(finished(folder)) < count:
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            pytest.fail(f"no {count} blocks: {process.communicate()}")
        time.sleep(0.002)


def partial(folder: Path) -> list[str]:
    return [p.name for p in folder.rglob(".*")]


def assert_equal_stores(a: Path, b: Path) -> None:
    for name in ("masks.npy", "_completed.npy"):
        np.testing.assert_array_equal(np.load(a / name), np.load(b / name))
    np.testing.assert_allclose(np.load(a / "margins.npy"), np.load(b / "margins.npy"), atol=1e-5)
    one, two = (json.loads((f / "meta.json").read_text()) for f in (a, b))
    for name in ("key", "identity", "subset_of_row", "seed_of_row", "group_of_row", "versions"):
        assert one[name] == two[name]
    assert (a / "spec.json").read_bytes() == (b / "spec.json").read_bytes()


# In this process


def test_trains_what_the_seeds_say(tmp_path: Path, toy_request: Request, quiet: Progress) -> None:
    """Each row alone, outside the launcher, gives the stored margins."""
    make(toy_request, tmp_path / "s", quiet)
    margins = np.load(tmp_path / "s" / "margins.npy")
    trainer = Trainer(toy_request.setting.recipe, toy_request.data, pick_device("cpu"))
    subset, _ = toy_request.plan.layout()
    for row in range(30):
        kept = subsets.kept(0, int(subset[row]), 40, 0.5)
        alone = trainer.measured(trainer.train([kept], [subsets.model_seed(0, row)]), Recorded())["margins"]
        np.testing.assert_allclose(margins[row], alone[0], atol=1e-5)


@pytest.mark.parametrize("threads", [1, 5])
def test_threads_do_not_matter(
    tmp_path: Path, toy_request: Request, quiet: Progress, monkeypatch: pytest.MonkeyPatch, threads: int
) -> None:
    make(toy_request, tmp_path / "a", quiet)
    monkeypatch.setattr("bench.train.cpu_threads", lambda: threads)
    request = replace(toy_request, block_rows=3)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        make(request, tmp_path / "b", quiet)
    finally:
        sys.setswitchinterval(interval)
    assert_equal_stores(tmp_path / "a", tmp_path / "b")


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_shards_in_any_order(tmp_path: Path, toy_request: Request, quiet: Progress, order: Sequence[int]) -> None:
    make(toy_request, tmp_path / "whole", quiet)
    for number, shard in enumerate(order):
        meta = make(replace(toy_request, shard=(shard, 3)), tmp_path / "parts", quiet)
        assert (meta is not None) == (number == 2)
        assert (tmp_path / "parts" / "masks.npy").exists() == (number == 2)
    assert_equal_stores(tmp_path / "whole", tmp_path / "parts")
    assert store.verify(tmp_path / "parts") == []


def test_shards_train_each_block_once(tmp_path: Path, toy_request: Request, quiet: Progress) -> None:
    folder = tmp_path / "s"
    seen: dict[str, tuple[int, bytes]] = {}
    for shard in range(4):
        make(replace(toy_request, shard=(shard, 4)), folder, quiet)
        now = finished(folder)
        assert {n: now[n] for n in seen} == seen
        assert len(now) == len(seen) + 1
        seen = now
    before = finished(folder)
    make(replace(toy_request, shard=(1, 4)), folder, quiet)
    assert finished(folder) == before


def test_more_shards_than_blocks(tmp_path: Path, toy_request: Request, quiet: Progress) -> None:
    for shard in range(9):
        last = make(replace(toy_request, shard=(shard, 9)), tmp_path / "s", quiet)
    assert last is not None


def test_progress_counts_only_what_is_done(
    tmp_path: Path, toy_request: Request, capsys: pytest.CaptureFixture[str]
) -> None:
    make(replace(toy_request, shard=(0, 2)), tmp_path / "s", Progress())
    assert "16/30 models" in capsys.readouterr().err
    make(replace(toy_request, shard=(1, 2)), tmp_path / "s", Progress())
    assert "30/30 models" in capsys.readouterr().err


def test_first_error_stops_what_has_not_begun() -> None:
    began: list[int] = []
    stop = threading.Event()

    def work(span: tuple[int, int]) -> int:
        began.append(span[0])
        if span[0] == 1:
            raise ValueError("no")
        time.sleep(0.01)
        return 1

    with pytest.raises(ValueError, match="no"):
        launch.run_all(work, [(i, i + 1) for i in range(200)], 2, lambda _: None, stop)
    assert len(began) < 20
    assert stop.is_set()


def test_error_in_a_block_keeps_the_others(
    tmp_path: Path, toy_request: Request, quiet: Progress, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, write = tmp_path / "s", blocks.write
    monkeypatch.setattr("bench.train.cpu_threads", lambda: 1)

    def failing(folder: Path, key: str, start: int, *rest: Any, **found: Any) -> blocks.Header:
        if start == 16:
            raise BenchError("no")
        return write(folder, key, start, *rest, **found)

    monkeypatch.setattr(blocks, "write", failing)
    with pytest.raises(BenchError, match="no"):
        make(toy_request, folder, quiet)
    monkeypatch.undo()
    before = finished(folder)
    assert {"rows-000000000-000000008.npz", "rows-000000008-000000016.npz"} <= before.keys()
    assert "rows-000000016-000000024.npz" not in before
    make(toy_request, folder, quiet)
    assert {n: v for n, v in finished(folder).items() if n in before} == before
    assert store.verify(folder) == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
@pytest.mark.parametrize("after", [0, 3, 9, 12])
def test_disk_full_after_some_writes(
    tmp_path: Path,
    toy_request: Request,
    quiet: Progress,
    monkeypatch: pytest.MonkeyPatch,
    after: int,
    number: int,
) -> None:
    """Wherever it happens, in a block or in the arrays: a sentence, no partial file, and the next run goes on."""
    folder, fsync = tmp_path / "s", os.fsync
    count = itertools.count()

    def full(handle: int) -> None:
        if next(count) >= after:
            raise OSError(number, os.strerror(number))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(BenchError, match=os.strerror(number)):
        make(toy_request, folder, quiet)
    monkeypatch.undo()
    assert partial(folder) == []
    before = finished(folder)
    key = launch.identity(toy_request).key
    assert store.find_blocks(folder, key).bad == []
    make(toy_request, folder, quiet)
    assert {n: v for n, v in finished(folder).items() if n in before} == before
    assert store.verify(folder) == []


def test_finished_store_needs_no_space(
    tmp_path: Path, toy_request: Request, quiet: Progress, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(toy_request, tmp_path / "s", quiet)

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    assert make(toy_request, tmp_path / "s", quiet) is not None


@pytest.mark.parametrize("below", ["file", "file/store"])
def test_store_below_a_file(tmp_path: Path, noise: str, capsys: pytest.CaptureFixture[str], below: str) -> None:
    (tmp_path / "file").write_text("mine")
    assert cli.main(["train", noise, "--models", "20", "--out", str(tmp_path / below)]) == 2
    told = capsys.readouterr().err
    assert "cannot write" in told
    assert told.count("\n") == 1


@pytest.mark.parametrize("shard", ["3/3", "-1/3", "1", "0/0", "a/b", "²/³", "0/4/2"])
def test_refused_shards(tmp_path: Path, noise: str, capsys: pytest.CaptureFixture[str], shard: str) -> None:
    assert cli.main(["train", noise, f"--shard={shard}", "--out", str(tmp_path / "s")]) == 2
    assert f"--shard is {shard!r}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--alpha", "nan"], "--alpha is nan"),
        (["--alpha", "1"], "--alpha is 1"),
        (["--seed", "-1"], "--seed is -1"),
        (["--models", "5"], "--models is 5"),
        (["--device", "tpu"], "--device is 'tpu'"),
    ],
)
def test_refused_flags(
    tmp_path: Path, noise: str, capsys: pytest.CaptureFixture[str], flags: list[str], named: str
) -> None:
    assert cli.main(["train", noise, "--out", str(tmp_path / "s"), *flags]) == 2
    told = capsys.readouterr().err
    assert named in told
    assert told.count("\n") == 1


def test_another_alpha_is_refused_by_the_command(
    tmp_path: Path, noise: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["train", noise, "--models", "20", "--device", "cpu", "--out", str(tmp_path / "s")]
    assert cli.main(words) == 0
    assert "20 rows × 10 targets" in capsys.readouterr().out
    assert cli.main([*words, "--alpha", "0.3"]) == 2
    told = capsys.readouterr().err
    assert "alpha 0.5, not 0.3" in told
    assert told.count("\n") == 1
    assert store.verify(tmp_path / "s") == []


# In real processes


def test_kill_and_go_on(tmp_path: Path) -> None:
    """SIGKILL in the middle: the finished blocks are used as they are, and nothing can be told from the result."""
    words = ["train", noise_setting(tmp_path, 40), "--models", "1200", "--device", "cpu", "--quiet", "--out"]
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    process = start(*words, killed)
    wait_for_blocks(process, killed, 2)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    before = finished(killed)
    assert 2 <= len(before) < 10
    assert not (killed / "meta.json").exists()
    assert cli.main([*words, str(killed)]) == 0
    after = finished(killed)
    assert {name: after[name] for name in before} == before
    assert len(after) == 10
    assert cli.main([*words, str(whole)]) == 0
    assert_equal_stores(killed, whole)
    assert store.verify(killed) == []


def test_interrupt(tmp_path: Path) -> None:
    words = ["train", noise_setting(tmp_path, 60), "--models", "4000", "--device", "cpu", "--out", tmp_path / "s"]
    process = start(*words)
    wait_for_blocks(process, tmp_path / "s", 1)
    process.send_signal(signal.SIGINT)
    told = process.communicate(timeout=60)[1]
    assert process.returncode == 130
    assert told == "bench: interrupted; what was finished is kept, the same command goes on from there\n"
    assert partial(tmp_path / "s") == []
    assert 1 <= len(finished(tmp_path / "s")) < 32


def test_shards_at_once(tmp_path: Path, toy_request: Request, quiet: Progress) -> None:
    """Three launchers on one folder: whichever ends last gathers it."""
    request = replace(toy_request, plan=Plan(120))
    with ThreadPoolExecutor(3) as pool:
        made = list(pool.map(lambda i: make(replace(request, shard=(i, 3)), tmp_path / "parts", quiet), (2, 0, 1)))
    assert any(meta is not None for meta in made)
    make(request, tmp_path / "whole", quiet)
    assert_equal_stores(tmp_path / "whole", tmp_path / "parts")
    assert store.verify(tmp_path / "parts") == []
    assert partial(tmp_path / "parts") == []


@pytest.mark.slow
def test_shards_at_once_in_processes(tmp_path: Path, noise: str) -> None:
    words = ["train", noise, "--models", "1200", "--device", "cpu", "--quiet", "--out"]
    working = [start(*words, tmp_path / "parts", "--shard", f"{i}/3") for i in (2, 0, 1)]
    told = [process.communicate(timeout=120) for process in working]
    assert [process.returncode for process in working] == [0, 0, 0], told
    assert sum("1200 rows" in out for out, _ in told) >= 1
    assert cli.main([*words, str(tmp_path / "whole")]) == 0
    assert_equal_stores(tmp_path / "whole", tmp_path / "parts")
    assert finished(tmp_path / "parts").keys() == finished(tmp_path / "whole").keys()
    assert store.verify(tmp_path / "parts") == []
    assert partial(tmp_path / "parts") == []


@pytest.mark.skipif(not hasattr(signal, "SIGXFSZ"), reason="needs resource limits")
@pytest.mark.parametrize(("limit", "count"), [(2_000, 0), (10_000, 8)], ids=["blocks", "arrays"])
def test_longest_file_reached(
    tmp_path: Path, noise: str, capsys: pytest.CaptureFixture[str], limit: int, count: int
) -> None:
    """A real refusal of the system, in the blocks or in the arrays that are gathered from them."""
    import resource

    words = ["train", noise, "--models", "600", "--device", "cpu", "--quiet", "--out", str(tmp_path / "s")]
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        assert cli.main(words) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    told = capsys.readouterr().err
    assert "File too large; free some space and run the same command again" in told
    assert told.count("\n") == 1
    assert partial(tmp_path / "s") == []
    assert len(finished(tmp_path / "s")) == count
    assert not (tmp_path / "s" / "masks.npy").exists()
    before = finished(tmp_path / "s")
    assert cli.main(words) == 0
    assert {n: v for n, v in finished(tmp_path / "s").items() if n in before} == before
    assert store.verify(tmp_path / "s") == []


@pytest.mark.slow
def test_kill_the_bundled_digits(tmp_path: Path) -> None:
    words = ["train", "digits/logreg", "--models", "300", "--device", "cpu", "--quiet", "--out"]
    process = start(*words, tmp_path / "killed")
    wait_for_blocks(process, tmp_path / "killed", 1)
    process.kill()
    process.communicate()
    before = finished(tmp_path / "killed")
    assert 1 <= len(before) < 3
    for folder in ("killed", "whole"):
        assert subprocess.run(command(*words, tmp_path / folder), check=False).returncode == 0
    after = finished(tmp_path / "killed")
    assert {name: after[name] for name in before} == before
    assert_equal_stores(tmp_path / "killed", tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.parametrize("delay", [0.3, 0.8, 1.3, 2.0, 2.7, 3.5])
def test_kill_at_any_time(tmp_path: Path, delay: float) -> None:
    """Whatever it was doing, starting and gathering included."""
    setting = noise_setting(tmp_path, 10)
    words = ["train", setting, "--models", "1000", "--device", "cpu", "--quiet", "--out", tmp_path / "s"]
    process = start(*words)
    time.sleep(delay)
    process.kill()
    process.communicate()
    before = finished(tmp_path / "s")
    assert subprocess.run(command(*words), check=False).returncode == 0
    assert {n: v for n, v in finished(tmp_path / "s").items() if n in before} == before
    assert store.verify(tmp_path / "s") == []


def test_smallest_ground_truth(tmp_path: Path, toy_request: Request, quiet: Progress) -> None:
    meta = make(replace(toy_request, plan=Plan(7, 1)), tmp_path / "s", quiet)
    assert meta is not None
    assert store.verify(tmp_path / "s") == []
