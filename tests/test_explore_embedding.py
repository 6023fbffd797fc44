"""Vectors of scores: their arrays, components, neighbours and purity, against numpy and scikit-learn."""

import io
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from PIL import Image
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import normalize

from bench.datasets import Data
from bench.errors import BenchError, InputError
from bench.explore import coordinates, files, plane, purity, vectors
from bench.explore.coordinates import Embedding
from bench.explore.subject import Scored, Subject
from bench.explore.vectors import Of, Vectors
from bench.explore.views import embedding as view
from bench.store import GroundTruth

N, T = 40, 24


def data() -> Data:
    rng = np.random.default_rng(1)
    y = np.arange(N + T) % 3
    x = (rng.standard_normal((3, 5))[y] + rng.standard_normal((N + T, 5))).astype(np.float32)
    return Data(x[:N], y[:N], x[N:], y[N:], 3)


def drawn(seed: int, dtype: Any = np.float64) -> NDArray[Any]:
    """Scores of which targets of a class have something in common."""
    rng = np.random.default_rng(seed)
    common = rng.standard_normal((N, 3))[:, (N + np.arange(T)) % 3]
    return (common + rng.standard_normal((N, T)) * rng.uniform(0.2, 2, T)).astype(dtype)


def subject(scores: dict[str, Any], examples: Data | None = None, asked: bool = True) -> Subject:
    truth = SimpleNamespace(
        masks=np.zeros((2, N), bool), margins=np.zeros((2, T)), meta=None, imported=None, path=Path("store")
    )
    made = [Scored(name, np.asarray(values), 0.9, asked=asked) for name, values in scores.items()]
    return Subject(Path("store"), False, cast(GroundTruth, truth), made, data=examples, why="none was kept")


def items(scores: NDArray[Any], of: Of) -> NDArray[Any]:
    return scores.T if of == "targets" else scores


