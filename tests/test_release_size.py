"""Released data that are too large to read: rows that judge alone, some targets alone, and the published size."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import spearmanr

from bench import hashing, lds, lds_files, memory
from bench.store import GroundTruth

Array = NDArray[Any]
Main = Callable[..., tuple[int, str, str]]

M, N, T, JUDGING = 50, 14, 6, 20
LAST = ("--eval-rows", f"last:{JUDGING}", "--quiet")


@pytest.fixture
def release(tmp_path: Path) -> tuple[Array, Array, Array]:
    """Masks and margins in `R/cifar/data`, and scores that predict the margins, in scores.npy."""
    rng = np.random.default_rng(1)
    order = np.unique(rng.random((300, N)).argsort(1) < N // 2, axis=0)
    masks = order[rng.permutation(len(order))[:M]]
    scores = rng.standard_normal((N, T))
    margins = (masks @ scores + rng.standard_normal((M, T))).astype(np.float16)
    (tmp_path / "R/cifar/data").mkdir(parents=True)
    np.save(tmp_path / "R/cifar/data/train_masks_50pct.npy", masks)
    np.save(tmp_path / "R/cifar/data/test_margins_50pct.npy", margins)
    np.save(tmp_path / "scores.npy", scores)
    return masks, margins, scores


def refused(found: tuple[int, str, str], *words: str) -> None:
    code, out, err = found
    assert (code, out, err.count("\n")) == (2, "", 1)
    for word in words:
        assert word in err


def poke(name: str, row: int, value: Any) -> None:
    """Write into a file of the release where it is, as into the store that links it."""
    array = np.load(f"R/cifar/data/{name}_50pct.npy", mmap_mode="r+")
    (array.view(np.uint8) if array.dtype == bool else array)[row, 2] = value
    array.flush()


def test_rows_that_judge_alone_are_read(main: Main, release: tuple[Array, Array, Array]) -> None:
    masks, margins, scores = release
    assert main("import", "datamodels-data", "R", "all", *LAST, "--tune-rows", "5")[0] == 0
    poke("train_masks", 3, 7)  # what no import would take that read it
    poke("test_margins", 4, np.nan)
    refused(main("import", "datamodels-data", "R", "S", *LAST), "row 3 with bytes other than 0 and 1")
    code, out, _ = main("import", "datamodels-data", "R", "S", *LAST, "--judge-only")
    assert code == 0
    assert f"rows: eval {M - JUDGING}–{M - 1}" in out
    assert "only the rows that judge were read" in out
    truth = GroundTruth.open("S")
    np.testing.assert_array_equal(np.flatnonzero(truth.completed), np.arange(M - JUDGING, M))
    assert [len(truth.of_group(group)) for group in ("fit", "tune", "eval")] == [0, 0, JUDGING]
    found = json.loads(main("lds", "--store", "S", "--scores", "scores.npy", "--json")[1])
    assert found["lds"] == lds(scores, masks[-JUDGING:], margins[-JUDGING:].astype(np.float32)).mean
    assert found == json.loads(main("lds", "--store", "all", "--scores", "scores.npy", "--json")[1])


@pytest.mark.parametrize("where", ["first", "last"])
def test_rows_that_judge_are_vouched_for(main: Main, release: tuple[Array, Array, Array], where: str) -> None:
    assert len(release) == 3
    rows = (0, JUDGING) if where == "first" else (M - JUDGING, M)
    words = ("--eval-rows", f"{where}:{JUDGING}", "--judge-only", "--quiet")
    assert main("import", "datamodels-data", "R", "S", *words)[0] == 0
    assert "the others were not read" in main("train", "--status", "S")[1]
    assert main("verify", "S")[0] == 0
    poke("train_masks", rows[1] % M, 9)
    poke("test_margins", rows[0] - 1, 9)  # rows beside those that were read
    assert main("verify", "S")[0] == 0
    poke("test_margins", rows[1] - 1, 9)
    code, out, _ = main("verify", "S")
    assert (code, "margins.npy has another content" in out) == (1, True)
    assert main("import", "datamodels-data", "R", "other", *words)[0] == 0
    one, other = (GroundTruth.open(name).imported for name in ("S", "other"))
    assert one is not None
    assert other is not None
    assert one.key != other.key
    poke("train_masks", rows[0], 9)
    refused(main("import", "datamodels-data", "R", "third", *words), f"row {rows[0]} with bytes other than 0 and 1")


def test_rows_that_judge_are_all_that_there_is(main: Main, release: tuple[Array, Array, Array]) -> None:
    masks, margins, _ = release
    words = (*LAST, "--judge-only")
    assert main("import", "datamodels-data", "R", "S", *words)[0] == 0
    fits = main("attribute", "--store", "S", "--method", "heldout", "--out", "s.npy", "--quiet")
    refused(fits, "needs", "fit rows, and there are 0")
    refused(main("push", "S", "there", "--quiet"), "--judge-only")
    code, out, _ = main("export", "datamodels-data", "S", "X")
    assert (code, "--judge-only" in out) == (0, True)
    np.testing.assert_array_equal(np.load("X/cifar/data/train_masks_50pct.npy"), masks[-JUDGING:])
    np.testing.assert_array_equal(np.load("X/cifar/data/test_margins_50pct.npy"), margins[-JUDGING:])
    assert main("import", "datamodels-data", "X", "again", *words)[0] == 0
    assert main("verify", "again")[0] == 0
    assert main("push", "again", "there", "--quiet")[0] == 0  # every row of it judges, and was read
    assert main("export", "kronfluence", "S", "K")[0] == 0
    refused(main("import", "datamodels-data", "R", "T", *words, "--tune-rows", "3"), "--tune-rows is 3", "--judge-only")
    refused(main("import", "datamodels-data", "R", "T", "--judge-only", "--eval-rows", f"last:{M + 1}"), f"{M} rows")
    assert not Path("T").exists()


def test_masks_shared_by_rows_that_judge(main: Main, release: tuple[Array, Array, Array]) -> None:
    masks, _, _ = release
    again = masks.copy()
    again[M - 1] = again[M - 5]
    again[M - 2] = again[0]  # which is not read
    np.save("R/cifar/data/train_masks_50pct.npy", again)
    assert main("import", "datamodels-data", "R", "S", *LAST, "--judge-only")[0] == 0
    meta = GroundTruth.open("S").imported
    assert meta is not None
    assert meta.first_of == {M - 1: M - 5}


def test_altered_roles_are_noticed(main: Main, release: tuple[Array, Array, Array]) -> None:
    assert len(release) == 3
    assert main("import", "datamodels-data", "R", "S", *LAST, "--judge-only")[0] == 0
    path = Path("S/meta.json")
    told = json.loads(path.read_text())
    for span in ([0, 0], [M, M + 5]):
        path.write_text(json.dumps({**told, "roles": {**told["roles"], "eval": span}}))
        code, out, _ = main("verify", "S")
        assert (code, "are not all rows, each once" in out) == (1, True)


@pytest.mark.parametrize(("text", "chosen"), [("1-3", [1, 2, 3]), ("4", [4]), ("0-1,5", [0, 1, 5]), ("5,0", [5, 0])])
def test_lds_of_some_targets(
    main: Main, release: tuple[Array, Array, Array], tmp_path: Path, text: str, chosen: list[int]
) -> None:
    masks, margins, scores = release
    np.save(tmp_path / "few.npy", scores[:, chosen])
    expected = lds(scores[:, chosen], masks, margins[:, chosen])
    files = ("lds", "--masks", "R/cifar/data/train_masks_50pct.npy", "--margins", "R/cifar/data/test_margins_50pct.npy")
    for name in ("scores.npy", "few.npy"):
        code, out, _ = main(*files, "--scores", name, "--targets", text, "--json", "--per-target", "t.npy")
        assert code == 0
        found = json.loads(out)
        assert (found["lds"], found["n_targets"]) == (expected.mean, len(chosen))
        np.testing.assert_array_equal(np.load("t.npy"), expected.per_target)
    assert main("import", "datamodels-data", "R", "S", *LAST)[0] == 0
    found = json.loads(main("lds", "--store", "S", "--scores", "few.npy", "--targets", text, "--json")[1])
    assert found["lds"] == lds(scores[:, chosen], masks[-JUDGING:], margins[-JUDGING:, chosen].astype(np.float32)).mean


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("0-6", "there are targets 0 to 5"),
        ("3-1", "'3-1': write numbers and spans"),
        ("1,", "'1,': write numbers and spans"),
        ("-1", "'-1': write numbers and spans"),
        ("0-2,1", "it names target 1 twice"),
        ("0-3", "has 6 columns, and --targets 0-3 takes 4 of 7 targets"),
    ],
)
def test_targets_that_are_none(main: Main, release: tuple[Array, Array, Array], text: str, said: str) -> None:
    masks, margins, _ = release
    if "of 7" in said:
        np.save("R/cifar/data/test_margins_50pct.npy", np.concatenate([margins, margins[:, :1]], 1))
    assert len(masks) == M
    words = ("--masks", "R/cifar/data/train_masks_50pct.npy", "--margins", "R/cifar/data/test_margins_50pct.npy")
    refused(main("lds", *words, "--scores", "scores.npy", f"--targets={text}"), said)


@given(st.lists(st.integers(0, 30), min_size=1, max_size=8, unique=True))
def test_targets_are_those_that_are_written(numbers: list[int]) -> None:
    chosen = lds_files.parse_targets(",".join(map(str, numbers)), 31)
    assert np.arange(31)[chosen].tolist() == numbers
    first, last = min(numbers), max(numbers)
    assert np.arange(31)[lds_files.parse_targets(f"{first}-{last}", 31)].tolist() == [*range(first, last + 1)]


def test_memory_of_maps_is_given_back_and_nothing_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_LARGE", 0)
    np.save(tmp_path / "a.npy", np.arange(20_000.0).reshape(100, 200))
    expected = np.load(tmp_path / "a.npy")
    for mode in ("r", "c"):
        array: Array = np.load(tmp_path / "a.npy", mmap_mode=mode)
        if mode == "c":
            array[5, 5] = expected[5, 5] = -1
        for one in (array, array[3:, 1:].T, np.asarray(array)[::2]):
            memory.unmap(one)
        np.testing.assert_array_equal(array, expected)
    memory.unmap(expected)


# The published size: M models × N training examples and T targets; the last E rows are written, the others are holes.
FULL = {"M": 310_000, "N": 50_000, "T": 10_000, "E": 10_000, "targets": 100}
MOST = 2e9  # bytes of memory
CALL = """
import sys
from bench.cli import main
code = main(sys.argv[1:])
with open("/proc/self/status") as file:
    print(*[line.split()[1] for line in file if line.startswith("VmHWM:")])
