"""Feldman & Zhang's runs and estimates, written here as published, read back as stores and scores."""

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from bench import hashing, memorization
from bench.store import GroundTruth

Array = NDArray[Any]
Main = Callable[..., tuple[int, str, str]]

N, T, M = 40, 23, 12


def arrays(rng: np.random.Generator, ratio: float = 0.7) -> dict[str, Array]:
    """One run's arrays, each in an order of its own."""
    kept = rng.choice(N, round(ratio * N), replace=False)
    index = {"train": kept, "removed": rng.permutation(np.setdiff1d(np.arange(N), kept)), "test": rng.permutation(T)}
    right = {split: (rng.random(len(ids)) < 0.7).astype(np.uint8) for split, ids in index.items()}
    made: dict[str, Array] = {f"index_{split}": rng.permutation(len(ids)) for split, ids in index.items()}
    for split, order in made.copy().items():
        ids, values = index[split.removeprefix("index_")], right[split.removeprefix("index_")]
        made[split], made[f"correctness_{split.removeprefix('index_')}"] = ids[order], values[order]
    return made | {"subsample_idx": rng.permutation(kept)}


def experiment(folder: Path, ratios: tuple[float, ...] = (0.7,), m: int = M) -> dict[float, list[dict[str, Array]]]:
    rng = np.random.default_rng(0)
    found: dict[float, list[dict[str, Array]]] = {}
    for ratio in ratios:
        for number in range(m):
            one = arrays(rng, ratio)
            place = folder / f"{ratio:g}" / str(number)
            place.mkdir(parents=True)
            content: dict[str, Any] = dict(one)
            (np.savez_compressed if number % 2 else np.savez)(place / "aux_arrays.npz", **content)
            found.setdefault(ratio, []).append(one)
    return found


def scattered(one: dict[str, Array]) -> tuple[Array, Array, Array]:
    """Mask, train correctness and correctness, example by example."""
    mask, train, test = np.zeros(N, bool), np.zeros(N, bool), np.zeros(T, bool)
    for i in one["subsample_idx"]:
        mask[i] = True
    for split in ("train", "removed"):
        for i, value in zip(one[f"index_{split}"], one[f"correctness_{split}"], strict=True):
            train[i] = value
    for i, value in zip(one["index_test"], one["correctness_test"], strict=True):
        test[i] = value
    return mask, train, test


def test_import(main: Main, tmp_path: Path) -> None:
    runs = experiment(tmp_path / "cifar")[0.7]
    code, text, error = main("import", "heldout-influence", "cifar", "store", "--quiet")
    assert (code, error) == (0, "")
    assert f"{M} runs × {T} targets of cifar, test targets, alpha 0.7, correctness" in text
    truth = GroundTruth.open(tmp_path / "store")
    expected = [scattered(one) for one in runs]
    for k, found in enumerate((truth.masks, truth.array("train_correct"), truth.array("correct"))):
        np.testing.assert_array_equal(found, [one[k] for one in expected])
    np.testing.assert_array_equal(truth.margins, truth.array("correct").astype(np.float32))
    assert truth.imported is not None
    assert truth.imported.output == "correctness"
    assert len(truth.imported.origin) == M
    assert truth.imported.roles.eval == (10, 12)
    assert main("verify", "store")[0] == 0
    assert not (tmp_path / "store.importing").exists()
    code, text, _ = main("memorization", "store")
    assert (code, "memorization: mean" in text) == (0, True)
    assert main("attribute", "--method", "heldout", "--store", "store", "--out", "s.npy", "--quiet")[0] == 0
    with np.load("s.extra.npz") as kept:
        fit = slice(*truth.imported.roles.fit)
        of_itself = memorization.own(truth.masks[fit], truth.array("train_correct")[fit]).memorization
        np.testing.assert_array_equal(kept["memorization"], of_itself)
    code, _, error = main("removal", "store")
    assert (code, error) == (2, "bench: store was imported without its examples: name a store of bench train\n")
    assert main("lds", "--store", "store", "--scores", "s.npy")[0] == 0


