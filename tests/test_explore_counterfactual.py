"""Predicted and real changes without groups: the statistics by other means, the arrays, the leaderboard's column."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pandas as pd
import pytest
from scipy import stats

import bench
from bench import cli, results
from bench.errors import InputError
from bench.explore import calibration, effects, open_subject, page, removals
from bench.explore.effects import Part, Points
from bench.explore.removals_document import KINDS, Counterfactual
from bench.explore.subject import Subject
from bench.recorded import Recorded
from bench.stats import noise_ceiling

Main = Callable[..., tuple[int, str, str]]
WORDS = ("--quiet", "--device", "cpu", "--targets", "0,3,4,8", "--sizes", "0.05,0.1", "--seeds", "2", "--halves", "12")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, toy_source: str) -> Path:
    """A folder with a run of the toy setting, `run`, in which two methods have scores."""
    folder = tmp_path_factory.mktemp("toy")
    (folder / "toy.py").write_text(toy_source)
    words = ("run", "toy/logreg", "--models", "60", "--method", "heldout", "--method", "graddot", "--quiet")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BENCH_DATASETS", str(folder))
        assert cli.main([*words, "--eval-subsets", "12", "--device", "cpu", "--out", str(folder / "run")]) == 0
    return folder


@pytest.fixture
def run(main: Main, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:  # noqa: ARG001
    """A copy of that run, in the folder that commands run in."""
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    monkeypatch.setenv("BENCH_DATASETS", str(tmp_path))
    return tmp_path / "run"


def opened(run: Path) -> Subject:
    return open_subject(run, device="cpu")


def small(run: Path, **given: Any) -> Any:
    usual: dict[str, Any] = {"targets": [0, 3, 4, 8], "sizes": [0.05, 0.1], "seeds": 2, "halves": 0, "draws": 6}
    return removals.counterfactual(opened(run), **(usual | given))


def test_over_groups_is_an_lds(world: Any) -> None:
    """Of one size and independent groups, value and interval are those of an LDS; of several, the mean of them."""
    made = world(3, n_subsets=40, n_targets=12)
    scores = made.scores(0.5)
    predicted, actual = made.masks @ scores, made.margins.astype(float)
    whole = effects.over_groups([Part(predicted, actual, np.arange(40))])
    expected = bench.lds(scores, made.masks, made.margins)
    assert whole.value == pytest.approx(expected.mean)
    assert whole.ci == pytest.approx(expected.ci)
    clusters = np.arange(40) // 2
    paired = effects.over_groups([Part(predicted, actual, clusters)])
    assert paired.ci == pytest.approx(bench.lds(scores, made.masks, made.margins, groups=clusters).ci)
    halves = [
        Part(predicted[at], actual[at], np.arange(20) + 20 * i) for i, at in enumerate((slice(20), slice(20, 40)))
    ]
    each = [stats.spearmanr(p.predicted[:, j], p.actual[:, j]).statistic for p in halves for j in range(12)]
    found = effects.over_groups(halves)
    assert found.value == pytest.approx(np.mean(each))
    assert found.ci is not None
    assert found.ci[0] < np.mean(each) < found.ci[1]
    # One that nothing is said on counts 0; one whose changes are not known is left out.
    predicted[:, 0], predicted[:, 1], actual[:, 2] = np.nan, 1.0, np.nan
    rest = [stats.spearmanr(predicted[:, j], actual[:, j]).statistic for j in range(3, 12)]
    assert effects.over_groups([Part(predicted, actual, np.arange(40))]).value == pytest.approx(sum(rest) / 11)


def test_over_points() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 60))
    y = x + rng.standard_normal((2, 60))
    cluster = np.arange(60) // 3
    found = effects.over_points([Points(a, b, cluster) for a, b in zip(x, y, strict=True)])
    assert found.value == pytest.approx(np.mean([stats.spearmanr(a, b).statistic for a, b in zip(x, y, strict=True)]))
    deleted = [
        np.mean([stats.spearmanr(a[cluster != c], b[cluster != c]).statistic for a, b in zip(x, y, strict=True)])
        for c in range(20)
    ]
    stderr = np.sqrt(19 / 20 * np.square(deleted - np.mean(deleted)).sum())
    assert found.ci is not None
    assert (found.ci[1] - found.ci[0]) / (2 * stats.t.ppf(0.975, 19) * stderr) == pytest.approx(1, abs=0.1)
    assert effects.over_points([Points(np.ones(6), rng.random(6), np.arange(6))]).value is None


def r2(predicted: Any, actual: Any) -> float:
    return float(1 - np.square(actual - predicted).sum() / np.square(actual - actual.mean()).sum())


def test_a_wrong_sign_is_no_merit() -> None:
    """Nor is a wrong size: both have a squared correlation near 1."""
    rng = np.random.default_rng(2)
    y = rng.standard_normal(60) - 2
    for predicted in (-y + 0.01 * rng.standard_normal(60), -y / 643, y / 20):
        found = effects.line(predicted, y, np.arange(60))
        assert stats.linregress(predicted, y).rvalue ** 2 > 0.9
        assert found.r2.value == pytest.approx(r2(predicted, y))
        assert found.r2.ci is not None
        assert found.r2.ci[1] < 0
    assert (effects.line(y, y, np.arange(60)).r2.value, effects.line(y, y, np.arange(60)).slope.value) == (1, 1)


def test_the_ceiling_has_an_interval() -> None:
    """Of one size the value is that of an LDS's ceiling; the jackknives are written out."""
    rng = np.random.default_rng(3)
    signal = rng.standard_normal((24, 8))
    changes = [signal[:, :n] + rng.standard_normal((3, 24, n)) for n in (8, 8)]
    cluster = np.arange(24) // 3
    parts = [effects.Repeats(one, cluster) for one in changes]

    def best(rows: Any, targets: Any) -> float:
        return float(np.mean([noise_ceiling(one[:, rows][:, :, targets]).lds for one in changes]))  # type: ignore[union-attr]

    found = effects.ceiling(parts)
    everything = np.arange(24), np.arange(8)
    assert found.value == pytest.approx(best(*everything))
    left = [
        [best(np.flatnonzero(cluster != c), everything[1]) for c in range(8)],
        [best(everything[0], np.delete(everything[1], j)) for j in range(8)],
    ]
    variance = sum(7 / 8 * np.square(np.array(one) - np.mean(one)).sum() for one in left)
    half = stats.t.ppf(0.975, 7) * np.sqrt(variance)
    own = np.mean([noise_ceiling(one).ci for one in changes], axis=0)  # type: ignore[union-attr]
    expected = min(own[0], best(*everything) - half), min(1, max(own[1], best(*everything) + half))
    assert found.ci == pytest.approx(expected)
    assert effects.ceiling([effects.Repeats(changes[0][:1], cluster)]) == effects.Estimate(None)
    assert effects.ceiling([effects.Repeats(changes[0][:, :4], cluster[:4])]) == effects.Estimate(None)
    alone = effects.ceiling([effects.Repeats(changes[0][:, :, :1], cluster)])
    assert alone.value is not None
    assert alone.ci is None


