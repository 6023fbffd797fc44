"""The examples themselves: digits, the idx files of the MNIST family, and where files are looked for."""

import gzip
import hashlib
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
import torchvision
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from bench import datasets, idx
from bench.cli import main
from bench.datasets import Data, Dataset
from bench.errors import BenchError, InputError
from bench.files import Files, cache_folder, data_folders, stamp

COUNTS = {  # of the first 5,000 training and 500 test labels
    "mnist": ([479, 563, 488, 493, 535, 434, 501, 550, 462, 495], [42, 67, 55, 45, 55, 50, 43, 49, 40, 54]),
    "fashion-mnist": ([457, 556, 504, 501, 488, 493, 493, 512, 490, 506], [55, 52, 65, 46, 57, 39, 47, 47, 44, 48]),
}
NAMES = ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz")
TEST_NAMES = ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz")


def packed(array: NDArray[np.uint8]) -> bytes:
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    return gzip.compress(header + array.tobytes(), mtime=0)


def synthetic(n_train: int = 30, n_test: int = 12) -> dict[str, bytes]:
    rng = np.random.default_rng(0)
    parts: dict[str, bytes] = {}
    for (images, labels), n in ((NAMES, n_train), (TEST_NAMES, n_test)):
        parts[images] = packed(rng.integers(0, 256, (n, 4, 4), dtype=np.uint8))
        parts[labels] = packed(rng.integers(0, 10, n, dtype=np.uint8))
    return parts


def md5(parts: dict[str, bytes]) -> dict[str, str]:
    return {name: hashlib.md5(content, usedforsecurity=False).hexdigest() for name, content in parts.items()}


