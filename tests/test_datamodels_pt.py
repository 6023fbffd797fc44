"""Released datamodels, `.pt`: read with torch's restricted unpickler alone, and written bit by bit."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from bench import cli
from bench.errors import BenchError, InputError
from bench.interop import datamodels_pt

Array = NDArray[Any]
N, T = 7, 3


@pytest.fixture
def whole() -> dict[str, torch.Tensor]:
    rng = torch.Generator().manual_seed(0)
    return {
        "weight": torch.randn(N, T, generator=rng),
        "bias": torch.randn(T, generator=rng),
        "lam": torch.rand(T, generator=rng),
    }


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_read(tmp_path: Path, whole: dict[str, torch.Tensor], zipped: bool, dtype: torch.dtype) -> None:
    given = {key: value.to(dtype) for key, value in whole.items()}
    torch.save({**given, "more": torch.ones(1)}, tmp_path / "a.pt", _use_new_zipfile_serialization=zipped)
    found = datamodels_pt.read(tmp_path / "a.pt")
    for key, value in given.items():
        np.testing.assert_array_equal(getattr(found, key), value.double().numpy())


def test_what_is_written_is_read_bit_by_bit(tmp_path: Path, whole: dict[str, torch.Tensor]) -> None:
    arrays = {key: value.numpy() for key, value in whole.items()}
    arrays["weight"][0, 0] = -0.0
    arrays["weight"][1, 1] = np.float32(1e-42)
    datamodels_pt.write(tmp_path / "a.pt", **arrays)
    found = datamodels_pt.read(tmp_path / "a.pt")
    theirs = torch.load(tmp_path / "a.pt", weights_only=True)
    assert set(theirs) == {"weight", "bias", "lam"}
    for key, value in arrays.items():
        assert getattr(found, key).dtype == np.float32
        assert getattr(found, key).tobytes() == value.tobytes() == theirs[key].numpy().tobytes()


class Evil:
    """Writes a file where it is unpickled without restriction."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.write_text, (self.place, "executed")


@pytest.mark.parametrize("how", ["torch", "old torch", "pickle", "inside"])
def test_a_malicious_file_is_refused_and_runs_nothing(tmp_path: Path, whole: dict[str, torch.Tensor], how: str) -> None:
    place, path = tmp_path / "executed", tmp_path / "evil.pt"
    evil = Evil(place)
    if how == "pickle":
        path.write_bytes(pickle.dumps(evil))
    elif how == "inside":
        torch.save({**whole, "note": evil}, path)
    else:
        torch.save(evil, path, _use_new_zipfile_serialization=how == "torch")
    with pytest.raises(InputError, match=r"evil\.pt holds other objects than tensors and is not read") as raised:
        datamodels_pt.read(path)
    assert "weights_only" not in str(raised.value)
    assert not place.exists()
    if how != "pickle":
        torch.load(path, weights_only=False)
        assert place.exists()  # it does what it is feared for, where it may


