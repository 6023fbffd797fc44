"""Training without memorized examples: planted ones, whose worth is known; the files; the example on real data."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pandas as pd
import pytest
from scipy import stats

from bench import memorization, memorization_files
from bench.errors import BenchError
from bench.progress import Progress
from bench.removal import plot, tables
from bench.removal.document import Estimate, Removal
from bench.removal.experiment import Options, removal

Main = Callable[..., tuple[int, str, str]]
EXAMPLE = Path(__file__).parent / "examples" / "memorization.sh"

PLANTED = '''
"""120 examples of two classes, and 20 exceptions: of class 0 but for a feature each has alone, labelled 1.

Each exception has a twin among the test examples, labelled alike, or as class 0 where the exceptions are mistakes.
"""
import numpy as np
from bench.datasets import Architecture, Data, Dataset, Recipe

class Planted(Dataset):
    models = {"logreg": Recipe(Architecture("logreg"), epochs=200, batch_size=20, lr=0.3)}

    def __init__(self, mistakes: bool = False) -> None:
        self.mistakes = mistakes

    def load(self, files):
        rng = np.random.default_rng(0)
        y = np.arange(120) % 2
        common = np.hstack([2 * np.eye(2)[y], np.zeros((120, 20))])
        odd = np.hstack([np.tile([2, 0], (20, 1)), 4 * np.eye(20)])
        order = rng.permutation(140)
        x, labels = np.vstack([common, odd])[order], np.append(y, np.ones(20, int))[order]
        twins = np.zeros(20, int) if self.mistakes else np.ones(20, int)
        test_x, test_y = np.vstack([common[:30], odd]), np.append(y[:30], twins)
        return Data(x.astype("float32"), labels, test_x.astype("float32"), test_y, 2)
'''
ODD = np.flatnonzero(np.random.default_rng(0).permutation(140) >= 120)


@pytest.fixture
def planted(main: Main, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """A store of 60 models of one of the planted settings."""
    (tmp_path / "planted.py").write_text(PLANTED)
    monkeypatch.setenv("BENCH_DATASETS", str(tmp_path))

    def store(setting: str, keep: str = "correct,train-correct") -> Path:
        folder = tmp_path / "store"
        words = ("--alpha", "0.7", "--models", "60", "--keep", keep, "--quiet", "--device", "cpu")
        assert main("train", setting, *words, "--out", str(folder))[0] == 0
        return folder

    return store


@pytest.mark.parametrize(("setting", "worth"), [("planted/logreg", 1), ("planted/logreg:mistakes=True", -1)])
def test_planted_exceptions_are_found_and_worth_their_twins(
    planted: Callable[[str], Path], tmp_path: Path, setting: str, worth: int
) -> None:
    """An exception is memorized wholly, and decides its own twin and nothing else: 1 of 50 test examples."""
    options = Options(shares=(1 / 14, 1 / 7), seeds=8, device="cpu")
    made = removal(planted(setting), options, out=tmp_path / "out", progress=Progress(quiet=True))
    kept = np.load(tmp_path / "out" / "memorization.npz")
    np.testing.assert_array_equal(kept["memorization"], np.isin(np.arange(140), ODD))
    assert sorted(kept["order"][:20]) == ODD.tolist()
    assert sorted(kept["order"]) == list(range(140))
    told = made.memorization
    assert (told["above"], told["below"], told["near_zero"], told["top_tenth"]) == (20, 0, 120 / 140, 14 / 20)
    assert sum(made.histogram.counts) == 140

    full, (some, every) = 1.0 if worth > 0 else 0.6, made.steps
    assert (some.removed, every.removed, every.least) == (10, 20, 1.0)
    for step, n_gone in ((some, 10), (every, 20)):
        assert step.memorized.each == pytest.approx([full - worth * n_gone / 50] * 8)
        assert made.full.each == pytest.approx([full] * 8)
        lost = 50 * worth * (full - np.array(step.random.each, float))  # exceptions among so many random ones
        np.testing.assert_allclose(lost, np.round(lost), atol=1e-4)
        assert len(set(np.round(lost))) > 1  # a set per seed
        spread = np.sqrt(stats.hypergeom(140, 20, n_gone).var() / 8)
        assert lost.mean() == pytest.approx(n_gone / 7, abs=4 * spread)
        assert step.difference.mean is not None
        assert step.difference.mean == pytest.approx(worth * (n_gone - lost.mean()) / 50, abs=1e-6)
        assert step.cost.mean == pytest.approx(worth * n_gone / 50, abs=1e-6)
        assert step.difference.ci is not None
        assert worth * min(step.difference.ci, key=abs) > 0
    assert made.notes == []


def test_differences_are_paired(planted: Callable[[str], Path]) -> None:
    """By seed, as scipy's paired t-test has them; and the same options give the same again."""
    options = Options(shares=(0.1,), seeds=5, seed=3, device="cpu")
    store = planted("planted/logreg")
    made, again = (removal(store, options) for _ in range(2))
    assert made == again
    (step,) = made.steps
    assert removal(store, Options(shares=(0.1,), seeds=5, seed=4, device="cpu")).steps[0].random != step.random
    random, memorized = (np.array(part.each, float) for part in (step.random, step.memorized))
    found = stats.ttest_rel(random, memorized).confidence_interval(0.95)
    assert step.difference.ci == pytest.approx((found.low, found.high))
    assert step.random.stderr == pytest.approx(stats.sem(random))
    assert step.difference.stderr == pytest.approx(stats.sem(random - memorized))