def put(folder: Path, parts: dict[str, bytes]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in parts.items():
        (folder / name).write_bytes(content)


@pytest.fixture(autouse=True)
def no_download(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(**_: Any) -> None:
        raise URLError("the tests do not download")

    monkeypatch.setattr(torchvision.datasets, "MNIST", refuse)
    monkeypatch.setattr(torchvision.datasets, "FashionMNIST", refuse)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_digits() -> None:
    from sklearn.datasets import load_digits

    data = datasets.setting("digits/mlp").dataset.load(Files(()))
    assert (data.train_x.shape, data.test_x.shape) == ((1437, 64), (360, 64))
    assert (data.train_x.dtype.name, data.train_y.dtype.name) == ("float32", "int64")
    assert (data.n_train, data.n_targets, data.n_classes) == (1437, 360, 10)
    x, y = load_digits(return_X_y=True)
    back = np.empty_like(x)
    test = np.arange(len(x)) % 5 == 0
    back[test], back[~test] = data.test_x * 16, data.train_x * 16
    assert np.array_equal(back, x)
    assert np.array_equal(data.test_y, y[::5])
    assert (data.train_x.min(), data.train_x.max()) == (0, 1)
    train = {row.tobytes() for row in data.train_x}
    assert not [i for i, row in enumerate(data.test_x) if row.tobytes() in train]


def test_digits_needs_no_files_and_no_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    datasets.setting("digits/logreg").dataset.load(Files((tmp_path / "nothing",)))
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(params=["mnist", "fashion-mnist"])
def real(request: pytest.FixtureRequest) -> tuple[str, Files]:
    import os

    where = os.environ.get("BENCH_DATA")
    if not where:
        pytest.skip("$BENCH_DATA does not name a folder with the real files")
    return request.param, Files((Path(where),))


def test_real_images(real: tuple[str, Files]) -> None:
    name, files = real
    data = datasets.setting(f"{name}/mlp").dataset.load(files)
    assert (data.train_x.shape, data.test_x.shape) == ((5000, 784), (500, 784))
    assert (data.train_x.dtype.name, data.train_y.dtype.name) == ("float32", "int64")
    counted = tuple(np.bincount(y, minlength=10).tolist() for y in (data.train_y, data.test_y))
    assert counted == COUNTS[name]
    assert abs(data.train_x.mean()) < 0.02
    assert abs(data.train_x.std() - 1) < 0.02
    mean, std = {"mnist": (0.1307, 0.3081), "fashion-mnist": (0.2860, 0.3530)}[name]
    pixels = (data.train_x[:20] * std + mean) * 255
    assert np.allclose(pixels, pixels.round(), atol=1e-3)
    assert (pixels.round().min(), pixels.round().max()) == (0, 255)
    assert set(data.origin) == {*NAMES, *TEST_NAMES}


def test_real_sizes_are_prefixes(real: tuple[str, Files]) -> None:
    name, files = real
    small = datasets.setting(f"{name}/mlp:n_train=60,n_test=7").dataset.load(files)
    whole = datasets.setting(f"{name}/mlp").dataset.load(files)
    assert np.array_equal(small.train_x, whole.train_x[:60])
    assert np.array_equal(small.test_y, whole.test_y[:7])


@pytest.mark.parametrize(("n_train", "n_test", "said"), [(31, 1, "31"), (0, 1, "0"), (30, 13, "13"), (30, -1, "-1")])
def test_more_than_there_is(tmp_path: Path, n_train: int, n_test: int, said: str) -> None:
    parts = synthetic()
    put(tmp_path, parts)
    with pytest.raises(BenchError, match=rf"mnist: n_t.* is {said}, and there are (\d+) images: take 1 to \1$"):
        idx.read_split(Files((tmp_path,)), "mnist", "MNIST", md5(parts), n_train, n_test, 0.0, 1.0)


def test_more_than_all_of_mnist(real: tuple[str, Files]) -> None:
    name, files = real
    with pytest.raises(BenchError, match=f"{name}: n_train is 60001, and there are 60000 images: take 1 to 60000"):
        datasets.setting(f"{name}/mlp:n_train=60001").dataset.load(files)


def test_a_flipped_byte_is_refused(real: tuple[str, Files], tmp_path: Path) -> None:
    name, files = real
    for file in (*NAMES, *TEST_NAMES):
        (tmp_path / file).symlink_to(files.folders[0] / name / file)
    target = tmp_path / TEST_NAMES[1]
    content = bytearray(target.read_bytes())
    content[len(content) // 2] ^= 1
    target.unlink()
    target.write_bytes(content)
    with pytest.raises(BenchError, match=f"{TEST_NAMES[1]} is damaged .* its md5 is .*; replace it"):
        datasets.setting(f"{name}/mlp").dataset.load(Files((tmp_path,)))


@pytest.mark.parametrize("place", ["mnist", "MNIST/raw", "."])
def test_where_files_are_looked_for(tmp_path: Path, place: str) -> None:
    parts = synthetic()
    put(tmp_path / "second" / place, parts)
    found = Files((tmp_path / "first", tmp_path / "second")).find("mnist", "MNIST", md5(parts))
    assert {path.parent.resolve() for path in found.paths.values()} == {(tmp_path / "second" / place).resolve()}


def test_the_first_folder_wins(tmp_path: Path) -> None:
    parts = synthetic()
    put(tmp_path / "a", parts)
    put(tmp_path / "b", parts)
    found = Files((tmp_path / "a", tmp_path / "b")).find("mnist", "MNIST", md5(parts))
    assert {path.parent for path in found.paths.values()} == {tmp_path / "a"}


def test_a_split_of_synthetic_files(tmp_path: Path) -> None:
    parts = synthetic()
    put(tmp_path, parts)
    data = idx.read_split(Files((tmp_path,)), "mnist", "MNIST", md5(parts), 20, 12, 0.25, 0.5)
    raw = np.frombuffer(gzip.decompress(parts[NAMES[0]])[16:], np.uint8).reshape(30, 16)
    assert np.allclose(data.train_x, (raw[:20] / 255 - 0.25) / 0.5, atol=1e-6)
    assert data.n_targets == 12


@pytest.mark.parametrize("error", [URLError("no route"), RuntimeError("File not found or corrupted.")])
def test_no_download_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(**_: Any) -> None:
        raise error

    monkeypatch.setattr(torchvision.datasets, "MNIST", fail)
    with pytest.raises(BenchError) as caught:
        datasets.setting("mnist/mlp").dataset.load(Files((tmp_path / "data", tmp_path / "cache")))
    said = str(caught.value)
    for part in (NAMES[0], str(tmp_path / "data"), str(tmp_path / "cache"), "--data-dir", "$BENCH_DATA"):
        assert part in said


def test_a_download_goes_to_the_last_folder_and_is_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts, calls = synthetic(), []

    def download(root: str, download: bool) -> None:
        calls.append((root, download))
        put(Path(root) / "MNIST/raw", parts)

    monkeypatch.setattr(torchvision.datasets, "MNIST", download)
    files = Files((tmp_path / "data", tmp_path / "cache"))
    data = idx.read_split(files, "mnist", "MNIST", md5(parts), 30, 12, 0.0, 1.0)
    assert data.n_train == 30
    assert calls == [(str(tmp_path / "cache"), True)]
    idx.read_split(files, "mnist", "MNIST", md5(parts), 30, 12, 0.0, 1.0)
    assert len(calls) == 1  # found the second time
    with pytest.raises(BenchError, match="damaged or not the published file"):
        datasets.setting("mnist/mlp").dataset.load(files)


def test_a_download_that_brings_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torchvision.datasets, "MNIST", lambda root, download: None)  # noqa: ARG005
    with pytest.raises(BenchError, match=f"{NAMES[0]} of MNIST is not in .* after its download"):
        datasets.setting("mnist/mlp").dataset.load(Files((tmp_path,)))


def test_a_cache_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BenchError, match="cannot be downloaded"):
        datasets.setting("mnist/mlp").dataset.load(Files((tmp_path / "file/cache",)))


def test_data_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    monkeypatch.setenv("BENCH_DATA", str(tmp_path / "b"))
    assert data_folders(str(tmp_path / "a")) == (tmp_path / "a", tmp_path / "b", tmp_path / "cache/ldsbench")
    assert cache_folder() == tmp_path / "cache/ldsbench"
    with pytest.raises(BenchError, match=r"--data-dir is '.*typo'"):
        data_folders(str(tmp_path / "typo"))
    monkeypatch.setenv("BENCH_DATA", str(tmp_path / "typo"))
    with pytest.raises(BenchError, match=r"\$BENCH_DATA is '.*typo'"):
        data_folders(None)
    monkeypatch.setenv("BENCH_DATA", "")
    assert data_folders(None) == (tmp_path / "cache/ldsbench",)


@given(array=st.integers(0, 3).flatmap(lambda rank: st.tuples(*[st.integers(0, 4)] * rank)))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30, deadline=None)
def test_idx_reads_back(tmp_path: Path, array: tuple[int, ...]) -> None:
    values = np.random.default_rng(0).integers(0, 256, array, dtype=np.uint8)
    path = tmp_path / "x.gz"
    path.write_bytes(packed(np.asarray(values, np.uint8)))
    assert np.array_equal(idx.read(path), values)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda _: b"", "torn|not an idx|decompressed"),
        (lambda raw: raw[:-9], "cannot be decompressed"),
        (lambda raw: raw[: len(raw) // 2], "cannot be decompressed"),
        (lambda raw: b"PK" + raw[2:], "cannot be decompressed"),
        (lambda raw: gzip.decompress(raw), "cannot be decompressed"),
        (lambda _: gzip.compress(b""), "not an idx file of bytes"),
        (lambda _: gzip.compress(b"\0\0\x08"), "not an idx file of bytes"),
        (lambda _: gzip.compress(b"\0\0\x08\x03\0\0"), "not an idx file of bytes"),
        (lambda _: gzip.compress(b"\0\0\x0d\x01\0\0\0\0"), "not an idx file of bytes: it starts with '00000d01'"),
        (lambda _: gzip.compress(b"<html>not found</html>"), "not an idx file of bytes"),
        (lambda raw: gzip.compress(gzip.decompress(raw)[:-1]), r"holds 23 values where its header says \(2, 3, 4\)"),
        (lambda raw: gzip.compress(gzip.decompress(raw) + b"x"), "holds 25 values"),
        (lambda _: gzip.compress(b"\0\0\x08\x03" + b"\xff" * 12), "holds 0 values"),
    ],
)
def test_idx_refuses(tmp_path: Path, spoil: Callable[[bytes], bytes], reason: str) -> None:
    path = tmp_path / "x.gz"
    path.write_bytes(spoil(packed(np.arange(24, dtype=np.uint8).reshape(2, 3, 4))))
    with pytest.raises(BenchError, match=reason) as caught:
        idx.read(path)
    assert str(path) in str(caught.value)


