"""Imports compare examples, and their order, with a dataset: what is permuted is refused, what is not told is said."""

import hashlib
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.special import logsumexp

from bench import cifar, fmow
from bench.interop import examples, logit_classes
from bench.store import GroundTruth

Array = NDArray[Any]
Main = Callable[..., tuple[int, str, str]]

M, N, T, C = 60, 40, 8, 10  # models, training examples, targets, classes
ROWS = ("--eval-rows", "last:20", "--tune-rows", "8", "--quiet")
CIFAR = ("--check", "cifar10", "--data-dir", "D", "--allow-modified-data")

TINY = '''
"""A dataset of numbers."""
import numpy as np
from bench.datasets import Architecture, Data, Dataset, Recipe

class Tiny(Dataset):
    models = {"mlp": Recipe(Architecture("mlp", (4,)), epochs=1, batch_size=8, lr=0.1)}

    def __init__(self, n: int = 40) -> None:
        self.n = n

    def load(self, files):
        x = np.zeros((self.n, 2), np.float32)
        return Data(x, np.arange(self.n) // 3 % 4, x[:8], np.arange(8) % 4, 4)
'''


def refused(found: tuple[int, str, str], *words: str) -> None:
    code, out, err = found
    assert (code, out, err.count("\n")) == (2, "", 1)
    for word in words:
        assert word in err


def batches(folder: Path, train: Array, test: Array) -> None:
    """CIFAR-10's python batches of these classes."""
    folder.mkdir(parents=True)
    for name, labels in [*zip(cifar.TRAIN, np.split(train, 5), strict=True), (cifar.TEST, test)]:
        content = {b"data": np.zeros((len(labels), 3072), np.uint8), b"labels": labels.tolist()}
        (folder / name).write_bytes(pickle.dumps(content, 2))


def margins_of(logits: Array, labels: Array, kind: str = "max") -> Array:
    """Written out, class by class."""
    made = np.empty(logits.shape[:2])
    for target, label in enumerate(labels):
        others = np.delete(logits[:, target].astype(np.float64), label, axis=1)
        made[:, target] = logits[:, target, label] - (others.max(1) if kind == "max" else logsumexp(others, axis=1))
    return made


def some_logits(rng: np.random.Generator, labels: Array, classes: int = C) -> Array:
    logits = 3 * rng.standard_normal((M, len(labels), classes))
    logits[:, np.arange(len(labels)), labels] += 2
    return logits.astype(np.float16)


def lay(labels: dict[str, Array], name: str = "cifar", classes: int = C) -> None:
    """The release's files, of models that tell these classes of training examples and targets."""
    rng = np.random.default_rng(0)
    folder = Path("R", name, "data")
    folder.mkdir(parents=True, exist_ok=True)
    np.save(
        folder / "train_masks_50pct.npy", rng.random((M, len(labels["train"]))).argsort(1) < len(labels["train"]) / 2
    )
    for part, classes_of in labels.items():
        logits = some_logits(rng, classes_of, classes)
        np.save(folder / f"{part}_logits_50pct.npy", logits)
        np.save(folder / f"{part}_margins_50pct.npy", margins_of(logits, classes_of).astype(np.float16))


@pytest.fixture
def known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Array]:
    """Classes of a CIFAR-10 in the folder D, as many of each as can be, and a release of it in R."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BENCH_DATA", raising=False)
    rng = np.random.default_rng(5)
    found = {"train": rng.permutation(np.arange(N) % 4), "test": np.array([3, 0, 1, 2, 3, 1, 0, 2])}
    batches(tmp_path / "D/cifar-10-batches-py", found["train"], found["test"])
    lay(found)
    return found


def swapped(labels: Array) -> tuple[Array, int]:
    """Two neighbours of different classes change places; the first's number."""
    at = int(np.flatnonzero(np.diff(labels))[2])
    order = np.arange(len(labels))
    order[[at, at + 1]] = order[[at + 1, at]]
    return labels[order], at


