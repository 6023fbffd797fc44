"""Mislabelled examples: areas against scikit-learn, intervals written out, planted and given labels, bad input."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from scipy.special import expit, logit
from sklearn.metrics import roc_auc_score

import bench.explore
from bench import memorization, runner
from bench.datasets import Data
from bench.errors import BenchError, InputError
from bench.explore import label_noise, labels, separation
from bench.explore.subject import open_subject
from bench.store import GroundTruth

Main = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def made_once(tmp_path_factory: pytest.TempPathFactory, toy_source: str) -> Path:
    folder = tmp_path_factory.mktemp("toy")
    (folder / "toy.py").write_text(toy_source)
    plain: dict[str, Any] = {"models": 40, "repeats": 1, "device": "cpu", "quiet": True}
    runner.run(
        setting=f"{folder}/toy.py/mlp",
        methods=["heldout", "graddot"],
        keep=["train_margins"],
        out=str(folder / "run"),
        **plain,
    )
    runner.run(setting=f"{folder}/toy.py/mlp", methods=["random"], out=str(folder / "bare"), **plain)
    return folder


@pytest.fixture
def run(made_once: Path, tmp_path: Path) -> Path:
    """A run of the toy setting that keeps margins on its training examples, beside the setting's file."""
    shutil.copytree(made_once, tmp_path, dirs_exist_ok=True)
    return tmp_path / "run"


WORDS = ("--setting", "toy.py/mlp", "--models", "60", "--device", "cpu", "--quiet")


@given(st.integers(0, 2**20), st.integers(2, 30))
def test_areas_are_those_of_scikit_learn(seed: int, values: int) -> None:
    """And intervals DeLong's, from every pair, written out."""
    rng = np.random.default_rng(seed)
    group = rng.random(40) < 0.3
    group[:2], group[2:4] = True, False
    value = rng.integers(0, values, 40).astype(float)
    found = separation.auc(value, group)
    assert found.value == pytest.approx(roc_auc_score(group, value))
    wins = np.sign(value[group][:, None] - value[~group][None, :]) / 2 + 0.5
    m, n = wins.shape
    error = np.sqrt(wins.mean(1).var(ddof=1) / m + wins.mean(0).var(ddof=1) / n)
    if found.ci is None:
        assert error == 0 or found.value in (0, 1)
        return
    half = 1.959963984540054 * error / (found.value * (1 - found.value))
    assert found.ci == pytest.approx(tuple(expit(logit(found.value) + np.array([-half, half]))))


def test_unknown_values_come_last() -> None:
    value = np.array([-np.inf, 3.0, 2.0, -np.inf])
    assert separation.auc(value, np.array([False, True, False, False])) == separation.Auc(1.0, None)
    assert separation.auc(value, np.array([True, True, False, False])).value == pytest.approx(0.625)


def test_flipped_labels_are_of_other_classes(toy_data: Data) -> None:
    made = labels.flipped(toy_data, 0.3, 2)
    assert made.wrong.sum() == 12
    assert_array_equal(made.right, toy_data.train_y)
    assert set(made.trained.tolist()) <= {0, 1, 2}
    assert_array_equal(labels.flipped(toy_data, 0.3, 2).trained, made.trained)
    assert labels.flipped(toy_data, 0.3, 3).wrong.tolist() != made.wrong.tolist()
    many = Data(np.zeros((9000, 2), np.float32), np.ones(9000, np.int64), toy_data.test_x[:, :2], toy_data.test_y, 3)
    counts = np.bincount(labels.flipped(many, 0.9, 0).trained, minlength=3)
    assert counts[1] == 900
    assert abs(counts[0] - 4050) < 200


