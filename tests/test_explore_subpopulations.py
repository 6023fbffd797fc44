"""Clusters of scores, clusters at odds and planted subgroups, beside numpy, scipy, scikit-learn and known answers."""

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from scipy import stats
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score

from bench import cli
from bench.datasets import Data
from bench.errors import BenchError, InputError
from bench.explore import clusters, conflicts, open_subject, page, populations, subgroups
from bench.explore.clusters import Group, Lengths
from bench.explore.clusters_document import Subpopulations
from bench.explore.conflicts import Side
from bench.explore.views import subpopulations as view

Main = Callable[..., tuple[int, str, str]]

PLUGIN = '''
"""Images of four by four pixels: four kinds, far apart, in as many classes as are asked for."""
import numpy as np
from bench.datasets import Architecture, Data, Dataset, Recipe

class Kinds(Dataset):
    models = {"logreg": Recipe(Architecture("logreg"), epochs=4, batch_size=16, lr=0.3, weight_decay=1e-3)}

    def __init__(self, classes: int = 4, images: bool = True) -> None:
        self.classes, self.images = classes, images

    def load(self, files):
        rng = np.random.default_rng(5)
        kind = np.arange(140) % 4
        middle = 2 * np.kron(np.eye(4), np.ones(4))
        x = (middle[kind] + 0.5 * rng.standard_normal((140, 16))).astype("float32")
        names = ("ant", "bee", "cat", "dog")[: self.classes]
        image = (1, 4, 4) if self.images else ()
        y = kind % self.classes
        return Data(x[:100], y[:100], x[100:], y[100:], self.classes, image=image, class_names=names)
'''
METHODS = ("--method", "similarity:labels=True", "--method", "datamodels", "--method", "label-match")
SAID = ("--orientation", "train,test", "--sign", "+")
SIZES = ("--models", "60", "--eval-subsets", "6", "--tune-rows", "6", "--device", "cpu", "--quiet")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the plug-in and three finished runs."""
    folder = tmp_path_factory.mktemp("subpopulations")
    (folder / "plugins").mkdir()
    (folder / "plugins/kinds.py").write_text(PLUGIN)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BENCH_DATASETS", str(folder / "plugins"))
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        for name, options, methods in (
            ("four", "", METHODS),
            ("two", ":classes=2", METHODS[:2]),
            ("plain", ":classes=2,images=False", METHODS[:2]),
        ):
            assert cli.main(["run", f"kinds/logreg{options}", *methods, *SIZES, "--out", str(folder / name)]) == 0
    return folder


@pytest.fixture
def explore(made: Path, main: Main, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Calls the verb on a copy of a run (or on another path); gives exit code, stdout and stderr."""
    monkeypatch.setenv("BENCH_DATASETS", str(made / "plugins"))

    def call(name: str, *words: str) -> tuple[int, str, str]:
        if (made / name).is_dir() and not (tmp_path / name).exists():
            shutil.copytree(made / name, tmp_path / name)
        return main("explore", "subpopulations", name, "--quiet", "--device", "cpu", *words)

    return call


def matrix(n: int = 2300, t: int = 40, seed: int = 0) -> NDArray[np.float32]:
    """Scores `[n, t]` with examples of unlike size; one without any score."""
    rng = np.random.default_rng(seed)
    scores = rng.standard_normal((n, t)) * rng.lognormal(0, 1, (n, 1))
    scores[5] = 0
    made: NDArray[np.float32] = scores.astype(np.float32)
    return made


def scaled(vectors: NDArray[Any]) -> NDArray[Any]:
    return np.array([v / np.linalg.norm(v) if np.linalg.norm(v) else v for v in vectors])