@given(
    st.integers(2, 12),
    st.sampled_from(["max", "logsumexp"]),
    st.integers(0, 2**32 - 1),
    st.sampled_from([np.float16, np.float32]),
)
def test_classes_are_told_by_logits_and_margins(classes: int, kind: Any, seed: int, dtype: Any) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, 9)
    logits = some_logits(rng, labels, classes)
    margins = margins_of(logits, labels, kind).astype(dtype)
    if classes == 2:  # the other class's margin is minus this one's: only its sign tells them apart
        margins[np.abs(margins) < 0.1] = 0
    logits[3] = np.inf  # a model that overflowed tells nothing
    found = logit_classes.told(margins, logits, kind, (0, M))
    np.testing.assert_array_equal(found, labels)


def test_classes_that_are_not_told() -> None:
    rng = np.random.default_rng(1)
    labels = rng.integers(0, C, 30)
    logits = some_logits(rng, labels)
    margins = margins_of(logits, labels)
    logits[:, 3, :] = logits[:, 3, :1]  # all classes alike
    margins[:, 3] = 0
    margins[:, 5] = rng.standard_normal(M)  # of something else
    logits[:, 7] = np.nan
    found = logit_classes.told(margins, logits, "max", (10, 30))
    assert found[[3, 5, 7]].tolist() == [-1, -1, -1]
    rest = np.setdiff1d(np.arange(30), [3, 5, 7])
    np.testing.assert_array_equal(found[rest], labels[rest])
    assert (logit_classes.told(margins, logits[:, :, :1], "max", (0, M)) == -1).all()
    assert (logit_classes.told(margins, logits, "logsumexp", (0, M)) == -1).mean() > 0.9


def test_the_order_of_cifar10_is_checked(main: Main, known: dict[str, Array]) -> None:
    code, out, _ = main("import", "datamodels-data", "R", "S", *ROWS, *CIFAR)
    assert code == 0
    assert f"checked: {N} training examples and {T} targets, as many as in cifar10 (by files that are not" in out
    assert "the published ones: data_batch_1 md5 " in out
    assert "checked: the targets' classes, told by logits and margins, are those of cifar10 in its order\n" in out
    assert "not checked: the order of the training examples, because no file tells their classes" in out
    meta = GroundTruth.open("S").imported
    assert meta is not None
    assert all(f"  {line}\n" in out for line in meta.order)
    assert len(meta.order) == 3
    assert meta.order[1] in main("train", "--status", "S")[1]
    code, out, _ = main("export", "datamodels-data", "S", "X")
    assert (code, meta.order[1] in out) == (0, True)
    assert main("import", "datamodels-data", "R", "A", *ROWS, *CIFAR, "--split", "train")[0] == 0
    assert main("import", "datamodels-data", "R", "B", *ROWS, *CIFAR, "--judge-only", "--tune-rows", "0")[0] == 0
    assert len(known) == 2


@pytest.mark.parametrize("split", ["test", "train"])
def test_another_order_is_refused(main: Main, known: dict[str, Array], split: str) -> None:
    labels, at = swapped(known[split])
    lay({**known, split: labels})
    found = main("import", "datamodels-data", "R", "S", *ROWS, *CIFAR, "--split", split)
    what = "target" if split == "test" else "training example"
    refused(
        found, f"{what} {at} is of class {labels[at]}, told by logits and margins, and of class {known[split][at]} in"
    )
    refused(found, f"{split}_margins_50pct.npy", f"2 of {len(labels)} differ", "in another order")
    assert not Path("S").exists()
    lay({**known, split: np.where(np.arange(len(labels)) == 4, 9, known[split])})
    refused(
        main("import", "datamodels-data", "R", "S", *ROWS, *CIFAR, "--split", split), f"{what} 4 ", "another dataset"
    )


def test_other_numbers_are_refused_of_a_dataset_that_is_named(main: Main, known: dict[str, Array]) -> None:
    lay({"train": known["train"], "test": known["test"][:-1]})
    refused(
        main("import", "datamodels-data", "R", "S", *ROWS, *CIFAR), f"{T - 1} targets, and cifar10 has {T}", "example 7"
    )
    part = ("--check", f"cifar10:n_train={N},n_test={T - 1}", *CIFAR[2:])
    assert main("import", "datamodels-data", "R", "S", *ROWS, *part)[0] == 0
    refused(
        main("import", "datamodels-data", "R", "T", *ROWS, "--check", "cifar10:n_test=99", *CIFAR[2:]), "n_test is 99"
    )
    refused(
        main("import", "datamodels-data", "R", "T", *ROWS, "--check", "cifar11"), "'cifar11'; did you mean 'cifar10'"
    )


