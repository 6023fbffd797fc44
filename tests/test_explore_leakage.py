"""Leakage: statistics against numpy, precision against scikit-learn, planted copies, the command, bad input."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.metrics import average_precision_score, precision_recall_curve

import bench.explore
from bench import datasets, runner
from bench.datasets import Data
from bench.errors import BenchError, InputError
from bench.explore import copies, duplicates, likeness, precision
from bench.explore.subject import Subject, open_subject
from bench.report.images import Pixels

Main = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def digits() -> Data:
    return runner.load(datasets.setting("digits/mlp"), None, False)


@pytest.fixture(scope="module")
def made_once(tmp_path_factory: pytest.TempPathFactory, toy_source: str) -> Path:
    folder = tmp_path_factory.mktemp("toy")
    (folder / "toy.py").write_text(toy_source)
    runner.run(
        setting=f"{folder}/toy.py/mlp",
        methods=["heldout", "graddot", "random"],
        models=40,
        repeats=1,
        out=str(folder / "run"),
        device="cpu",
        quiet=True,
    )
    return folder


@pytest.fixture
def run(made_once: Path, tmp_path: Path) -> Path:
    """A run of the toy setting with three methods, beside the setting's file."""
    shutil.copytree(made_once, tmp_path, dirs_exist_ok=True)
    return tmp_path / "run"


WORDS = ("--setting", "toy.py/mlp", "--models", "40", "--device", "cpu", "--quiet")


def by_svd(scores: Any, power: float, steps: int) -> Any:
    """The docstring of `bench.explore.likeness`, written out."""
    rows = scores / np.linalg.norm(scores, axis=1, keepdims=True)
    for step in range(steps):
        u, s, v = np.linalg.svd(rows, full_matrices=False)
        x, y = u * s ** (power / 2), v.T * s ** (power / 2)
        x_length, y_length = np.linalg.norm(x, axis=1, keepdims=True), np.linalg.norm(y, axis=1, keepdims=True)
        if step < steps - 1:
            rows = rows / x_length
    return (x / x_length) @ (y / y_length).T


@pytest.mark.parametrize("shape", [(30, 12), (12, 30), (9, 9)])
@pytest.mark.parametrize(("power", "steps"), [(0.25, 3), (1.0, 1), (0.0, 2)])
def test_cosines_are_those_of_the_decomposition(shape: tuple[int, int], power: float, steps: int) -> None:
    scores = np.random.default_rng(3).standard_normal(shape)
    found = likeness.cosines(scores, power, steps)
    assert_allclose(found, by_svd(scores, power, steps), atol=1e-9)
    assert np.abs(found).max() <= 1 + 1e-9


@given(st.integers(0, 2**20))
def test_sizes_of_rows_do_not_matter(seed: int) -> None:
    """Nor do rows of zeros, or columns of them, do any harm."""
    rng = np.random.default_rng(seed)
    scores = rng.standard_normal((12, 7))
    sizes = np.exp(3 * rng.standard_normal((12, 1)))
    assert_allclose(likeness.cosines(sizes * scores), likeness.cosines(scores), atol=1e-7)
    scores[4], scores[:, 2] = 0, 0
    found = likeness.cosines(scores)
    assert np.isfinite(found).all()
    assert not found[4].any()
    assert not found[:, 2].any()
    assert not likeness.cosines(np.zeros((5, 3))).any()