@pytest.mark.parametrize("how", clusters.NORMALISE)
@pytest.mark.parametrize("side", ["targets", "train"])
def test_embedding(how: Any, side: Any) -> None:
    """As it is defined, of some members and some others, a target left out."""
    scores = matrix()
    scores[7, 3] = np.nan
    known = np.arange(40) != 3
    lengths = Lengths.of(scores, known)
    whole = scores.astype(float)[:, known]
    train = np.sqrt((whole**2).mean(axis=1))
    np.testing.assert_allclose(lengths.train, np.where(train > 0, train, 1), rtol=1e-6)
    np.testing.assert_allclose(lengths.targets[known], np.sqrt((whole**2).mean(axis=0)), rtol=1e-6)

    rows, columns = np.arange(1, 2300, 2), np.array([0, 1, 4, 9, 16, 25, 36])
    members, others = (columns, rows) if side == "targets" else (rows, columns)
    expected = scores.astype(float)[np.ix_(rows, columns)]
    expected = expected.T if side == "targets" else expected
    if how in ("balanced", "helpful"):
        expected = expected / (lengths.train if side == "targets" else lengths.targets)[others]
    if how == "helpful":
        expected = expected.clip(min=0)
    if how == "top":
        for line in expected:
            line[np.argsort(-abs(line))[100:]] = 0
    if how == "pca":
        middle = expected - expected.mean(axis=0)
        expected = middle @ np.linalg.svd(middle, full_matrices=False)[2][:10].T
    found = clusters.embedding(scores, side, members, others, how, lengths)
    assert found.dtype == np.float32
    # Components may be turned: cosines are what counts.
    np.testing.assert_allclose(found @ found.T, scaled(expected) @ scaled(expected).T, atol=2e-4)


def test_long_vectors_are_thinned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clusters, "MOST_NUMBERS", 1000)
    scores = matrix(100)
    members, others = np.arange(20), np.arange(100)
    found = clusters.embedding(scores, "targets", members, others, "cosine", Lengths.of(scores, np.ones(40, bool)))
    np.testing.assert_allclose(found, scaled(scores[::2, :20].T), rtol=1e-5)