def test_planted_labels_are_told(main: Main, run: Path) -> None:
    code, out, err = main("explore", "mislabel", str(run), *WORDS, "--k", "4", "--json")
    assert code == 0, err
    told = json.loads(out)
    assert (told["how"], told["wrong"], told["share"], told["about"]["models"]) == ("planted", 4, 0.1, 60)
    by = {one["name"]: one for one in told["told"]}
    assert set(by) == {
        "heldout",
        "graddot",
        label_noise.MEMORIZATION,
        label_noise.UNSEEN,
        label_noise.ALL,
        "random order",
    }
    # Everything again from the files of the run on wrong labels.
    folder = run / "explore" / "planted-labels"
    truth = GroundTruth.open(folder / "ground-truth")
    data = open_subject(run, setting=f"{run.parent}/toy.py/mlp").data
    assert data is not None
    planted = labels.flipped(data, 0.1, 0)
    masks, margins = np.asarray(truth.masks), np.asarray(truth.margins, np.float64)
    with_it = np.array([margins[masks[:, i], i].mean() for i in range(40)])
    without = np.array([margins[~masks[:, i], i].mean() for i in range(40)])
    wanted = {
        label_noise.MEMORIZATION: with_it - without,
        label_noise.UNSEEN: -without,
        label_noise.ALL: -margins.mean(axis=0),
        "heldout": np.load(folder / "scores" / "heldout.npy").diagonal(),
    }
    for name, value in wanted.items():
        assert by[name]["auc"] == pytest.approx(roc_auc_score(planted.wrong, value), abs=1e-6)
        first = np.argsort(-value, kind="stable")[:4]
        assert by[name]["found"] == planted.wrong[first].sum()
        listed = [one["train"] for one in told["suspicions"] if one["method"] == name]
        assert listed[:4] == first.tolist()
    assert by[label_noise.UNSEEN]["auc"] > 0.6  # the clusters overlap: other labels look wrong too
    assert by[label_noise.UNSEEN]["recalls"][-1] == 1
    assert {one["train"] for one in told["suspicions"] if one["wrong"]} == set(np.flatnonzero(planted.wrong).tolist())
    assert "Which training examples are mislabelled?" in (run / "explore" / "mislabel.html").read_text("utf-8")
    assert (run / "explore" / "mislabel-found.svg").exists()
    table = (run / "explore" / "mislabel.csv").read_text("utf-8").splitlines()
    assert table[0] == "method,rank,train,value,label,right,wrong,holds"
    assert len(table) == 1 + 5 * 40
    assert "what it holds" in (run / "explore" / "mislabel.html").read_text("utf-8")
    assert all(one["holds"].count(",") >= 1 for one in told["suspicions"])  # no images: the beginning of its numbers
    again = json.loads(main("explore", "mislabel", str(run), *WORDS, "--k", "4", "--json")[1])
    for one in (told, again):
        one.pop("about")
    assert again == told


def test_a_run_s_own_labels(main: Main, run: Path) -> None:
    """Without training: by memorization of the store's own models; judged where clean labels are given."""
    code, out, err = main("explore", "mislabel", str(run), *WORDS, "--no-plant", "--json")
    assert code == 0, err
    told = json.loads(out)
    truth = GroundTruth.open(run / "ground-truth")
    rows = truth.rows(np.flatnonzero(truth.completed), as_stored=True)
    own = memorization.own(rows.masks, rows.train["train_margins"])
    listed = [one["train"] for one in told["suspicions"] if one["method"] == label_noise.MEMORIZATION]
    assert listed == np.argsort(-own.memorization, kind="stable").tolist()
    assert (told["how"], told["told"], told["wrong"], told["about"]["models"]) == ("own", [], None, 0)
    assert main("explore", "mislabel", str(run), *WORDS, "--no-plant")[0] == 0
    data = open_subject(run, setting=f"{run.parent}/toy.py/mlp").data
    assert data is not None
    clean = data.train_y.copy()
    clean[:5] = (clean[:5] + 1) % 3
    np.save("clean.npy", clean)
    words = ("--no-plant", "--labels", "clean.npy", "--labels-are", "clean", "--json")
    told = json.loads(main("explore", "mislabel", str(run), *WORDS, *words)[1])
    assert told["wrong"] == 5
    by = {one["name"]: one for one in told["told"]}
    wrong = np.arange(40) < 5
    assert by[label_noise.MEMORIZATION]["auc"] == pytest.approx(roc_auc_score(wrong, own.memorization))


