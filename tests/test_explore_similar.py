"""The most helpful and most harmful examples, and how far methods agree, against answers written out."""

import io
from itertools import permutations
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from bench.datasets import Data
from bench.errors import BenchError, InputError
from bench.explore import agreement, choice, pictures, toplists
from bench.explore.subject import Scored, Subject
from bench.explore.toplists import Similar
from bench.explore.views import similar as view
from bench.report.images import Pixels
from bench.store import GroundTruth

N, T = 30, 12


def lists(*rows: list[int], k: int = 0) -> NDArray[np.int64]:
    """Rows as `agreement` reads them."""
    width = max(k, *map(len, rows), 1)
    return np.array([row + [-1] * (width - len(row)) for row in rows], np.int64)


def reference(a: list[int], b: list[int], p: float) -> float:
    """Webber et al. 2010, equation 32, with sets."""
    short, long = sorted((a, b), key=len)
    s, l = len(short), len(long)  # noqa: E741
    if not l:
        return float("nan")
    if not s:
        return 0.0
    x = [0] + [len(set(long[:d]) & set(short[:d])) for d in range(1, l + 1)]
    first = sum(x[d] / d * p**d for d in range(1, l + 1))
    beyond = sum(x[s] * (d - s) / (s * d) * p**d for d in range(s + 1, l + 1))
    return (1 - p) / p * (first + beyond) + ((x[l] - x[s]) / l + x[s] / s) * p**l


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        # X = 0, 2, 2: (.1/.9)(.81·2/2 + .729·2/3) + (2/3)·.729
        ([1, 2, 3], [2, 1, 4], 0.63),
        # uneven, X = 0, 1: (.1/.9)(.81/2) + (1/2)·.81
        ([1], [2, 1], 0.45),
        # uneven, X = 1, 1: one is the beginning of the other
        ([1], [1, 2], 1.0),
        ([5], [5], 1.0),
        ([1, 2], [3, 4], 0.0),
        ([], [3], 0.0),
    ],
)
def test_rank_biased_overlap_by_hand(a: list[int], b: list[int], expected: float) -> None:
    k = max(len(a), len(b))
    assert agreement.rbo(lists(a, k=k), lists(b, k=k), N)[0] == pytest.approx(expected)


ranking = st.permutations(range(8)).flatmap(lambda whole: st.integers(0, 8).map(lambda length: whole[:length]))


@given(st.lists(st.tuples(ranking, ranking), min_size=1, max_size=4), st.floats(0.05, 0.95))
@settings(deadline=None, max_examples=200)
def test_agreement_is_that_of_sets(pairs: list[tuple[list[int], list[int]]], p: float) -> None:
    a, b = lists(*(one for one, _ in pairs), k=8), lists(*(other for _, other in pairs), k=8)
    found = agreement.rbo(a, b, 8, p)
    np.testing.assert_allclose(found, [reference(one, other, p) for one, other in pairs])
    np.testing.assert_allclose(agreement.rbo(b, a, 8, p), found)
    np.testing.assert_allclose(agreement.rbo(a, a, 8, p), np.where((a >= 0).any(axis=1), 1, np.nan))
    assert ((np.nan_to_num(found) >= 0) & (np.nan_to_num(found) <= 1 + 1e-12)).all()
    shares = [
        len(set(one) & set(other)) / max(len(one), len(other)) if one or other else np.nan for one, other in pairs
    ]
    np.testing.assert_allclose(agreement.overlap(a, b, 8), shares)


def test_chance_is_the_mean_over_all_pairs_of_lists() -> None:
    every = np.array([order[:3] for order in permutations(range(5))], np.int64)
    fixed = np.tile(np.arange(3), (len(every), 1))
    assert agreement.rbo(every, fixed, 5).mean() == pytest.approx(agreement.chance_rbo(3, 5))
    assert agreement.overlap(every, fixed, 5).mean() == pytest.approx(agreement.chance_overlap(3, 5))


def data(features: tuple[int, ...] = (1, 4, 4)) -> Data:
    rng = np.random.default_rng(1)
    size = int(np.prod(features))
    x = rng.random((N + T, size)).astype(np.float32).reshape(-1, *features)
    y = np.arange(N + T) % 4
    return Data(x[:N], y[:N], x[N:], y[N:], 4, class_names=("ant", "bee", "cat", "dog"))