def test_idx_refuses_every_cut(tmp_path: Path) -> None:
    whole = packed(np.arange(24, dtype=np.uint8).reshape(2, 3, 4))
    path = tmp_path / "x.gz"
    for n in range(len(whole)):
        path.write_bytes(whole[:n])
        with pytest.raises(BenchError):
            idx.read(path)


def arrays(**changed: Any) -> dict[str, Any]:
    whole: dict[str, Any] = {
        "train_x": np.zeros((4, 3), np.float32),
        "train_y": np.array([0, 1, 0, 1]),
        "test_x": np.zeros((2, 3), np.float32),
        "test_y": np.array([0, 1]),
        "n_classes": 2,
    }
    return whole | changed


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"train_x": np.zeros((4, 3))}, "train_x of a dataset must be a float32 array, and it is float64"),
        ({"test_y": np.array([0.0, 1.0])}, "test_y of a dataset must be a int64 array, and it is float64"),
        ({"test_x": [[0.0] * 3] * 2}, "test_x .* it is list"),
        ({"train_y": np.array([0, 1])}, "one row per example"),
        ({"train_y": np.zeros((4, 1), np.int64)}, "one row per example"),
        ({"test_x": np.zeros((0, 3), np.float32), "test_y": np.zeros(0, np.int64)}, "one row per example"),
        ({"train_y": np.array([0, 1, 2, 1])}, r"train_y must be in 0 … 1: it is in 0 … 2"),
        ({"test_y": np.array([-1, 1])}, r"test_y must be in 0 … 1: it is in -1 … 1"),
        ({"train_x": np.full((4, 3), np.nan, np.float32)}, "train_x has values that are NaN or infinite"),
        ({"test_x": np.full((2, 3), np.inf, np.float32)}, "test_x has values that are NaN or infinite"),
        ({"test_x": np.zeros((2, 4), np.float32)}, "must have one shape"),
    ],
)
def test_examples_that_cannot_be_trained_on(changed: dict[str, Any], reason: str) -> None:
    Data(**arrays())
    with pytest.raises(InputError, match=reason):
        Data(**arrays(**changed))


