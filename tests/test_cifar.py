"""CIFAR-10's python batches: the images, the checks, and pickles that want more than an array."""

import hashlib
import json
import os
import pickle
import struct
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torchvision
from numpy.typing import NDArray

import bench
from bench import cifar, datasets, runner
from bench.cli import main
from bench.datasets import Data
from bench.errors import BenchError
from bench.files import Files

UNPACKED = "cifar-10-batches-py"


@pytest.fixture(autouse=True)
def no_download(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError("the tests do not download")

    monkeypatch.setattr(torchvision.datasets.utils, "download_and_extract_archive", refuse)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def images(n: int, seed: int) -> tuple[NDArray[np.uint8], list[int]]:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (n, 3072), dtype=np.uint8), [int(label) for label in rng.permutation(n) % 10]


def pickled(n: int = 8, seed: int = 0, protocol: int = 2, **changed: Any) -> bytes:
    x, y = images(n, seed)
    batch: dict[bytes, Any] = {b"data": x, b"labels": y, b"batch_label": b"training batch 1 of 5"}
    batch |= {key.encode(): value for key, value in changed.items()}
    return pickle.dumps({key: value for key, value in batch.items() if value is not ...}, protocol)


def as_python_2(n: int = 8, seed: int = 0) -> bytes:
    """What Python 2 and the numpy of 2009 wrote, as the published files are."""
    x, y = images(n, seed)
    labels = b"".join(b"K" + bytes([label]) for label in y)
    array = b"cnumpy.core.multiarray\n_reconstruct\nq\x07cnumpy\nndarray\nq\x08K\x00\x85U\x01b\x87Rq\t(K\x01"
    array += b"K" + bytes([n]) + b"M\x00\x0c\x86cnumpy\ndtype\nq\nU\x02u1K\x00K\x01\x87Rq\x0b(K\x03U\x01|NNNJ"
    array += b"\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89T" + struct.pack("<i", x.size) + x.tobytes() + b"tb"
    names = b"U\tfilenamesq\x0c]q\x0d(U\x05a.pngU\x05b.pnge"
    return b"\x80\x02}q\x01(U\x06labelsq\x04]q\x05(" + labels + b"eU\x04dataq\x06" + array + names + b"u."


def put(folder: Path, n: int = 8, n_test: int = 6) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(1, 6):
        (folder / f"data_batch_{i}").write_bytes(pickled(n, i))
    (folder / "test_batch").write_bytes(pickled(n_test, 6))
    return folder


def load(folder: Path, spec: str, allow: bool = True) -> Data:
    return datasets.setting(spec).dataset.load(Files((folder,), allow))


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


@pytest.mark.parametrize("content", [pickled(), pickled(protocol=3), pickled(protocol=4), as_python_2()])
def test_a_batch_of_any_python(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "batch"
    path.write_bytes(content)
    x, y = cifar.read_batch(path)
    assert np.array_equal(x, images(8, 0)[0])
    assert y.dtype == np.int64
    assert y.tolist() == images(8, 0)[1]


def test_columns_first(tmp_path: Path) -> None:
    path = tmp_path / "batch"
    path.write_bytes(pickled(data=np.asfortranarray(images(8, 0)[0])))
    assert np.array_equal(cifar.read_batch(path)[0], images(8, 0)[0])


def test_published_checksums_are_those_of_torchvision() -> None:
    source = torchvision.datasets.CIFAR10
    assert dict([*source.train_list, *source.test_list]) == cifar.MD5
    assert source.base_folder == UNPACKED
    assert isinstance(source.tgz_md5, str)  # by which a download knows that the constructor must not be called


@pytest.mark.parametrize("place", [UNPACKED, f"cifar10/{UNPACKED}", "cifar10", "."])
def test_images_are_standardised_by_channel_in_order(tmp_path: Path, place: str) -> None:
    put(tmp_path / place)
    data = load(tmp_path, "cifar10/cnn:n_train=33,n_test=5")
    raw = np.concatenate([images(8, i)[0] for i in range(1, 6)])[:33].reshape(33, 3, 32, 32)
    labels = [label for i in range(1, 6) for label in images(8, i)[1]]
    mean, std = (np.array(v)[:, None, None] for v in ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)))
    assert np.allclose(data.train_x, (raw / 255 - mean) / std, atol=1e-5)
    assert (data.train_y.tolist(), data.test_y.tolist()) == (labels[:33], images(6, 6)[1][:5])
    assert data.n_classes == 10


