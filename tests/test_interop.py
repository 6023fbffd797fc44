"""Reading and writing MadryLab's released datamodels data: tiny files in exactly the published layout."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.special import logsumexp
from scipy.stats import spearmanr

from bench import hashing, lds
from bench.interop import FORMATS, arrays, layout, release_import
from bench.launch import Request, make
from bench.progress import Progress
from bench.store import GroundTruth

Array = NDArray[Any]
Main = Callable[..., tuple[int, str, str]]

M, N, T, C = 60, 12, 5, 3  # models, training examples, test targets, classes
ROLES = ("--eval-rows", "last:20", "--tune-rows", "8")


def refused(found: tuple[int, str, str], *words: str) -> None:
    """Exit code 2, nothing on stdout, one line on stderr with these words in it."""
    code, out, err = found
    assert (code, out) == (2, "")
    last = err.splitlines()[-1]
    assert last.startswith("bench")
    for word in words:
        assert word in last


def some(alpha: float, seed: int = 0, n: int = N, t: int = T) -> dict[str, Array]:
    """Masks that keep exactly alpha·n, no two alike, and what the release has of such models."""
    rng = np.random.default_rng(seed)
    order = rng.random((4 * M, n)).argsort(1) < round(alpha * n)
    masks = np.unique(order, axis=0)
    masks = masks[rng.permutation(len(masks))[:M]]
    assert len(masks) == M
    weight = rng.standard_normal((n, t))
    logits = rng.standard_normal((M, t, C)).astype(np.float16)
    return {
        "masks": masks,
        "test_margins": (masks @ weight + rng.standard_normal((M, t))).astype(np.float16),
        "train_margins": (masks @ rng.standard_normal((n, n))).astype(np.float16),
        "test_logits": logits,
        "weight": weight.astype(np.float32),
    }


def lay(folder: Path, found: dict[str, Array], percent: str = "50") -> None:
    """Write a dataset's `data/` as the release has it."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in found.items():
        if name != "weight":
            np.save(folder / f"{'train_masks' if name == 'masks' else name}_{percent}pct.npy", array)


@pytest.fixture
def release(tmp_path: Path) -> dict[str, Array]:
    """`cifar/data/…_50pct.npy` and the released datamodels in the folder of `main`."""
    import torch

    found = some(0.5)
    lay(tmp_path / "R/cifar/data", found)
    (tmp_path / "R/cifar/datamodels").mkdir()
    weight = torch.from_numpy(found["weight"])
    torch.save(
        {"weight": weight, "bias": torch.zeros(T), "lam": torch.ones(T)}, tmp_path / "R/cifar/datamodels/test_50pct.pt"
    )
    return found


def imported(main: Main, *more: str, source: str = "R", store: str = "S") -> tuple[int, str, str]:
    return main("import", "datamodels-data", source, store, *ROLES, *more)


def test_import_links_and_opens(main: Main, release: dict[str, Array]) -> None:
    code, out, _ = imported(main)
    assert code == 0
    assert f"S: {M} rows × {T} targets of cifar, test targets, alpha 0.5, max margins" in out
    assert "fit 0–31, tune 32–39, eval 40–59" in out
    assert "masks.npy: hard link to" in out
    assert "convention of this import" in out
    for ours, theirs in (("masks", "train_masks"), ("margins", "test_margins")):
        assert Path(f"S/{ours}.npy").samefile(f"R/cifar/data/{theirs}_50pct.npy")
    assert sorted(p.name for p in Path("S").iterdir()) == sorted(
        ["masks.npy", "margins.npy", "_completed.npy", "spec.json", "meta.json"]
    )
    truth = GroundTruth.open("S")
    assert truth.meta is None
    meta = truth.imported
    assert meta is not None
    assert (meta.dataset, meta.split, meta.alpha, meta.output) == ("cifar", "test", 0.5, "max")
    assert meta.origin["train_masks_50pct.npy"].sha256 == hashing.file(Path("R/cifar/data/train_masks_50pct.npy"))
    spans = {group: truth.of_group(group).tolist() for group in ("fit", "tune", "eval")}
    assert spans == {"fit": [*range(32)], "tune": [*range(32, 40)], "eval": [*range(40, 60)]}
    rows = truth.rows(truth.of_group("tune"))
    np.testing.assert_array_equal(rows.masks, release["masks"][32:40])
    np.testing.assert_array_equal(rows.margins, release["test_margins"][32:40].astype(np.float32))
    assert rows.margins.dtype == np.float32
    assert truth.completed.all()
    spec = json.loads(Path("S/spec.json").read_text())
    assert spec["num_models"] == M
    assert spec["schema"]["masks"] == {"shape": [N], "dtype": "bool_"}
    assert spec["schema"]["margins"] == {"shape": [T], "dtype": "float16"}