def subject(scores: dict[str, Any], examples: Data | None = None, asked: bool = False) -> Subject:
    """What is explored, of matrices alone."""
    truth = SimpleNamespace(
        masks=np.zeros((2, N), bool), margins=np.zeros((2, T)), meta=None, imported=None, path=Path("store")
    )
    made = [
        Scored(name, np.asarray(values), 0.9 - 0.1 * at, asked=asked)
        for at, (name, values) in enumerate(scores.items())
    ]
    return Subject(Path("store"), False, cast(GroundTruth, truth), made, data=examples, why="none was kept")


def drawn(seed: int) -> NDArray[np.float64]:
    return np.random.default_rng(seed).standard_normal((N, T))


def test_lists_are_the_sorted_scores() -> None:
    scores: dict[str, Any] = {"a": drawn(0).astype(np.float32), "b": drawn(1)}
    found = toplists.similar(subject(scores, data()), k=4, targets=[7, 2]).document
    assert found.targets == [2, 7]
    assert found.target_labels == [(N + 2) % 4, (N + 7) % 4]
    for one in found.lists:
        for at, target in enumerate((2, 7)):
            column = scores[one.method][:, target]
            order = np.argsort(-column)
            assert [named.train for named in one.helpful[at]] == order[:4].tolist()
            assert [named.train for named in one.harmful[at]] == order[::-1][:4].tolist()
            assert [named.score for named in one.helpful[at]] == pytest.approx(column[order[:4]].tolist(), rel=1e-5)
            assert [named.label for named in one.harmful[at]] == (order[::-1][:4] % 4).tolist()
    frame = view.frame(found)
    assert len(frame) == 2 * 2 * 2 * 4
    row = frame[(frame.target == 7) & (frame.method == "b") & (frame.side == "harmful") & (frame["rank"] == 1)].iloc[0]
    worst = int(scores["b"][:, 7].argmin())
    assert (row.train, row.train_label, row.target_label) == (worst, worst % 4, (N + 7) % 4)
    assert row.score == pytest.approx(scores["b"][worst, 7], rel=1e-5)


def test_agreement_and_classes_are_means_over_targets() -> None:
    scores = {"a": drawn(0), "b": drawn(0) + 0.5 * drawn(1), "c": -drawn(0)}
    found = toplists.similar(subject(scores, data()), k=5).document
    for one in found.agreement:
        sign = 1 if one.side == "helpful" else -1
        each = []
        for target in range(T):
            a, b = (np.argsort(-sign * scores[name][:, target])[:5].tolist() for name in (one.a, one.b))
            each.append((len(set(a) & set(b)) / 5, reference(a, b, 0.9)))
        assert [one.overlap, one.rbo] == pytest.approx(np.mean(each, axis=0).tolist())
        assert [one.overlap_stderr, one.rbo_stderr] == pytest.approx(
            (np.std(each, axis=0, ddof=1) / np.sqrt(T)).tolist()
        )
        assert one.targets == T
    assert [(one.a, one.b) for one in found.agreement[::2]] == [("a", "b"), ("a", "c"), ("b", "c")]
    (first, *_) = found.own
    top = np.argsort(-scores["a"], axis=0)[:5]
    same = ((top % 4) == (N + np.arange(T)) % 4).mean(axis=0)
    assert first.helpful == pytest.approx(same.mean())
    assert first.helpful_stderr == pytest.approx(same.std(ddof=1) / np.sqrt(T))
    share = np.bincount(np.arange(N) % 4) / N
    assert found.class_share == pytest.approx(share[(N + np.arange(T)) % 4].mean())
    assert found.chance_overlap == pytest.approx(5 / N)


