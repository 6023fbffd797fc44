"""A user's own worker: its rows in a store that MadryLab's tools open; resumed, sharded, or refused in a sentence."""

import importlib
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from bench import cli, external, schema, store
from bench.errors import BenchError
from bench.store import GroundTruth

SCHEMA: dict[str, Any] = {"masks": {"shape": [60], "dtype": "bool_"}, "margins": {"shape": [5], "dtype": "float16"}}

# Its main in the style of the datamodels tutorial; what precedes the training lets the tests look on.
WORKER = '''"""A toy."""

import os
import time
from pathlib import Path

import numpy as np


def train_model_on_mask(mask):
    return np.random.default_rng(0).standard_normal((5, 60)) * mask


def evaluate_model(model):
    return model.sum(axis=1)


def main(*_, index, logdir):
    print("training", index)
    os.system("echo from a process of its own")
    calls = os.environ.get("CALLS")
    if calls:
        (Path(calls) / f"{index}-{os.getpid()}-{time.monotonic_ns()}").touch()
        time.sleep(float(os.environ.get("SECONDS", 0)))
    if str(index) in os.environ.get("RAISE", "").split(","):
        raise ValueError("no\\nsuch   luck")
    if str(index) in os.environ.get("DIE", "").split(","):
        os._exit(3)
    rng = np.random.default_rng(index)
    mask = rng.choice(a=[False, True], size=(60,), p=[0.5, 0.5])
    model = train_model_on_mask(mask)
    margins = evaluate_model(model)
    return {"masks": mask, "margins": margins}
'''

Reader = Callable[[Path], dict[str, NDArray[Any]]]


def opened_as_theirs(folder: Path) -> dict[str, NDArray[Any]]:
    """What the datamodels tools expect to find, by the spec alone: one .npy per key that can be mapped, also to write.

    Written from the description of the format, with nothing of this project.
    """
    spec = json.loads((folder / "spec.json").read_text())
    declared = dict(spec["schema"], _completed={"shape": [], "dtype": "bool_"})
    found: dict[str, NDArray[Any]] = {}
    for key, one in declared.items():
        mapped = np.load(folder / f"{key}.npy", mmap_mode="r+")
        assert isinstance(mapped, np.memmap)
        assert mapped.dtype == getattr(np, one["dtype"])
        assert mapped.shape == (spec["num_models"], *one["shape"])
        assert mapped.flags.c_contiguous
        found[key] = np.lib.format.open_memmap(folder / f"{key}.npy", mode="r")
    return found


def write_spec(folder: Path, n_rows: int = 12, **arrays: Any) -> None:
    (folder / "spec.json").write_text(json.dumps({"num_models": n_rows, "schema": arrays or SCHEMA}))


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with a worker and its spec, where the commands are given; what they import is forgotten."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    for name in ("CALLS", "SECONDS", "RAISE", "DIE"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "toyworker.py").write_text(WORKER)
    write_spec(tmp_path)
    known = set(sys.modules)
    importlib.invalidate_caches()
    yield tmp_path
    for name in set(sys.modules) - known:
        if getattr(sys.modules[name], "__file__", None) and str(tmp_path) in str(sys.modules[name].__file__):
            del sys.modules[name]


def words(*more: str, worker: str = "toyworker:main", spec: str = "spec.json", out: str = "s") -> list[str]:
    return ["train", "--worker", worker, "--spec", spec, "--out", out, *more]


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "bench", *arguments]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def direct(index: int) -> dict[str, NDArray[Any]]:
    """The worker's row, by a call without any of this project."""
    scope: dict[str, Any] = {}
    exec(compile(WORKER.replace("os.system", "len").replace("os.environ", "{}"), "toy", "exec"), scope)
    row = scope["main"](index=index, logdir="")
    return {"masks": row["masks"], "margins": row["margins"].astype(np.float16)}


def assert_rows(folder: Path, n_rows: int = 12, failed: Sequence[int] = ()) -> None:
    arrays = opened_as_theirs(folder)
    assert np.flatnonzero(~arrays["_completed"]).tolist() == list(failed)
    assert len(arrays["_completed"]) == n_rows
    for row in range(n_rows):
        for key in ("masks", "margins"):
            expected = direct(row)[key]
            if row in failed:
                expected = np.full_like(expected, np.nan if key == "margins" else 0)
            np.testing.assert_array_equal(arrays[key][row], expected)