def test_rows_of_an_imported_store_are_views_of_its_masks(main: Main, release: dict[str, Array]) -> None:
    assert release
    assert imported(main)[0] == 0
    truth = GroundTruth.open("S")
    rows = truth.rows(truth.of_group("fit"))
    assert isinstance(rows.masks.base, np.memmap)  # of the same file: nothing is copied
    assert Path(str(rows.masks.base.filename)).samefile("S/masks.npy")
    assert not rows.masks.flags.writeable
    stored = truth.rows(truth.of_group("fit"), as_stored=True)
    assert isinstance(stored.margins.base, np.memmap)
    assert Path(str(stored.margins.base.filename)).samefile("S/margins.npy")
    scattered = truth.rows(np.array([3, 1, 5]))
    np.testing.assert_array_equal(scattered.masks, release["masks"][[3, 1, 5]])
    assert scattered.subset.tolist() == [3, 1, 5]


@pytest.mark.parametrize("source", ["R", "R/cifar", "R/cifar/data"])
def test_a_tree_or_a_part_of_it(main: Main, release: dict[str, Array], source: str) -> None:
    assert release
    assert imported(main, source=source)[0] == 0
    meta = GroundTruth.open("S").imported
    assert meta is not None
    assert meta.dataset == "cifar"


def test_flat_files_have_the_name_that_is_given(main: Main, tmp_path: Path) -> None:
    lay(tmp_path / "flat", some(0.5))
    assert "a dataset without a name" in imported(main, source="flat")[1]
    assert "of fmow, test" in imported(main, "--dataset", "fmow", source="flat", store="S2")[1]


def test_copy_and_symbolic_link(main: Main, release: dict[str, Array], monkeypatch: pytest.MonkeyPatch) -> None:
    assert release
    assert "masks.npy: copy of" in imported(main, "--copy")[1]
    assert not Path("S/masks.npy").samefile("R/cifar/data/train_masks_50pct.npy")
    assert Path("S/masks.npy").read_bytes() == Path("R/cifar/data/train_masks_50pct.npy").read_bytes()

    def other_device(*_: Any) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", other_device)
    assert "masks.npy: symbolic link to" in imported(main, store="S2")[1]
    assert Path("S2/masks.npy").is_symlink()
    assert GroundTruth.open("S2").masks.shape == (M, N)
    assert main("verify", "S2")[0] == 0


@pytest.mark.parametrize(
    ("eval_rows", "tune", "expected"),
    [
        ("last:10", None, ((0, 45), (45, 50), (50, 60))),
        ("first:10", None, ((15, 60), (10, 15), (0, 10))),
        ("first:2", "0", ((2, 60), (2, 2), (0, 2))),
        ("last:58", "1", ((0, 1), (1, 2), (2, 60))),
    ],
)
def test_roles(
    main: Main, release: dict[str, Array], eval_rows: str, tune: str | None, expected: tuple[tuple[int, int], ...]
) -> None:
    assert release
    more = [] if tune is None else ["--tune-rows", tune]
    assert main("import", "datamodels-data", "R", "S", "--eval-rows", eval_rows, *more)[0] == 0
    meta = GroundTruth.open("S").imported
    assert meta is not None
    assert (meta.roles.fit, meta.roles.tune, meta.roles.eval) == expected
    assert main("verify", "S")[0] == 0


def test_default_roles_are_the_releases_numbers() -> None:
    roles = release_import.roles(310_000, "last:10000", None)
    assert (roles.fit, roles.tune, roles.eval) == ((0, 299_000), (299_000, 300_000), (300_000, 310_000))