def rays(counts: list[int], seed: int = 0, noise: float = 0.2) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Vectors around directions at right angles, in random order, and whose each is."""
    rng = np.random.default_rng(seed)
    kind = rng.permutation(np.repeat(np.arange(len(counts)), counts))
    vectors = np.eye(len(counts), 12)[kind] + noise * rng.standard_normal((len(kind), 12)) / np.sqrt(12)
    return clusters.unit(vectors * rng.lognormal(0, 1, (len(kind), 1))), kind


def test_spectral_finds_directions() -> None:
    vectors, kind = rays([40, 25, 12])
    found = clusters.spectral(vectors, 3, seed=0)
    assert adjusted_rand_score(kind, found) == 1
    assert np.bincount(found).tolist() == [40, 25, 12]
    np.testing.assert_array_equal(found, clusters.spectral(vectors, 3, seed=0))


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 12])
def test_spectral_of_few(n: int) -> None:
    """Any number of clusters up to that of vectors; vectors that are 0 or alike are no trouble."""
    for vectors in (rays([n])[0], np.zeros((n, 3)), np.ones((n, 3)) / np.sqrt(3)):
        for count in range(1, n + 1):
            found = clusters.spectral(vectors, count, seed=1)
            assert len(found) == n
            assert set(found) <= set(range(count))
        assert (clusters.spectral(vectors, n, 0) == np.arange(n)).all()
        assert (clusters.spectral(vectors, 1, 0) == 0).all()


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=40))
def test_clusters_are_numbered_by_size(labels: list[int]) -> None:
    found = clusters.by_size(np.array(labels))
    assert adjusted_rand_score(labels, found) == 1
    sizes = np.bincount(found)
    assert (np.diff(sizes) <= 0).all()
    first = [found.tolist().index(number) for number in range(len(sizes))]
    assert all(a < b for a, b, s, t in zip(first, first[1:], sizes, sizes[1:], strict=False) if s == t)
    np.testing.assert_array_equal(found, clusters.by_size(10 - np.array(labels)))


def test_principal_components() -> None:
    vectors = np.random.default_rng(0).standard_normal((30, 50)) * np.linspace(3, 1, 50)
    found = clusters.principal(vectors, 4)
    middle = vectors - vectors.mean(axis=0)
    u, s, v = np.linalg.svd(middle, full_matrices=False)
    np.testing.assert_allclose(found.shares, (s**2 / (s**2).sum())[:4], rtol=1e-5)
    np.testing.assert_allclose(abs(found.loadings), abs(v[:4]), atol=1e-4)
    np.testing.assert_allclose(found.projections, middle @ found.loadings.T, atol=1e-3)
    np.testing.assert_allclose(abs(found.projections), abs(u[:, :4] * s[:4]), atol=1e-3)
    assert (found.projections[abs(found.projections).argmax(axis=0), range(4)] > 0).all()
    with pytest.raises(BenchError, match="all vectors of scores are the same"):
        clusters.principal(np.ones((4, 9)), 2)


def groups(sizes: list[int], parts: int, start: int = 0) -> list[Group]:
    """Groups one after another, each cut into equal clusters, members mixed."""
    made = []
    for number, size in enumerate(sizes):
        members = start + np.arange(size)
        made.append(Group(number, members, members % parts, np.ones(size, np.float32), None))
        start += size
    return made


def test_a_planted_conflict_is_found() -> None:
    """And what is said of it, beside loops over memberships; a class that is at odds as a whole is none."""
    rng = np.random.default_rng(0)
    scores = rng.standard_normal((120, 60))
    scores[:60, 30:] -= 2.0  # class 0 against class 1, all alike
    train, targets = groups([60, 60], 3), groups([30, 30], 3)
    hurting, hurt = train[0].members[train[0].cluster == 1], targets[1].members[targets[1].cluster == 2]
    scores[np.ix_(hurting, hurt)] -= 2.5
    half = rng.permutation(120) < 60, rng.permutation(60) < 40
    sides = Side.of(train, half[0]), Side.of(targets, half[1])
    found, looked_at = conflicts.conflicting(scores, *sides, seed=0)
    assert looked_at == 36
    assert [(one.train, one.targets) for one in found] == [(1, 5)]
    (one,) = found
    a, b = np.intersect1d(hurting, np.flatnonzero(half[0])), np.intersect1d(hurt, np.flatnonzero(half[1]))
    assert one.pairs == len(a) * len(b)
    assert one.mean == pytest.approx(scores[np.ix_(a, b)].mean())
    rest = np.setdiff1d(np.intersect1d(targets[1].members, np.flatnonzero(half[1])), b)
    assert one.elsewhere == pytest.approx(scores[np.ix_(a, rest)].mean())
    pool = np.intersect1d(train[0].members, np.flatnonzero(half[0]))
    drawn = [scores[np.ix_(rng.permutation(pool)[: len(a)], b)].mean() for _ in range(4000)]
    assert one.expected == pytest.approx(np.mean(drawn), abs=0.02)
    assert one.z == pytest.approx((one.mean - np.mean(drawn)) / np.std(drawn), rel=0.1)
    assert one.p == pytest.approx(1 / 1001)


def test_noise_has_no_conflicts() -> None:
    """Clusters made from one half of noise are not at odds in the other; in the same half they seem to be."""
    false, same = 0, 0
    for seed in range(20):
        scores = np.random.default_rng(seed).standard_normal((90, 60)).astype(np.float32)
        lengths = Lengths.of(scores, np.ones(60, bool))
        parts = [(None, np.arange(90))], [(None, np.arange(60))]
        halves = [conflicts.halves([some[0][1]], len(some[0][1]), seed, number) for number, some in enumerate(parts)]
        train = clusters.divided(scores, "train", parts[0], np.flatnonzero(halves[1]), "cosine", lengths, 4, 0)
        targets = clusters.divided(scores, "targets", parts[1], np.flatnonzero(halves[0]), "cosine", lengths, 4, 0)
        for other in (True, False):
            sides = (
                Side.of(train, ~halves[0] if other else halves[0]),
                Side.of(targets, ~halves[1] if other else halves[1]),
            )
            found = bool(conflicts.conflicting(scores, *sides, seed, shuffles=200)[0])
            false, same = false + (found and other), same + (found and not other)
    assert false <= 4  # 5% of 20; 5 or more are less likely than 0.3%
    assert same >= 10


def test_halves() -> None:
    parts = [np.arange(0, 11), np.arange(11, 15), np.array([15])]
    made = conflicts.halves(parts, 16, seed=0, stream=0)
    assert [int(made[part].sum()) for part in parts] == [5, 2, 0]
    np.testing.assert_array_equal(made, conflicts.halves(parts, 16, 0, 0))
    assert (made != conflicts.halves(parts, 16, 1, 0)).any()
    assert (made != conflicts.halves(parts, 16, 0, 1)).any()


def test_intervals() -> None:
    values = np.random.default_rng(0).standard_normal((6, 9))
    found = conflicts.averaged(values[0])
    assert found.ci == pytest.approx(stats.t.interval(0.95, 8, values[0].mean(), stats.sem(values[0])))
    assert (conflicts.averaged(values[0, :1]).ci, conflicts.averaged(values[0, :0]).mean) == (None, None)
    both = conflicts._over_both(values)
    se = np.sqrt(stats.sem(values.mean(axis=1)) ** 2 + stats.sem(values.mean(axis=0)) ** 2)
    assert both.ci == pytest.approx(stats.t.interval(0.95, 5, values.mean(), se))
    values[2, 3] = np.nan  # the seed is left out of all sets
    assert conflicts._over_both(values) == conflicts._over_both(np.delete(values, 3, axis=1))
    assert conflicts._over_both(np.full((3, 2), np.nan)).mean is None


def test_random_sets_are_of_the_same_classes() -> None:
    labels = np.arange(90) % 3
    removed = np.array([0, 3, 6, 9, 1, 4])
    made = conflicts._alike(removed, labels, np.random.default_rng(0))
    assert np.bincount(labels[made]).tolist() == [4, 2]
    assert len(np.unique(made)) == 6


def digits(n_classes: int, image: tuple[int, ...] = (1, 2, 3)) -> Data:
    rng = np.random.default_rng(0)
    x = rng.random((80, 6), np.float32)
    y = np.arange(80) % n_classes
    return Data(x[:50], y[:50], x[50:], y[50:], n_classes, image=image)


@pytest.mark.parametrize(("n_classes", "merged"), [(3, [1, 2]), (4, [2, 2]), (10, [2] * 5), (11, [1, *[2] * 5])])
def test_classes_are_merged_in_pairs(n_classes: int, merged: list[int]) -> None:
    data = digits(n_classes)
    made = subgroups.plant(data, seed=0)
    np.testing.assert_array_equal(made.hidden, data.test_y)
    hides = [np.unique(data.train_y[made.data.train_y == label]) for label in range(made.data.n_classes)]
    assert sorted(map(len, hides)) == merged
    assert sorted(np.concatenate(hides)) == list(range(n_classes))
    assert made.names == ["+".join(map(str, some)) for some in hides]
    for label, some in enumerate(hides):
        assert set(data.test_y[made.data.test_y == label]) <= set(some)
    np.testing.assert_array_equal(made.data.train_x, data.train_x)
    assert subgroups.plant(data, seed=0).names == made.names
    drawn = {tuple(subgroups.plant(data, 0, number).names) for number in range(10)}
    assert len(drawn) > 1


def test_of_two_classes_half_of_the_images_are_turned() -> None:
    data = digits(2)
    made = subgroups.plant(data, seed=0)
    assert made.hidden.sum() == 15
    for x, now in ((data.train_x, made.data.train_x), (data.test_x, made.data.test_x)):
        turned = x.reshape(-1, 2, 3)[:, ::-1, ::-1].reshape(-1, 6)
        there = (now == turned).all(axis=1)
        assert there.sum() == len(x) // 2
        np.testing.assert_array_equal(now[~there], x[~there])
    np.testing.assert_array_equal((made.data.test_x != data.test_x).any(axis=1), made.hidden == 1)
    with pytest.raises(BenchError, match="two classes and no images"):
        subgroups.plant(digits(2, ()), seed=0)


def test_of_a_run(explore: Callable[..., Any], tmp_path: Path) -> None:
    """Everything that is written; clusters, conflicts and evaluation against what is known of the examples."""
    words = ("--clusters", "2", "--models", "60", "--seeds", "2", "--check", "1")
    code, out, err = explore("four", *words)
    assert (code, err) == (0, "")
    folder = tmp_path / "four/explore"
    found = page.read(folder, "subpopulations")
    assert isinstance(found, Subpopulations)
    assert (found.method, found.within, found.clusters) == ("similarity:labels=True", "class", 2)
    table = pd.read_csv(folder / "subpopulations.csv")
    assert len(table) == 140
    assert (table.groupby(["side", "example"]).size() == 1).all()
    kind = np.arange(140) % 4
    names = np.array(["ant", "bee", "cat", "dog"])
    targets = table[table.side == "target"].sort_values("example")
    np.testing.assert_array_equal(names[kind[100:]], targets.cluster.str.split(" ").str[0])
    assert [part.name for part in found.targets] == [f"{name} {letter}" for name in names for letter in "ab"]
    planted = found.evaluation
    assert planted is not None
    assert (planted.sizes, planted.pairings, planted.baseline) == ([20, 20], 1, "pixels, spectral")
    rows = {row.name: row for row in planted.rows}
    assert set(rows) == {
        *("similarity:labels=True", "datamodels", "label-match", "random numbers"),
        *("pixels, spectral", "pixels, k-means", "the model's features, spectral"),
    }
    assert rows["pixels, spectral"].groups == rows["similarity:labels=True"].groups == [1, 1]
    assert abs(rows["random numbers"].mean) < 0.4
    best = rows["datamodels"]
    assert best.difference is not None
    assert best.difference.mean == pytest.approx(best.mean - 1)
    assert found.about.models == 60 + (
        2 * (1 + 1 + 6) if found.conflicts else 0
    )  # in full, without the cluster, six random sets
    for picture in found.pictures:
        Image.open(io.BytesIO((folder / picture_name(picture)).read_bytes())).verify()
    assert found.pictures[0] == "clusters"
    html = (folder / "subpopulations.html").read_text()
    assert "pixels, spectral" in html
    assert "adjusted Rand index" in out
    assert (folder / "subpopulations-agreement.svg").exists()

    again = explore("four", *words, "--json")
    assert again[0] == 0
    document = json.loads(again[1])
    document["about"] = {}
    first = json.loads(found.text())
    first["about"] = {}
    assert document == first  # the planted run is read again, and the same is found


def picture_name(name: str) -> str:
    return f"subpopulations-{name}.png"


def test_pixels_by_k_means_are_scikit_learns(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCH_DATASETS", str(made / "plugins"))
    subject = open_subject(made / "four")
    found = subgroups.evaluate(subject, subject.leading(1), None, normalise="helpful", models=60, pairings=2, seed=3)
    assert (len(found.groups), found.pairings) == (4, 2)
    assert subject.data is not None
    expected = []
    for number in range(2):
        planted = subgroups.plant(subject.data, 3, number)
        for label in range(2):
            mine = planted.data.test_y == label
            made_ = KMeans(2, n_init=10, random_state=0).fit_predict(planted.data.test_x[mine])
            expected.append(adjusted_rand_score(planted.hidden[mine], made_))
    row = next(row for row in found.rows if row.name == "pixels, k-means")
    assert row.groups == pytest.approx(expected)
    assert row.ci is None or row.ci[1] <= 1


def test_of_two_classes(explore: Callable[..., Any], tmp_path: Path) -> None:
    """Images are turned; what is no image has no evaluation, says why, and shows tables in place of pictures."""
    words = ("--models", "60", "--check", "0", "--within", "all")
    assert explore("two", *words)[0] == 0
    found = page.read(tmp_path / "two/explore", "subpopulations")
    assert isinstance(found, Subpopulations)
    assert found.evaluation is not None
    assert "upside down" in found.evaluation.what
    assert [one.name for one in found.targets] == ["a", "b", "c"]
    code, out, _ = explore("plain", *words)
    assert code == 0
    assert "two classes and no images" in out
    found = page.read(tmp_path / "plain/explore", "subpopulations")
    assert isinstance(found, Subpopulations)
    assert (found.evaluation, found.pictures) == (None, ())
    captions = [getattr(block, "caption", "") for block in view.blocks(found)]
    assert any("by number" in caption for caption in captions)
    assert "Principal components" in captions


def imported(main: Main, folder: Path, n: int = 30, t: int = 12) -> None:
    """A store without examples, and scores of it."""
    import torch

    rng = np.random.default_rng(0)
    (folder / "K").mkdir()
    masks = rng.random((20, n)).argsort(1) < n // 2
    torch.save(masks.astype(np.int8), folder / "K/masks.pt")
    torch.save(rng.standard_normal((20, t)).astype(np.float32), folder / "K/margins.pt")
    assert main("import", "kronfluence", "K", "S")[0] == 0
    scores = rng.standard_normal((n, t))
    np.save(folder / "x.npy", scores)
    scores[3, 5] = np.nan
    np.save(folder / "holes.npy", scores)


def test_of_an_imported_store(explore: Callable[..., Any], main: Main, tmp_path: Path) -> None:
    """Clusters by number, of all; nothing that needs examples."""
    imported(main, tmp_path)
    code, out, err = explore("S", "--scores", "x.npy", *SAID, "--clusters", "2", "--out", "E")
    assert code == 0, err
    assert "2 clusters of targets" in out
    assert "not compared with planted subgroups" in out
    table = pd.read_csv("E/subpopulations.csv")
    assert (len(table), bool(table.label.isna().all())) == (42, True)
    assert "by number" in Path("E/subpopulations.html").read_text()
    code, out, _ = explore("S", "--scores", "holes.npy", *SAID, "--out", "E")
    assert code == 0
    assert "1 of 12 targets is left out" in out
    assert len(pd.read_csv("E/subpopulations.csv")) == 41
    for words, said in (
        (("--evaluate",), "has no examples"),
        (("--check", "1"), "has no examples"),
        (("--within", "class"), "has no examples"),
        (("--clusters", "13"), "there are 12 targets"),
    ):
        code, _, err = explore("S", "--scores", "x.npy", *SAID, *words)
        assert (code, said in err, len(err.strip().splitlines())) == (2, True, 1), err
    code, _, err = explore("S")
    assert (code, "add --scores" in err) == (2, True)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--clusters", "0"), "--clusters is 0"),
        (("--clusters", "11"), "class 0 has 10 targets"),
        (("--check", "-1"), "--check is -1"),
        (("--seeds", "0"), "--seeds is 0"),
        (("--pairings", "0"), "--pairings is 0"),
        (("--models", "3", "--evaluate"), "--models is 3"),
        (("--models", "0"), "--models is 0"),
        (("--models", "0", "--no-evaluate"), "--models is 0"),
        (("--pairings", "0", "--no-evaluate"), "--pairings is 0"),
        (("--seed", "-1"), "--seed is -1: it cannot be negative"),
        (("--method", "datamodels", "--seed", "-1"), "--seed is -1: it cannot be negative"),
        (("--normalise", "raw"), "invalid choice"),
        (("--within", "school"), "invalid choice"),
    ],
)
def test_bad_arguments(explore: Callable[..., Any], tmp_path: Path, words: tuple[str, ...], said: str) -> None:
    code, out, err = explore("four", *words)
    assert (code, out, said in err) == (2, "", True), err
    assert not (tmp_path / "four/explore/subpopulations.json").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"within": "foo"}, "--within is 'foo': it takes class or all"),
        ({"normalise": "foo"}, "--normalise is 'foo': it takes helpful or balanced or cosine or top or pca"),
    ],
)
def test_unknown_words(made: Path, monkeypatch: pytest.MonkeyPatch, words: dict[str, Any], said: str) -> None:
    monkeypatch.setenv("BENCH_DATASETS", str(made / "plugins"))
    with pytest.raises(InputError, match=said):
        populations.subpopulations(open_subject(made / "four"), **words)


def test_what_was_asked_for_is_clustered(explore: Callable[..., Any], tmp_path: Path) -> None:
    """A file beside a run's methods, though they have an LDS and it has none; even where it says nothing."""
    np.save(tmp_path / "mine.npy", np.random.default_rng(0).standard_normal((100, 40)))
    np.save(tmp_path / "zeros.npy", np.zeros((100, 40)))
    quick = ("--no-evaluate", "--check", "0", "--json", "--out", "E")
    for name in ("mine", "zeros"):
        code, out, err = explore("four", "--scores", f"z={name}.npy", *SAID, *quick)
        assert code == 0, err
        assert json.loads(out)["method"] == "z"
    assert json.loads(explore("four", "--method", "datamodels", *quick)[1])["method"] == "datamodels"
    code, out, _ = explore("four", "--scores", "z=mine.npy", *SAID, "--method", "label-match", *quick)
    assert json.loads(out)["method"] == "label-match"