@pytest.mark.parametrize("of", ["targets", "train"])
@pytest.mark.parametrize("dense", [True, False])
def test_components_are_those_of_scikit_learn(of: Of, dense: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of vectors of length one, in memory or in slabs of seven training examples."""
    monkeypatch.setattr(vectors, "_DENSE", N * T if dense else 0)
    monkeypatch.setattr(vectors, "_SLAB_BYTES", 7 * 8 * T)
    kept = np.delete(np.arange(T), [3, 10])
    scores = drawn(0)
    found = vectors.principal(Vectors(Scored("a", scores), of, kept), 4, 0)
    model = PCA(4, svd_solver="full")
    expected = model.fit_transform(normalize(items(scores[:, kept], of)))
    expected *= np.sign(expected[np.abs(expected).argmax(axis=0), np.arange(4)])
    # Random directions, and power iterations: the error is that of what lies beyond 14 directions.
    np.testing.assert_allclose(found.coordinates, expected, atol=1e-8 if dense else 2e-3)
    np.testing.assert_allclose(found.explained, model.explained_variance_ratio_, atol=1e-8 if dense else 1e-4)


@pytest.mark.parametrize("of", ["targets", "train"])
def test_neighbours_are_those_of_scikit_learn(of: Of, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vectors, "_SLAB_BYTES", 7 * 8 * T)
    scores = drawn(0, np.float32)
    places = np.array([0, 5, 9])
    at, cosines = Vectors(Scored("a", scores), of, np.arange(T)).nearest(places, 6)
    model = NearestNeighbors(n_neighbors=7, metric="cosine", algorithm="brute").fit(items(scores, of))
    distances, expected = model.kneighbors(items(scores, of)[places])
    np.testing.assert_array_equal(at, expected[:, 1:])
    np.testing.assert_allclose(cosines, 1 - distances[:, 1:], atol=1e-5)


@pytest.mark.parametrize("of", ["targets", "train"])
def test_what_is_written(of: Of, tmp_path: Path) -> None:
    scores = drawn(0, np.float32)
    found = coordinates.embedding(subject({"a": scores}, data()), of=of, components=3, query=[4, 2])
    files.write(tmp_path, found)
    total = T if of == "targets" else N
    np.testing.assert_array_equal(np.load(tmp_path / "embedding-matrix.npy"), items(scores, of))
    pca = np.load(tmp_path / "embedding-pca.npy")
    assert (pca.shape, pca.dtype) == ((total, 3), np.float32)
    table = pd.read_parquet(tmp_path / "embedding-coordinates.parquet")
    assert list(table) == ["target" if of == "targets" else "train", "label", "pc1", "pc2", "pc3"]
    np.testing.assert_array_equal(table[["pc1", "pc2", "pc3"]], pca)
    np.testing.assert_array_equal(table["label"], data().test_y if of == "targets" else data().train_y)
    read = pd.read_csv(tmp_path / "embedding.csv")
    assert (read["query"].unique().tolist(), len(read)) == ([2, 4], 20)
    (method,) = found.document.methods
    assert all((tmp_path / name).is_file() for name in method.files)
    assert [point.item for point in method.pca] == list(range(total))
    np.testing.assert_allclose([(point.x, point.y) for point in method.pca], pca[:, :2], rtol=1e-4)
    page = (tmp_path / "embedding.html").read_text()
    assert "<script" not in page
    assert "embedding-matrix.npy" in page


@pytest.mark.parametrize("of", ["targets", "train"])
def test_purity_is_counted(of: Of) -> None:
    scores, examples, k = drawn(2), data(), 4
    found = coordinates.embedding(subject({"a": scores}, examples), of=of, k=k).document
    x, y = (examples.test_x, examples.test_y) if of == "targets" else (examples.train_x, examples.train_y)
    each = []
    for values, metric in ((items(scores, of), "cosine"), (x, "euclidean")):
        model = NearestNeighbors(n_neighbors=k + 1, metric=metric, algorithm="brute").fit(values)
        near = model.kneighbors(values, return_distance=False)
        each.append([np.mean([y[other] == y[at] for other in row if other != at][:k]) for at, row in enumerate(near)])
    told = found.methods[0].purity
    assert told is not None
    own, raw = np.array(each)
    assert [told.share, told.raw] == pytest.approx([own.mean(), raw.mean()])
    half = 1.959964 * np.std(own - raw, ddof=1) / np.sqrt(len(y))
    middle = np.mean(own - raw)
    assert told.difference_ci is not None
    np.testing.assert_allclose(told.difference_ci, (middle - half, middle + half))
    others = [(y == label).sum() - 1 for label in y]
    assert found.class_share == pytest.approx(np.mean(others) / (len(y) - 1))


def test_purity_of_a_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(purity, "JUDGED", 5)
    found = coordinates.embedding(subject({"a": drawn(2)}, data())).document
    told = found.methods[0].purity
    assert told is not None
    assert told.items == 5
    assert "a: purity is that of 5 targets, evenly spread, among all" in found.notes


def test_targets_without_scores_and_without_direction() -> None:
    scores = drawn(0)
    scores[2, 5], scores[:, 8] = np.nan, 0
    some = subject({"a": scores}, data())
    found = coordinates.embedding(some, components=2)
    assert np.isnan(found.arrays["matrix"][5]).all()
    assert np.isnan(found.arrays["pca"][5]).all()
    assert np.isfinite(np.delete(found.arrays["pca"], 5, axis=0)).all()
    (method,) = found.document.methods
    assert method.items == T - 1
    assert method.purity is not None
    assert method.purity.items == T - 2
    assert {5, 8}.isdisjoint(near.item for query in method.queries for near in query.nearest)
    assert found.document.notes[0] == "a: 1 of 24 targets is left out, whose scores are not all finite"
    with pytest.raises(InputError, match="a has scores of target 5 that are not finite"):
        coordinates.embedding(some, query=[5])
    with pytest.raises(InputError, match="a scores targets 8 0 throughout"):
        coordinates.embedding(some, query=[8])
    train = coordinates.embedding(some, of="train")
    assert train.document.methods[0].items == N
    assert train.arrays["matrix"].shape == (N, T)
    assert "a: 1 target is left out, whose scores are not all finite" in train.document.notes


def test_the_picture_is_of_neighbours() -> None:
    """Of images alone; by scores on the left, by pixels on the right."""
    flat = data()
    wide = np.pad(flat.train_x, ((0, 0), (0, 4))), np.pad(flat.test_x, ((0, 0), (0, 4)))
    images = Data(wide[0], flat.train_y, wide[1], flat.test_y, 3, image=(1, 3, 3))
    for of in ("targets", "train"):
        found = coordinates.embedding(subject({"a": drawn(0), "b": drawn(1)}, images), of=of, query=[3])
        assert found.document.picture
        shown = Image.open(io.BytesIO(found.pictures["neighbours"]))
        shown.load()
        x = images.test_x if of == "targets" else images.train_x
        near = NearestNeighbors(n_neighbors=2).fit(x).kneighbors(x[3:4], return_distance=False)[0, 1]
        assert purity.raw_nearest(x, np.array([3]), 1)[0, 0] == near
    bare = coordinates.embedding(subject({"a": drawn(0)}, flat))
    assert (bare.document.picture, bare.pictures) == (False, {})


def test_names_of_classes_keep_their_hyphens() -> None:
    """And numbers have a minus."""
    plain = data()
    named = Data(plain.train_x, plain.train_y, plain.test_x, plain.test_y, 3, class_names=("T-shirt", "b", "c"))
    text = view.grid(coordinates.embedding(subject({"a": drawn(0)}, named), k=T - 1).document).plain()
    assert "(T-shirt)" in text
    assert " −0." in text
    assert "T−shirt" not in text
    assert " -0." not in text


def test_nothing_varies() -> None:
    found = coordinates.embedding(subject({"a": np.ones((N, T))}, data()))
    assert not found.arrays["pca"].any()
    assert found.document.methods[0].explained == [0.0] * 10
    zeros = coordinates.embedding(subject({"a": np.zeros((N, T))}, data())).document
    assert (zeros.methods[0].queries, zeros.methods[0].purity) == ([], None)
    assert zeros.notes == ["a: all vectors are zero, since all its scores are 0, so no targets have neighbours"]
    assert view.frame(zeros).empty
    assert "points" in view.grid(zeros).plain()


def test_without_examples() -> None:
    found = coordinates.embedding(subject({"a": drawn(0)}))
    assert "label" not in found.tables["coordinates"]
    (method,) = found.document.methods
    assert (method.purity, found.document.class_share, method.pca[0].label) == (None, None, None)
    assert [query.item for query in method.queries] == [0, 5, 9, 14, 18, 23]
    assert "share the class" not in view.grid(found.document).plain()


def test_several_methods_have_files_each(tmp_path: Path) -> None:
    """Names that are no file names, and names that become one."""
    names = {"../up/x:y=1": drawn(0), "a:b": drawn(1), "a/b": drawn(2), "plain": drawn(3)}
    found = coordinates.embedding(subject(names, data()), components=2)
    files.write(tmp_path / "out", found)
    there = {path.name for path in (tmp_path / "out").iterdir()}
    wanted = [name for method in found.document.methods for name in method.files]
    assert len(set(wanted)) == 12
    assert set(wanted) < there
    assert {f"embedding-matrix-{slug}.npy" for slug in ("up-x-y=1", "a-b", "a-b-2", "plain")} < there
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_the_best_alone_unless_asked() -> None:
    both = {"a": drawn(0), "b": drawn(1)}
    assert [m.method for m in coordinates.embedding(subject(both, asked=False)).document.methods] == ["a"]
    assert [m.method for m in coordinates.embedding(subject(both)).document.methods] == ["a", "b"]


def test_the_matrix_of_a_large_one_is_written_on_demand(monkeypatch: pytest.MonkeyPatch) -> None:
    some = subject({"a": drawn(0)})
    never = coordinates.embedding(some, matrix=False)
    assert ("matrix" in never.arrays, never.document.notes) == (
        False, ["a: the matrix itself is not written (it was not asked for)"],
    )  # fmt: skip
    monkeypatch.setattr(coordinates, "_MATRIX_BYTES", 4 * N * T - 1)
    large = coordinates.embedding(some)
    assert "matrix" not in large.arrays
    assert large.document.notes == [
        "a: the matrix itself is not written (it would take 0 MB; --matrix writes it)"
    ]  # fmt: skip
    assert "matrix" in coordinates.embedding(some, matrix=True).arrays


def test_without_pyarrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coordinates, "find_spec", lambda _: None)
    found = coordinates.embedding(subject({"a": drawn(0)}))
    assert not found.tables
    assert found.document.notes == [
        "no parquet file is written, which takes pyarrow: pip install 'ldsbench[parquet]'"
    ]  # fmt: skip
    assert found.document.methods[0].files == ["embedding-pca.npy", "embedding-matrix.npy"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"k": T}, "--k is 24: it takes 1 to 23, the number of other targets"),
        ({"k": N, "of": "train"}, "--k is 40: it takes 1 to 39"),
        ({"components": T + 1}, "--components is 25: it takes 1 to 24"),
        ({"components": 0}, "--components is 0"),
        ({"query": [T]}, "there is no target 24"),
        ({"query": [N], "of": "train"}, "there is no training example 40: they are numbered 0 … 39"),
        ({"query": [], "of": "train"}, "no training example is named"),
        ({"query": [1.7], "of": "train"}, r"training examples are float64 \[1\], where a list of whole numbers"),
        ({"query": True, "of": "train"}, r"training examples are bool \[\], where"),
        ({"query": [[1, 2]], "of": "train"}, r"training examples are int64 \[1, 2\], where"),
        ({"query": [[1], [1, 2]], "of": "train"}, r"training examples are \[\[1\], \[1, 2\]\], where"),
        ({"query": ["a"], "of": "train"}, "training examples are <U1"),
        ({"k": 2.5}, "--k is 2.5: it takes a whole number from 1 to 23"),
        ({"seed": -1}, "--seed is -1"),
        ({"of": "foo"}, "--of is 'foo': it takes targets or train"),
        ({"project": "foo"}, "--project is 'foo': it takes pca or umap"),
    ],
)
def test_bad_input(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(BenchError, match=words):
        coordinates.embedding(subject({"a": drawn(0)}, data()), **arguments)


def test_one_target_is_no_embedding() -> None:
    scores = np.full((N, T), np.nan)
    scores[:, 3] = 1
    with pytest.raises(InputError, match="at least two targets, and there is one"):
        coordinates.embedding(subject({"a": scores}))


def test_umap_is_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plane, "find_spec", lambda _: None)
    with pytest.raises(BenchError, match=r"needs umap-learn, which is not installed: pip install 'ldsbench\[umap\]'"):
        coordinates.embedding(subject({"a": drawn(0)}), project="umap")


@pytest.mark.slow
@pytest.mark.skipif(find_spec("umap") is None, reason="umap-learn is not installed")
@pytest.mark.parametrize("count", [6, T])
def test_umap(count: int) -> None:
    """Neighbours stay neighbours, the same for the same seed."""
    scores = drawn(0) + 4 * np.random.default_rng(5).standard_normal((N, 3))[:, (N + np.arange(T)) % 3]
    scores[:, count:] = np.nan
    some = subject({"a": scores}, data())
    one, other = (coordinates.embedding(some, project="umap") for _ in range(2))
    flat = one.tables["coordinates"][["umap1", "umap2"]].to_numpy()
    assert np.isfinite(flat).all()
    assert one.document.methods[0].umap == other.document.methods[0].umap
    assert len(view.blocks(one.document)) == len(view.blocks(coordinates.embedding(some).document)) + 1
    if count == T:
        near = NearestNeighbors(n_neighbors=2).fit(flat).kneighbors(flat, return_distance=False)[:, 1]
        assert (near % 3 == np.arange(T) % 3).mean() > 0.9


def test_umap_of_few_is_refused() -> None:
    scores = drawn(0)
    scores[:, 4:] = np.nan
    with pytest.raises(InputError, match="UMAP takes at least 5 points, and there are 4"):
        plane.umap(Vectors(Scored("a", scores), "targets", np.arange(4)), 0)


def test_the_same_twice_and_as_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vectors, "_DENSE", 0)
    some = subject({"a": drawn(0), "b": drawn(1)}, data())
    one, other = (coordinates.embedding(some, seed=3) for _ in range(2))
    assert msgspec.structs.replace(other.document, about=one.document.about) == one.document
    assert msgspec.json.decode(one.document.text(), type=Embedding) == one.document
    for name, array in one.arrays.items():
        np.testing.assert_array_equal(array, other.arrays[name])