def test_several_datasets_and_alphas(main: Main, tmp_path: Path) -> None:
    lay(tmp_path / "R/cifar/data", some(0.5))
    lay(tmp_path / "R/cifar/data", some(0.25), "25")
    lay(tmp_path / "R/fmow/data", some(0.25), "25")
    refused(imported(main), "several", "cifar at alpha 0.25, cifar at alpha 0.5, fmow at alpha 0.25", "--dataset")
    refused(imported(main, "--alpha", "0.25"), "several")
    refused(imported(main, "--alpha", "0.75"), "nothing for --alpha 0.75: there is cifar at alpha 0.25")
    refused(imported(main, "--dataset", "mnist"), "nothing for --dataset mnist")
    assert "of fmow" in imported(main, "--dataset", "fmow")[1]
    assert "of cifar, test targets, alpha 0.25" in imported(main, "--dataset", "cifar", "--alpha", ".25", store="S2")[1]


def test_train_split(main: Main, release: dict[str, Array]) -> None:
    code, out, _ = imported(main, "--split", "train")
    assert code == 0
    assert "training examples themselves" in out
    truth = GroundTruth.open("S")
    np.testing.assert_array_equal(truth.margins, release["train_margins"])
    Path("R/cifar/data/test_margins_50pct.npy").unlink()
    refused(imported(main, store="S2"), "no test_margins_50pct.npy", "add --split train")


def test_logits(main: Main, release: dict[str, Array]) -> None:
    assert imported(main, "--keep", "logits")[0] == 0
    np.testing.assert_array_equal(GroundTruth.open("S").array("logits"), release["test_logits"])
    assert main("verify", "S")[:2] == (0, "S is sound\n")


def test_logsumexp_margins_of_logits(main: Main, release: dict[str, Array], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrays, "CHUNK_BYTES", 7 * T * C * 2)  # several chunks, the last one shorter
    labels = np.array([0, 2, 1, 1, 0])
    np.save("L.npy", labels)
    code, out, _ = imported(main, "--output", "logsumexp", "--labels", "L.npy")
    assert code == 0
    assert "logsumexp margins" in out
    assert "margins.npy: made of" in out
    truth = GroundTruth.open("S")
    logits = release["test_logits"].astype(np.float64)
    others = np.array([[np.delete(logits[i, j], labels[j]) for j in range(T)] for i in range(M)])
    expected = np.take_along_axis(logits, labels[None, :, None], 2)[..., 0] - logsumexp(others, axis=2)
    np.testing.assert_allclose(truth.margins, expected, atol=1e-5)
    assert truth.imported is not None
    assert truth.imported.output == "logsumexp"
    assert not Path("S/logits.npy").exists()
    assert main("verify", "S")[0] == 0
    np.save("L.npy", np.array([0, 3, 1, 1, 0]))
    refused(
        imported(main, "--output", "logsumexp", "--labels", "L.npy", store="S2"), "target 1 is of class 3", "0 to 2"
    )
    np.save("L.npy", labels[:3])
    refused(imported(main, "--output", "logsumexp", "--labels", "L.npy", store="S2"), "3 classes", "5 targets")
    refused(imported(main, "--output", "logsumexp", store="S2"), "add --labels")
    refused(imported(main, "--output", "max", "--margins-are", "logsumexp", store="S2"), "add --labels")
    refused(imported(main, "--labels", "L.npy", store="S2"), "add --output max or --output logsumexp")


def test_max_margins_of_logits_where_the_release_has_no_margins(main: Main, release: dict[str, Array]) -> None:
    labels = np.array([0, 2, 1, 1, 0])
    np.save("L.npy", labels)
    Path("R/cifar/data/test_margins_50pct.npy").unlink()
    code, out, _ = imported(main, "--output", "max", "--labels", "L.npy")
    assert (code, "margins.npy: made of" in out) == (0, True)
    logits = release["test_logits"].astype(np.float32)
    others = np.array([[np.delete(logits[i, j], labels[j]).max() for j in range(T)] for i in range(M)])
    truth = GroundTruth.open("S")
    np.testing.assert_array_equal(truth.margins, logits[:, np.arange(T), labels] - others)
    assert truth.imported is not None
    assert truth.imported.output == "max"