def test_several_ratios_make_a_family_and_a_c_score(main: Main, tmp_path: Path) -> None:
    runs = experiment(tmp_path / "e", (0.2, 0.7))
    assert main("import", "heldout-influence", "e", "family", "--quiet")[0] == 0
    code, text, _ = main("memorization", "family", "--out", "out")
    assert code == 0
    assert "C-score over 2 subset sizes" in text
    scores = []
    for ratio in (0.2, 0.7):
        masks, train, _ = (np.array([scattered(one)[k] for one in runs[ratio]]) for k in range(3))
        with np.errstate(all="ignore"):
            scores.append((train * ~masks).sum(0) / (~masks).sum(0))
    np.testing.assert_allclose(np.load("out/c_score.npy"), np.mean(scores, axis=0), atol=1e-6)
    assert main("import", "heldout-influence", "e", "one", "--ratio", "0.2", "--quiet")[0] == 0
    assert GroundTruth.open("one").masks.sum(1).tolist() == [8] * M
    assert main("import", "heldout-influence", "e/0.7", "other", "--quiet")[0] == 0
    code, _, error = main("import", "heldout-influence", "e", "none", "--ratio", "0.5")
    assert (code, "--ratio is 0.5: e has 0.2, 0.7" in error) == (2, True)


def spoil(change: Callable[[dict[str, Array]], object]) -> Callable[[Path], None]:
    def work(path: Path) -> None:
        with np.load(path) as archive:
            content = dict(archive)
        change(content)
        np.savez(path, **content)

    return work


def unlink(path: Path) -> None:
    path.unlink()


def rewrite(content: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(content)


def loop(path: Path) -> None:
    path.unlink()
    path.symlink_to(path)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-200])


class Boom:
    def __reduce__(self) -> Any:
        return (os.mkdir, ("boom",))


def objects(path: Path) -> None:
    with np.load(path) as archive:
        content: dict[str, Any] = dict(archive)
    content["index_test"] = np.array([Boom()], object)
    np.savez(path, **content)


def torn_header(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content.replace(b",), }", b",  }") if name == "index_test.npy" else content)


def added(name: str) -> Callable[[Path], None]:
    def work(path: Path) -> None:
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr(name, archive.read("index_test.npy"))

    return work