def test_the_line_and_its_jackknife() -> None:
    rng = np.random.default_rng(1)
    x = rng.standard_normal(80) + 3
    y = 0.7 * x + rng.standard_normal(80)
    targets, groups = np.arange(80) % 8, np.arange(80) // 8
    found = effects.line(x, y, targets, groups)
    expected = stats.linregress(x, y)
    assert found.slope.value == pytest.approx(expected.slope)
    assert found.r2.value == pytest.approx(r2(x, y))
    variance = 0.0
    for cluster in (targets, groups):
        left = [stats.linregress(x[cluster != c], y[cluster != c]).slope for c in np.unique(cluster)]
        variance += (len(left) - 1) / len(left) * np.square(left - np.mean(left)).sum()
    half = stats.t.ppf(0.975, 7) * np.sqrt(variance)
    assert found.slope.ci == pytest.approx((expected.slope - half, expected.slope + half))
    assert found.r2.ci is not None
    variance = 0.0
    for cluster in (targets, groups):
        left = [r2(x[cluster != c], y[cluster != c]) for c in np.unique(cluster)]
        variance += (len(left) - 1) / len(left) * np.square(left - np.mean(left)).sum()
    half = stats.t.ppf(0.975, 7) * np.sqrt(variance)
    assert found.r2.ci == pytest.approx((r2(x, y) - half, min(1, r2(x, y) + half)))
    nothing = effects.line(np.ones(9), rng.random(9), np.arange(9))
    assert (nothing.slope, nothing.r2.ci) == (effects.Estimate(None), None)
    nothing = effects.line(rng.random(9), np.ones(9), np.arange(9))
    assert nothing.r2 == effects.Estimate(None)