def test_two_commands_score_released_datamodels(main: Main, release: dict[str, Array]) -> None:
    assert imported(main)[0] == 0
    code, out, err = main("lds", "--store", "S", "--scores", "R/cifar/datamodels/test_50pct.pt", "--json")
    assert (code, err) == (0, "")
    found = json.loads(out)
    predicted = release["masks"][40:] @ release["weight"].astype(np.float64)
    margins = release["test_margins"][40:]
    expected = np.mean([spearmanr(predicted[:, j], margins[:, j])[0] for j in range(T)])
    assert found["lds"] == pytest.approx(expected, abs=1e-12)
    keys = {"lds", "ci", "n_subsets", "n_targets", "n_excluded", "n_tied", "stderr", "excluded", "stamps"}
    assert set(found) == keys
    assert found["n_subsets"] == 20


def test_datamodels_beside_the_store(main: Main, release: dict[str, Array]) -> None:
    assert release
    assert imported(main, "--keep", "datamodels,logits")[0] == 0
    assert Path("S/datamodels.pt").samefile("R/cifar/datamodels/test_50pct.pt")
    assert main("lds", "--store", "S", "--scores", "S/datamodels.pt")[0] == 0
    Path("S/datamodels.pt").unlink()
    assert "datamodels.pt is missing" in main("verify", "S")[1]


def test_attribute_on_an_imported_store(main: Main, release: dict[str, Array], tmp_path: Path) -> None:
    assert release
    assert imported(main)[0] == 0
    base = ("attribute", "--store", "S", "--device", "cpu", "--quiet")
    for method in ("heldout", "random", "datamodels:n_lambdas=5"):
        code, out, _ = main(*base, "--method", method, "--out", "s.npy")
        assert (code, out.startswith("s.npy: ")) == (0, True)
        assert np.load("s.npy").shape == (N, T)
        assert np.isfinite(np.load("s.npy")).all()
        assert main("lds", "--store", "S", "--scores", "s.npy")[0] == 0
    for method in ("influence", "graddot", "trak"):
        name = f"bench: {method} needs the examples, and S was imported without them"
        refused(main(*base, "--method", method, "--out", "t.npy"), name)
    (tmp_path / "mine.py").write_text(
        "import numpy as np\nfrom bench.methods import Method\n"
        "class Mine(Method):\n    def attribute(self, task):\n"
        "        assert task.fit_as_stored.margins.dtype == np.float16 and len(task.tune) == 8\n"
        "        task.note(f'on {task.device}, {task.seed > 0}')\n"
        "        try:\n            task.data.train_x\n"
        "        except ValueError:\n            pass\n"
    )
    refused(main(*base, "--method", "mine.py", "--out", "t.npy"), "mine needs the examples")
    refused(main("attribute", "digits/mlp", *base[1:], "--method", "random", "--out", "t.npy"), "leave the setting out")
    assert not Path("t.npy").exists()


def test_attribute_leaves_the_rows_that_judge_alone(main: Main, release: dict[str, Array], tmp_path: Path) -> None:
    assert release
    assert imported(main)[0] == 0
    (tmp_path / "cheat.py").write_text(
        "from bench.methods import Method\n"
        "class Cheat(Method):\n    def attribute(self, task):\n        return task.rows([45]).margins\n"
    )
    code, _, err = main("attribute", "--store", "S", "--method", "cheat.py", "--out", "t.npy", "--quiet")
    assert code == 1
    assert "row 45, which judges" in err


def test_where_a_trained_store_is_needed(main: Main, release: dict[str, Array]) -> None:
    assert release
    assert imported(main)[0] == 0
    refused(main("train", "digits/logreg", "--out", "S", "--quiet"), "S", "not made here")
    truth = GroundTruth.open("S")
    with pytest.raises(ValueError, match="S was imported, and no model of it was trained here"):
        _ = truth.plan
    with pytest.raises(ValueError, match="keeps no 'correct': it has masks, margins; import it with --keep"):
        truth.array("correct")


