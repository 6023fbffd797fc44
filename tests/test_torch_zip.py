"""Reading arrays out of torch's zips without running them: equal to torch's own reader, and deaf to everything else."""

import pickle
import pickletools
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.errors import InputError
from bench.interop import datamodels_pt, reading, torch_zip


def packed(path: Path, text: bytes, **files: bytes) -> Path:
    """A torch zip with this pickle; `data0` is the storage data/0."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/data.pkl", text)
        for name, content in files.items():
            archive.writestr(f"x/data/{name.removeprefix('data')}", content)
    return path


DTYPES = [
    *(torch.float16, torch.float32, torch.float64, torch.bfloat16),
    *(torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64),
]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_tensors_are_those_that_torch_reads(tmp_path: Path, dtype: torch.dtype) -> None:
    path = tmp_path / "a.pt"
    whole = (torch.randn(5, 7) * 3).to(dtype)
    saved = {"whole": whole, "turned": whole.T, "part": whole[1:4, ::2], "empty": whole[:0], "one": whole[2, 3]}
    torch.save(saved, path)
    wanted = torch.load(path, weights_only=True)
    found = torch_zip.read(path)
    assert list(found) == list(saved)
    for name, tensor in wanted.items():
        np.testing.assert_array_equal(torch_zip.widened(found[name]), tensor.float().numpy(), strict=False)
        assert found[name].dtype == (torch_zip.BF16 if dtype == torch.bfloat16 else tensor.numpy().dtype)
    assert np.shares_memory(found["whole"], found["turned"])  # mapped, not copied


def test_containers_parameters_and_ordered_dicts(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    weight = torch.nn.Parameter(torch.ones(2, 3))
    torch.save({"a": [torch.zeros(2), (torch.ones(1), 3, "x", None, True)], "p": weight, "o": OrderedDict(k=1)}, path)
    found = torch_zip.read(path)
    assert found["a"][1][1:] == [3, "x", None, True]
    np.testing.assert_array_equal(found["p"], np.ones((2, 3)))
    assert found["o"] == {"k": 1}


@pytest.mark.parametrize("module", [b"numpy.core.multiarray", b"numpy._core.multiarray"])
@pytest.mark.parametrize("dtype", ["int8", "float32", ">f4", "float16", "bool"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_numpy_arrays_under_both_names_that_numpy_has_had(
    tmp_path: Path, module: bytes, dtype: str, order: Any
) -> None:
    array = np.asarray(np.arange(12).reshape(3, 4) % 2, dtype, order=order)
    text = pickle.dumps(array, protocol=2)
    ours = b"numpy._core.multiarray" if b"numpy._core.multiarray" in text else b"numpy.core.multiarray"
    found = torch_zip.read(packed(tmp_path / "a.pt", text.replace(b"c" + ours, b"c" + module)))
    np.testing.assert_array_equal(found, array)
    assert found.dtype.isnative


class Evil:
    """What a pickle of it does is touch a file."""

    def __init__(self, does: Any, *arguments: Any) -> None:
        self.does = does, arguments

    def __reduce__(self) -> Any:
        return self.does


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_pickle_that_would_create_a_file_does_not(tmp_path: Path, wrapped: bool) -> None:
    made = tmp_path / "made"
    evil = Evil(open, str(made), "w")
    text = pickle.dumps({"weight": [np.zeros(3), evil]} if wrapped else evil, protocol=2)
    pickle.loads(text)
    assert made.exists()  # it would
    made.unlink()
    path = packed(tmp_path / "a.pt", text)
    with pytest.raises(InputError, match=r"a\.pt holds more than arrays \((io|_io)\.open\).*any code"):
        torch_zip.read(path)
    assert not made.exists()


@pytest.mark.parametrize(
    ("module", "name"),
    [
        *(("os", "system"), ("builtins", "eval"), ("numpy", "load"), ("numpy", "fromfile"), ("torch", "load")),
        *(("torch", "FloatStorage.x"), ("numpy.core.multiarray", "scalar"), ("collections", "Counter")),
        *(("_codecs", "decode"), ("torch._utils", "_rebuild_wrapper_subclass"), ("bench.interop.torch_zip", "read")),
    ],
)
def test_other_names_are_refused(tmp_path: Path, module: str, name: str) -> None:
    text = b"\x80\x02c" + f"{module}\n{name}\n".encode() + b"."
    with pytest.raises(InputError, match=f"{module}.{name}"):
        torch_zip.read(packed(tmp_path / "a.pt", text))


def test_what_may_be_called_cannot_be_altered_or_subclassed(tmp_path: Path) -> None:
    start = b"\x80\x02cnumpy\ndtype\n"
    for text in (
        start + b"}(X\x01\x00\x00\x00aK\x01ub.",  # BUILD with a dict
        start + b"N}(X\x05\x00\x00\x00_doesK\x01u\x86b.",  # BUILD with slots
        start + b")\x81.",  # NEWOBJ
        start + b".",  # the name itself
        b"\x80\x02\x82\x01.",  # EXT1
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\nN}(X\x01\x00\x00\x00aK\x01u\x86b.",
        b"\x80\x02(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000NK\x00tQN}(X\x05\x00\x00\x00arrayK\x01u\x86b.",
        b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00aX\x05\x00\x00\x00rot13\x86R.",
        b"\x80\x02cnumpy\ndtype\nX\x02\x00\x00\x00O8\x85R.",
        b"\x80\x02ccollections\nOrderedDict\n](K\x01K\x02\x86e\x85R.",
    ):
        assert pickletools.genops(text)
        with pytest.raises(InputError, match=r"a\.pt"):
            torch_zip.read(packed(tmp_path / "a.pt", text, data0=b""))


def test_few_bytes_do_not_ask_for_much_memory(tmp_path: Path) -> None:
    with pytest.raises(InputError):
        torch_zip.read(packed(tmp_path / "a.pt", b"\x80\x02Nr\xff\xff\xff\x7f0."))  # a memo of 2³¹ entries
    with pytest.raises(InputError, match="torn"):
        torch_zip.read(packed(tmp_path / "a.pt", b"\x80\x04\x8d" + (2**40).to_bytes(8, "little") + b"x."))


def _tensor(count: int, shape: tuple[int, ...], stride: tuple[int, ...], offset: int = 0, key: str = "0") -> bytes:
    """A pickle of a tensor that claims these, as torch writes it, by hand."""

    def text(word: str) -> bytes:
        return b"X" + len(word).to_bytes(4, "little") + word.encode()

    def number(n: int) -> bytes:
        raw = n.to_bytes(9, "little", signed=True)
        return b"\x8a\x09" + raw

    def numbers(values: tuple[int, ...]) -> bytes:
        return b"(" + b"".join(map(number, values)) + b"t"

    storage = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text(key) + text("cpu") + number(count) + b"tQ"
    more = number(offset) + numbers(shape) + numbers(stride) + b"\x89ccollections\nOrderedDict\n)R"
    return b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(" + storage + more + b"tR."


def test_claims_are_checked_against_the_bytes_that_are_there(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    good = np.arange(6, dtype=np.float32)
    found = torch_zip.read(packed(path, _tensor(6, (2, 3), (3, 1)), data0=good.tobytes()))
    np.testing.assert_array_equal(found, good.reshape(2, 3))
    for text, words in (
        (_tensor(10**12, (10**6, 10**6), (10**6, 1)), "1,000,000,000,000 elements"),
        (_tensor(6, (10**6, 10**6), (10**6, 1)), "claims shape"),
        (_tensor(6, (10**6, 10**6), (0, 0)), "expanded view"),
        (_tensor(6, (2, 3), (3, 1), 1), "claims shape"),
        (_tensor(6, (2, 3), (-3, 1)), "no shape"),
        (_tensor(6, (-2, 3), (3, 1)), "no shape"),
        (_tensor(-1, (2, 3), (3, 1)), "claims -1"),
        (_tensor(6, (2, 3), (3,)), "torn"),
        (_tensor(6, (2, 3), (3, 1), key="1"), r"data/1"),
        (_tensor(6, (2, 3), (3, 1), key="../../etc"), "cannot be"),
    ):
        with pytest.raises(InputError, match=words):
            torch_zip.read(packed(path, text, data0=good.tobytes()))
    array = pickle.dumps(np.zeros((3, 4), np.float32), protocol=2)
    with pytest.raises(InputError, match=r"claims shape \[200, 200\]"):
        torch_zip.read(packed(path, array.replace(b"K\x03K\x04\x86", b"K\xc8K\xc8\x86")))


def test_archives(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    text = pickle.dumps(np.zeros(3), protocol=2)
    for name in ("../evil", "x/../../evil", "/etc/evil", "..\\evil", "C:\\evil"):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("x/data.pkl", text)
            archive.writestr(name, b"evil")
        with pytest.raises(InputError, match="leads out of it"):
            torch_zip.read(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/data.pkl", text)
    with pytest.raises(InputError, match="compressed"):
        torch_zip.read(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme", b"")
    with pytest.raises(InputError, match=r"without a data\.pkl"):
        torch_zip.read(path)
    path.write_bytes(text)
    with pytest.raises(InputError, match="bare pickle"):
        torch_zip.read(path)
    torch.save({"a": torch.zeros(3)}, path, _use_new_zipfile_serialization=False)
    with pytest.raises(InputError, match="bare pickle"):
        torch_zip.read(path)
    assert [one.name for one in tmp_path.iterdir()] == ["a.pt"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("zips") / "whole.pt"
    torch.save([torch.arange(4.0), np.arange(3)], path)
    return path


@pytest.mark.parametrize("read", [torch_zip.read, reading.npz, datamodels_pt.read])
def test_a_zip_of_several_disks_is_torn(whole: Path, tmp_path: Path, read: Callable[[Path], object]) -> None:
    """The damage that zipfile raises at when it is asked whether a file is a zip at all."""
    content = bytearray(whole.read_bytes())
    disks = content.rindex(b"PK\x06\x07") + 16  # in the locator of the end record, which torch always writes
    content[disks : disks + 4] = (2).to_bytes(4, "little")
    path = tmp_path / "damaged.pt"
    path.write_bytes(content)
    with pytest.raises(zipfile.BadZipFile):
        zipfile.is_zipfile(path)
    with pytest.raises(InputError, match=r"damaged\.pt is torn"):
        read(path)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_damaged_file_gives_arrays_or_one_sentence(whole: Path, data: st.DataObject) -> None:
    content = bytearray(whole.read_bytes())
    if data.draw(st.booleans()):
        content = content[: data.draw(st.integers(0, len(content) - 1))]
    for _ in range(data.draw(st.integers(0, 4))):
        if content:
            content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = whole.with_name("damaged.pt")
    path.write_bytes(content)
    told = "damaged.pt"
    try:
        torch_zip.read(path)
    except InputError as error:
        told = str(error)
    assert "damaged.pt" in told