def test_diverged_models_are_left_out_with_their_partners() -> None:
    a, b = Estimate.of([0.5, None, 0.7, 0.9]), Estimate.of([0.4, 0.4, None, 0.5])
    assert a.mean == pytest.approx(0.7)
    assert a.minus(b).each == [pytest.approx(0.1), None, None, pytest.approx(0.4)]
    assert a.minus(b).mean == pytest.approx(0.25)
    alone = Estimate.of([None, 0.5])
    assert (alone.mean, alone.stderr, alone.ci) == (0.5, None, None)
    assert Estimate.of([None, None]).mean is None


def test_equals_are_removed_in_random_order(planted: Callable[[str], Path], tmp_path: Path) -> None:
    store = planted("planted/logreg")
    orders = []
    for seed in (0, 1):
        removal(store, Options((0.1,), 2, seed, device="cpu"), out=tmp_path / str(seed))
        orders.append(np.load(tmp_path / str(seed) / "memorization.npz")["order"])
    assert (orders[0] != orders[1]).any()
    assert (np.diff(np.isin(orders[1], ODD).astype(int)) <= 0).all()
    assert (np.diff(orders[0][20:]) < 0).any()


def test_of_margins(planted: Callable[[str, str], Path]) -> None:
    """Where the store keeps margins alone; the exceptions are those whose own margins depend on them most."""
    made = removal(planted("planted/logreg", "train-margins"), Options((1 / 7,), 2, device="cpu"))
    assert (made.outputs, made.memorization["limit"]) == ("train_margins", 1.0)
    assert made.memorization["above"] >= 20
    assert made.steps[0].memorized.mean == pytest.approx(0.6)
    assert "Memorization of margins" in tables.caption(made)[1]


def test_described() -> None:
    values = np.array([-0.3, -0.01, 0, 0.02, 0.04, 0.06, 0.1, 0.2, 0.25, 0.8, np.nan], np.float32)
    blank, counts = np.zeros(11, np.float32), np.zeros(11, np.int64)
    found = memorization_files.described(memorization.Own(values, blank, blank, blank, counts, counts), 0.25)
    assert (found["above"], found["below"], found["examples"], found["unknown"]) == (2, 1, 11, 1)
    assert found["near_zero"] == 0.4
    assert found["top_tenth"] == pytest.approx(0.8 / 1.47, rel=1e-6)
    assert found["max"] == pytest.approx(0.8)


def test_verb_and_files(planted: Callable[[str], Path], main: Main, tmp_path: Path) -> None:
    store, out = planted("planted/logreg"), tmp_path / "out"
    words = ("removal", str(store), "--shares", "0.1,0.05,0.1", "--seeds", "3", "--device", "cpu", "--quiet")
    code, text, error = main(*words, "--out", str(out), "--setting", "planted.py/logreg")
    assert (code, error) == (0, "")
    made = msgspec.json.decode((out / "removal.json").read_bytes(), type=Removal)
    assert [step.removed for step in made.steps] == [7, 14]
    assert text == tables.grid(made).plain()
    lines = [line.split() for line in text.splitlines()]
    assert [line[:2] for line in lines if line[:1] in (["0"], ["7"], ["14"])] == [
        ["0", "0%"],
        ["7", "5%"],
        ["14", "10%"],
    ]
    assert (out / "removal.md").read_text("utf-8") == tables.grid(made).markdown()
    table = pd.read_csv(out / "removal.csv")
    assert table["removed"].tolist() == [0, 7, 14]
    assert table["memorized"].tolist() == pytest.approx([made.full.mean, *(s.memorized.mean for s in made.steps)])
    assert table["difference_low"].tolist()[1:] == pytest.approx(
        [s.difference.ci[0] for s in made.steps if s.difference.ci]
    )
    assert (out / "removal.png").stat().st_size > 20_000
    left, right = plot.figure(made).axes
    assert left.get_yscale() == "log"
    drawn: dict[str, Any] = {str(line.get_label()): np.asarray(line.get_xydata(), float).T for line in right.lines}
    accuracies = [made.full, *(step.memorized for step in made.steps)]
    np.testing.assert_allclose(
        drawn["most memorized"][1], [100 * one.mean for one in accuracies if one.mean is not None]
    )
    assert drawn["random"][0].tolist() == drawn["most memorized"][0].tolist() == pytest.approx([0, 5, 10])
    code, text, _ = main(*words, "--json")
    assert code == 0
    assert json.loads(text)["steps"] == json.loads((out / "removal.json").read_text())["steps"]