def huge(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(2**32 + 1)


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (unlink, "5/aux_arrays.npz is missing"),
    "empty": (rewrite(b""), "5/aux_arrays.npz is empty (0 bytes)"),
    "text": (rewrite(b"no archive at all"), "5/aux_arrays.npz is torn or no .npz"),
    "leads up": (added("../../evil.npy"), "5/aux_arrays.npz holds a file of the name '../../evil.npy'"),
    "leads up elsewhere": (added("a\\..\\..\\evil.npy"), "which leads out of it"),
    "two of a name": (added("index_test.npy"), "5/aux_arrays.npz holds two arrays of the same name"),
    "leads to the root": (added("/evil.npy"), "5/aux_arrays.npz holds a file of the name '/evil.npy'"),
    "nothing": (spoil(lambda c: c.update({k: v[:0] for k, v in c.items()})), "has 0 training and 0 test examples"),
    "pickle": (rewrite(pickle.dumps(Boom())), "5/aux_arrays.npz holds Python objects"),
    "objects": (objects, "5/aux_arrays.npz holds Python objects"),
    "cut": (cut, "5/aux_arrays.npz is torn"),
    "loop": (loop, "5/aux_arrays.npz cannot be read"),
    "header": (torn_header, "5/aux_arrays.npz is torn"),
    "huge": (huge, "5/aux_arrays.npz has 4,294,967,297 bytes, more than any run"),
    "pipe": (pipe, "5/aux_arrays.npz is no file"),
    "key": (spoil(lambda c: c.pop("subsample_idx")), "lacks subsample_idx"),
    "out of range": (spoil(lambda c: c["index_train"].__setitem__(0, N)), f"has {N} in index_train"),
    "negative": (spoil(lambda c: c["index_removed"].__setitem__(0, -1)), "has -1 in index_removed"),
    "twice": (spoil(lambda c: c["index_train"].__setitem__(0, c["index_train"][1])), "has training example"),
    "test twice": (spoil(lambda c: c["index_test"].__setitem__(0, c["index_test"][1])), "has a test example twice"),
    "other subset": (
        spoil(lambda c: c["subsample_idx"].__setitem__(0, c["index_removed"][0])),
        "not the set of its index_train",
    ),
    "not 0/1": (spoil(lambda c: c["correctness_test"].__setitem__(0, 2)), "neither 0 nor 1"),
    "lengths": (spoil(lambda c: c.update(correctness_test=c["correctness_test"][:-1])), "has correctness_test of type"),
    "type": (spoil(lambda c: c.update(index_test=c["index_test"] + 0.5)), "where a list of integers belongs"),
    "smaller": (
        spoil(lambda c: c.update(index_test=np.arange(T - 1), correctness_test=c["correctness_test"][:-1])),
        f"{T - 1} test examples, where others have {N} and {T}",
    ),
    "ratio": (
        spoil(lambda c: c.update(arrays(np.random.default_rng(9), 0.5))),
        "keeps 20 of 40 examples, where its folder's ratio 0.7 is 28",
    ),
}


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("fault", FAULTS)
def test_a_bad_run_is_named_and_left_out_on_request(main: Main, tmp_path: Path, fault: str) -> None:
    runs = experiment(tmp_path / "e")[0.7]
    break_it, said = FAULTS[fault]
    break_it(tmp_path / "e" / "0.7" / "5" / "aux_arrays.npz")
    code, text, error = main("import", "heldout-influence", "e", "store", "--quiet")
    assert (code, text) == (2, "")
    assert said in error
    assert error.count("\n") == 1
    assert "--skip-torn" in error
    assert not (tmp_path / "store").exists()
    assert not (tmp_path / "boom").exists()
    code, text, _ = main("import", "heldout-influence", "e", "store", "--quiet", "--skip-torn")
    assert code == 0
    assert "; 1 run is left out (meta.json says which)" in text
    truth = GroundTruth.open(tmp_path / "store")
    np.testing.assert_array_equal(truth.masks, [scattered(one)[0] for k, one in enumerate(runs) if k != 5])
    assert truth.imported is not None
    assert said in truth.imported.notes[0]


def test_numbers_left_out_are_missing_runs(main: Main, tmp_path: Path) -> None:
    experiment(tmp_path / "e")
    (tmp_path / "e" / "0.7" / "3").rename(tmp_path / "elsewhere")
    code, _, error = main("import", "heldout-influence", "e", "store", "--quiet")
    assert (code, "run 3 is missing" in error) == (2, True)
    assert main("import", "heldout-influence", "e", "store", "--quiet", "--skip-torn")[0] == 0


@pytest.mark.parametrize("number", ["99999999", "9" * 30])
def test_a_gap_of_any_width_is_one_fault(main: Main, tmp_path: Path, number: str) -> None:
    experiment(tmp_path / "e")
    (tmp_path / "e" / "0.7" / "11").rename(tmp_path / "e" / "0.7" / number)
    code, _, error = main("import", "heldout-influence", "e", "store", "--quiet")
    assert (code, f"e/0.7: runs 11 to {int(number) - 1} are missing" in error) == (2, True)
    code, text, _ = main("import", "heldout-influence", "e", "store", "--quiet", "--skip-torn")
    assert (code, f"; {int(number) - 11} runs are left out" in text) == (0, True)


@pytest.mark.parametrize(("one", "other"), [("0.7", "0.70"), ("0.7/7", "0.7/07")])
def test_nothing_is_there_twice(main: Main, tmp_path: Path, one: str, other: str) -> None:
    experiment(tmp_path / "e")
    shutil.copytree(tmp_path / "e" / one, tmp_path / "e" / other)
    code, text, error = main("import", "heldout-influence", "e", "store", "--quiet")
    assert (code, text, f"e/{one}" in error, f"e/{other}" in error, "the same" in error) == (2, "", True, True, True)
    assert [path.name for path in tmp_path.iterdir()] == ["e"]