def rows_on_disk(folder: Path) -> set[int]:
    spans = [p.stem.split("-")[1:] for p in (folder / "blocks").glob("rows-*.npz")]
    return {row for start, stop in spans for row in range(int(start), int(stop))}


def calls(folder: Path) -> list[int]:
    return sorted(int(p.name.split("-")[0]) for p in folder.iterdir())


# End to end


@pytest.mark.parametrize("more", [(), ("--workers", "2")], ids=["in turn", "processes"])
def test_command_calls_a_worker_and_theirs_opens_the_store(here: Path, more: tuple[str, ...]) -> None:
    done = subprocess.run(command(*words(*more)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "s: 12 rows of masks, margins\n"
    assert done.stderr.count("from a process of its own") == 12
    assert "12/12 rows" in done.stderr
    assert_rows(here / "s")
    assert json.loads((here / "s" / "spec.json").read_text()) == {"num_models": 12, "schema": SCHEMA}


def test_theirs_opens_an_ordinary_store(here: Path, toy_source: str) -> None:
    (here / "toy.py").write_text(toy_source)
    setting = ["train", f"{here}/toy.py/logreg", "--models", "30", "--device", "cpu", "--quiet", "--out", "ordinary"]
    assert cli.main(setting) == 0
    arrays = opened_as_theirs(here / "ordinary")
    assert list(arrays) == ["masks", "margins", "_completed"]
    assert arrays["masks"].shape == (30, 40)
    assert arrays["margins"].shape == (30, 10)
    assert arrays["_completed"].all()


def test_opens_here_and_has_an_lds(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_spec(here, **{**SCHEMA, "masks": {"shape": [60], "dtype": "uint8"}})
    assert cli.main(words(out="bytes")) == 0
    write_spec(here)
    assert cli.main(words()) == 0
    truth = GroundTruth.open("s")
    assert truth.meta is None
    assert truth.completed.all()
    assert (truth.masks.dtype.name, truth.margins.dtype.name) == ("bool", "float16")
    # The toy's margins are sums over the mask: its own weights have an LDS of one, but for the rounding to float16.
    np.save("scores.npy", np.random.default_rng(0).standard_normal((5, 60)).T)
    capsys.readouterr()
    for folder in ("s", "bytes"):
        arrays = [f"--{name}={folder}/{name}.npy" for name in ("masks", "margins")]
        assert cli.main(["lds", *arrays, "--scores", "scores.npy", "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["lds"] > 0.99


@pytest.mark.parametrize("worker", ["elsewhere/my-worker.py:main", "elsewhere/my-worker.py:Trainer"])
def test_worker_by_its_path_with_a_helper_beside_it(here: Path, worker: str) -> None:
    folder = here / "elsewhere"
    folder.mkdir()
    (folder / "toyhelper.py").write_text("NUMBER = 7\n")
    text = "import sys, toyhelper\ndef main(*, index, logdir=None): return {'x': [toyhelper.NUMBER * index]}\n"
    (folder / "my-worker.py").write_text(
        text + "class Trainer(dict):\n    __init__ = lambda s, **k: s.update(main(**k))"
    )
    write_spec(here, 3, x={"shape": [1], "dtype": "int64"})
    assert cli.main(words(worker=worker)) == 0
    assert opened_as_theirs(here / "s")["x"].tolist() == [[0], [7], [14]]


def test_worker_of_a_package(here: Path) -> None:
    (here / "toypackage").mkdir()
    (here / "toypackage" / "__init__.py").write_text("")
    (here / "toypackage" / "training.py").write_text("def main(index, logdir): return {'x': index}")
    write_spec(here, 2, x={"shape": [], "dtype": "uint8"})
    assert cli.main(words(worker="toypackage.training:main")) == 0
    assert opened_as_theirs(here / "s")["x"].tolist() == [0, 1]


def test_worker_gets_its_arguments_and_a_folder(here: Path) -> None:
    """As with theirs: a parser in the worker sees the worker's arguments alone, and files in logdir stay."""
    text = """
import argparse
from pathlib import Path

parser = argparse.ArgumentParser()
parser.add_argument("--trainer.multiple", dest="multiple", type=int, required=True)


def main(*_, index, logdir):
    assert Path(logdir).is_absolute() and Path(logdir).name == str(index)
    (Path(logdir) / "log.txt").write_text(f"row {index}")
    return {"x": index * parser.parse_args().multiple}
"""
    (here / "withargs.py").write_text(text)
    write_spec(here, 3, x={"shape": [], "dtype": "float32"})
    before = list(sys.argv)
    assert cli.main(words("--worker-args=--trainer.multiple 5", worker="withargs:main")) == 0
    assert sys.argv == before
    assert opened_as_theirs(here / "s")["x"].tolist() == [0, 5, 10]
    assert (here / "s" / "workers" / "2" / "log.txt").read_text() == "row 2"
    assert cli.main(words("--worker-args=--trainer.multiple 6", worker="withargs:main")) == 2
    assert opened_as_theirs(here / "s")["x"].tolist() == [0, 5, 10]


@pytest.mark.parametrize(
    ("word", "returned", "stored"),
    [
        ("float16", "np.float32(3.14159)", np.float16(3.14159)),
        ("float", "1e300", 1e300),
        ("int", "2**40", 2**40),
        ("bool", "1.0", True),
        ("bool_", "np.uint8(0)", False),
        ("uint8", "np.float64(255)", 255),
        ("int8", "True", 1),
        ("complex64", "1j", 1j),
        ("float16", "float('inf')", np.inf),
        ("float32", "[[2.0]]", 2.0),
        ("float32", "__import__('torch').tensor(2)", 2.0),
    ],
)
def test_types(here: Path, word: str, returned: str, stored: Any) -> None:
    (here / "typed.py").write_text(f"import numpy as np\ndef main(index, logdir): return {{'x': {returned}}}")
    write_spec(here, 1, x={"shape": [], "dtype": word})
    assert cli.main(words(worker="typed:main")) == 0
    found = np.load(here / "s" / "x.npy", mmap_mode="r")
    assert found.dtype == np.dtype({"float": "float64", "int": "int64"}.get(word, word))
    assert found[0] == stored


def test_awkward_keys(here: Path) -> None:
    """Names that numpy's archives, this project's blocks and files use themselves."""
    keys = ["file", "header", "allow_pickle", "identity", "a", "a.npy", "with space", "ü", "0-a"]
    (here / "awkward.py").write_text(f"def main(index, logdir): return {{k: index + i for i, k in enumerate({keys})}}")
    write_spec(here, 2, **{key: {"shape": [], "dtype": "int16"} for key in keys})
    assert cli.main(words(worker="awkward:main")) == 0
    arrays = opened_as_theirs(here / "s")
    assert {key: arrays[key].tolist() for key in keys} == {key: [i, i + 1] for i, key in enumerate(keys)}


def test_order_of_the_keys_does_not_matter(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cli.main(words("--shard", "0/2")) == 0
    write_spec(here, **dict(reversed(SCHEMA.items())))
    assert cli.main(words("--shard", "1/2")) == 0
    assert_rows(here / "s")
    write_spec(here)
    monkeypatch.setenv("RAISE", ",".join(map(str, range(12))))
    assert cli.main(words()) == 0
    assert list(json.loads((here / "s" / "spec.json").read_text())["schema"]) == ["masks", "margins"]


# Going on


def test_second_run_calls_nothing_and_changes_nothing(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cli.main(words()) == 0
    before = {p: p.stat().st_mtime_ns for p in (here / "s").glob("*.npy")}
    monkeypatch.setenv("RAISE", ",".join(map(str, range(12))))
    assert cli.main(words()) == 0
    assert {p: p.stat().st_mtime_ns for p in (here / "s").glob("*.npy")} == before


def test_grows_and_shrinks(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "calls").mkdir()
    monkeypatch.setenv("CALLS", str(here / "calls"))
    for n_rows in (5, 12, 3):
        write_spec(here, n_rows)
        assert cli.main(words()) == 0
        assert_rows(here / "s", n_rows)
    assert calls(here / "calls") == list(range(12))


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_shards_in_any_order(here: Path, capsys: pytest.CaptureFixture[str], order: Sequence[int]) -> None:
    for number, shard in enumerate(order):
        assert cli.main(words("--shard", f"{shard}/3")) == 0
        told = capsys.readouterr().out
        assert ("other rows are missing" in told) == (number < 2)
        assert (here / "s" / "_completed.npy").exists() == (number == 2)
    assert_rows(here / "s")


def test_shards_share_the_rows() -> None:
    for n_rows, shards in ((1, 1), (3, 5), (12, 3), (1000, 7), (100, 100)):
        parts = [external._of_shard(list(range(n_rows)), n_rows, (i, shards)) for i in range(shards)]
        assert sorted(itertools.chain(*parts)) == list(range(n_rows))
        assert sum(map(bool, parts)) == min(n_rows, shards)


@pytest.mark.parametrize("more", [(), ("--workers", "2")], ids=["in turn", "processes"])
def test_kill_and_go_on(here: Path, monkeypatch: pytest.MonkeyPatch, more: tuple[str, ...]) -> None:
    """SIGKILL in the middle: rows that are on disk are not called again, whatever else is."""
    (here / "calls").mkdir()
    monkeypatch.setenv("CALLS", str(here / "calls"))
    monkeypatch.setenv("SECONDS", "0.25")
    process = subprocess.Popen(command(*words(*more)), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 60
    while not rows_on_disk(here / "s") and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    process.communicate()
    kept, called = rows_on_disk(here / "s"), calls(here / "calls")
    assert 0 < len(kept) < 12
    assert kept <= set(called)
    assert not (here / "s" / "masks.npy").exists()
    monkeypatch.setenv("SECONDS", "0")
    wait_for_orphans(here / "calls", process.pid)
    assert cli.main(words(*more)) == 0
    assert_rows(here / "s")
    again = calls(here / "calls")
    assert sorted(set(again)) == list(range(12))
    assert all(again.count(row) == 1 for row in kept)
    assert rows_on_disk(here / "s") == set(range(12))


def wait_for_orphans(folder: Path, parent: int) -> None:
    """The processes of a killed parent end by themselves: nobody asks them for rows any more."""
    deadline = time.monotonic() + 30
    for pid in {int(p.name.split("-")[1]) for p in folder.iterdir()} - {parent}:
        while alive(pid):
            assert time.monotonic() < deadline
            time.sleep(0.02)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    state = Path(f"/proc/{pid}/stat")
    return not (state.is_file() and state.read_text().rpartition(")")[2].split()[0] == "Z")


@pytest.mark.parametrize("more", [(), ("--workers", "2")], ids=["in turn", "processes"])
def test_interrupt_keeps_what_is_finished(here: Path, monkeypatch: pytest.MonkeyPatch, more: tuple[str, ...]) -> None:
    (here / "calls").mkdir()
    monkeypatch.setenv("CALLS", str(here / "calls"))
    monkeypatch.setenv("SECONDS", "0.2")
    process = subprocess.Popen(
        command(*words(*more)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # What a shell starts in the background ignores SIGINT, and so would what is started here.
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )
    while len(calls(here / "calls")) < 4:
        assert process.poll() is None
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    told = process.communicate(timeout=60)
    assert process.returncode == 130
    assert told[0] == ""
    assert "bench: interrupted; what was finished is kept" in told[1]
    assert "Traceback" not in told[1]
    wait_for_orphans(here / "calls", process.pid)
    assert len(rows_on_disk(here / "s")) >= 2
    assert not list((here / "s").rglob("*.tmp"))


@pytest.mark.parametrize("size", [1, 5])
def test_slow_rows_are_blocks_of_their_own(here: Path, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    if size == 1:
        monkeypatch.setattr(external, "_BLOCK_SECONDS", 0.0)
    else:
        monkeypatch.setattr(external, "_BLOCK_BYTES", 4 * 70 + 1)
    assert cli.main(words()) == 0
    sizes = [int(b) - int(a) for _, a, b in (p.stem.split("-") for p in (here / "s" / "blocks").iterdir())]
    assert max(sizes) == size
    assert_rows(here / "s")


@pytest.mark.parametrize("name", ["masks.npy", "_completed.npy", "spec.json", "gathered.json", "block"])
def test_damage_is_found_and_mended(here: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(words()) == 0
    assert cli.main(["verify", "s"]) == 0
    before = contents(here / "s")
    path = next((here / "s" / "blocks").iterdir()) if name == "block" else here / "s" / name
    path.write_bytes(path.read_bytes()[:-9])
    capsys.readouterr()
    assert cli.main(["verify", "s"]) == 1
    assert path.name in capsys.readouterr().out
    assert cli.main(words()) == 0
    assert {k: v for k, v in contents(here / "s").items() if "blocks" not in k and k != "gathered.json"} == {
        k: v for k, v in before.items() if "blocks" not in k and k != "gathered.json"
    }
    assert cli.main(["verify", "s"]) == 0


def test_verify_says_that_rows_are_missing(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(words("--shard", "0/2")) == 0
    capsys.readouterr()
    assert cli.main(["verify", "s"]) == 1
    assert "not gathered yet" in capsys.readouterr().out


# Rows that fail


@pytest.mark.parametrize("more", [(), ("--workers", "3")], ids=["in turn", "processes"])
def test_one_row_raises_and_the_others_go_on(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], more: tuple[str, ...]
) -> None:
    (here / "calls").mkdir()
    monkeypatch.setenv("CALLS", str(here / "calls"))
    monkeypatch.setenv("RAISE", "0,4")
    assert cli.main(words(*more)) == 1
    told = capsys.readouterr()
    assert "row 4 failed: ValueError: no such luck\n" in told.err
    last = told.err.strip().split("\n")[-1]
    assert last.startswith("bench: row 0 (and 1 other) failed: ValueError: no such luck; _completed.npy says which")
    assert told.out == ""
    assert_rows(here / "s", failed=[0, 4])
    assert cli.main(["verify", "s"]) == 1
    assert "2 of 12 rows are not made, the first is row 0" in capsys.readouterr().out
    monkeypatch.delenv("RAISE")
    assert cli.main(words(*more)) == 0
    assert_rows(here / "s")
    assert calls(here / "calls") == sorted([*range(12), 0, 4])
    assert cli.main(["verify", "s"]) == 0


def test_failed_row_of_a_shard(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What another shard has yet to do is no failure, so nothing is gathered; its failure is tried by any run."""
    monkeypatch.setenv("RAISE", "0")
    assert cli.main(words("--shard", "0/2")) == 1
    assert not (here / "s" / "masks.npy").exists()
    assert cli.main(words("--shard", "1/2")) == 0
    assert not (here / "s" / "masks.npy").exists()
    monkeypatch.delenv("RAISE")
    assert cli.main(words()) == 0
    assert_rows(here / "s")


def test_every_row_raises_and_the_worker_is_mended(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAISE", ",".join(map(str, range(12))))
    assert cli.main(words()) == 1
    assert not (here / "s" / "masks.npy").exists()
    monkeypatch.delenv("RAISE")
    (here / "toyworker.py").write_text(WORKER + "\nMENDED = True\n")
    del sys.modules["toyworker"]
    assert cli.main(words()) == 0
    assert_rows(here / "s")


def test_process_that_dies_costs_its_row(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DIE", "3,11")
    assert cli.main(words("--workers", "2")) == 1
    assert "row 3 (and 1 other) failed: its process ended with exit code 3" in capsys.readouterr().err
    assert_rows(here / "s", failed=[3, 11])


@pytest.mark.parametrize(
    ("word", "returned", "named"),
    [
        ("float16", "np.float32([1, 1e6])", "1000000.0 in 'x', which float16 cannot hold"),
        ("float32", "[1e300, 0]", "1e+300 in 'x', which float32 cannot hold"),
        ("uint8", "[1, 256]", "256 in 'x', which uint8 cannot hold"),
        ("uint8", "[1, -1]", "-1 in 'x', which uint8 cannot hold"),
        ("int32", "[0.5, 1]", "0.5 in 'x', which int32 cannot hold"),
        ("int32", "[np.nan, 1]", "nan in 'x', which int32 cannot hold"),
        ("bool_", "[0, 2]", "2 in 'x', which bool_ cannot hold"),
    ],
)
def test_value_that_the_type_cannot_hold(
    here: Path, capsys: pytest.CaptureFixture[str], word: str, returned: str, named: str
) -> None:
    """Theirs stores inf, or another number; here it is a failed row, and says so."""
    text = f"import numpy as np\ndef main(index, logdir): return {{'x': {returned} if index == 1 else [0, 1]}}"
    (here / "wide.py").write_text(text)
    write_spec(here, 3, x={"shape": [2], "dtype": word})
    assert cli.main(words(worker="wide:main")) == 1
    assert f"row 1 failed: it returned {named}" in capsys.readouterr().err
    assert np.load(here / "s" / "_completed.npy").tolist() == [True, False, True]


# Refused: one sentence, and nothing is called or written


def refused(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> str:
    capsys.readouterr()
    assert cli.main(arguments) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith("bench: ")
    assert told.err.count("\n") == 1
    return told.err


def spec_with(**fields: Any) -> str:
    return json.dumps({"num_models": 3, "schema": {"x": {"shape": [2], "dtype": "float16", **fields}}})


def spec_of_key(key: str) -> str:
    return json.dumps({"num_models": 3, "schema": {key: {"shape": [2], "dtype": "float16"}}})


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("{", "spec.json is not JSON"),
        ("[" * 100_000, "spec.json is not JSON"),
        ("\x00", "spec.json is not JSON"),
        ("[1]", "it holds no object"),
        ("{}", "num_models is missing"),
        ('{"schema": {}}', "num_models is missing"),
        ('{"num_models": 2}', "schema is missing"),
        ('{"num_models": 2, "num_models": 3}', "'num_models' is given twice"),
        ('{"num_models": 0, "schema": {}}', "num_models is 0"),
        ('{"num_models": -4, "schema": {}}', "num_models is -4"),
        ('{"num_models": 2.5, "schema": {}}', "num_models is 2.5"),
        ('{"num_models": true, "schema": {}}', "num_models is True"),
        ('{"num_models": "9", "schema": {}}', "num_models is '9'"),
        ('{"num_models": 1000000000, "schema": {}}', "num_models is 1000000000"),
        ('{"num_models": 2, "schema": {}}', "schema must be an object with at least one key"),
        ('{"num_models": 2, "schema": []}', "schema must be an object"),
        ('{"num_models": 2, "schema": {"x": 3}}', "schema: 'x' must be an object"),
        ('{"num_models": 2, "schema": {"x": {"dtype": "int8"}}}', "schema: 'x': shape is missing"),
        ('{"num_models": 2, "schema": {"x": {"shape": []}}}', "schema: 'x': dtype is missing"),
        (spec_with(shape=3), "'x': shape is 3"),
        (spec_with(shape=[2.5]), "'x': shape is [2.5]"),
        (spec_with(shape=[True]), "'x': shape is [true]"),
        (spec_with(shape=["2"]), "'x': shape is [\"2\"]"),
        (spec_with(shape=[0]), "'x': shape is [0]"),
        (spec_with(dtype="float17"), "'x': dtype is 'float17'"),
        (spec_with(dtype=16), "'x': dtype is 16"),
        (spec_with(dtype="pi"), "'x': dtype is 'pi'"),
        (spec_with(dtype="ndarray"), "'x': dtype is 'ndarray'"),
        (spec_with(dtype="object_"), "'x': dtype 'object_' cannot be stored"),
        (spec_with(dtype="str_"), "'x': dtype 'str_' cannot be stored"),
        (spec_with(dtype="void"), "'x': dtype 'void' cannot be stored"),
        (spec_with(dtype="floating"), "'x': dtype 'floating' cannot be stored"),
        (spec_of_key("_completed"), "'_completed' is the name of the array"),
        (spec_of_key("a/b"), "'a/b' cannot be the name"),
        (spec_of_key("a\\b"), "cannot be the name"),
        (spec_of_key(".."), "'..' cannot be the name"),
        (spec_of_key(""), "'' cannot be the name"),
        (spec_of_key("\0"), "cannot be the name"),
        (spec_of_key("\ud800"), "cannot be the name"),
        (spec_of_key("x" * 200), "cannot be the name"),
    ],
)
def test_refused_specs(here: Path, capsys: pytest.CaptureFixture[str], text: str, named: str) -> None:
    (here / "spec.json").write_text(text)
    assert named in refused(capsys, words())
    assert not (here / "s").exists()


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["train", "--out", "s"], "name a setting, such as digits/mlp, or a --worker"),
        (["train", "--out", "s", "--worker", "toyworker:main"], "--worker needs --spec"),
        (["train", "--out", "s", "--spec", "spec.json"], "--spec needs --worker"),
        (["train", "--out", "s", "--worker-args", "x"], "--worker-args needs --worker"),
        (["train", "digits/mlp", *words()[1:]], "'digits/mlp' and --worker are both given"),
        (words("--models", "20"), "--models does not go with --worker"),
        (words("--data-dir", "x"), "--data-dir does not go with --worker"),
        (words("--worker-args", "'"), '--worker-args is "\'"'),
        (words("--shard", "2/2"), "--shard is '2/2'"),
        (words("--workers", "0"), "--workers is 0"),
        (words(spec="nowhere.json"), "cannot read nowhere.json"),
        (words(spec="."), "cannot read ."),
        (words(worker="toyworker"), "--worker is 'toyworker': write MODULE:FUNCTION"),
        (words(worker=":main"), "--worker is ':main'"),
        (words(worker="toywroker:main"), "there is no module 'toywroker'"),
        (words(worker="toyworker.sub:main"), "there is no module 'toyworker"),
        (words(worker="toyworker:mian"), "no function 'mian'; did you mean 'main'?"),
        (words(worker="toyworker:np"), "no function 'np'"),
        (words(worker="nowhere/toyworker.py:main"), "there is no file 'nowhere/toyworker.py'"),
        (words(worker="..:main"), "does not import"),
        (words(worker="broken:main"), "the worker 'broken' does not import: ModuleNotFoundError"),
        (words(worker="broken.py:main"), "the worker 'broken.py' does not import: ModuleNotFoundError"),
        (words(worker="torn.py:main"), "the worker 'torn.py' does not import: SyntaxError"),
        (words(worker="leaves.py:main"), "the worker 'leaves.py' does not import: SystemExit: 0"),
        (words(out="spec.json"), "cannot write"),
    ],
)
def test_refused_words(here: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], named: str) -> None:
    (here / "broken.py").write_text("import there_is_no_such_module\n")
    (here / "torn.py").write_text("def main(:\n")
    (here / "leaves.py").write_text("raise SystemExit(0)\n")
    importlib.invalidate_caches()
    assert named in refused(capsys, arguments)
    assert not (here / "s").exists()


@pytest.mark.parametrize(
    ("returned", "named"),
    [
        ("None", "it returned NoneType, not a dict of arrays"),
        ("{}", "it returned no 'masks'"),
        ("{'masks': np.ones(60)}", "it returned no 'margins'"),
        ("{'masks': np.ones(60), 'margins': np.ones(5), 'more': 1}", "it returned 'more', which the schema does not"),
        ("{'masks': np.ones(60), 'margins': np.ones(6)}", "'margins' of shape [6], and the schema says [5]"),
        ("{'masks': np.ones(60), 'margins': 0}", "'margins' of shape [], and the schema says [5]"),
        ("{'masks': np.ones(60), 'margins': np.ones((5, 1))}", "'margins' of shape [5, 1]"),
        ("{'masks': np.ones(60), 'margins': [[1], [1, 2]]}", "'margins', which is no array"),
        ("{'masks': np.ones(60), 'margins': list('abcde')}", "'margins' of <U1"),
        ("{'masks': np.ones(60), 'margins': [None] * 5}", "'margins' of object"),
        ("{'masks': np.ones(60), 'margins': [1j] * 5}", "'margins' of complex128"),
    ],
)
def test_worker_that_does_not_fit_the_spec_ends_at_its_first_row(
    here: Path, capsys: pytest.CaptureFixture[str], returned: str, named: str
) -> None:
    touch = "from pathlib import Path; Path(f'called-{index}').touch()"
    text = f"import numpy as np\ndef main(index, logdir):\n    {touch}\n    return {returned}\n"
    (here / "unfit.py").write_text(text)
    told = refused(capsys, words("--quiet", worker="unfit.py:main"))
    assert "the worker 'unfit.py:main' does not fit the spec: row 0: it returned" in told
    assert named in told
    assert [p.name for p in here.glob("called-*")] == ["called-0"]
    assert rows_on_disk(here / "s") == set()


def test_unfit_worker_in_processes(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each process has its next row before the last is judged, and is then ended."""
    (here / "unfit.py").write_text("def main(index, logdir):\n    open(f'called-{index}', 'w')\n    return []\n")
    told = refused(capsys, words("--quiet", "--workers", "2", worker="unfit:main"))
    assert "it returned list, not a dict of arrays" in told
    assert len(list(here.glob("called-*"))) <= 4


def other_schema(here: Path) -> list[str]:
    write_spec(here, **{**SCHEMA, "margins": {"shape": [5], "dtype": "float32"}})
    return words()


def other_worker(here: Path) -> list[str]:
    (here / "another.py").write_text(WORKER)
    return words(worker="another:main")


def other_code(here: Path) -> list[str]:
    (here / "toyworker.py").write_text(WORKER.replace("default_rng(0)", "default_rng(1)"))
    sys.modules.pop("toyworker")
    return words()


def other_arguments(here: Path) -> list[str]:  # noqa: ARG001
    return words("--worker-args=--lr 3")


def no_identity(here: Path) -> list[str]:
    (here / "s" / "identity.json").unlink()
    return words()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (other_schema, "was made with another schema"),
        (other_worker, "was made by the worker 'toyworker:main', not 'another:main'"),
        (other_code, "was made by other code of the worker 'toyworker:main': undo the change, or"),
        (other_arguments, "was made with the worker's arguments '', not '--lr 3'"),
        (no_identity, "holds a ground truth that was not made by --worker"),
    ],
)
def test_folder_of_another_is_refused(
    here: Path, capsys: pytest.CaptureFixture[str], change: Callable[[Path], list[str]], named: str
) -> None:
    assert cli.main(words()) == 0
    arguments = change(here)
    before = contents(here / "s")
    told = refused(capsys, arguments)
    assert named in told
    assert "name another with --out" in told
    assert contents(here / "s") == before


def test_comments_and_folders_are_not_another_worker(here: Path) -> None:
    assert cli.main(words("--shard", "0/2")) == 0
    (here / "moved").mkdir()
    (here / "moved" / "toyworker.py").write_text('"""Other words."""\n# and a comment\n' + WORKER.partition("\n")[2])
    assert cli.main(words("--shard", "1/2", worker="moved/toyworker.py:main")) == 0
    assert_rows(here / "s")


def test_neither_takes_the_other_kind_of_store(here: Path, capsys: pytest.CaptureFixture[str], toy_source: str) -> None:
    (here / "toy.py").write_text(toy_source)
    ordinary = ["train", f"{here}/toy.py/logreg", "--models", "30", "--device", "cpu", "--quiet", "--out"]
    assert cli.main([*ordinary, "ordinary"]) == 0
    assert cli.main(words("--shard", "0/2", out="part")) == 0
    assert cli.main(words()) == 0
    for folder, arguments in (("ordinary", words(out="ordinary")), *((f, [*ordinary, f]) for f in ("part", "s"))):
        before = contents(here / folder)
        assert "with --out" in refused(capsys, arguments)
        assert contents(here / folder) == before
    assert store.verify(here / "ordinary") == []
    assert external.verify(here / "ordinary") is None


def test_store_of_theirs_is_left_alone(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Their memmaps may be half written by workers that still run."""
    (here / "s").mkdir()
    np.save("s/_completed.npy", np.zeros(12, bool))
    np.save("s/masks.npy", np.zeros((12, 60), bool))
    np.save("s/margins.npy", np.zeros((12, 5), np.float16))
    assert "was not made by --worker" in refused(capsys, words())
    assert not GroundTruth.open("s").completed.any()


def test_full_disk(here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    fsync = os.fsync
    for after in (0, 1, 2, 3, 5):
        count = itertools.count()

        def full(handle: int, count: Iterator[int] = count, after: int = after) -> None:
            if next(count) >= after:
                raise OSError(28, os.strerror(28))
            fsync(handle)

        monkeypatch.setattr(os, "fsync", full)
        told = words("--quiet", out=f"s{after}")
        assert cli.main(told) == 2
        monkeypatch.undo()
        monkeypatch.chdir(here)
        assert "free some space and run the same command again" in capsys.readouterr().err
        assert not list((here / f"s{after}").rglob("*.tmp"))
        assert cli.main(told) == 0
        assert_rows(here / f"s{after}")


def test_spec_reads_as_it_writes(here: Path) -> None:
    write_spec(here, 7, x={"shape": [2, 3], "dtype": "float"}, y={"shape": [], "dtype": "bool"})
    spec = schema.read_spec(here / "spec.json")
    (here / "again.json").write_text(spec.text())
    assert schema.read_spec(here / "again.json") == spec
    with pytest.raises(BenchError, match="is missing"):
        schema.read_spec(Path(write_text(here / "no.json", "{}")))


def write_text(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)