def test_status_and_verify(main: Main, release: dict[str, Array]) -> None:
    assert release
    assert imported(main, "--copy")[0] == 0
    code, out, _ = main("train", "--status", "S")
    assert code == 0
    assert "imported from datamodels-data: cifar, test targets, alpha 0.5, max margins" in out
    assert f"rows: {M} (fit 0–31, tune 32–39, eval 40–59)" in out
    assert f"margins float16 [{M}, {T}]" in out
    code, out, err = main("verify", "S")
    assert (code, out) == (0, "S is sound\n")
    assert "no row was trained again: the rows were imported" in err
    with Path("S/margins.npy").open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\x11")
    code, out, err = main("verify", "S")
    assert (code, out) == (1, "margins.npy has another content than its checksum in meta.json says\n")
    assert "import it again" in err
    text = Path("S/meta.json").read_text()
    Path("S/meta.json").write_text(text.replace('"alpha": 0.5', '"alpha": 0.2'))
    assert "its key is not that of its files and roles" in main("verify", "S")[1]
    Path("S/meta.json").write_text(text.replace('"n_targets": 5', '"n_targets": 4'))
    assert "other shapes" in main("verify", "S")[1]
    Path("S/meta.json").write_text(text.replace('"format": 1', '"format": 9'))
    assert "update ldsbench" in main("verify", "S")[2]
    Path("S/meta.json").write_text(text.replace('"n_rows"', '"rows"'))
    assert "import it again" in main("verify", "S")[2]


def change(release: dict[str, Array], name: str, percent: str = "50") -> Callable[[Array], None]:
    path = Path(f"R/cifar/data/{'train_masks' if name == 'masks' else name}_{percent}pct.npy")
    assert path.is_file()

    def save(array: Array) -> None:
        np.save(path, array)

    del release
    return save


def put(array: Array, at: Any, value: Any) -> Array:
    made = array.copy()
    made[at] = value
    return made