def test_short_lists_end_where_the_sign_does() -> None:
    """Zeros are on neither side; of equals the first are named, and it is said."""
    scores = np.zeros((N, T))
    scores[3], scores[5], scores[9] = 2, 1, -1
    tied = np.ones((N, T))
    found = toplists.similar(subject({"sparse": scores, "tied": tied, "no": np.zeros((N, T))}), k=4).document
    sparse, same, nothing = found.lists
    assert [named.train for named in sparse.helpful[0]] == [3, 5]
    assert [named.train for named in sparse.harmful[0]] == [9]
    assert [named.train for named in same.helpful[0]] == [0, 1, 2, 3]
    assert same.harmful[0] == nothing.helpful[0] == []
    assert found.own[0].helpful_length == 2
    assert [one.tied for one in found.own] == [0, T, 0]
    assert found.notes == [
        f"tied: on {T} of {T} targets the last place is one of several of equal score; of equals the first in the "
        "training set are named"
    ]
    by_pair = {(one.a, one.b, one.side): one for one in found.agreement}
    assert by_pair["sparse", "tied", "helpful"].overlap == 1 / 4
    assert by_pair["sparse", "no", "helpful"].rbo == 0
    assert by_pair["tied", "no", "harmful"].rbo is None
    assert by_pair["tied", "no", "harmful"].targets == 0
    assert (found.target_labels, found.class_share, found.own[0].helpful) == (None, None, None)
    text = view.grid(found).plain()
    assert "3, 5" in text
    assert "none" in text
    assert view.frame(found).train_label.isna().all()