def test_labels_of_a_file_take_the_place_of_planted_ones(main: Main, run: Path) -> None:
    data = open_subject(run, setting=f"{run.parent}/toy.py/mlp").data
    assert data is not None
    noisy = data.train_y.copy()
    noisy[[3, 8, 21]] = (noisy[[3, 8, 21]] + 1) % 3
    Path("noisy.txt").write_text("\n".join(map(str, noisy.tolist())))
    code, out, err = main("explore", "mislabel", str(run), *WORDS, "--labels", "noisy.txt", "--json")
    assert code == 0, err
    told = json.loads(out)
    assert (told["how"], told["wrong"]) == ("file", 3)
    wrong = {one["train"]: (one["label"], one["right"]) for one in told["suspicions"] if one["wrong"]}
    assert wrong == {i: (int(noisy[i]), int(data.train_y[i])) for i in (3, 8, 21)}
    words = ("--labels", "noisy.txt", "--labels-are", "clean", "--json")
    told = json.loads(main("explore", "mislabel", str(run), *WORDS, *words)[1])
    wrong = {one["train"]: (one["label"], one["right"]) for one in told["suspicions"] if one["wrong"]}
    assert wrong == {i: (int(data.train_y[i]), int(noisy[i])) for i in (3, 8, 21)}


def test_bad_words_are_one_sentence(main: Main, run: Path) -> None:
    Path("short.txt").write_text("0 1 2")
    Path("words.txt").write_text("cat dog")
    Path("same.npy").write_bytes(b"")
    data = open_subject(run, setting=f"{run.parent}/toy.py/mlp").data
    assert data is not None
    np.save("same.npy", data.train_y)
    np.save("high.npy", data.train_y + 1)
    np.save("real.npy", data.train_y.astype(float))
    np.save("other.npy", (data.train_y + 1) % 3)
    for words, said in (
        (("--k", "0"), "--k is 0: it takes 1 to 40"),
        (("--k", "41"), "--k is 41: it takes 1 to 40"),
        (("--most", "0"), "--most is 0"),
        (("--share", "0"), "--share is 0: of 40 labels"),
        (("--share", "0.999"), "--share is 0.999: of 40 labels"),
        (("--seed", "-1"), "--seed is -1"),
        (("--labels", "gone.npy"), "gone.npy: No such file"),
        (("--labels", "short.txt"), "short.txt holds int64 [3]: it takes 40"),
        (("--labels", "words.txt"), "words.txt is not a list of labels"),
        (("--labels", "same.npy"), "same.npy agrees with the dataset on all"),
        (("--labels", "other.npy"), "other.npy agrees with the dataset on none"),
        (("--labels", "high.npy"), "high.npy has a label 3: they are 0 … 2"),
        (("--labels", "real.npy"), "real.npy holds float64 [40]"),
        (("--no-plant", "--labels", "other.npy"), "add --labels-are clean"),
        (("--no-plant", "--models", "0"), "--models is 0"),
    ):
        code, out, err = main("explore", "mislabel", str(run), *WORDS, *words)
        assert (code, out) == (2, ""), words
        assert said in err
        assert len(err.strip().splitlines()) == 1


def test_what_is_missing_is_said(main: Main, run: Path) -> None:
    bare = run.parent / "bare"
    subject = open_subject(bare, setting=f"{run.parent}/toy.py/mlp", device="cpu")
    with pytest.raises(InputError, match="keep train-margins"):
        bench.explore.mislabel(subject, plant=False)
    # Without methods the models alone tell.
    found = bench.explore.mislabel(replace(subject, methods=()), models=40).document
    assert {one.name for one in found.told if not one.baseline} == {label_noise.MEMORIZATION}
    with pytest.raises(BenchError, match="ranks training examples by their labels, and"):
        bench.explore.mislabel(open_subject(bare))  # its setting is a file, which is not named
    code, _, err = main("explore", "mislabel", str(bare), "--quiet")
    assert code == 2
    assert "has no examples" in err


@pytest.mark.slow
def test_wrong_labels_of_digits_are_found(main: Main) -> None:
    """By memorization and by self-influence, far above chance; an example keeps its own margin up."""
    words = ("--method", "gradient-kernel:trained_on=subsets", "--models", "600", "--repeats", "1")
    assert main("run", "digits/mlp", *words, "--out", "run", "--device", "cpu", "--quiet")[0] == 0
    code, out, _ = main("explore", "mislabel", "run", "--models", "600", "--device", "cpu", "--quiet", "--json")
    assert code == 0
    told = json.loads(out)
    assert told["picture"]
    by = {one["name"]: one for one in told["told"]}
    for name in ("gradient-kernel:trained_on=subsets", label_noise.MEMORIZATION, label_noise.UNSEEN):
        assert by[name]["ci"][0] > 0.95
    assert by["random order"]["ci"][0] < 0.5 < by["random order"]["ci"][1]