def test_large_finite_values_are_allowed() -> None:
    Data(**arrays(train_x=np.full((4, 3), 3e38, np.float32)))  # the sum overflows, the values do not


def test_a_dataset_must_say_how_it_loads() -> None:
    with pytest.raises(TypeError, match="load"):
        type("Lazy", (Dataset,), {"models": {}})()


WHOLE = "Data(x[:40], y[:40], x[40:], y[40:], 3, {'made by': 'the tests'})"
WRONG = {
    "None": ("None", "load must return a bench.datasets.Data, and it returned NoneType"),
    "a tuple": ("(x[:40], y[:40], x[40:], y[40:])", "load must return a bench.datasets.Data, and it returned tuple"),
    "float64": ("x[:40]", "x[:40].astype(float)", "train_x .* must be a float32 array, and it is float64"),
    "a list": ("x[:40]", "x[:40].tolist()", "train_x of a dataset must be a float32 array, and it is list"),
    "a tensor": ("x[:40]", "__import__('torch').from_numpy(x[:40])", "train_x .* it is Tensor"),
    "a frame": ("x[:40]", "__import__('pandas').DataFrame(x[:40])", "train_x .* it is DataFrame"),
    "int32 labels": ("y[40:]", "y[40:].astype(np.int32)", "test_y .* must be a int64 array, and it is int32"),
    "one number each": ("x[:40]", "x[:40, 0]", "one row per example"),
    "no features": ("x[:40]", "x[:40, :0]", "one row per example"),
    "no targets": ("x[40:], y[40:]", "x[50:], y[50:]", "test_x and test_y must have one row per example"),
    "few labels": ("y[:40]", "y[:39]", "train_x and train_y must have one row per example"),
    "one-hot labels": ("y[:40]", "np.eye(3, dtype=np.int64)[y[:40]]", "train_x and train_y must have one row"),
    "NaN": ("x[:40]", "x[:40] * np.float32('nan')", "train_x has values that are NaN or infinite"),
    "infinite": ("x[40:]", "x[40:] * np.float32('inf')", "test_x has values that are NaN or infinite"),
    "label 3": ("y[:40]", "y[:40] + 1", "train_y must be in 0 … 2: it is in 1 … 3"),
    "label -1": ("y[40:]", "y[40:] - 1", "test_y must be in 0 … 2"),
    "other features": ("x[40:]", "x[40:, :2]", r"must have one shape: \(5,\) and \(2,\)"),
    "no classes": (", 3,", ", None,", "n_classes of a dataset must be an integer from 2 on, and it is None"),
    "one class": (", 3,", ", 1,", "n_classes of a dataset must be an integer from 2 on, and it is 1"),
    "classes as text": (", 3,", ", '3',", "n_classes of a dataset must be an integer from 2 on, and it is '3'"),
    "origin of numbers": ("'the tests'", "7", "origin of a dataset must be a dict of text to text"),
    "origin as text": ("{'made by': 'the tests'}", "'the tests'", "origin of a dataset must be a dict"),
    "too many arguments": ("3, {", "3, 4, {", "cannot be loaded: TypeError"),
    "an error": ("Data(", "1 / 0 * Data(", "cannot be loaded: ZeroDivisionError: division by zero"),
}