def test_arrays_and_document(run: Path) -> None:
    """What is said follows from the arrays that lie beside it, by scipy; and these from scores and models."""
    Path("mine.json").write_text("[5, 1, 2]")
    subject = opened(run)
    finding = small(run, files=["mine.json"])
    document, arrays = finding.document, finding.arrays
    removed, listed, actual, predicted = (arrays[name] for name in ("removed", "groups", "actual", "predicted"))
    counts = {"top": 4 * 2 * 2, "random": 6 * 2, "class": 6 * 2, "file": 1}
    assert document.groups == counts
    assert removed.shape == (sum(counts.values()), 40)
    assert (actual.shape, predicted.shape) == ((len(removed), 4), (2, len(removed), 4))
    np.testing.assert_array_equal(removed.sum(axis=1), listed[:, 1])
    assert list(np.flatnonzero(removed[-1])) == [1, 2, 5]
    labels = subject.examples("the test looks at labels").train_y
    targets = np.array(document.targets)
    for at, one in enumerate(document.methods):
        scores = subject.methods[at].scores
        expected = -one.slope * removed.astype(float) @ scores[:, targets]
        np.testing.assert_allclose(predicted[at], expected, atol=1e-5)
    for mask, (kind, size, target) in zip(removed, listed, strict=True):
        if KINDS[kind] == "class":
            assert len(np.unique(labels[mask])) == 1
        if KINDS[kind] == "top":
            best = [set(np.argsort(-one.scores[:, target], kind="stable")[:size]) for one in subject.methods]
            assert set(np.flatnonzero(mask)) in best
    top = [
        [set(np.flatnonzero(m)) for m, g in zip(removed, listed, strict=True) if g[0] == 1 and g[1] == k]
        for k in (2, 4)
    ]
    assert all(a < b for a, b in zip(*top, strict=True))  # nested

    (at, one), kinds = (0, document.methods[0]), np.array(KINDS)[listed[:, 0]]
    spearman = [
        stats.spearmanr(predicted[at][rows, j], actual[rows, j]).statistic
        for size in (2, 4)
        for j in range(4)
        for rows in [np.flatnonzero((listed[:, 1] == size) & (kinds != "file"))]
    ]
    assert one.score.value == pytest.approx(np.mean(spearman), abs=0.02)  # float32 can tie
    cells = {(cell.kind, cell.removed): cell for cell in one.cells}
    rows = kinds == "random"
    expected = stats.linregress(predicted[at][rows].ravel(), actual[rows].ravel())
    assert cells["random", None].slope.value == pytest.approx(expected.slope, rel=1e-3)
    assert cells["random", None].r2.value == pytest.approx(r2(predicted[at][rows], actual[rows]), rel=1e-3)
    assert (cells["random", None].points, cells["random", 2].points) == (6 * 2 * 4, 6 * 4)
    rows = np.flatnonzero((kinds == "top") & (listed[:, 1] == 4))
    own = np.searchsorted(targets, listed[rows, 2])
    expected = stats.spearmanr(predicted[at][rows, own], actual[rows, own]).statistic
    assert cells["top", 4].spearman.value == pytest.approx(expected, abs=0.05)
    assert cells["file", None].points == 10  # all targets
    assert plain(small(run, files=["mine.json"])) == plain(finding)
    assert plain(small(run, seed=1)) != plain(finding)


def plain(finding: Any) -> Any:
    document = finding.document
    return msgspec.structs.replace(document, about=msgspec.structs.replace(document.about, seconds=0.0))


def test_changes_are_of_models_of_the_same_seeds(run: Path) -> None:
    finding = small(run, draws=5)
    subject = opened(run)
    trainer = subject.trainer("the test trains models")
    begin = [np.random.SeedSequence([0, 7, s]) for s in range(2)]
    for at in (0, 17):
        kept = np.flatnonzero(~finding.arrays["removed"][at])
        left = trainer.rows([kept] * 2, begin, Recorded())["margins"]
        full = trainer.rows([np.arange(40)] * 2, begin, Recorded())["margins"]
        expected = (left - full).mean(axis=0)[finding.document.targets]
        np.testing.assert_allclose(finding.arrays["actual"][at], expected, atol=1e-4)


def test_of_classes_some_are_left(run: Path) -> None:
    """Where a size is most of a class, no group of that class is removed."""
    finding = small(run, sizes=[0.05, 0.3])
    labels = opened(run).examples("the test looks at labels").train_y
    sizes = np.bincount(labels)
    large = sum(0.75 * sizes[draw % 3] >= 12 for draw in range(6))
    assert finding.document.groups["class"] == 6 + large
    assert large < 6


def test_halves_are_the_lds_once_more(run: Path) -> None:
    document = small(run, halves=12).document
    assert (document.halves, document.removed_half, document.half_seeds) == (12, 20, 2)
    board = results.read(run)
    for one, row in zip(document.methods, board.methods, strict=True):
        assert one.name == row.name
        assert one.half is not None
        assert (one.half.lds, one.half.lds_ci) == (row.lds, row.ci)
        assert one.half.difference.value == pytest.approx(one.half.spearman.value - row.lds)
    assert document.half_ceiling.value is not None