def test_other_statistics_as_numpy_has_them(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = np.random.default_rng(0).standard_normal((20, 150))
    monkeypatch.setattr(likeness, "_BLOCK", 64)
    for target in range(150):
        column = np.sort(scores[:, target])
        spread = 1.4826 * np.median(np.abs(column - np.median(column)))
        wanted = {
            "top": column[-1],
            "gap": (column[-1] - column[-2]) / spread,
            "z": (column[-1] - np.median(column)) / spread,
        }
        if target == 0:
            found = {name: likeness.pairs(scores, name) for name in ("top", "gap", "z")}
        for name, value in wanted.items():
            assert found[name].value[target] == pytest.approx(value)
            assert found[name].train[target] == scores[:, target].argmax()


def test_targets_of_unknown_scores_name_nothing() -> None:
    scores = np.random.default_rng(0).standard_normal((20, 6))
    known = likeness.pairs(scores[:, [0, 2, 3, 5]])
    scores[3, 1], scores[:, 4] = np.nan, np.inf
    for name in likeness.STATISTICS:
        found = likeness.pairs(scores, name)
        assert_array_equal(found.train < 0, [False, True, False, False, True, False])
        assert_array_equal(np.isneginf(found.value), found.train < 0)
    assert_allclose(likeness.pairs(scores).value[[0, 2, 3, 5]], known.value)


def test_copies_are_found_though_others_have_larger_scores() -> None:
    """Gradients with a part that all share, long for hard examples: the largest score names the hardest."""
    rng = np.random.default_rng(5)
    ours = rng.standard_normal((200, 30)) + 3 * rng.standard_normal(30)
    theirs = rng.standard_normal((80, 30)) + ours.mean(axis=0)
    source = rng.choice(200, 40, replace=False)
    theirs[:40] = ours[source]
    scores = (np.exp(1.5 * rng.standard_normal((200, 1))) * ours) @ theirs.T
    truth = np.append(source, np.full(40, -1))
    averages = {}
    for name in ("cosine", "top"):
        found = likeness.pairs(scores, name)
        averages[name] = precision.curve(found.value, found.train == truth, truth >= 0, 0).average
    assert averages["cosine"] > 0.99
    assert averages["top"] < 0.3


@given(st.integers(0, 2**20), st.integers(1, 6))
def test_average_precision_is_that_of_scikit_learn(seed: int, values: int) -> None:
    """Ties and all; what is listed wrongly counts as missed, which its function leaves to a factor."""
    rng = np.random.default_rng(seed)
    wanted = rng.random(40) < 0.4
    wanted[:2] = True
    right = wanted & (rng.random(40) < 0.7)
    right[0] = True
    value = rng.integers(0, values, 40).astype(float)
    found = precision.curve(value, right, wanted, seed)
    share = right.sum() / wanted.sum()
    assert found.average == pytest.approx(average_precision_score(right, value) * share)
    shown, recalls, _ = precision_recall_curve(right, value)
    assert_allclose(found.precision, shown[:-1][::-1])
    assert_allclose(found.recall, recalls[:-1][::-1] * share)
    enough = shown[:-1] >= 0.5
    assert found.recall_at(0.5) == pytest.approx((recalls[:-1][enough] * share).max() if enough.any() else 0)
    assert found.ci[0] <= found.ci[1]


def test_intervals_of_average_precision_hold_what_they_should() -> None:
    """The bootstrap's, against the spread over new draws; a perfect ranking; nothing listed at all."""
    rng = np.random.default_rng(1)
    wanted = np.arange(120) < 40

    def draw() -> precision.Curve:
        value = rng.standard_normal(120) + 1.5 * wanted
        return precision.curve(value, wanted, wanted, 0)

    many = [draw() for _ in range(80)]
    mean = np.mean([one.average for one in many])
    inside = np.mean([one.ci[0] <= mean <= one.ci[1] for one in many])
    assert 0.86 < inside <= 1
    value = np.where(wanted, 1.0, 0.0)
    assert precision.curve(value, wanted, wanted, 0).ci == (1.0, 1.0)
    nothing = precision.curve(np.full(120, -np.inf), wanted & False, wanted, 0)
    assert (nothing.average, nothing.ci, nothing.recall_at(0.1)) == (0.0, (0.0, 0.0), 0.0)


def test_wilson_is_that_of_scipy() -> None:
    from scipy.stats import binomtest

    for found, count in ((0, 9), (27, 27), (3, 10)):
        wanted = binomtest(found, count).proportion_ci(method="wilson")
        assert precision.wilson(found, count) == pytest.approx((wanted.low, wanted.high))


def test_copies_are_what_they_are_called(digits: Data) -> None:
    made = copies.plant(digits, 0.3, 4)
    assert_array_equal(np.bincount(made.kind), [27, 27, 27, 27])
    assert len(set(made.source.tolist())) == len(made.source) == 108
    untouched = np.setdiff1d(np.arange(360), made.targets)
    assert_array_equal(made.data.test_x[untouched], digits.test_x[untouched])
    assert_array_equal(made.data.test_y[untouched], digits.test_y[untouched])
    assert made.data.train_x is digits.train_x
    assert_array_equal(made.data.test_y[made.targets], digits.train_y[made.source])
    assert_array_equal(made.truth[made.targets], made.source)
    assert (made.truth[untouched] == -1).all()
    for target, source, kind in zip(made.targets, made.source, made.kind, strict=True):
        copy, original = made.data.test_x[target].reshape(8, 8), digits.train_x[source].reshape(8, 8)
        name = made.kinds[kind]
        if name == "exact":
            assert_array_equal(copy, original)
        elif name == "shifted":
            rolled = {(axis, step): np.roll(original, step, axis) for axis in (0, 1) for step in (1, -1)}
            inner = (slice(1, -1), slice(1, -1))
            assert any(np.array_equal(copy[inner], one[inner]) for one in rolled.values())
        elif name == "brightened":
            assert_allclose(copy, np.minimum(original + 0.2, 1), atol=1e-6)
        else:
            assert 0 < np.abs(copy - original).mean() < 0.1
    again = copies.plant(digits, 0.3, 4)
    assert_array_equal(again.data.test_x, made.data.test_x)
    assert copies.plant(digits, 0.3, 5).targets.tolist() != made.targets.tolist()


def test_pictures_in_colour_are_re_encoded() -> None:
    """Normalised pixels come back on their own scale, channel by channel."""
    rng = np.random.default_rng(0)
    ramp = np.linspace(0, 1, 16)
    smooth = rng.random((24, 3, 1, 1)) * ramp + rng.random((24, 3, 1, 1)) * ramp[:, None]
    smooth = (smooth * np.array([1, 5, 0.2])[:, None, None] - 1).astype(np.float32)
    data = Data(smooth[:12], np.zeros(12, np.int64), smooth[12:], np.zeros(12, np.int64), 2)
    made = copies.plant(data, 0.7, 0)
    pixels = Pixels.of(data)
    assert pixels is not None
    for target, source in zip(made.targets[made.kind == 3], made.source[made.kind == 3], strict=True):
        apart = (
            np.abs(made.data.test_x[target] - data.train_x[source]).mean((1, 2)) / (pixels.high - pixels.low)[:, 0, 0]
        )
        assert (apart < 0.05).all()


def test_features_are_copied_exactly_and_with_noise(toy_data: Data) -> None:
    made = copies.plant(toy_data, 0.6, 0)
    assert made.kinds == ("exact", "noisy")
    apart = np.abs(made.data.test_x[made.targets] - toy_data.train_x[made.source])
    assert not apart[made.kind == 0].any()
    assert (apart[made.kind == 1] > 0).all()
    assert apart.max() < 0.5


def test_neighbours_are_the_nearest(digits: Data) -> None:
    some = replace(digits, test_x=digits.test_x[:20], test_y=digits.test_y[:20])
    apart = np.linalg.norm(digits.train_x[:, None] - some.test_x[None], axis=2)
    found = duplicates.nearest(some, duplicates.EUCLIDEAN)
    assert_array_equal(found.train, apart.argmin(axis=0))
    assert_allclose(-found.value, apart.min(axis=0), rtol=1e-5)
    like = np.corrcoef(digits.train_x, some.test_x)[: digits.n_train, digits.n_train :]
    found = duplicates.nearest(some, duplicates.CORRELATED)
    assert_array_equal(found.train, like.argmax(axis=0))
    assert_allclose(found.value, like.max(axis=0), rtol=1e-5)


def test_the_command_writes_and_shows(main: Main, run: Path) -> None:
    code, out, err = main("explore", "leakage", str(run), *WORDS, "--share", "0.4", "--k", "3", "--json")
    assert code == 0, err
    told = json.loads(out)
    rated = told["evaluation"]
    assert (rated["kinds"], rated["others"], rated["models"]) == ({"exact": 2, "noisy": 2}, 6, 40)
    names = {one["name"] for one in rated["rated"]}
    distance, correlation = "examples, distance", "examples, correlation"  # they are no images
    assert names == {"heldout", "graddot", "random", distance, correlation, duplicates.FEATURES}
    by = {(one["name"], one["kind"]): one for one in rated["rated"]}
    assert by[distance, "exact"]["average"] == 1
    assert by[distance, "all"]["named"] == 4
    assert set(rated["statistics"]) == {"heldout", "graddot", "random"}
    folder = run / "explore"
    page = (folder / "leakage.html").read_text("utf-8")
    assert "Are targets copies" in page
    assert "what it holds" in page
    assert "pixels" not in page
    assert not (folder / "leakage-pairs.png").exists()
    assert any("not known to be images" in note for note in told["notes"])
    table = (folder / "leakage.csv").read_text("utf-8").splitlines()
    assert table[0] == "method,rank,target,train,target_label,train_label,value,nearer,agree,target_holds,train_holds"
    assert len(table) == 1 + 4 * 10
    # The run with copies is used again, and says the same.
    code, out, _ = main("explore", "leakage", str(run), *WORDS, "--share", "0.4", "--k", "3", "--json")
    again = json.loads(out)
    for one in (told, again):
        one.pop("about")
    assert again == told
    other = (*WORDS, "--share", "0.4", "--k", "3", "--most", "1", "--seed", "1", "--json")
    code, out, _ = main("explore", "leakage", str(run), *other)
    assert code == 0
    drawn = json.loads(out)["evaluation"]["rated"]
    assert drawn != [by[one["name"], one["kind"]] for one in drawn]
    code, out, _ = main("explore", "leakage", str(run), "--setting", "toy.py/mlp", "--no-evaluate", "--quiet")
    assert code == 0
    assert "nearer" in out
    assert "what it holds" in out
    assert main("report", str(run), "--quiet")[0] in (0, 2)  # 2: its setting is a file


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--k", "0"), "--k is 0: it takes 1 to 10"),
        (("--k", "11"), "--k is 11: it takes 1 to 10"),
        (("--most", "0"), "--most is 0"),
        (("--share", "0.01"), "--share is 0.01: of 10 targets it must make at least 2 copies"),
        (("--share", "1"), "--share is 1: it takes a share of the targets, between 0 and 1"),
        (("--share", "1", "--no-evaluate"), "--share is 1"),
        (("--models", "3", "--no-evaluate"), "--models is 3"),
        (("--share", "nan"), "--share is nan"),
        (("--seed", "-1"), "--seed is -1"),
        (("--models", "3"), "models"),
        (("--method", "trak"), "no scores of a method 'trak'"),
    ],
)
def test_bad_words_are_one_sentence(main: Main, run: Path, words: tuple[str, ...], said: str) -> None:
    code, out, err = main("explore", "leakage", str(run), *WORDS, *words)
    assert (code, out) == (2, "")
    assert said in err
    assert len(err.strip().splitlines()) == 1