def own(folder: Path, returned: str) -> Path:
    """A user's dataset file that returns `returned`."""
    path = folder / "own.py"
    path.write_text(
        "import numpy as np\n"
        "from bench.datasets import Architecture, Data, Dataset, Recipe\n"
        "class Own(Dataset):\n"
        "    models = {'logreg': Recipe(Architecture('logreg'), 1, 8, 0.1), 'none': 'a recipe'}\n"
        "    def load(self, files):\n"
        "        rng = np.random.default_rng(7)\n"
        "        x, y = rng.standard_normal((50, 5)).astype(np.float32), np.arange(50) % 3\n"
        f"        return {returned}\n"
    )
    return path


def content(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def own_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("own")
    assert main(train(own(folder, WHOLE), folder / "store")) == 0
    return folder


def train(path: Path, store: Path, model: str = "logreg") -> list[str]:
    return ["train", f"{path}/{model}", "--models", "15", "--device", "cpu", "--quiet", "--out", str(store)]


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_dataset_is_one_sentence_and_the_store_is_untouched(
    own_store: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    *changes, reason = WRONG[name]
    returned = changes[0] if len(changes) == 1 else WHOLE.replace(changes[0], changes[1])
    before = content(own_store / "store")
    assert main(train(own(own_store, returned), own_store / "store")) == 2
    said = capsys.readouterr().err
    assert re.search(reason, said), said
    assert said.startswith("bench: ")
    assert said.count("\n") == 1
    assert "own" in said
    assert content(own_store / "store") == before
    assert main(train(own(own_store, WHOLE), own_store / "store")) == 0
    assert content(own_store / "store") == before


def test_a_model_without_a_recipe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(train(own(tmp_path, WHOLE), tmp_path / "store", "none")) == 2
    assert "its model 'none' must be a Recipe, and it is 'a recipe'" in capsys.readouterr().err
    assert not (tmp_path / "store").exists()


def test_modified_idx_files_are_taken_with_the_flag(tmp_path: Path) -> None:
    parts = synthetic()
    put(tmp_path, parts)
    dataset = datasets.setting("fashion-mnist/cnn:n_train=20,n_test=5").dataset
    with pytest.raises(BenchError, match=r"not the published file: its md5 is .* or add --allow-modified-data"):
        dataset.load(Files((tmp_path,)))
    data = dataset.load(Files((tmp_path,), allow_modified=True))
    assert data.origin == {name: f"md5 {digest} (not the published file)" for name, digest in md5(parts).items()}
    assert (
        stamp(data.origin)
        == "data: not the published files ("
        + ", ".join(f"{name} md5 {md5(parts)[name]}" for name in sorted(parts))
        + ")"
    )
    published = idx.read_split(Files((tmp_path,)), "mnist", "MNIST", md5(parts), 20, 12, 0.25, 0.5)
    assert stamp(published.origin) is None
