"""Which removals flip targets: planted supporters, whose number is known; the search; intervals; calibration."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from bench import cli
from bench.errors import BenchError, InputError
from bench.explore import calibration, files, flips, open_subject, page, retraining
from bench.explore.blocks import Table
from bench.explore.document import Finding
from bench.explore.flips_document import Brittleness, Reference, Tried
from bench.explore.shares import Share
from bench.explore.subject import Subject
from bench.explore.views import brittleness as view
from bench.progress import Progress
from bench.recorded import Recorded
from bench.subsets import checkpoint_seed

Main = Callable[..., tuple[int, str, str]]

PLANTED = '''
"""120 examples of two classes; and five features, of 1 to 5 examples each that are labelled against the others' rule.

Each feature has a twin among the targets, which is right as long as one example with its feature is left.
"""
import numpy as np
from bench.datasets import Architecture, Data, Dataset, Recipe

class Supported(Dataset):
    models = {"logreg": Recipe(Architecture("logreg"), epochs=200, batch_size=20, lr=0.3)}

    def __init__(self, mistaken: bool = False) -> None:
        self.mistaken = mistaken

    def load(self, files):
        rng = np.random.default_rng(0)
        y = np.arange(120) % 2
        feature = np.repeat(np.arange(5), np.arange(1, 6))
        common = np.hstack([2 * np.eye(2)[y], np.zeros((120, 5))])
        odd = np.hstack([np.tile([2, 0], (15, 1)), 4 * np.eye(5)[feature]])
        order = rng.permutation(135)
        x, labels = np.vstack([common, odd])[order], np.append(y, np.ones(15, int))[order]
        twins = np.hstack([np.tile([2, 0], (5, 1)), 4 * np.eye(5)])
        test_x, test_y = np.vstack([common[:10], twins]), np.append(y[:10], np.full(5, int(not self.mistaken)))
        return Data(x.astype("float32"), labels, test_x.astype("float32"), test_y, 2)
'''
ORDER = np.random.default_rng(0).permutation(135)
FEATURE = np.append(np.full(120, -1), np.repeat(np.arange(5), np.arange(1, 6)))[ORDER]
TWINS = range(10, 15)
GRID = [k / 135 for k in range(1, 6)]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a store of 40 models of the planted setting, and `oracle.npy`: 1 for a target's supporters."""
    folder = tmp_path_factory.mktemp("planted")
    (folder / "supported.py").write_text(PLANTED)
    oracle = np.zeros((135, 15), np.float32)
    for at, target in enumerate(TWINS):
        oracle[at == FEATURE, target] = 1
    np.save(folder / "oracle.npy", oracle)
    words = ("train", "supported/logreg", "--alpha", "0.7", "--models", "40", "--quiet", "--device", "cpu")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BENCH_DATASETS", str(folder))
        assert cli.main([*words, "--out", str(folder / "store")]) == 0
    return folder