def test_bad_input_is_a_sentence(
    planted: Callable[[str, str], Path], main: Main, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = planted("planted/logreg", "correct,train-correct")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    for words, said in (
        (("--shares", "0.1,x"), "--shares is '0.1,x': write numbers between 0 and 1"),
        (("--shares", ""), "--shares names none"),
        (("--shares", "0,0.1"), "--shares has 0: it takes shares of the training examples, between 0 and 1"),
        (("--shares", "1.5"), "--shares has 1.5: it takes shares"),
        (("--shares", "nan"), "--shares has nan: it takes shares"),
        (("--shares", "0.001"), "--shares has 0.001, which is 0 of 140 training examples: remove at least one"),
        (("--shares", "0.999"), "--shares has 0.999, which is 140 of 140 training examples"),
        (("--seeds", "1"), "--seeds is 1: a standard error takes at least two"),
        (("--seed", "-1"), "--seed is -1: it cannot be negative"),
        (("--outputs", "margins"), "keeps no train_margins, which memorization is told from: train with --keep"),
        (("--out", "full"), "--out full is there already"),
        (("--setting", "planted/mlp"), "the dataset planted has no model 'mlp'"),
        (("--setting", "planted/logreg:mistakes=True"), "was trained on other data than planted/logreg"),
    ):
        code, out, error = main("removal", str(store), *words)
        assert (code, out, error.count("\n")) == (2, "", 1), words
        assert said in error
    (tmp_path / "several" / "alpha-0.5").mkdir(parents=True)
    (tmp_path / "several" / "alpha-0.7").mkdir()
    for name in ("0.5", "0.7"):
        (tmp_path / "several" / f"alpha-{name}" / "identity.json").touch()
    assert "holds several stores (alpha-0.5, alpha-0.7): name one" in main("removal", "several")[2]
    assert "there is no such folder" in main("removal", "nowhere")[2]
    monkeypatch.setattr(memorization, "own", _mostly_unknown)
    code, _, error = main("removal", str(store), "--shares", "0.5")
    assert code == 2
    assert "--shares has 0.5, which is 70 training examples" in error
    assert "tells the memorization of 10, the others being in all subsets or in none: remove fewer" in error


def _mostly_unknown(masks: Any, _: Any) -> memorization.Own:
    values = np.where(np.arange(masks.shape[1]) < 10, 0.5, np.nan).astype(np.float32)
    counts = np.zeros(len(values), np.int64)
    return memorization.Own(values, values, values, values, counts, counts)


def test_a_store_without_training_outputs_is_refused(planted: Callable[[str, str], Path]) -> None:
    store = planted("planted/logreg", "correct")
    with pytest.raises(BenchError, match=r"keeps no outputs on its training examples.*--keep train-correct"):
        removal(store)


def test_a_class_that_is_gone_is_said(main: Main, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = PLANTED.replace("np.ones(20, int))[order]", "np.full(20, 2))[order]").replace("test_y, 2)", "test_y, 3)")
    (tmp_path / "rare.py").write_text(text)
    monkeypatch.setenv("BENCH_DATASETS", str(tmp_path))
    words = ("--alpha", "0.7", "--models", "60", "--keep", "train-correct", "--quiet", "--device", "cpu")
    assert main("train", "rare/logreg", *words, "--out", "store")[0] == 0
    made = removal("store", Options((1 / 7, 0.2), 2, device="cpu"))
    assert made.notes == [f"without the {n} most memorized there is no training example of class 2" for n in (20, 28)]


def _example(folder: Path, *words: str) -> Removal:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    subprocess.run(["sh", str(EXAMPLE), *words, "out"], check=True, cwd=folder, env={**os.environ, "PATH": path})
    assert (folder / "out" / "estimates" / "pairs.npz").is_file()
    return msgspec.json.decode((folder / "out" / "removal" / "removal.json").read_bytes(), type=Removal)


def _is_the_papers_finding(made: Removal) -> None:
    """Most examples are hardly memorized, some much; and some number of the most memorized are worth more."""
    told = made.memorization
    assert told["near_zero"] > 0.8
    assert told["above"] > 0.005 * told["examples"]
    assert told["below"] < 0.1 * told["above"]
    assert told["q99"] > 0.25
    assert told["top_tenth"] > 0.6
    lows = {step.removed: step.difference.ci[0] for step in made.steps if step.difference.ci}
    assert max(lows.values()) > 0.005
    assert sum(low > 0 for low in lows.values()) >= 3


def test_the_record_is_the_papers_finding() -> None:
    record = EXAMPLE.parents[2] / "results" / "records" / "mnist-memorization"
    made = msgspec.json.decode((record / "removal.json").read_bytes(), type=Removal)
    _is_the_papers_finding(made)
    assert (record / "removal.md").read_text("utf-8") == tables.grid(made).markdown()


def test_example_on_digits(tmp_path: Path) -> None:
    _is_the_papers_finding(_example(tmp_path, "digits/mlp", "150", "6"))


@pytest.mark.slow
@pytest.mark.skipif("BENCH_DATA" not in os.environ, reason="$BENCH_DATA does not name a folder with MNIST's files")
def test_example_on_mnist(tmp_path: Path) -> None:
    _is_the_papers_finding(_example(tmp_path, "mnist/mlp:n_test=10000", "300", "6"))