def test_a_dataset_that_is_guessed(main: Main, known: dict[str, Array], monkeypatch: pytest.MonkeyPatch) -> None:
    def said(*more: str) -> str:
        said.count += 1  # type: ignore[attr-defined]
        code, out, err = main("import", "datamodels-data", "R", f"S{said.count}", *ROWS, *more)  # type: ignore[attr-defined]
        assert code == 0, err
        return out

    said.count = 0  # type: ignore[attr-defined]
    assert "not checked: their order against cifar10, because its files are not here (--data-dir DIR" in said()
    out = said("--data-dir", "D")
    assert "not checked: their order against cifar10, because" in out
    assert "not the published file" in out
    md5 = {path.name: hashlib.md5(path.read_bytes()).hexdigest() for path in Path("D/cifar-10-batches-py").iterdir()}
    monkeypatch.setattr(cifar, "MD5", md5)
    out = said("--data-dir", "D")
    assert f"checked: {N} training examples and {T} targets, as many as in cifar10\n" in out
    assert "in its order" in out
    lay({"train": known["train"], "test": known["test"][:-1]})
    assert "because there are 7 targets, and cifar10 has 8" in said("--data-dir", "D")
    labels, at = swapped(known["test"])
    lay({"train": known["train"], "test": labels})
    refused(main("import", "datamodels-data", "R", "T", *ROWS, "--data-dir", "D"), f"target {at} is of class")


def test_numbers_of_each_class_without_the_dataset(
    main: Main, known: dict[str, Array], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(examples, "PER_CLASS", {"cifar10": (4, 10, 2)})
    monkeypatch.setattr("bench.interop.order.PER_CLASS", {"cifar10": (4, 10, 2)})
    code, out, _ = main("import", "datamodels-data", "R", "S", *ROWS)
    assert code == 0
    assert "checked: each class has 2 targets, told by logits and margins, as in cifar10" in out
    assert "not checked: their order against cifar10" in out
    lay({"train": known["train"], "test": np.array([3, 0, 1, 2, 3, 1, 0, 3])})
    refused(main("import", "datamodels-data", "R", "T", *ROWS), "class 2 has 1 target, ", "every class has 2")


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (
            lambda folder: (folder / "test_logits_50pct.npy").unlink(),
            "there is no file of logits beside that of margins",
        ),
        (
            lambda folder: np.save(folder / "test_logits_50pct.npy", np.zeros((M, 3, C), np.float16)),
            "other models or targets",
        ),
        (
            lambda folder: np.save(
                folder / "test_margins_50pct.npy", np.random.default_rng(0).standard_normal((M, T)).astype(np.float16)
            ),
            "the margins are not those of test_logits_50pct.npy",
        ),
    ],
)
def test_what_tells_no_classes(main: Main, known: dict[str, Array], change: Callable[[Path], object], why: str) -> None:
    assert len(known) == 2
    change(Path("R/cifar/data"))
    code, out, _ = main("import", "datamodels-data", "R", "S", *ROWS, *CIFAR)
    assert code == 0
    assert "not checked: the order of the targets, because" in out
    assert why in out


def test_classes_that_are_given(main: Main, known: dict[str, Array]) -> None:
    words = ("import", "datamodels-data", "R", "S", *ROWS, "--output", "logsumexp", "--labels", "l.npy")
    labels, at = swapped(known["test"])
    np.save("l.npy", labels)
    refused(main(*words), f"--labels: l.npy: target {at} is of class {labels[at]}, and of class {known['test'][at]} by")
    Path("R/cifar/data/test_margins_50pct.npy").unlink()
    refused(main(*words, *CIFAR), f"target {at} is of class {labels[at]}, told by --labels (l.npy)", "in another order")
    np.save("l.npy", known["test"])
    code, out, _ = main(*words, *CIFAR)
    assert (code, "told by --labels (l.npy), are those of cifar10 in its order" in out) == (0, True)