def test_a_circle_of_links_in_place_of_a_run_is_that_run_alone(main: Main, tmp_path: Path) -> None:
    experiment(tmp_path / "e")
    run = tmp_path / "e" / "0.7" / "4"
    shutil.rmtree(run)
    run.symlink_to(run)
    code, _, error = main("import", "heldout-influence", "e", "store", "--quiet")
    assert (code, "4/aux_arrays.npz cannot be read" in error) == (2, True)
    assert main("import", "heldout-influence", "e", "store", "--quiet", "--skip-torn")[0] == 0


def test_an_odd_first_run_does_not_have_all_others_refused(main: Main, tmp_path: Path) -> None:
    experiment(tmp_path / "e")
    spoil(lambda c: c.update(index_test=np.arange(T - 1), correctness_test=c["correctness_test"][:-1]))(
        tmp_path / "e" / "0.7" / "0" / "aux_arrays.npz"
    )
    code, _, error = main("import", "heldout-influence", "e", "store", "--quiet")
    assert (code, "0/aux_arrays.npz has 40 training and 22 test" in error, "1/aux_arrays" in error) == (2, True, False)
    assert "what was read is kept in store.importing" in error
    assert main("import", "heldout-influence", "e", "store", "--quiet", "--skip-torn")[0] == 0
    assert len(GroundTruth.open("store").masks) == M - 1
    assert not (tmp_path / "store.importing").exists()