BAD: dict[str, tuple[str, Callable[[Array], Array], tuple[str, ...]]] = {
    "fewer margins": ("test_margins", lambda y: y[:-7], ("train_masks_50pct.npy has 60 rows", "has 53")),
    "more masks": ("masks", lambda x: np.vstack([x, x]), ("has 120 rows", "test_margins_50pct.npy has 60")),
    "nan": ("test_margins", lambda y: put(y, ([3, 17], 2), np.nan), ("rows 3, 17 hold NaN",)),
    "one nan": ("test_margins", lambda y: put(y, (3, 2), np.nan), ("row 3 holds NaN",)),
    "overflow": ("test_margins", lambda y: put(y, (9, 0), np.inf), ("row 9 holds infinities (float16 overflow",)),
    "both": ("test_margins", lambda y: put(put(y, 1, np.nan), 4, np.inf), ("row 1 holds NaN, and row 4 infin",)),
    "many": ("test_margins", lambda y: y * np.float16("nan"), ("rows 0, 1, 2, 3, 4 and 55 more hold NaN",)),
    "infinite": ("test_margins", lambda y: put(y.astype("f4"), (9, 0), -np.inf), ("infinities (no margin of",)),
    "double": ("test_margins", lambda y: y.astype(float), ("float64", "float16 or float32 is needed")),
    "big-endian": ("test_margins", lambda y: y.astype(">f2"), (">f2",)),
    "cube": ("test_margins", lambda y: y[..., None], ("shape [60, 5, 1]", "[models, n_targets] is needed")),
    "integers": ("masks", lambda x: x.astype(np.uint8), ("uint8", "bool is needed")),
    "objects": ("masks", lambda x: x.astype(object), ("torn or not a .npy file of numbers",)),
    "fortran": ("masks", np.asfortranarray, ("Fortran order",)),
    "empty": ("masks", lambda x: x[:0], ("is empty, of shape [0, 12]",)),
    "alpha": ("masks", lambda x: x & (np.arange(N) < 9), ("keep 37.", "alpha 0.5 is 50%", "another alpha")),
    "none kept": ("masks", lambda x: put(x, 8, False), ("row 8 keeps 0 of 12",)),
    "all kept": ("masks", lambda x: put(x, (8, 9), True), ("row 8 keeps 12 of 12",)),
    "shared": (
        "masks",
        lambda x: put(put(x, 45, x[3]), 33, x[2]),
        ("tune row 33", "fit row 2 (and 1 more", "must not"),
    ),
    "not bool": ("masks", lambda x: put(x.view(np.uint8), (5, 1), 7).view(bool), ("row 5 with bytes other",)),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_arrays(main: Main, release: dict[str, Array], name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    which, spoil, words = BAD[name]
    monkeypatch.setattr(arrays, "CHUNK_BYTES", 64)  # several chunks
    array = release[which]
    if name == "all kept":
        array = put(array, 8, True)
    change(release, which)(spoil(array))
    refused(imported(main), f"{'train_masks' if which == 'masks' else which}_50pct.npy", *words)
    assert sorted(p.name for p in Path.cwd().iterdir()) == ["R"]


def test_bad_logits_and_targets(main: Main, release: dict[str, Array]) -> None:
    change(release, "test_logits")(put(release["test_logits"], (7, 1, 2), np.nan))
    refused(imported(main, "--keep", "logits"), "test_logits_50pct.npy", "row 7 holds NaN")
    change(release, "test_logits")(release["test_logits"][:, :3])
    refused(imported(main, "--keep", "logits"), "5 targets", "test_logits_50pct.npy 3")
    change(release, "test_logits")(release["test_logits"][:9])
    refused(imported(main, "--keep", "logits"), "has 60 rows", "test_logits_50pct.npy has 9")
    change(release, "train_margins")(release["train_margins"][:, :4])
    refused(imported(main, "--split", "train"), "4 targets", "12 training examples")
    Path("R/cifar/data/test_margins_50pct.npy").write_bytes(b"\x93NUMPY torn")
    refused(imported(main), "test_margins_50pct.npy is torn")


def test_masks_shared_within_a_role_are_one_subset(main: Main, release: dict[str, Array]) -> None:
    change(release, "masks")(put(put(release["masks"], 41, release["masks"][44]), 58, release["masks"][44]))
    assert imported(main)[0] == 0
    truth = GroundTruth.open("S")
    subset = truth.rows(truth.of_group("eval")).subset
    assert subset.tolist() == [40, 41, 42, 43, 41, *range(45, 58), 41, 59]
    scores = np.random.default_rng(0).standard_normal((N, T))
    np.save("s.npy", scores)
    found = json.loads(main("lds", "--store", "S", "--scores", "s.npy", "--json")[1])
    expected = lds(scores, truth.masks[40:], truth.margins[40:])
    assert found["lds"] == expected.mean
    assert expected.n_groups == 18


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--eval-rows", "last:60"), ("--eval-rows last:60 leaves no row to fit on, of 60", "last:12")),
        (("--eval-rows", "last:1"), ("'last:1'", "at least 2")),
        (("--eval-rows", "10"), ("'10'", "last:K or first:K")),
        (("--tune-rows", "40"), ("--tune-rows is 40", "40 that do not judge")),
        (("--tune-rows", "-1"), ("--tune-rows is -1",)),
        (("--alpha", "50"), ("--alpha is 50.0",)),
        (("--keep", "logit"), ("'logit'; did you mean 'logits'?",)),
        (("--keep", "datamodels", "--split", "train"), ("no train_50pct.pt", "add --split test")),
        (("--sorce", "x"), ("no option '--sorce'",)),
    ],
)
def test_bad_usage(main: Main, release: dict[str, Array], more: tuple[str, ...], words: tuple[str, ...]) -> None:
    assert release
    refused(imported(main, *more), *words)
    assert not Path("S").exists()


def test_bad_places(main: Main, release: dict[str, Array]) -> None:
    assert release
    refused(imported(main, source="nothing"), "nothing is not a folder", "s3://")
    Path("empty").mkdir()
    refused(imported(main, source="empty"), "empty holds no file of the release", "train_masks_50pct.npy")
    refused(imported(main, store="R"), "R is there already")
    assert imported(main, store="empty")[0] == 0  # an empty folder is as good as none
    refused(main("import", "datamodel-data", "R", "S"), "no format 'datamodel-data'; did you mean 'datamodels-data'?")
    refused(main("import"), "the format is missing (there are: datamodels-data, ", "--list")
    refused(main("import", "datamodels-data", "R"), "what is missing: STORE")


def test_list_and_help_say_what_each_format_is(main: Main) -> None:
    for verb in ("import", "export"):
        code, out, err = main(verb, "--list")
        assert (code, err) == (0, "")
        names = [name for name, one in FORMATS.items() if (one.reads if verb == "import" else one.writes)]
        for name in names:
            assert name in out
            assert main(verb, name, "--help")[1].startswith(f"usage: bench {verb} {name}")
            assert FORMATS[name].summary in " ".join(main(verb, "--help")[1].split())
    assert "train_masks_{P}pct.npy" in main("import", "--list")[1]