@pytest.mark.slow
def test_on_digits_random_removals_give_the_lds(main: Main) -> None:
    """And what datamodels rank, they rank among the best of removals that no subset looked like."""
    words = ("run", "digits/mlp", "--method", "datamodels", "--method", "random", "--quiet")
    assert main(*words, "--out", "run")[0] == 0
    subject = open_subject("run")
    document = removals.counterfactual(subject, count=10, sizes=[0.02, 0.1], seeds=2, halves=400).document
    datamodels, random = document.methods
    board = results.read(Path("run"))
    assert board.ceiling is not None
    reach = (board.ceiling.ci[1] - board.ceiling.ci[0]) / 2
    for one in (datamodels, random):
        assert one.half is not None
        assert one.half.difference.ci is not None
        assert one.half.difference.ci[0] < 0 < one.half.difference.ci[1]
    assert datamodels.half is not None
    assert abs(datamodels.half.difference.value or 1) < 2 * reach
    assert (datamodels.score.value or 0) > 0.5
    assert abs(random.score.value or 1) < 0.1


def test_the_column_of_the_leaderboard(main: Main, run: Path) -> None:
    """It comes with the exploration, stays while ground truth and scores are the same, and ranks nothing."""
    before = results.read(run)
    assert "counterfactual" not in main("table", str(run))[1]
    assert main("explore", "counterfactual", str(run), *WORDS)[0] == 0
    document = page.read(run / "explore", "counterfactual")
    assert isinstance(document, Counterfactual)
    board = results.read(run)
    for row, old, one in zip(board.methods, before.methods, document.methods, strict=True):
        assert row.counterfactual is not None
        assert (row.counterfactual.spearman, row.counterfactual.ci) == (one.score.value, one.score.ci)
        assert row.counterfactual.removals == sum(document.groups.values())
        assert row.counterfactual.seeds == 2
        assert msgspec.structs.replace(row, counterfactual=None) == old
    shown = f"{document.methods[0].score.value:.3f}".replace("-", "−")
    for text in (main("table", str(run))[1], (run / "leaderboard.md").read_text("utf-8")):
        assert "counterfactual" in text
        assert shown in text
    assert "Counterfactual" in (run / "leaderboard.tex").read_text("utf-8")
    assert 'data-key="counterfactual"' in (run / "report.html").read_text("utf-8")
    assert "What happens without a group" in (run / "report.html").read_text("utf-8")
    frame = pd.read_csv(run / "leaderboard.csv")
    assert list(frame["counterfactual"]) == pytest.approx([one.score.value for one in document.methods])

    again = (
        "run",
        "toy/logreg",
        "--models",
        "60",
        "--eval-subsets",
        "12",
        "--device",
        "cpu",
        "--quiet",
        "--out",
        "run",
    )
    both = ("--method", "heldout", "--method", "graddot")
    code, out, _ = main(*again, *both, "--method", "random")
    assert code == 0
    assert "counterfactual" in out
    kept = {row.name: row.counterfactual for row in results.read(run).methods}
    assert kept == {row.name: row.counterfactual for row in board.methods} | {"random": None}

    # Other scores of a method have not been tried.
    path = run / "explore" / "counterfactual.json"
    edited = json.loads(path.read_text("utf-8"))
    edited["methods"][0]["checksum"] = "0" * 64
    path.write_text(json.dumps(edited))
    assert main(*again, *both)[0] == 0
    assert [row.counterfactual is None for row in results.read(run).methods] == [True, False]
    edited["about"]["key"] = "another"
    path.write_text(json.dumps(edited))
    assert main(*again, *both)[0] == 0
    assert all(row.counterfactual is None for row in results.read(run).methods)
    assert 'data-key="counterfactual"' not in (run / "report.html").read_text("utf-8")
    path.write_text("{")
    assert main(*again, *both)[0] == 0
    assert all(row.counterfactual is None for row in results.read(run).methods)


def test_elsewhere_the_run_is_left_alone(main: Main, run: Path) -> None:
    before = (run / "leaderboard.json").read_bytes()
    code, out, _ = main("explore", "counterfactual", str(run), *WORDS, "--method", "graddot", "--out", "out", "--json")
    assert code == 0
    assert [one["name"] for one in json.loads(out)["methods"]] == ["graddot"]
    assert (run / "leaderboard.json").read_bytes() == before
    names = {path.name for path in Path("out").iterdir()}
    assert names >= {
        "counterfactual.csv",
        "counterfactual.html",
        "counterfactual-scatter.svg",
        "counterfactual-removed.npy",
    }
    frame = pd.read_csv("out/counterfactual.csv")
    assert set(frame["kind"]) == {"score", "top", "random", "class", "half"}