def test_scores_alone_are_ranked_and_not_evaluated(main: Main, run: Path) -> None:
    """Of a run whose dataset is gone."""
    Path("toy.py").unlink()
    code, _, err = main("explore", "leakage", str(run), "--evaluate", "--quiet")
    assert code == 2
    assert "--no-evaluate leaves out" in err
    code, out, _ = main("explore", "leakage", str(run), "--no-evaluate", "--json", "--quiet")
    assert code == 0
    assert json.loads(out)["notes"] == []
    code, out, err = main("explore", "leakage", str(run), "--json", "--quiet")
    assert code == 0, err
    told = json.loads(out)
    (note,) = told["notes"]
    assert "No copies were planted and looked for" in note
    assert "has no examples" in note
    assert told["evaluation"] is None
    assert {one["nearer"] for one in told["suspects"]} == {None}
    assert {one["method"] for one in told["suspects"]} == {"heldout", "graddot", "random"}


def test_excluded_targets_are_left_out(main: Main, run: Path) -> None:
    scores = np.random.default_rng(0).standard_normal((40, 10))
    scores[5, 3] = np.nan
    np.save("some.npy", scores)
    words = ("--scores", "mine=some.npy", "--orientation", "train,test", "--sign", "+", "--setting", "toy.py/mlp")
    code, out, err = main("explore", "leakage", str(run), *words, "--no-evaluate", "--json", "--quiet")
    assert code == 0, err
    told = json.loads(out)
    mine = [one["target"] for one in told["suspects"] if one["method"] == "mine"]
    assert sorted(mine) == [0, 1, 2, 4, 5, 6, 7, 8, 9]
    assert any("1 of 10 targets" in note for note in told["notes"])
    scores[:, :] = np.nan
    np.save("some.npy", scores)
    code, _, err = main("explore", "leakage", str(run), *words, "--no-evaluate", "--quiet")
    assert code == 2
    assert "finite" in err