def test_debug_before_and_after_the_format(main: Main) -> None:
    for arguments in (("--debug", "datamodels-data", "x", "S"), ("datamodels-data", "x", "S", "--debug")):
        assert "Traceback" in main("import", *arguments)[2]


def test_import_then_export_is_bit_exact(
    main: Main, release: dict[str, Array], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert release
    monkeypatch.setattr("bench.interop.release_export.CHUNK_BYTES", 100)
    assert imported(main, "--keep", "logits")[0] == 0
    code, out, _ = main("export", "datamodels-data", "S", "D")
    assert code == 0
    assert "--eval-rows last:20 --tune-rows 8" in out
    written = sorted(p.relative_to("D").as_posix() for p in Path("D").rglob("*.npy"))
    assert written == [f"cifar/data/{n}_50pct.npy" for n in ("test_logits", "test_margins", "train_masks")]
    for name in written:
        assert Path("D", name).read_bytes() == Path("R", name).read_bytes()
    refused(main("export", "datamodels-data", "S", "D"), "D/cifar/data/train_masks_50pct.npy is there already")


@pytest.fixture
def trained(toy_request: Request, quiet: Progress, tmp_path: Path) -> GroundTruth:
    from dataclasses import replace

    make(replace(toy_request, keep=("logits", "train_margins")), tmp_path / "T", quiet)
    return GroundTruth.open(tmp_path / "T")


def test_export_then_import_has_the_same_roles(main: Main, trained: GroundTruth) -> None:
    code, out, _ = main("export", "datamodels-data", "T", "D")
    assert code == 0
    assert "the margins are logsumexp margins" in out
    names = sorted(p.name for p in Path("D/toy-logreg/data").iterdir())
    assert names == [f"{n}_50pct.npy" for n in ("test_logits", "test_margins", "train_margins", "train_masks")]
    again = out.splitlines()[-1].removeprefix("to read it again: bench ").replace("STORE", "S").split()
    assert main(*again)[0] == 0
    back = GroundTruth.open("S")
    assert back.imported is not None
    assert back.imported.output == "logsumexp"
    for group in ("fit", "tune", "eval"):
        ours, theirs = (t.rows(t.of_group(group)) for t in (trained, back))
        np.testing.assert_array_equal(ours.masks, theirs.masks)
        np.testing.assert_array_equal(ours.margins.astype(np.float16), theirs.margins.astype(np.float16))
    assert main("import", *again[1:3], "S2", *again[4:], "--split", "train")[0] == 0


def test_export_refuses_what_float16_cannot_hold(main: Main, trained: GroundTruth) -> None:
    array = np.array(trained.margins)
    array[7, 3] = -65520
    np.save(trained.path / "margins.npy", array)
    refused(main("export", "datamodels-data", "T", "D"), "margins of row 7 reach -6.552e+04", "65504")
    assert not Path("D").exists()
    array[7, 3] = -65519
    np.save(trained.path / "margins.npy", array)
    assert main("export", "datamodels-data", "T", "D")[0] == 0


def test_lds_of_a_trained_store_is_the_mean_over_seeds(main: Main, trained: GroundTruth) -> None:
    scores = np.random.default_rng(1).standard_normal((40, 10))
    np.save("s.npy", scores)
    found = json.loads(main("lds", "--store", "T", "--scores", "s.npy", "--json")[1])
    assert trained.meta is not None
    subset = np.array(trained.meta.subset_of_row)
    judging = np.array(trained.meta.group_of_row) == 2
    subsets = np.unique(subset[judging])
    margins = np.array([trained.margins[judging & (subset == s)].mean(0) for s in subsets])
    predicted = trained.masks[subsets] @ scores
    expected = np.mean([spearmanr(predicted[:, j], margins[:, j])[0] for j in range(10)])
    assert found["lds"] == pytest.approx(expected, abs=1e-12)
    assert found["n_subsets"] == len(subsets)


def test_lds_usage(main: Main, release: dict[str, Array]) -> None:
    assert release
    refused(main("lds", "--store", "S", "--masks", "M.npy", "--scores", "s.npy"), "--store and --masks are both given")
    refused(main("lds", "--store", "S"), "what is missing: --scores")
    refused(main("lds"), "what is missing: --masks, --margins, --scores (or --store)")
    refused(main("lds", "--store", "nothing", "--scores", "R/cifar/datamodels/test_50pct.pt"), "no such folder")
    refused(main("lds", "--store", "nothing", "--scores", "no.pt"), "cannot read no.pt")
    Path("W").mkdir()
    for name, array in (
        ("masks", release["masks"]),
        ("margins", release["test_margins"]),
        ("_completed", np.ones(M, bool)),
    ):
        np.save(f"W/{name}.npy", array)
    refused(main("lds", "--store", "W", "--scores", "R/cifar/datamodels/test_50pct.pt"), "no meta.json")


def test_attribute_takes_the_setting_that_a_store_names(main: Main) -> None:
    assert main("train", "digits/logreg", "--models", "9", "--out", "T", "--quiet", "--device", "cpu")[0] == 0
    random = ("attribute", "--store", "T", "--method", "random", "--quiet", "--device", "cpu", "--out")
    assert main(*random, "own.npy")[0] == 0
    assert main(random[0], "digits/logreg", *random[1:], "named.npy")[0] == 0
    np.testing.assert_array_equal(np.load("own.npy"), np.load("named.npy"))


def test_attribute_where_the_setting_of_a_store_is_a_files(main: Main, trained: GroundTruth) -> None:
    assert trained
    found = main("attribute", "--store", "T", "--method", "random", "--out", "s.npy")
    refused(found, "no setting 'toy/logreg'", "name its setting")


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("cifar/data/train_masks_50pct.npy", ("cifar", "masks", "train", "50")),
        ("a/b/fmow/data/test_margins_7.5pct.npy", ("fmow", "margins", "test", "7.5")),
        ("train_logits_10pct.npy", ("", "logits", "train", "10")),
        ("cifar/datamodels/train_50pct.pt", ("cifar", "datamodels", "train", "50")),
        ("cifar/data/train_50pct.pt", ("", "datamodels", "train", "50")),
        ("cifar/data/test_masks_50pct.npy", None),
        ("cifar/data/train_masks_50pct.npy.part", None),
        ("cifar/data/train_masks_pct.npy", None),
        ("cifar/data/", None),
    ],
)
def test_names_of_files(path: str, expected: tuple[str, ...] | None) -> None:
    found = layout.File.of(path)
    assert (found and (found.dataset, found.kind, found.split, found.percent)) == expected