def test_groups_of_one_and_without_targets(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Classes whose targets are all left out are named; of what is left too little to halve there are no conflicts."""
    from dataclasses import replace

    monkeypatch.setenv("BENCH_DATASETS", str(made / "plugins"))
    subject = open_subject(made / "four", methods=["datamodels"])
    scores = np.array(subject.methods[0].scores)
    assert subject.data is not None
    scores[:, subject.data.test_y == 2] = np.nan
    scores[:, np.flatnonzero(subject.data.test_y == 1)[1:]] = np.nan
    bare = replace(subject, methods=[replace(subject.methods[0], scores=scores)])
    found = populations.subpopulations(bare, check=0, evaluate=False).document
    assert "Class cat has no targets with finite scores, and is not divided" in found.notes
    assert [one.name for one in found.targets if one.label == 1] == ["bee a"]
    assert {one.label for one in found.targets} == {0, 1, 3}
    single = np.full_like(scores, np.nan)
    single[:, 0] = np.array(subject.methods[0].scores)[:, 0]
    alone = replace(subject, methods=[replace(subject.methods[0], scores=single)])
    found = populations.subpopulations(alone, check=0, evaluate=False, within="all").document
    assert (found.conflicts, found.components, len(found.targets)) == ([], [], 1)
    assert any("too few examples" in note for note in found.notes)
    view.grid(found)
    view.blocks(found)