sys.exit(code)
"""


def hole(path: Path, dtype: Any, shape: tuple[int, ...]) -> Array:
    """A .npy file that takes no room on the disk, opened for writing."""
    with path.open("wb") as file:
        fields = {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, fields)
        file.truncate(file.tell() + int(np.prod(shape)) * np.dtype(dtype).itemsize)
    if 512 * path.stat().st_blocks > 1e6:
        pytest.skip("this file system has no holes in files")
    return np.lib.format.open_memmap(path, mode="r+")


def call(*words: str) -> float:
    """Run a command in a process of its own, and print what it prints; gives the most memory that it had, in bytes."""
    began = time.perf_counter()
    path = os.pathsep.join([str(Path(hashing.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    ended = subprocess.run(
        [sys.executable, "-c", CALL, *words], env={**os.environ, "PYTHONPATH": path}, stdout=subprocess.PIPE, text=True
    )
    assert ended.returncode == 0
    *out, peak = ended.stdout.splitlines()
    print(f"\n{words[0]}: {time.perf_counter() - began:.1f} s, {int(peak) / 1e3:.0f} MB of memory", *out, sep="\n")
    return 1024 * int(peak)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux says how much memory a process had")
def test_the_published_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    m, n, t, e, k = FULL.values()
    if shutil.disk_usage(tmp_path).free < 3e9:
        pytest.skip("needs 3 GB of disk")
    monkeypatch.chdir(tmp_path)
    data = tmp_path / "R/cifar/data"
    data.mkdir(parents=True)
    masks = hole(data / "train_masks_50pct.npy", np.bool_, (m, n))
    margins = hole(data / "test_margins_50pct.npy", np.float16, (m, t))
    every = hole(tmp_path / "every.npy", np.float32, (n, t))
    rng = np.random.default_rng(0)
    scores = (rng.standard_normal((n, k)) * 2 / np.sqrt(n)).astype(np.float32)
    probed = [0, 41, k - 1]
    predicted = np.empty((e, len(probed)))
    for start in range(m - e, m, 500):
        kept = np.unpackbits(np.frombuffer(rng.bytes(500 * n // 8), np.uint8).reshape(500, -1), axis=1)
        masks[start : start + 500] = kept
        made = rng.standard_normal((500, t), np.float32)
        made[:, :k] += kept.astype(np.float32) @ scores
        margins[start : start + 500] = made
        predicted[start - (m - e) :][:500] = kept.astype(np.float64) @ scores[:, probed]
    every[:, :k] = scores
    np.save("scores.npy", scores)
    expected = [spearmanr(predicted[:, i], margins[m - e :, j]).statistic for i, j in enumerate(probed)]
    for array in (masks, margins, every):
        array.flush()  # type: ignore[attr-defined]
    del masks, margins, every, array
    taken = sum(512 * path.stat().st_blocks for path in data.iterdir())
    claimed = sum(path.stat().st_size for path in data.iterdir())
    assert claimed > 21e9
    assert taken < 2e9

    print(f"\n{claimed / 1e9:.1f} GB in {taken / 1e9:.1f} GB of disk")
    assert call("import", "datamodels-data", "R", "S", "--judge-only") < MOST
    for ours, theirs in (("masks", "train_masks"), ("margins", "test_margins")):
        assert Path(f"S/{ours}.npy").samefile(data / f"{theirs}_50pct.npy")
    for name in ("scores.npy", "every.npy"):
        words = ("--store", "S", "--scores", name, "--targets", f"0-{k - 1}", "--per-target", "found.npy")
        assert call("lds", *words) < MOST
        np.testing.assert_allclose(np.load("found.npy")[probed], expected, atol=1e-5)
    for path in (*data.iterdir(), *tmp_path.glob("*.npy"), *(tmp_path / "S").glob("*.npy")):
        path.unlink()