@pytest.mark.parametrize(("alpha", "text"), [(0.1, "10"), (0.29, "29"), (0.5, "50"), (0.075, "7.5"), (0.57, "57")])
def test_names_of_alphas(alpha: float, text: str) -> None:
    assert layout.percent(alpha) == text


@given(st.lists(st.integers(0, 6), min_size=1, max_size=30))
def test_first_of_is_the_first_equal_row(numbers: list[int]) -> None:
    masks = np.array([[bool(n >> k & 1) for k in range(3)] for n in numbers])
    found = arrays.Masks(Path("x"), masks.shape, 0.5)
    for start in range(0, len(masks), 4):
        found(start, masks[start : start + 4])
    assert found.first_of() == {i: numbers.index(n) for i, n in enumerate(numbers) if numbers.index(n) != i}


@given(st.integers(1, 70), st.integers(1, 5), st.integers(1, 400))
def test_a_stream_sees_every_row_once_and_hashes_the_file(n_rows: int, width: int, chunk: int) -> None:
    import tempfile
    from unittest import mock

    array = np.arange(n_rows * width, dtype=np.float32).reshape(n_rows, width)
    with tempfile.TemporaryDirectory() as folder, mock.patch.object(arrays, "CHUNK_BYTES", chunk):
        path = Path(folder, "a.npy")
        np.save(path, array)
        with path.open("ab") as file:
            file.write(b"what some tools leave behind")
        seen: list[Array] = []

        def visit(start: int, part: Array) -> None:
            assert start == sum(map(len, seen))
            seen.append(part.copy())

        digest = arrays.stream(path, arrays.opened(path, "", 2, ("float32",)), visit, lambda _: None)
        np.testing.assert_array_equal(np.concatenate(seen), array)
        assert digest == hashing.file(path)