@pytest.fixture
def store(main: Main, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:  # noqa: ARG001
    """A copy of that store, in the folder that commands run in."""
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    monkeypatch.setenv("BENCH_DATASETS", str(tmp_path))
    return tmp_path / "store"


ORACLE = ("--scores", "oracle.npy", "--orientation", "train,test", "--sign", "+")


def opened(store: Path) -> Subject:
    """The store with the oracle's scores, which lie beside it."""
    scores = [f"oracle={store.parent / 'oracle.npy'}"]
    return open_subject(store, scores=scores, orientation=["train,test"], sign=["+"], device="cpu")


def found(store: Path, **changes: Any) -> Brittleness:
    given: dict[str, Any] = {"targets": list(TWINS), "sizes": GRID, "seeds": 2} | changes
    return flips.brittleness(opened(store), **given).document


def plain(document: Brittleness) -> Any:
    """Without the time it took."""
    return msgspec.structs.replace(document, about=msgspec.structs.replace(document.about, seconds=0.0))


def test_planted_supporters_are_the_least_that_flips(store: Path) -> None:
    """Removing all m supporters of a twin flips it, fewer do not; random examples seldom hold all of them."""
    made = found(store)
    (oracle,) = made.methods
    assert [case.target for case in oracle.cases] == list(TWINS)
    assert [case.smallest for case in oracle.cases] == [1, 2, 3, 4, 5]
    assert [p.flipped.count for p in oracle.points] == [1, 2, 3, 4, 5]
    assert [p.removed for p in oracle.points] == [1, 2, 3, 4, 5]
    for m, case in enumerate(oracle.cases, 1):
        assert case.before > 0
        for tried in case.tried:
            assert tried.flipped == (tried.removed >= m) == (tried.share == 1)
            assert tried.margin is not None
            assert (tried.margin < 0) == tried.flipped
        # The prediction, by hand: so many supporters, each worth the slope, more than the margin.
        k = int(case.before // oracle.slope) + 1
        assert case.k == (k if k <= m else None)
    assert oracle.predicted.count == sum(case.k is not None for case in oracle.cases)
    verified = [case.k == m for m, case in enumerate(oracle.cases, 1) if case.k is not None]
    assert oracle.verified.count == sum(verified)
    assert oracle.verified.ci is not None
    assert oracle.random.ci is not None
    assert oracle.at_least == oracle.verified.ci[0] / oracle.random.ci[1]
    assert made.random.points[-1].flipped.count <= 1
    assert [p.flipped.share for p in made.random.points] == sorted(p.flipped.share or 0 for p in made.random.points)
    assert made.right == 15
    assert plain(found(store)) == plain(made)
    assert plain(found(store, seed=1)) != plain(made)


def test_verified_at_the_predicted_number(store: Path) -> None:
    """With larger scores fewer examples are predicted; what these do is what is reported, not what more would."""
    subject = opened(store)
    scores = np.array(subject.methods[0].scores)
    scores[:, TWINS[4]] *= np.linspace(2, 2.2, 135, dtype=np.float32)
    np.save(store.parent / "oracle.npy", scores.astype(np.float32))
    (one,) = found(store, targets=[TWINS[4]]).methods
    (case,) = one.cases
    order = np.argsort(-scores[:, TWINS[4]])
    total = np.cumsum(one.slope * scores[order[:5], TWINS[4]])
    assert case.k == int((total <= case.before).sum()) + 1 < 5
    assert case.removed is not None
    assert case.removed.removed == case.k
    assert not case.removed.flipped
    assert (one.predicted.count, one.verified.count, one.both.count, one.times) == (1, 0, 0, None)
    assert case.smallest == 5  # the search goes on


def test_targets_are_drawn_from_the_right_ones(store: Path) -> None:
    made = found(store, targets=None, count=4)
    assert len(made.targets) == 4
    assert found(store, targets=None, count=4).targets == made.targets
    drawn = {tuple(found(store, targets=None, count=4, seed=s, seeds=1, sizes=[0.01]).targets) for s in range(3)}
    assert len(drawn) > 1


@given(st.lists(st.floats(-2, 2), min_size=1, max_size=12), st.floats(0.01, 5), st.integers(1, 12))
def test_smallest(scores: list[float], margin: float, limit: int) -> None:
    ordered = sorted((value for value in scores if value > 0), reverse=True)[:limit]
    expected = next((k for k in range(1, len(ordered) + 1) if np.cumsum(ordered[:k])[-1] > margin), None)
    assert flips.smallest(np.array(scores), margin, limit) == expected


@given(st.sets(st.integers(1, 40), min_size=1, max_size=8), st.integers(1, 45), st.integers(0, 40))
def test_the_search_ends_at_the_least_size_of_the_grid(sizes: set[int], least: int, start: int) -> None:
    """Where every removal from `least` on flips; `start` is what was tried before, 0 for nothing."""
    grid = sorted(sizes)
    tried: dict[int, Tried] = {}
    size: int | None = start or None
    for _ in range(len(grid) + 2):
        if size is not None:
            assert size not in tried
            tried[size] = Tried(size, 0.0, 0.0, size >= least)
        size = flips._next(tried, grid)
        if size is None:
            break
    assert size is None
    seen = min((size for size, one in tried.items() if one.flipped), default=None)
    expected = next((size for size in grid if size >= least), None)
    if start >= least and (expected is None or start < expected):
        expected = start
    assert seen == expected
    assert len(tried) <= np.log2(len(grid) + 1) + 3


@pytest.mark.parametrize(("count", "of"), [(0, 10), (3, 10), (10, 10), (1, 1), (17, 50), (0, 18), (27, 27)])
def test_shares_have_wilsons_interval(count: int, of: int) -> None:
    share = Share.counted(count, of)
    expected = stats.binomtest(count, of).proportion_ci(0.95, "wilson")
    assert share.ci == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert share.share == count / of
    assert share.ci is not None
    assert (share.ci[0] == 0, share.ci[1] == 1) == (count == 0, count == of)  # exactly
    assert Share.counted(0, 0) == Share(0, 0, None, None)


def test_the_slope_is_that_of_least_squares(store: Path) -> None:
    subject = opened(store)
    trainer = subject.trainer("the test trains models")
    models = calibration.rows(subject, trainer, 0)  # a store of 40 models has too few tune rows
    assert (models.trained, len(models.masks)) == (100, 100)
    assert set(models.masks.sum(axis=1)) == {round(0.7 * 135)}
    rng = np.random.default_rng(1)
    scores = rng.standard_normal((135, 15)).astype(np.float32)
    known = np.ones(15, bool)
    known[3] = False
    x, y = models.masks @ scores.astype(float), models.margins.astype(float)
    x, y = ((part - part.mean(0))[:, known].reshape(-1, 1) for part in (x, y))
    one = replace(subject.methods[0], scores=scores)
    assert calibration.slope(one, models, known) == pytest.approx(np.linalg.lstsq(x, y, rcond=None)[0][0, 0])
    sums = calibration.sums(scores, models.masks, np.array([2, 7]))
    np.testing.assert_allclose(sums, (models.masks @ scores)[:, [2, 7]], atol=1e-4)
    assert calibration.slope(replace(one, scores=0 * scores), models, known) == 0


def test_margins_without(store: Path) -> None:
    """Each group's models are those that the trainer makes of what is left, from the seeds that are promised."""
    subject = opened(store)
    trainer = subject.trainer("the test trains models")
    groups = [np.array([3, 7]), np.zeros(0, np.int64), np.arange(100)]
    quiet = Progress(quiet=True)
    made = retraining.margins_without(trainer, groups, 2, 5, quiet, "models", targets=np.array([1, 12]), output="max")
    assert made.shape == (3, 2, 2)
    begin = retraining.starts(subject, 2, 5)
    for group, margins in zip(groups, made, strict=True):
        kept = [np.delete(np.arange(135), group)] * 2
        expected = trainer.rows(kept, begin, Recorded("max"))["margins"][:, [1, 12]]
        np.testing.assert_allclose(margins, expected, atol=1e-4)
    twice = [groups[0], groups[0]]
    together = retraining.margins_without(trainer, twice, 2, 5, quiet, "models")
    np.testing.assert_allclose(together[0], together[1], atol=1e-4)
    apart = retraining.margins_without(trainer, twice, 2, 5, quiet, "models", apart=True)
    assert np.abs(apart[0] - apart[1]).max() > 1e-3
    with pytest.raises(InputError, match="removes all 135"):
        retraining.margins_without(trainer, [np.arange(135)], 1, 0, quiet, "models")


def test_the_protocol_single_model_has_one_seed(main: Main, store: Path) -> None:
    """Models are then those of the store: a subset's row is trained again, to the last digits, by its complement."""
    words = ("--alpha", "0.7", "--models", "20", "--quiet", "--device", "cpu", "--protocol", "single-model")
    assert main("train", "supported/logreg", *words, "--out", "single")[0] == 0
    subject = opened(store.parent / "single")
    assert retraining.models_of(subject, None, 5) == 1
    with pytest.raises(BenchError, match="--seeds is 3, and by the protocol single-model"):
        retraining.models_of(subject, 3, 5)
    (start,) = retraining.starts(subject, 7, 9)
    assert start.entropy == checkpoint_seed(0, 0).entropy
    trainer = subject.trainer("the test trains models")
    gone = [np.flatnonzero(~subject.truth.masks[row]) for row in (0, 5)]
    made = retraining.margins_without(trainer, gone, [start], 0, Progress(quiet=True), "models")
    np.testing.assert_allclose(made[:, 0], subject.truth.margins[[0, 5]], atol=1e-3)
    assert flips.brittleness(subject, targets=list(TWINS), sizes=GRID).document.seeds == 1


def test_files_and_the_command_line(main: Main, store: Path) -> None:
    words = ("explore", "brittleness", str(store), *ORACLE, "--device", "cpu", "--quiet", "--seeds", "2")
    more = ("--targets", "10-14", "--sizes", "0.0075,0.03")
    code, out, error = main(*words, *more, "--out", "out")
    assert (code, error) == (0, "")
    assert "≤ 0.74%" in out
    document = page.read(Path("out"), "brittleness")
    assert isinstance(document, Brittleness)
    assert {path.name for path in Path("out").iterdir()} == {
        *("brittleness.json", "brittleness.csv", "brittleness.html", "brittleness-sizes.svg"),
    }
    rows = pd.read_csv("out/brittleness.csv")
    assert list(rows["target"]) == list(TWINS)
    assert list(rows["smallest_that_flipped"].fillna(0)) == [c.smallest or 0 for c in document.methods[0].cases]
    text = Path("out/brittleness.html").read_text("utf-8")
    assert "How few training examples decide an answer?" in text
    assert ">nan" not in text.lower()
    code, out, _ = main(*words, *more, "--json")
    assert code == 0
    assert json.loads(out)["targets"] == list(TWINS)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"targets": []}, "no target is named"),
        ({"targets": [400]}, "there is no target 400: there are 15, numbered 0 … 14"),
        ({"targets": [-1]}, "there is no target -1"),
        ({"targets": [0.5]}, "list of whole numbers is needed"),
        ({"seed": -1}, "--seed is -1"),
    ],
)
def test_bad_input_from_python(store: Path, given: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        found(store, **given)


def test_controls_are_of_each_target_and_leave_classes_whole(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Targets of equal k have random groups of their own; of a class at most half is removed."""
    asked: dict[str, list[frozenset[int]]] = {}
    margins = flips._Bank.margins

    def noted(bank: Any, groups: Any, targets: Any, what: str) -> Any:
        asked.setdefault(what, []).extend(frozenset(group.tolist()) for group in groups)
        return margins(bank, groups, targets, what)

    monkeypatch.setattr(flips._Bank, "margins", noted)
    monkeypatch.setattr(flips, "smallest", lambda *_: 3)
    made = found(store, sizes=[3 / 135, 0.3, 0.4], seeds=1)
    (one,) = made.methods
    groups = asked["models without predicted examples"]
    assert len(groups) == 15
    assert len(set(groups[5:])) == 10
    labels = opened(store).examples("the test looks at labels").train_y
    least = min(int((labels == label).sum()) for label in set(made.labels))
    assert [p.removed for p in made.random.points] == [3, 40, 54]
    assert [p.removed for p in made.same_class.points] == [k for k in (3, 40, 54) if k <= least / 2] == [3]
    assert len(asked["models without random examples"]) == 5 * 3 + 2 * len(set(made.labels))
    text = "".join(str(block) for block in view.blocks(made))
    assert "its line ends there" in text
    named = view.blocks(msgspec.structs.replace(made, class_names=("red", "blue")))
    table = [block for block in named if isinstance(block, Table)][-1]
    assert {row[1] for row in table.rows} <= {"red", "blue"}
    monkeypatch.setattr(flips, "smallest", lambda *_: 40)
    (one,) = found(store, sizes=[0.4], seeds=1).methods
    assert (one.random.of, one.same_class.of) == (5, 0)
    assert all(case.same_class is None for case in one.cases)


def test_what_is_said_of_chance(store: Path) -> None:
    """The claim is of single methods, with counts and intervals, and only where the cautious figure has it."""
    made = found(store, seeds=1)
    (one,) = made.methods
    few = msgspec.structs.replace(one, name="few", verified=Share.counted(5, 9), random=Share.counted(0, 9))
    few = msgspec.structs.replace(few, at_least=few.verified.ci[0] / few.random.ci[1])  # type: ignore[index]
    many = msgspec.structs.replace(one, name="many", verified=Share.counted(30, 30), random=Share.counted(0, 30))
    many = msgspec.structs.replace(many, at_least=many.verified.ci[0] / many.random.ci[1])  # type: ignore[index]
    said = view._against_chance(msgspec.structs.replace(made, methods=[few, many]))
    first, second = said.split("Too few targets to say 5 times: ")
    assert "many: 30 of 30 (100 [89, 100]%) against 0 of 30 (0 [0, 11]%), so at least 7.8 times" in first
    assert second.startswith("few: 5 of 9")
    assert "many" not in second


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--targets", "15"), "--targets has 15, and there are 15 targets"),
        (("--targets", "x"), "--targets is 'x'"),
        (("--count", "0"), "--count is 0"),
        (("--seeds", "0"), "--seeds is 0"),
        (("--seed", "-1"), "--seed is -1"),
        (("--sizes", "0.5,1.5"), "--sizes has 1.5"),
        (("--sizes", "few"), "--sizes is 'few'"),
        (("--sizes", ","), "--sizes is empty"),
        (("--most", "1"), "--most is 1"),
    ],
)
def test_bad_input(main: Main, store: Path, words: tuple[str, ...], said: str) -> None:
    code, out, error = main("explore", "brittleness", str(store), *ORACLE, "--quiet", "--device", "cpu", *words)
    assert (code, out) == (2, "")
    assert said in error
    assert error.count("\n") == 1


def test_scores_that_are_not_finite(main: Main, store: Path) -> None:
    scores = np.load("oracle.npy")
    scores[3, 11] = np.nan
    np.save("oracle.npy", scores)
    words = ("explore", "brittleness", str(store), *ORACLE, "--quiet", "--device", "cpu", "--seeds", "1")
    code, _, error = main(*words, "--targets", "10,11")
    assert code == 2
    assert "oracle has scores of target 11 that are not finite" in error
    (one,) = found(store, targets=None, count=15, seeds=1, sizes=[0.01]).methods
    assert one.targets == 14
    assert 11 not in [case.target for case in one.cases]
    assert any(
        "scores that are not finite: 1 target" in note
        for note in found(store, targets=[10], seeds=1, sizes=[0.01]).notes
    )


def test_without_scores_or_what_is_right(main: Main, store: Path) -> None:
    code, _, error = main("explore", "brittleness", str(store), "--quiet")
    assert code == 2
    assert "add --scores FILE.npy" in error
    words = ("--alpha", "0.7", "--models", "20", "--quiet", "--device", "cpu", "--out", "wrong")
    assert main("train", "supported/logreg:mistaken=True", *words)[0] == 0
    given = ("explore", "brittleness", "wrong", *ORACLE, "--quiet", "--device", "cpu", "--seeds", "1")
    code, _, error = main(*given, "--targets", "10-12")
    assert code == 2
    assert "misclassify these already" in error
    code, out, _ = main(*given, "--targets", "3,12", "--json")
    assert code == 0
    assert any(note.endswith("already: 12") for note in json.loads(out)["notes"])


def test_the_reference_is_of_cifar10_alone(store: Path, tmp_path: Path) -> None:
    assert Reference.of("digits/mlp") is None
    reference = Reference.of("cifar10:small=True/resnet9")
    assert reference == Reference.of("cifar10/resnet9")
    made = msgspec.structs.replace(found(store, seeds=1), reference=reference)
    files.write(tmp_path / "out", Finding(made))
    assert "about 25% of CIFAR-10 test images" in (tmp_path / "out" / "brittleness.html").read_text("utf-8")