def test_nothing_to_rank(run: Path) -> None:
    subject: Subject = open_subject(run, setting=f"{run.parent}/toy.py/mlp")
    bare = replace(subject, methods=())
    with pytest.raises(BenchError, match="reads score matrices"):
        bench.explore.leakage(bare)
    with pytest.raises(BenchError, match="--statistic is 'mean'"):
        bench.explore.leakage(subject, statistic="mean")  # type: ignore[arg-type]
    unknown = replace(subject.methods[0], scores=np.full((40, 10), np.nan))
    with pytest.raises(InputError, match="no target whose scores are all finite"):
        bench.explore.leakage(replace(subject, methods=[unknown]), evaluate=False)


@pytest.mark.slow
def test_exact_copies_of_digits_are_found(main: Main) -> None:
    """What the project claims: at a precision of .95, 95% of exact copies; not by the largest score."""
    words = ("--method", "gradient-kernel:trained_on=subsets", "--models", "600", "--repeats", "1")
    assert main("run", "digits/mlp", *words, "--out", "run", "--device", "cpu", "--quiet")[0] == 0
    code, out, _ = main("explore", "leakage", "run", "--models", "600", "--device", "cpu", "--quiet", "--json")
    assert code == 0
    found = msgspec.json.decode(out, type=duplicates.Leakage)
    assert found.evaluation is not None
    assert found.picture
    by = {(one.name, one.kind): one for one in found.evaluation.rated}
    assert by["gradient-kernel:trained_on=subsets", "exact"].recall >= 0.95
    assert found.evaluation.statistics["gradient-kernel:trained_on=subsets"]["top"] < 0.05