def test_the_order_of_fmow(main: Main, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BENCH_DATA", raising=False)
    rng = np.random.default_rng(2)
    rows = [
        (split, fmow.CLASSES[rng.integers(62)], f"{year}-05-0{1 + i % 9}T00:00:00Z")
        for i in range(60)
        for split, year in (("train", 2012), ("test", 2012), ("train", 2013), ("val", 2012))
    ]
    table = pd.DataFrame(rows, columns=["split", "category", "timestamp"])
    (tmp_path / "D/fmow_v1.1").mkdir(parents=True)
    table.to_csv(tmp_path / "D/fmow_v1.1/rgb_metadata.csv", index=False)
    of_year = table[table["timestamp"].str.startswith("2012")]
    labels = {
        part: np.array([fmow.CLASSES.index(name) for name in of_year.loc[of_year["split"] == part, "category"]])
        for part in ("train", "test")
    }
    lay(labels, "fmow", 62)
    where = ("--data-dir", "D")
    code, out, _ = main("import", "datamodels-data", "R", "A", *ROWS, *where)  # guessed by the release's name
    assert code == 0
    assert "checked: 60 training examples and 60 targets, as many as in fmow" in out
    assert "checked: the targets' classes, told by logits and margins, are those of fmow in its order" in out
    other, at = swapped(labels["test"])
    lay({**labels, "test": other}, "fmow", 62)
    refused(main("import", "datamodels-data", "R", "S", *ROWS, *where), f"target {at} is of class {other[at]}", "fmow")
    for path in Path("R/fmow/data").glob("*logits*"):  # which the release has none of, of FMoW
        path.unlink()
    code, out, _ = main("import", "datamodels-data", "R", "S", *ROWS, *where)
    assert (code, "not checked: the order of the targets, because there is no file of logits" in out) == (0, True)


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    """A dataset of 40 training examples and 8 targets, for --check."""
    (tmp_path / "tiny.py").write_text(TINY)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return ("--check", "tiny.py")


def test_stores_without_classes(main: Main, tiny: tuple[str, ...]) -> None:
    rng = np.random.default_rng(0)
    Path("K").mkdir()
    torch.save((rng.random((M, N)).argsort(1) < N / 2).astype(np.int8), "K/masks.pt")
    torch.save(rng.standard_normal((M, T)).astype(np.float32), "K/margins.pt")
    code, out, _ = main("import", "kronfluence", "K", "A")
    assert (code, "not checked: which examples these are, and their order, because no dataset is named" in out) == (
        0,
        True,
    )
    code, out, _ = main("import", "kronfluence", "K", "S", *tiny)
    assert code == 0
    assert f"checked: {N} training examples and {T} targets, as many as in tiny.py" in out
    assert "not checked: the order of the targets, because no file tells their classes" in out
    meta = GroundTruth.open("S").imported
    assert meta is not None
    assert len(meta.order) == 3
    refused(main("import", "kronfluence", "K", "B", "--check", "tiny.py:n=41"), f"{N} training examples", "has 41")
    refused(main("import", "kronfluence", "K", "B", "--check", "tiny.py:m=41"), "no parameter 'm'")
    refused(main("import", "kronfluence", "K", "B", "--data-dir", "K"), "--data-dir", "for --check DATASET")
    np.save("s.npy", np.zeros((N, T), np.float32))
    refused(main("import", "kronfluence", "K", "scores.npy", "--sign", "+", *tiny), "--check has no effect on scores")
    assert not Path("B").exists()


def test_runs_without_classes(main: Main, tiny: tuple[str, ...]) -> None:
    rng = np.random.default_rng(0)
    for run in range(12):
        order = rng.permutation(N)
        Path(f"e/0.5/{run}").mkdir(parents=True)
        np.savez(
            f"e/0.5/{run}/aux_arrays.npz",
            correctness_train=np.ones(20, bool),
            correctness_removed=np.zeros(20, bool),
            correctness_test=rng.random(T) < 0.5,
            index_train=order[:20],
            index_removed=order[20:],
            index_test=rng.permutation(T),
            subsample_idx=order[:20],
        )
    refused(main("import", "heldout-influence", "e", "S", "--quiet", "--check", "tiny.py:n=41"), "40 training examples")
    assert not Path("S").exists()
    code, out, _ = main("import", "heldout-influence", "e", "S", "--quiet", *tiny)
    assert code == 0
    assert "checked: 40 training examples and 8 targets, as many as in tiny.py" in out
    assert "not checked: the order of the targets, because aux_arrays.npz has no classes" in out
    assert json.loads(Path("S/meta.json").read_text())["order"][0].startswith("checked: 40")


def estimates(train: Array, test: Array) -> dict[str, Any]:
    made = {"tr_mem": np.zeros(len(train)), "tr_labels": train, "tt_labels": test}
    for label in np.unique(np.concatenate([train, test])):
        rows, columns = np.flatnonzero(train == label), np.flatnonzero(test == label)
        made |= {f"tr_classidx_{label}": rows, f"tt_classidx_{label}": columns}
        made[f"infl_matrix_class{label}"] = np.zeros((len(rows), len(columns)))
    return made


def test_the_order_of_estimates(main: Main, tiny: tuple[str, ...]) -> None:
    train, test = np.arange(N) // 3 % 4, np.arange(T) % 4
    np.savez("x.npz", **estimates(train, test))
    code, out, _ = main("import", "heldout-estimates", "x.npz", "s.npy", *tiny)
    assert code == 0
    assert "checked: the training examples' classes, told by tr_labels, are those of tiny.py in its order" in out
    assert "checked: the targets' classes, told by tt_labels, are those of tiny.py in its order" in out
    assert "tt_labels, are those of tiny.py" in Path("s.origin.json").read_text()
    other, at = swapped(train)
    np.savez("y.npz", **estimates(other, test))
    refused(
        main("import", "heldout-estimates", "y.npz", "t.npy", *tiny), f"training example {at} is of class {other[at]}"
    )
    np.savez("z.npz", memorization=np.zeros(N), influence=np.zeros((T, N)))
    code, out, _ = main("import", "heldout-estimates", "z.npz", "u.npy", *tiny)
    assert (code, "not checked: the order of the targets" in out) == (0, True)
    refused(main("import", "heldout-estimates", "z.npz", "t.npy", "--check", "tiny.py:n=39"), "has 39")
    assert not Path("t.npy").exists()


def test_the_order_of_cifar100(main: Main, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    labels = {"train": rng.permutation(np.arange(200) % 100), "test": rng.permutation(100)}
    (tmp_path / "D/cifar-100-python").mkdir(parents=True)
    for part, fine in labels.items():
        content = {b"fine_labels": fine.tolist(), b"coarse_labels": (fine // 5).tolist()}
        (tmp_path / "D/cifar-100-python" / part).write_bytes(pickle.dumps(content, 2))
    np.savez("x.npz", **estimates(labels["train"], labels["test"]))
    where = ("--check", "cifar100", "--data-dir", "D")
    refused(main("import", "heldout-estimates", "x.npz", "s.npy", *where), "train is damaged or not the published file")
    code, out, _ = main("import", "heldout-estimates", "x.npz", "s.npy", *where, "--allow-modified-data")
    assert (code, "tr_labels, are those of cifar100 in its order" in out) == (0, True)
    (tmp_path / "D/cifar-100-python/test").write_bytes(pickle.dumps({b"labels": [1]}, 2))
    refused(
        main("import", "heldout-estimates", "x.npz", "t.npy", *where, "--allow-modified-data"),
        "test: fine_labels is no list of integers in 0 … 99",
    )


def test_names_of_imagenets_files_tell_folders(main: Main) -> None:
    labels = np.arange(12) % 3
    names = np.array([f"n{label:08d}_{k}.JPEG".encode() for k, label in enumerate(labels)])
    content: dict[str, Any] = {"tr_mem": np.zeros(12), "tr_labels": labels, "tr_filenames": names}
    np.savez("x.npz", **content)
    code, out, _ = main("import", "heldout-estimates", "x.npz", "s.npy")
    assert (code, "checked: tr_labels has one class for each of 3 folders that tr_filenames names" in out) == (0, True)
    np.savez("y.npz", **{**content, "tr_labels": np.roll(labels, 1)[[1, 0, *range(2, 12)]]})
    refused(main("import", "heldout-estimates", "y.npz", "t.npy"), "tr_labels and tr_filenames are in different orders")
    np.savez("z.npz", **{**content, "tr_filenames": np.array([b"cat.png"] * 12)})
    assert main("import", "heldout-estimates", "z.npz", "u.npy")[0] == 0