def test_cifar2_is_cats_and_dogs_in_order(tmp_path: Path) -> None:
    put(tmp_path, 20, 20)
    data = load(tmp_path, "cifar2/resnet9:n_train=19,n_test=4")
    ten = load(tmp_path, "cifar10/cnn:n_train=100,n_test=20")
    of_two = np.isin(ten.train_y, (3, 5))
    assert np.array_equal(data.train_x, ten.train_x[of_two][:19])
    assert np.array_equal(data.train_y, (ten.train_y[of_two][:19] == 5).astype(np.int64))
    assert (data.n_classes, data.n_targets) == (2, 4)


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ("cifar10/cnn:n_train=41,n_test=6", "n_train is 41, and there are 40 images: take 1 to 40"),
        ("cifar10/cnn:n_train=40,n_test=0", "n_test is 0, and there are 6 images"),
        ("cifar2/resnet9:n_train=11,n_test=1", "n_train is 11, and there are 10 images"),
    ],
)
def test_more_than_there_is(tmp_path: Path, spec: str, reason: str) -> None:
    put(tmp_path)
    with pytest.raises(BenchError, match=reason):
        load(tmp_path, spec)


def test_settings_have_their_recipes() -> None:
    resnet9, airbench, cnn = (datasets.setting(f"cifar10/{model}").recipe for model in ("resnet9", "airbench", "cnn"))
    assert (resnet9.steps(25_000), resnet9.stacked, cnn.stacked) == (16 * 25_000 // 512, False, True)
    assert datasets.setting("cifar2/resnet9").recipe == replace(resnet9, epochs=24)
    # As airbench94 hands them to torch.optim.SGD: a summed loss, 1,024 examples, momentum 0.85 with Nesterov's step.
    scale = 1024 * (1 + 1 / (1 - 0.85))
    lr, decay = 11.5 / scale, 0.0153 * 1024 / scale
    assert airbench.lr == pytest.approx(lr * 1024)
    assert airbench.lr * airbench.weight_decay == pytest.approx(decay)


def test_modified_files_need_the_flag(tmp_path: Path) -> None:
    put(tmp_path)
    with pytest.raises(
        BenchError, match=r"data_batch_1 is damaged or not the published file: .* --allow-modified-data"
    ):
        load(tmp_path, "cifar10/cnn", allow=False)
    origin = load(tmp_path, "cifar10/cnn:n_train=4,n_test=4").origin
    for name in cifar.MD5:
        assert origin[name] == f"md5 {md5(tmp_path / name)} (not the published file)"
    assert origin["train"] == "0 to 5 images a class (not the published 5,000)"
    assert origin["test"] == "0 to 1 images a class (not the published 1,000)"


def test_numbers_by_class_need_the_flag_whatever_the_checksums(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, 20, 20)
    monkeypatch.setattr(cifar, "MD5", {name: md5(tmp_path / name) for name in cifar.MD5})
    with pytest.raises(BenchError, match=r"cifar10: train has 10 to 10 .*, test has 2 .* published 5,000 and 1,000"):
        load(tmp_path, "cifar10/cnn", allow=False)
    monkeypatch.setattr(cifar, "PER_CLASS", {"train": 10, "test": 2})
    data = load(tmp_path, "cifar10/cnn:n_train=100,n_test=20", allow=False)
    assert data.origin == {name: f"md5 {md5(tmp_path / name)}" for name in cifar.MD5}


class Evil:
    """Pickles itself as a call of `function(*arguments)`."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call


def of_operations(body: bytes) -> bytes:
    return b"\x80\x02" + body + b"."


DEEP = 100_000
HOSTILE = {
    "system": (pickled(labels=Evil(os.system, "touch owned")), r"asks for (posix|nt).system"),
    "eval": (pickled(labels=Evil(eval, "open('owned', 'w')")), "asks for __builtin__.eval"),
    "getattr": (pickled(protocol=4, data=Evil(getattr, 1, "real")), "asks for builtins.getattr"),
    "load": (pickled(data=Evil(np.load, "x.npy")), r"asks for numpy\S*.load"),
    "fromfile": (of_operations(b"cnumpy\nfromfile\nX\x01\0\0\0a\x85R"), "asks for numpy.fromfile"),
    "attribute": (of_operations(b"cnumpy\nndarray.tofile\n"), "asks for numpy.ndarray.tofile"),
    "codec": (of_operations(b"c_codecs\nencode\nX\x01\0\0\0aX\x05\0\0\0rot13\x86R"), "asks for the codec 'rot13'"),
    "inst": (of_operations(b"(S'touch owned'\nios\nsystem\n"), "asks for the pickle operation INST"),
    "newobj": (of_operations(b"cnumpy\nndarray\n)\x81"), "asks for the pickle operation NEWOBJ"),
    "persistent": (of_operations(b"Pname\n"), "asks for the pickle operation PERSID"),
    "extension": (of_operations(b"\x82\x01"), "asks for the pickle operation EXT1"),
    "deep lists": (of_operations(b"]" * DEEP + b"a" * (DEEP - 1)), "more nesting"),
    "deep tuples": (of_operations(b")" + b"\x85" * DEEP), "more nesting"),
    "doubled tuples": (of_operations(b"}K\x01" + b"q\x00h\x00\x86" * 60 + b"K\x00s"), "more nesting"),
    "memo": (of_operations(b"Nr\xff\xff\xff\x7f"), "a memo of billions"),
    "shape": (pickled().replace(b"M\x00\x0c", b"M\x01\x0c"), r"data is not an array of uint8 \[n, 3072\]"),
    "setattr": (of_operations(b"c_codecs\nencode\n}X\x01\0\0\0aK\x01sb"), "holds no dict"),
    "class": (of_operations(b"cnumpy\nndarray\nK\x01b"), "cannot be read as a CIFAR-10 batch"),
    "bytes": (pickled(data=b"0" * 3072), "data is not an array"),
    "object": (pickled(data=np.full((8, 3072), None)), "data is not an array"),
    "float": (pickled(data=np.zeros((8, 3072))), "data is not an array"),
    "signed": (pickled(data=np.zeros((8, 3072), np.int8)), "data is not an array"),
    "narrow": (pickled(data=np.zeros((8, 1024), np.uint8)), "data is not an array"),
    "flat": (pickled(data=np.zeros(3072, np.uint8)), "data is not an array"),
    "none": (pickled(protocol=3, data=np.zeros((0, 3072), np.uint8), labels=[]), "data is not an array"),
    "no data": (pickled(data=...), "has no 'data'"),
    "no labels": (pickled(labels=...), "has no 'labels'"),
    "few labels": (pickled(labels=[1] * 7), r"one label for each of 8 images \(7\)"),
    "array labels": (pickled(labels=np.zeros(8, np.uint8)), r"one label for each of 8 images \(none\)"),
    "label 10": (pickled(labels=[1] * 7 + [10]), "labels are not all integers in 0 … 9"),
    "label -1": (pickled(labels=[1] * 7 + [-1]), "labels are not all integers"),
    "label True": (pickled(labels=[1] * 7 + [True]), "labels are not all integers"),
    "label 1.0": (pickled(labels=[1] * 7 + [1.0]), "labels are not all integers"),
    "list": (pickle.dumps([1, 2]), "holds no dict"),
    "empty": (b"", "cannot be read as a CIFAR-10 batch"),
    "text": (b"<html>not found</html>", "cannot be read as a CIFAR-10 batch"),
    "unstoppable": (pickled()[:-1], "cannot be read as a CIFAR-10 batch"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_pickles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    content, reason = HOSTILE[name]
    monkeypatch.chdir(tmp_path)
    put(tmp_path)
    (tmp_path / "data_batch_3").write_bytes(content)
    with pytest.raises(BenchError, match=reason) as caught:
        load(tmp_path, "cifar10/cnn:n_train=1,n_test=1")
    assert str(tmp_path / "data_batch_3") in str(caught.value)
    assert "replace it with the published file" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "owned").exists()
    (tmp_path / "data_batch_3").write_bytes(pickled(8, 3))
    load(tmp_path, "cifar10/cnn:n_train=1,n_test=1")  # and nothing of it stays behind


@pytest.mark.parametrize("content", [pickled(2), as_python_2(2)])
def test_every_cut_is_one_sentence(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "batch"
    for n in (*range(0, 400), *range(400, len(content), 97)):
        path.write_bytes(content[:n])
        with pytest.raises(BenchError, match="replace it with the published file"):
            cifar.read_batch(path)


def test_every_changed_byte_is_read_or_refused(tmp_path: Path) -> None:
    path = tmp_path / "batch"
    content = as_python_2(2)
    pixels = content.index(images(2, 0)[0].tobytes())
    for at in (*range(pixels), *range(pixels + 6144, len(content))):
        for flip in (1, 0x80, 0xFF):
            changed = bytearray(content)
            changed[at] ^= flip
            path.write_bytes(changed)
            try:
                x, y = cifar.read_batch(path)
            except BenchError:
                continue
            assert (x.shape, y.shape) == ((2, 3072), (2,))


def test_a_download_is_unpacked_and_never_unpickled_by_torchvision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unpack(url: str, root: str, filename: str, md5: str, remove_finished: bool) -> None:
        assert (url.rpartition("/")[2], md5, remove_finished) == (filename, torchvision.datasets.CIFAR10.tgz_md5, True)
        put(Path(root) / UNPACKED)

    def construct(*_: Any, **__: Any) -> None:
        raise AssertionError("its constructor unpickles")

    monkeypatch.setattr(torchvision.datasets.CIFAR10, "__init__", construct)
    with pytest.raises(BenchError, match=r"data_batch_1 of CIFAR10 is not in .* cannot be downloaded"):
        load(tmp_path / "cache", "cifar10/cnn")
    monkeypatch.setattr(torchvision.datasets.utils, "download_and_extract_archive", unpack)
    assert load(tmp_path / "cache", "cifar10/cnn:n_train=2,n_test=2").n_train == 2
    with pytest.raises(BenchError, match="not the published file"):
        load(tmp_path / "cache", "cifar10/cnn", allow=False)


SETTING = "cifar10/cnn:n_train=20,n_test=6"


def test_a_run_is_stamped_everywhere(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put(tmp_path / "data")
    first = md5(tmp_path / "data/data_batch_1")
    out = tmp_path / "run"
    there = ["--models", "15", "--device", "cpu", "--data-dir", str(tmp_path / "data"), "--out", str(out), "--quiet"]
    there.append("--allow-empty-classes")  # of two examples each, half are in a subset by chance
    assert main(["run", SETTING, "--method", "random", *there]) == 2
    assert "--allow-modified-data" in capsys.readouterr().err
    assert main(["run", SETTING, "--method", "random", "--allow-modified-data", *there]) == 0
    stamped = f"data: not the published files (data_batch_1 md5 {first}, "
    assert stamped in capsys.readouterr().out
    board = json.loads((out / "leaderboard.json").read_text())
    assert board["modified_data"] is True
    assert board["data"]["data_batch_1"] == f"md5 {first} (not the published file)"
    assert "train 0 to 5 images a class" in (out / "leaderboard.md").read_text()
    for name in ("leaderboard.md", "report.html", "log.txt"):
        assert stamped in (out / name).read_text(), name
    assert json.loads((out / "ground-truth/meta.json").read_text())["origin"] == board["data"]
    assert main(["report", str(out)]) == 0
    assert stamped in capsys.readouterr().out

    to = str(tmp_path / "scores.npy")
    arguments = ["attribute", SETTING, "--method", "random", "--store", str(out / "ground-truth"), "--out", to]
    arguments += ["--data-dir", str(tmp_path / "data"), "--device", "cpu"]
    assert main(arguments) == 2
    capsys.readouterr()
    assert main([*arguments, "--allow-modified-data"]) == 0
    assert stamped in capsys.readouterr().err


def test_published_data_are_not_stamped(tmp_path: Path) -> None:
    board = bench.run(setting="digits/logreg", models=15, methods="random", out=str(tmp_path), device="cpu", quiet=True)
    assert (board.modified_data, list(board.data)) == (False, ["bundled with"])
    assert "published" not in (tmp_path / "leaderboard.md").read_text() + (tmp_path / "report.html").read_text()


def test_train_stamps_its_store(tmp_path: Path) -> None:
    put(tmp_path / "data")
    options = runner.Options(SETTING, models=15, data_dir=str(tmp_path / "data"), device="cpu", quiet=True)
    options = replace(options, allow_empty_classes=True)
    with pytest.raises(BenchError, match="not the published file"):
        runner.train(options, tmp_path / "store")
    (meta,) = runner.train(replace(options, allow_modified_data=True), tmp_path / "store")
    assert meta is not None
    assert "not the published file" in meta.origin["test_batch"]


@pytest.fixture(scope="module")
def jpeg_batches(tmp_path_factory: pytest.TempPathFactory) -> Path:
    script = Path(os.environ.get("BENCH_DATA") or "nowhere") / "cifar10" / "to_batches.py"
    if not script.is_file():
        pytest.skip("$BENCH_DATA has no cifar10/to_batches.py, which makes batches of real images")
    folder = tmp_path_factory.mktemp("cifar")
    limits = ("--limit-train", "400", "--limit-test", "60")
    subprocess.run([sys.executable, str(script), str(folder), *limits], check=True)
    return folder


def test_real_images(jpeg_batches: Path) -> None:
    with pytest.raises(BenchError, match="--allow-modified-data"):
        load(jpeg_batches, "cifar10/cnn", allow=False)
    data = load(jpeg_batches, "cifar10/cnn:n_train=400,n_test=60")
    assert data.train_y[:10].tolist() == [6, 9, 9, 4, 1, 1, 2, 7, 8, 3]  # frog, truck, truck, deer, …
    assert data.test_y[:5].tolist() == [3, 8, 8, 0, 6]
    assert np.allclose(data.train_x.mean((0, 2, 3)), 0, atol=0.1)
    assert np.allclose(data.train_x.std((0, 2, 3)), 1, atol=0.1)
    exact = Path(os.environ["BENCH_DATA"]) / "cifar10" / "cifar10_train_first4000_lossless.npz"
    pixels = np.load(exact)["images"][:400].transpose(0, 3, 1, 2)
    mean, std = (np.array(v)[:, None, None] for v in (cifar.MEAN, cifar.STD))
    error = ((data.train_x * std + mean) * 255 - pixels) ** 2
    assert error.mean() < 100  # JPEG at about 30 dB: the planes and rows are where they should be