BAD: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "keys": (
        lambda d: {"w": d["weight"], 1: d["bias"]},
        r"lacks weight, bias, lam: it has '1', 'w', where .* a dict of",
    ),
    "one key": (lambda d: {k: d[k] for k in ("weight", "lam")}, "lacks bias: it has 'lam', 'weight'"),
    "no key": (lambda _: {}, "lacks weight, bias, lam: it has no key"),
    "tensor": (lambda d: d["weight"], "holds a Tensor, where released datamodels are a dict of weight, bias, lam"),
    "list": (lambda d: [d["weight"]], "holds a list"),
    "number": (lambda d: {**d, "lam": 0.5}, "lam is a float, where a tensor is needed"),
    "integers": (lambda d: {**d, "lam": d["lam"].long()}, "lam is of int64"),
    "complex": (lambda d: {**d, "weight": d["weight"] + 1j}, "weight is of complex64"),
    "sparse": (lambda d: {**d, "weight": d["weight"].to_sparse()}, "weight is of float32 .*sparse"),
    "flat": (lambda d: {**d, "weight": d["weight"][0]}, r"weight has shape \[3\], where \[n_train, n_targets\] is"),
    "square": (lambda d: {**d, "bias": d["bias"][:, None]}, r"bias has shape \[3, 1\], where \[n_targets\]"),
    "transposed": (
        lambda d: {**d, "weight": d["weight"].T},
        r"bias has shape \[3\], and weight \[3, 7\] has 7 columns",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_an_unknown_file_is_named(tmp_path: Path, whole: dict[str, torch.Tensor], name: str) -> None:
    spoil, words = BAD[name]
    torch.save(spoil(whole), tmp_path / "a.pt")
    with pytest.raises(InputError, match=words) as raised:
        datamodels_pt.read(tmp_path / "a.pt")
    assert str(tmp_path / "a.pt") in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04torn", b"\x80\x02."])
def test_a_torn_file_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.pt").write_bytes(content)
    with pytest.raises(InputError, match=r"a\.pt"):
        datamodels_pt.read(tmp_path / "a.pt")
    torch.save({"weight": torch.zeros(100, 100)}, tmp_path / "b.pt")
    (tmp_path / "b.pt").write_bytes((tmp_path / "b.pt").read_bytes()[:-900])
    with pytest.raises(InputError, match=r"b\.pt is torn"):
        datamodels_pt.read(tmp_path / "b.pt")
    with pytest.raises(InputError, match=r"cannot read .*none\.pt"):
        datamodels_pt.read(tmp_path / "none.pt")


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("bias", np.zeros(4), r"bias \[4\], lam \[3\] do not fit"),
        ("weight", np.zeros(3), r"weight \[3\]"),
        ("weight", np.full((N, T), 1e39), "weight of target 0 is 1e\\+39"),
        ("lam", np.array([0, np.nan, 0]), "lam of target 1 is nan"),
        ("bias", np.array(["a", "b", "c"]), "bias is of type <U1"),
    ],
)
def test_what_is_not_written(
    tmp_path: Path, whole: dict[str, torch.Tensor], key: str, value: Array, words: str
) -> None:
    arrays = {name: tensor.numpy() for name, tensor in whole.items()}
    with pytest.raises(BenchError, match=words):
        datamodels_pt.write(tmp_path / "a.pt", **{**arrays, key: value})
    assert list(tmp_path.iterdir()) == []


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = cli.main(["export", "datamodels", *arguments])
    return code, *capsys.readouterr()


def test_export_of_scores(
    tmp_path: Path, whole: dict[str, torch.Tensor], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("s.npy", whole["weight"].numpy())
    code, _, err = run(capsys, "s.npy", "d.pt")
    assert code == 2
    assert "s.npy has no bias, which a .pt of datamodels needs: there is no s.extra.npz" in err
    np.save("b.npy", whole["bias"].numpy())
    assert "has no lam" in run(capsys, "s.npy", "d.pt", "--bias", "b.npy")[2]
    np.savez("s.extra.npz", lam=whole["lam"].double().numpy())
    assert "s.extra.npz has no bias, so name a file with --bias" in run(capsys, "s.npy", "d.pt")[2]
    code, out, _ = run(capsys, "s.npy", "d.pt", "--bias", "b.npy")
    assert (code, out) == (0, "d.pt: weight [7, 3], bias and lam [3], float32\n")
    np.savez("s.extra.npz", bias=whole["bias"].numpy(), lam=whole["lam"].numpy(), gap=np.zeros(T))
    assert run(capsys, "s.npy", "e.pt")[0] == 0
    for path in ("d.pt", "e.pt"):
        for found, key in zip(datamodels_pt.read(path), ("weight", "bias", "lam"), strict=True):
            assert found.tobytes() == whole[key].numpy().tobytes()
    np.savez("s.extra.npz", bias=np.array([Evil(tmp_path / "x")], object), lam=whole["lam"].numpy())
    code, _, err = run(capsys, "s.npy", "f.pt")
    assert code == 2
    assert "s.extra.npz is torn or not an archive of numbers" in err
    assert not Path("x").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("s.npy", "d.npy"), "DEST is 'd.npy'"),
        (("none.npy", "d.pt"), "cannot read none.npy"),
        (("text.npy", "d.pt"), "text.npy is torn or not a .npy file"),
        (("s.npy", "d.pt", "--bias", "none.npy", "--lam", "s.npy"), "--bias: cannot read none.npy"),
        (("s.npy", "d.pt", "--bias", "s.npy", "--lam", "s.npy"), "do not fit"),
        (("s.npy", "none/d.pt/d.pt", "--bias", "v.npy", "--lam", "v.npy"), ""),
    ],
)
def test_export_refuses(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("s.npy", np.ones((N, T)))
    np.save("v.npy", np.ones(T))
    Path("text.npy").write_text("hello")
    Path("none").write_text("a file")
    code, out, err = run(capsys, *arguments)
    assert (code, out) == (2, "")
    assert words in err
    assert err.count("\n") == 1
