"""The quick reader of small archives: what it reads is what numpy reads, and what is not whole it leaves to numpy."""

import io
import zipfile
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as some
from numpy.typing import NDArray

from bench.interop import small_npz

Array = NDArray[Any]
DTYPES = ("bool", "u1", "i4", "i8", "f4", "f8")


def saved(compressed: bool = False, **arrays: Array) -> bytes:
    out = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(out, **arrays)  # type: ignore[arg-type]
    return out.getvalue()


@given(
    arrays=st.dictionaries(
        st.sampled_from(["a", "b", "index_é"]),
        st.sampled_from(DTYPES).flatmap(lambda dtype: some.arrays(dtype, st.integers(1, 40))),
        min_size=1,
    ),
    compressed=st.booleans(),
)
def test_reads_what_numpy_writes(arrays: dict[str, Array], compressed: bool) -> None:
    found = small_npz.arrays(saved(compressed, **arrays), arrays)
    assert found is not None
    for name, expected in arrays.items():
        assert found[name].dtype == expected.dtype
        np.testing.assert_array_equal(found[name], expected)


@given(compressed=st.booleans(), at=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7), cut=st.booleans())
def test_a_changed_byte_is_noticed_or_changes_nothing(compressed: bool, at: float, bit: int, cut: bool) -> None:
    expected = {"a": np.arange(50), "b": np.arange(9) % 2 == 0}
    data = bytearray(saved(compressed, **expected))
    place = int(at * len(data))
    data = data[:place] if cut else data
    if not cut:
        data[place] ^= 1 << bit
    found = small_npz.arrays(bytes(data), expected)
    assert found is None or not cut
    for name, value in (found or {}).items():
        np.testing.assert_array_equal(value, expected[name])


def member(content: bytes, method: int = zipfile.ZIP_STORED, comment: bytes = b"", name: str = "a.npy") -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        archive.comment = comment
        archive.writestr(name, content)
    return out.getvalue()


def array(value: Array) -> bytes:
    out = io.BytesIO()
    np.save(out, value)
    return out.getvalue()


UNUSUAL = {
    "nothing": b"",
    "text": b"no archive" * 20,
    "comment": member(array(np.arange(3)), comment=b"hello"),
    "other compression": member(array(np.arange(3)), zipfile.ZIP_BZIP2),
    "other name": member(array(np.arange(3)), name="b.npy"),
    "matrix": member(array(np.zeros((2, 3)))),
    "Fortran order": member(array(np.asfortranarray(np.zeros((2, 3))))),
    "text array": member(array(np.array(["x"]))),
    "no array": member(b"hello"),
    "no header": member(b"\x93NUMPY\1\0\x0a\0{'a': 1}\n "),
    "longer": member(array(np.arange(3)) + b"x"),
    "shorter": member(array(np.arange(3))[:-1]),
    "negative": member(array(np.arange(3)).replace(b"(3,), ", b"(-3,),")),
    "torn header": member(array(np.arange(3)).replace(b"(3,)", b"(3, ")),
    "before it": b"#!/bin/sh\n" + member(array(np.arange(3))),
}


@pytest.mark.filterwarnings("ignore:Reading `.npy`")
@pytest.mark.parametrize("kind", UNUSUAL)
def test_the_unusual_is_left(kind: str) -> None:
    assert small_npz.arrays(UNUSUAL[kind], ["a"]) is None


def test_python_objects_are_left() -> None:
    assert small_npz.arrays(saved(a=np.array([{}], object)), ["a"]) is None


def test_no_more_is_unpacked_than_is_claimed() -> None:
    content = array(np.zeros(10**6))
    data = member(content, zipfile.ZIP_DEFLATED)
    assert small_npz.arrays(data, ["a"]) is not None
    claimed, whole = (size.to_bytes(4, "little") for size in (1000, len(content)))
    assert data.count(whole) == 2
    lied = data.replace(whole, claimed).replace(
        zlib.crc32(content).to_bytes(4, "little"), zlib.crc32(content[:1000]).to_bytes(4, "little")
    )
    assert small_npz.arrays(lied, ["a"]) is None