def test_a_link_that_leads_nowhere_is_in_the_way(main: Main, tmp_path: Path) -> None:
    experiment(tmp_path / "e")
    for name, to in (("circle", "circle"), ("dangling", "nowhere")):
        Path(name).symlink_to(to)
        code, _, error = main("import", "heldout-influence", "e", name, "--quiet")
        assert (code, f"{name} is there already" in error) == (2, True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["circle", "dangling", "e"]


def test_where_no_run_is_good_nothing_is_left(main: Main, tmp_path: Path) -> None:
    experiment(tmp_path / "e", m=2)
    code, _, error = main("import", "heldout-influence", "e", "store", "--quiet")
    assert (code, "e/0.7 has 2 readable runs" in error) == (2, True)
    shutil.rmtree("store.importing")
    for path in tmp_path.glob("e/0.7/*/aux_arrays.npz"):
        path.write_bytes(b"")
    assert main("import", "heldout-influence", "e", "store", "--quiet")[0] == 2
    assert [path.name for path in tmp_path.iterdir()] == ["e"]


KILLED = """
import os, signal, sys
from bench.cli import main
from bench.interop import heldout_import, heldout_runs

read, heldout_import._BLOCK = heldout_runs.read, 4

def until_ten(path, ratio):
    if path.parent.name == "10":
        os.kill(os.getpid(), signal.SIGKILL)
    return read(path, ratio)

heldout_runs.read = until_ten
main(["import", "heldout-influence", "e", "store", "--quiet"])
"""


def test_a_killed_import_goes_on_where_it_was(main: Main, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from bench.interop import heldout_import, heldout_runs

    experiment(tmp_path / "e", m=15)
    path = os.pathsep.join([str(Path(heldout_import.__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    ended = subprocess.run([sys.executable, "-c", KILLED], cwd=tmp_path, env={**os.environ, "PYTHONPATH": path})
    assert ended.returncode == -signal.SIGKILL
    assert not (tmp_path / "store").exists()

    monkeypatch.setattr(heldout_import, "_BLOCK", 4)
    read, seen = heldout_runs.read, []

    def noted(path: Path, ratio: float) -> Any:
        seen.append(int(path.parent.name))
        return read(path, ratio)

    monkeypatch.setattr(heldout_runs, "read", noted)
    code, _, error = main("import", "heldout-influence", "e", "store")
    assert code == 0
    assert "8 of 15 runs were read before" in error
    assert sorted(seen) == [*range(8, 15)]
    assert not (tmp_path / "store.importing").exists()
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    assert main("import", "heldout-influence", "e", "again", "--quiet")[0] == 0
    assert Path("store/masks.npy").read_bytes() == Path("again/masks.npy").read_bytes()
    first, second = (GroundTruth.open(name).imported for name in ("store", "again"))
    assert first is not None
    assert second is not None
    assert (first.key, first.checksums) == (second.key, second.checksums)


def test_what_was_kept_of_an_import_is_not_believed_when_torn(main: Main, tmp_path: Path) -> None:
    experiment(tmp_path / "e")
    assert main("import", "heldout-influence", "e", "store", "--quiet", "--eval-rows", "last:99")[0] == 2
    (kept,) = (tmp_path / "store.importing").glob("*.npz")
    content = kept.read_bytes()
    at = content.index(b"\x93NUMPY") + 130  # in the masks, behind their header
    kept.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
    code, _, error = main("import", "heldout-influence", "e", "store", "--quiet")
    assert (code, "is torn" in error, error.count("\n")) == (2, True, 1)
    kept.write_bytes(content[:200])
    assert main("import", "heldout-influence", "e", "store", "--quiet")[0] == 0


def test_a_run_that_changed_is_read_anew(main: Main, tmp_path: Path) -> None:
    experiment(tmp_path / "e")
    (tmp_path / "e" / "0.7" / "5" / "aux_arrays.npz").write_bytes(b"")
    assert main("import", "heldout-influence", "e", "store", "--quiet")[0] == 2
    whole: dict[str, Any] = dict(arrays(np.random.default_rng(3)))
    np.savez(tmp_path / "e" / "0.7" / "5" / "aux_arrays.npz", **whole)
    assert main("import", "heldout-influence", "e", "store", "--quiet")[0] == 0


def test_bad_sources_and_places(main: Main, tmp_path: Path) -> None:
    experiment(tmp_path / "e")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    (tmp_path / "empty").mkdir()
    for words, said in (
        (["nowhere", "store"], "nowhere is not a folder"),
        (["empty", "store"], "empty holds no folder of a subset ratio"),
        (["e", "full"], "full is there already"),
        (["e", "store", "--eval-rows", "last:12"], "leaves no row to fit on"),
        (["e", "store", "--eval-rows", "some"], "write last:K or first:K"),
    ):
        code, text, error = main("import", "heldout-influence", *words, "--quiet")
        assert (code, text) == (2, "")
        assert said in error
        assert not (tmp_path / "store").exists()


def test_runs_go_round(main: Main, tmp_path: Path) -> None:
    experiment(tmp_path / "e")
    assert main("import", "heldout-influence", "e", "store", "--quiet")[0] == 0
    assert main("export", "heldout-influence", "store", "back", "--what", "runs", "--quiet")[0] == 0
    assert main("import", "heldout-influence", "back", "again", "--quiet")[0] == 0
    one, other = GroundTruth.open("store"), GroundTruth.open("again")
    np.testing.assert_array_equal(one.masks, other.masks)
    for name in ("correct", "train_correct"):
        np.testing.assert_array_equal(one.array(name), other.array(name))
    code, _, error = main("export", "heldout-influence", "store", "back", "--what", "runs")
    assert (code, "is there already" in error) == (2, True)


def test_estimates_are_written_as_published_and_read_back(main: Main, tmp_path: Path) -> None:
    runs = experiment(tmp_path / "e", m=30)[0.7]
    masks, train, right = (np.array([scattered(one)[k] for one in runs]) for k in range(3))
    memory = np.array([train[masks[:, i], i].mean() - train[~masks[:, i], i].mean() for i in range(N)])
    values = np.array([right[masks[:, i]].mean(0) - right[~masks[:, i]].mean(0) for i in range(N)])
    assert main("import", "heldout-influence", "e", "store", "--quiet")[0] == 0
    assert main("export", "heldout-influence", "store", "out")[0] == 0
    with np.load("out/infl_mem.npz") as found:
        assert set(found) == {"memorization", "influence"}
        np.testing.assert_allclose(found["memorization"], memory, atol=1e-6)
        np.testing.assert_allclose(found["influence"], values.T, atol=1e-6)
        assert found["influence"].dtype == np.float32
    assert main("import", "heldout-estimates", "out/infl_mem.npz", "scores.npy")[0] == 0
    np.testing.assert_allclose(np.load("scores.npy"), values, atol=1e-6)
    np.testing.assert_allclose(np.load("scores.extra.npz")["memorization"], memory, atol=1e-6)

    labels = np.arange(N) % 3, np.arange(T) % 3
    np.save("tr.npy", labels[0])
    np.save("tt.npy", labels[1])
    classes = ["--what", "classes", "--train-labels", "tr.npy"]
    code, _, error = main("export", "heldout-influence", "store", "out", *classes)
    assert (code, "add --target-labels" in error) == (2, True)
    assert main("export", "heldout-influence", "store", "out", *classes, "--target-labels", "tt.npy")[0] == 0
    with np.load("out/cifar100_infl_matrix.npz") as found:
        rows, columns = found["tr_classidx_1"], found["tt_classidx_1"]
        np.testing.assert_allclose(found["infl_matrix_class1"], values[np.ix_(rows, columns)], atol=1e-6)
        assert (labels[0][rows] == 1).all()
    assert main("import", "heldout-estimates", "out/cifar100_infl_matrix.npz", "within.npy")[0] == 0
    same = labels[0][:, None] == labels[1][None, :]
    np.testing.assert_allclose(np.load("within.npy"), np.where(same, values, 0), atol=1e-6)

    assert main("export", "heldout-influence", "store", "out", "--what", "pairs")[0] == 0
    with np.load("out/high_infl_pairs_infl0.15_mem0.25.npz") as found:
        expected = np.argwhere((values >= 0.15) & (memory >= 0.25)[:, None])
        np.testing.assert_array_equal(np.stack([found["tr_idx"], found["tt_idx"]], 1), expected)
    name = "out/high_infl_pairs_infl0.15_mem0.25.npz"
    code, _, error = main("import", "heldout-estimates", name, "p.npy")
    assert (code, "add --n-train" in error) == (2, True)
    assert main("import", "heldout-estimates", name, "p.npy", "--n-train", str(N), "--n-targets", str(T))[0] == 0
    np.testing.assert_allclose(np.load("p.npy").sum(), values[tuple(expected.T)].sum(), rtol=1e-5)


def test_the_index_of_imagenet_goes_round(main: Main, tmp_path: Path) -> None:
    """Keys as tools/imagenet-tfrecords-builder reads them: names are bytes, classes begin at 0, targets have both."""
    runs = experiment(tmp_path / "e", m=30)[0.7]
    masks, train, _ = (np.array([scattered(one)[k] for one in runs]) for k in range(3))
    memory = np.array([train[masks[:, i], i].mean() - train[~masks[:, i], i].mean() for i in range(N)])
    assert main("import", "heldout-influence", "e", "store", "--quiet")[0] == 0
    names = [f"n{k % 3:08d}_{k}.JPEG" for k in range(N)]
    Path("tr.txt").write_text("\n".join(names) + "\n")
    np.save("tr.npy", np.arange(N) % 3)
    asked = ["export", "heldout-influence", "store", "out", "--what", "index", "--train-labels", "tr.npy"]
    code, _, error = main(*asked)
    assert (code, "add --train-files" in error) == (2, True)
    Path("short.txt").write_text("\n".join(names[1:]))
    code, _, error = main(*asked, "--train-files", "short.txt")
    assert (code, f"short.txt has {N - 1} lines, where {N} names belong" in error) == (2, True)
    assert not Path("out").exists()
    assert main(*asked, "--train-files", "tr.txt")[0] == 0
    with np.load("out/imagenet_index.npz") as found:
        assert set(found) == {"tr_mem", "tr_labels", "tr_filenames"}
        np.testing.assert_allclose(found["tr_mem"], memory, atol=1e-6)
        assert [name.decode("utf-8") for name in found["tr_filenames"]] == names
    code, text, _ = main("import", "heldout-estimates", "out/imagenet_index.npz", "i.npy")
    assert (code, "no influence is in" in text, Path("i.npy").exists()) == (0, True, False)
    with np.load("i.extra.npz") as found:
        assert set(found) == {"memorization", "tr_labels", "tr_filenames"}
        np.testing.assert_allclose(found["memorization"], memory, atol=1e-6)
    origin = json.loads(Path("i.origin.json").read_text())
    assert origin["origin"]["imagenet_index.npz"]["sha256"] == hashing.file(Path("out/imagenet_index.npz"))
    assert origin["checksum"] == hashing.file(Path("i.extra.npz"))


def test_names_of_files_that_are_objects_are_left_out_unread(main: Main, tmp_path: Path) -> None:
    names: Any = np.array([Boom()] * 3, object)
    np.savez("index.npz", tr_mem=np.zeros(3), tr_labels=np.arange(3), tr_filenames=names, tt_filenames=names)
    code, text, _ = main("import", "heldout-estimates", "index.npz", "i.npy")
    assert code == 0
    assert "tr_filenames holds Python objects, and was left out unread" in text
    assert not (tmp_path / "boom").exists()
    with np.load("i.extra.npz", allow_pickle=False) as found:
        assert set(found) == {"memorization", "tr_labels"}


def test_where_estimates_come_from_is_recorded_and_nothing_is_written_over(main: Main, tmp_path: Path) -> None:
    np.savez("infl_mem.npz", memorization=np.zeros(3), influence=np.ones((4, 3)))
    assert main("import", "heldout-estimates", "infl_mem.npz", "s.npy")[0] == 0
    origin = json.loads(Path("s.origin.json").read_text())
    assert origin["source"] == "heldout-estimates"
    assert origin["origin"]["infl_mem.npz"]["sha256"] == hashing.file(Path("infl_mem.npz"))
    assert origin["checksum"] == hashing.file(Path("s.npy"))
    there = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    for keep in ("s.npy", "s.extra.npz", "s.origin.json"):
        for name in {"s.npy", "s.extra.npz", "s.origin.json"} - {keep}:
            Path(name).unlink(missing_ok=True)
        code, _, error = main("import", "heldout-estimates", "infl_mem.npz", "s.npy")
        assert (code, f"{keep} is there already" in error) == (2, True)
        assert Path(keep).read_bytes() == there[keep]
        for name, content in there.items():
            Path(name).write_bytes(content)


def test_archives_that_are_damaged_in_any_bit_are_one_sentence(main: Main, tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    np.savez_compressed("x.npz", memorization=rng.normal(size=9), influence=rng.normal(size=(8, 9)))
    whole = Path("x.npz").read_bytes()
    bits = rng.permutation(8 * len(whole))[:150]
    refused = 0
    for bit in bits:
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        Path("x.npz").write_bytes(damaged)
        code, _, error = main("import", "heldout-estimates", "x.npz", "s.npy")
        if code == 0:  # a date, say
            np.testing.assert_array_equal(np.load("s.npy").shape, (9, 8))
            for name in ("s.npy", "s.extra.npz", "s.origin.json"):
                Path(name).unlink()
            continue
        refused += 1
        assert (code, error.count("\n"), "x.npz" in error, "unexpected" in error) == (2, 1, True, False)
        assert sorted(p.name for p in tmp_path.iterdir()) == ["x.npz"]
    assert refused > 100


def classes(**other: Array) -> dict[str, Array]:
    """Three training examples of the classes 0, 1, 0, and a target of each."""
    made = {"tr_mem": np.zeros(3), "tr_labels": np.array([0, 1, 0]), "tt_labels": np.array([1, 0])}
    made |= {"tr_classidx_0": np.array([2, 0]), "tt_classidx_0": np.array([1]), "infl_matrix_class0": np.zeros((2, 1))}
    made |= {"tr_classidx_1": np.array([1]), "tt_classidx_1": np.array([0]), "infl_matrix_class1": np.zeros((1, 1))}
    return {**made, **other}


def pairs(**other: Array) -> dict[str, Array]:
    """Two pairs of two training examples and two targets."""
    made = {"tr_idx": np.array([1, 0]), "tt_idx": np.array([0, 1]), "infl": np.array([0.2, 0.3])}
    return {**made, "mem": np.array([0.25, 0.5]), **other}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"memorization": np.zeros(3), "influence": np.zeros((3, 4))}, "its columns are memorization"),
        ({"something": np.zeros(3)}, "none of the layouts"),
        ({"memorization": np.zeros(3), "influence": np.full((4, 3), np.nan)}, "of example 0 for target 0 is nan"),
        ({"memorization": np.zeros(3), "influence": np.full((4, 3), np.inf, np.float16)}, "float16 overflow"),
        ({"memorization": np.array([0, np.nan, 0]), "influence": np.zeros((4, 3))}, "memorization[1] is nan"),
        ({"memorization": np.array(["a"] * 3), "influence": np.zeros((4, 3))}, "only numbers are read"),
        ({"memorization": np.zeros(3), "influence": np.zeros((0, 3))}, "is empty"),
        ({"memorization": np.zeros(3), "influence": np.array([Boom()], object)}, "Python objects"),
        ({"tr_mem": np.zeros(3), "infl_matrix_class0": np.zeros((1, 1))}, "lacks tr_labels"),
        ({"tr_mem": np.zeros((3, 2))}, "a list of numbers belongs"),
        ({"tr_mem": np.float32(1)}, "a list of numbers belongs"),
        ({"tr_mem": np.zeros(3), "tr_labels": np.zeros(2, int)}, "3 integers belong"),
        (classes(tr_labels=np.array([0, 1, 1])), "tr_classidx_0 is not each example once"),
        (classes(tr_classidx_0=np.array([0, 0])), "tr_classidx_0 is not each example once"),
        (classes(tr_classidx_0=np.array([0, 7])), "goes from 0 to 7"),
        (classes(tr_classidx_0=np.array([0, -1])), "goes from -1 to 0"),
        (classes(infl_matrix_class0=np.zeros((1, 2))), "where [2, 1] belongs"),
        (classes(tt_labels=np.array([0, 2])), "has no infl_matrix_class2"),
        (classes(infl_matrix_class7=np.zeros((1, 1))), "has infl_matrix_class7, and no class 7"),
        (pairs(tr_idx=np.array([0, 2])), "goes from 0 to 2"),
        (pairs(tr_idx=np.array([1, 1]), tt_idx=np.array([1, 1])), "example 1 and target 1 twice"),
        (pairs(tr_idx=np.array([1, 1])), "mem of example 1 is 0.25, and another number elsewhere"),
        (pairs(infl=np.array([0.2, np.nan])), "infl[1] is nan"),
        (pairs(infl=np.array([0.2])), "of different lengths"),
    ],
)
def test_bad_estimates(main: Main, tmp_path: Path, content: dict[str, Any], said: str) -> None:
    np.savez(tmp_path / "x.npz", **content)
    many = ["--n-train", "2", "--n-targets", "2"]
    code, text, error = main("import", "heldout-estimates", "x.npz", "s.npy", *(many if "infl" in content else []))
    assert (code, text) == (2, "")
    assert said in error
    assert error.count("\n") == 1
    assert "x.npz" in error
    assert "unexpected" not in error
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x.npz"]


def test_export_needs_correctness(main: Main) -> None:
    assert main("train", "digits/logreg", "--models", "30", "--out", "store", "--quiet")[0] == 0
    code, _, error = main("export", "heldout-influence", "store", "out")
    assert (code, "train with --keep correct" in error) == (2, True)
    assert json.loads(Path("store/spec.json").read_text())["num_models"] == 30