def test_one_model_per_group_tells_no_ceiling(main: Main, run: Path) -> None:
    words = ("explore", "counterfactual", str(run), "--quiet", "--device", "cpu", "--count", "2", "--sizes", "0.1")
    code, out, _ = main(*words, "--seeds", "1", "--halves", "0", "--draws", "5", "--out", "out")
    assert code == 0
    assert "at most" not in out
    assert "at most" not in Path("out/counterfactual.html").read_text("utf-8")
    document = page.read(Path("out"), "counterfactual")
    assert isinstance(document, Counterfactual)
    assert document.ceiling.value is None
    assert document.methods[0].half is None
    assert not document.halves


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"targets": []}, "no target is named"),
        ({"targets": [999]}, "there is no target 999: there are 10, numbered 0 … 9"),
        ({"targets": [-1]}, "there is no target -1"),
        ({"seed": -1}, "--seed is -1"),
    ],
)
def test_bad_input_from_python(run: Path, given: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        small(run, **given)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--targets", "10"), "--targets has 10, and there are 10 targets"),
        (("--count", "0"), "--count is 0"),
        (("--draws", "4"), "--draws is 4: it takes at least 5"),
        (("--halves", "2"), "--halves is 2: it takes 0, or at least 3"),
        (("--halves", "-1"), "--halves is -1"),
        (("--seeds", "0"), "--seeds is 0"),
        (("--sizes", "0"), "--sizes has 0"),
        (("--group", "nowhere.json"), "nowhere.json: No such file"),
        (("--group", "empty.txt"), "empty.txt names no training example: an empty group cannot be removed"),
        (("--group", "far.txt"), "far.txt names training example 40"),
        (("--group", "all.txt"), "all.txt names all 40 training examples"),
        (("--method", "trak"), "has no scores of a method 'trak'"),
    ],
)
def test_bad_input(main: Main, run: Path, words: tuple[str, ...], said: str) -> None:
    Path("empty.txt").write_text("")
    Path("far.txt").write_text("3 40")
    Path("all.txt").write_text(" ".join(map(str, range(40))))
    code, out, error = main("explore", "counterfactual", str(run), "--quiet", "--device", "cpu", *words)
    assert (code, out) == (2, "")
    assert said in error
    assert error.count("\n") == 1


def test_scores_that_are_not_finite(main: Main, run: Path) -> None:
    scores = np.array(opened(run).methods[0].scores)
    scores[3, 4] = np.nan
    np.save("mine.npy", scores)
    given = ("--scores", "mine.npy", "--orientation", "train,test", "--sign", "+")
    code, _, error = main("explore", "counterfactual", str(run), *WORDS, *given)
    assert code == 2
    assert "scores of target 4 that are not finite" in error
    words = [word if word != "0,3,4,8" else "0,3,8" for word in WORDS]
    code, out, _ = main("explore", "counterfactual", str(run), *words, *given, "--json", "--out", "out")
    assert code == 0
    mine = next(one for one in json.loads(out)["methods"] if one["name"].startswith("mine"))
    assert mine["checksum"] is None
    assert any("1 target has scores that are not finite" in note for note in json.loads(out)["notes"])


def test_a_target_that_nothing_is_said_on_counts_0(run: Path) -> None:
    subject = opened(run)
    one = subject.methods[0]
    scores = np.array(one.scores, np.float64)
    whole = removals.counterfactual(
        replace(subject, methods=[replace(one, scores=scores)]), count=10, halves=0, seeds=1
    )
    scores = scores.copy()
    scores[:, 5] = np.nan
    part = removals.counterfactual(replace(subject, methods=[replace(one, scores=scores)]), count=10, halves=0, seeds=1)
    assert whole.document.targets == part.document.targets == list(range(10))
    (before,), (after,) = whole.document.methods, part.document.methods
    assert (before.targets, after.targets) == (10, 9)
    assert after.score.value != before.score.value


def test_calibrated_by_the_tune_rows(run: Path) -> None:
    """Where there are enough of them: never rows that judge."""
    subject = opened(run)
    tune = subject.truth.of_group("tune")
    found = calibration.rows(subject, subject.trainer("the test trains models"), 0)
    assert len(tune) < 50
    assert found.trained == 100
    judging = {tuple(row) for row in subject.truth.masks[subject.truth.of_group("eval")]}
    assert not judging & {tuple(row) for row in found.masks}
    assert all(a < b for a, b in pairwise(sorted(tune)))