def test_targets_without_scores() -> None:
    """Left out of what is taken over all, and refused where they are asked for."""
    holed = drawn(1)
    holed[4, [2, 7]] = np.nan, np.inf
    both = subject({"a": drawn(0), "holed": holed}, data())
    found = toplists.similar(both, k=3, targets="all").document
    assert found.targets == list(range(T))
    assert "holed: 2 of 12 targets are left out, whose scores are not all finite" in found.notes
    assert [bool(some) for some in found.lists[1].helpful] == [target not in (2, 7) for target in range(T)]
    assert {one.targets for one in found.agreement} == {T - 2}
    assert not {2, 7} & set(toplists.similar(both).document.targets)
    with pytest.raises(InputError, match="holed has scores of target 7 that are not finite"):
        toplists.similar(both, targets=[1, 7])
    with pytest.raises(InputError, match="gone has no target whose scores are all finite"):
        toplists.similar(subject({"a": drawn(0), "gone": np.full((N, T), np.nan)}))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"k": N + 1}, "--k is 31: it takes 1 to 30"),
        ({"k": 0}, "--k is 0"),
        ({"targets": [T]}, "there is no target 12: there are 12, numbered 0 … 11"),
        ({"targets": [-1]}, "there is no target -1"),
        ({"targets": []}, "no target is named"),
    ],
)
def test_bad_input(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(BenchError, match=words):
        toplists.similar(subject({"a": drawn(0)}, data()), **arguments)
    with pytest.raises(BenchError, match=r"and store has none: add --scores FILE\.npy"):
        toplists.similar(subject({}, data()), **arguments)


def test_k_of_the_whole_training_set() -> None:
    found = toplists.similar(subject({"a": drawn(0), "b": drawn(1)}), k=N, targets=[0]).document
    for one in found.lists:
        assert sorted(named.train for named in one.helpful[0] + one.harmful[0]) == list(range(N))


def test_many_targets_are_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Agreement over some of them, lists for all that are asked for, whatever the slabs."""
    scores = {"a": drawn(0), "b": drawn(1)}
    whole = toplists.similar(subject(scores), targets=range(T)).document
    monkeypatch.setattr(toplists, "COMPARED", 4)
    monkeypatch.setattr(toplists, "_BATCH_BYTES", 8 * N * 3)
    found = toplists.similar(subject(scores), targets=range(T)).document
    assert found.lists == whole.lists
    assert (found.compared, whole.compared) == (4, T)
    assert found.notes == ["agreement is taken over 4 of 12 targets, evenly spread"]
    some = [0, 4, 7, 11]
    each = []
    for target in some:
        a, b = (np.argsort(-scores[name][:, target])[:10].tolist() for name in "ab")
        each.append(len(set(a) & set(b)) / 10)
    assert found.agreement[0].overlap == pytest.approx(np.mean(each))


def test_default_targets_are_of_different_classes() -> None:
    labels = np.repeat(np.arange(10), 20)
    picked = choice.over_classes(labels, 200, 6)
    assert len(set(labels[picked])) == 6
    assert (np.diff(picked) > 0).all()
    few = choice.over_classes(np.repeat([3, 8], 20), 40, 6)
    assert np.bincount(np.repeat([3, 8], 20)[few])[[3, 8]].tolist() == [3, 3]
    assert choice.over_classes(np.array([0, 0, 0, 0, 0, 0, 0, 1]), 8, 6).tolist()[-1] == 7
    assert choice.over_classes(None, 100, 6).tolist() == [0, 20, 40, 59, 79, 99]
    assert choice.over_classes(np.zeros(3, int), 3, 6).tolist() == [0, 1, 2]


def test_the_picture_shows_the_examples() -> None:
    """Each where its rank says, in its own pixels, with a frame where it is of the target's class."""
    examples, scores = data(), drawn(0)
    found = toplists.similar(subject({"a": scores}, examples), targets=[5])
    assert found.document.picture
    shown = np.asarray(Image.open(io.BytesIO(found.pictures["targets"])).convert("RGB"))
    pixels = Pixels.of(examples)
    assert pixels is not None
    scale = 23  # of 4 pixels to 92
    order = np.argsort(-scores[:, 5])
    for start, ranked in ((pictures_left(), order), (pictures_left() + 5 * 104 + 44, order[::-1])):
        for place, example in enumerate(ranked[:5]):
            y, x = 46, start + place * 104
            expected = np.kron(pixels.bytes_of(examples.train_x[example])[..., 0], np.ones((scale, scale)))
            np.testing.assert_array_equal(shown[y : y + 92, x : x + 92, 0], expected)
            framed = (shown[y - 2, x + 40] == [0x0B, 0x57, 0xA4]).all()
            assert framed == (example % 4 == (N + 5) % 4)


def pictures_left() -> int:
    return 174 + 300  # the target's column and the names'


def test_pictures_of_any_name_and_size() -> None:
    rng = np.random.default_rng(0)
    for shape in ((3, 32, 32), (1, 28, 28), (3, 96, 96), (1, 2, 9)):
        examples = Data(
            rng.random((4, *shape)).astype(np.float32), np.zeros(4, int), rng.random((1, *shape)).astype(np.float32),
            np.zeros(1, int), 2, class_names=("a very long name of a class 汉字", "b"),
        )  # fmt: skip
        pixels = Pixels.of(examples)
        assert pixels is not None
        tile = pictures.Tile(examples.train_x[0], examples.class_names[0], "+1", True)
        name = "<b>:" + "x" * 90 + ",y=1,z=" + "w" * 40 + "\n\x00"
        content = pictures.grid(pixels, [pictures.Panel("t", tile, [(name, [tile], [])])], 3, "l", "r")
        made = Image.open(io.BytesIO(content))
        made.load()
        assert made.width < 3000


def test_what_is_no_image_is_shown_as_features() -> None:
    """Whether pictures were asked for is the difference of a note."""
    flat = data((3,))
    scores = {"a": drawn(0)}
    silent = toplists.similar(subject(scores, flat), targets=[5])
    assert (silent.pictures, silent.document.picture, silent.document.notes) == ({}, False, [])
    asked = toplists.similar(subject(scores, flat), targets=[5], pictures=True)
    assert asked.pictures == {}
    assert asked.document.notes == [
        "no pictures: the examples of store are not known to be images, so what they hold is shown in a table"
    ]
    best = int(scores["a"][:, 5].argmax())
    words = ", ".join(f"{value:.2f}" for value in flat.train_x[best])
    assert asked.document.train_features[str(best)] == words
    assert words in str(view.blocks(asked.document))
    never = toplists.similar(subject(scores, data()), targets=[5], pictures=False)
    assert (never.pictures, never.document.notes) == ({}, [])
    assert "(16 values)" in never.document.target_features["5"]
    absent = toplists.similar(subject(scores), targets=[5], pictures=True).document
    assert absent.notes == ["no pictures: store has no examples (none was kept); they are named by number"]


def test_the_same_twice_and_as_json() -> None:
    some = subject({"a": drawn(0), "b": drawn(1)}, data())
    one, other = (toplists.similar(some) for _ in range(2))
    assert one.pictures == other.pictures
    same = msgspec.structs.replace(other.document, about=one.document.about)
    assert same == one.document
    assert msgspec.json.decode(one.document.text(), type=Similar) == one.document


def test_asked_methods_are_all_there() -> None:
    many = {f"m{at}": drawn(at) for at in range(14)}
    assert len(toplists.similar(subject(many)).document.lists) == toplists.METHODS
    found = toplists.similar(subject(many, data(), asked=True)).document
    assert len(found.lists) == len(found.shown_methods) == 14
    assert len(toplists.similar(subject(many)).document.shown_methods) == 5
