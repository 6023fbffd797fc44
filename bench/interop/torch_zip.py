"""Read the arrays of a file that `torch.save` wrote, running nothing of what it holds.

    {name}/data.pkl    a pickle of what was saved; tensors in it name their storages
    {name}/data/{key}  the bytes of a storage

A pickle is a program. This one is run by an unpickler that knows a handful of names (those that rebuild tensors and
numpy arrays, under every name that torch and numpy have had for them) and has stand-ins of its own for all of them:
neither torch's nor numpy's functions are called, and any other name is refused before anything comes of it. Sizes are
checked against the bytes that are there before an array is made, so that a small file cannot claim a large one.
Storages are mapped, not read.
"""

from __future__ import annotations

import io
import math
import pickle
import struct
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bench.errors import InputError

Array = NDArray[Any]
BF16 = np.dtype([("bfloat16", "<u2")])
"""What bfloat16, which numpy does not know, is mapped as; `widened` makes float32 of it."""

_STORAGES: dict[str, np.dtype[Any]] = {
    "FloatStorage": np.dtype("<f4"),
    "DoubleStorage": np.dtype("<f8"),
    "HalfStorage": np.dtype("<f2"),
    "BFloat16Storage": BF16,
    "LongStorage": np.dtype("<i8"),
    "IntStorage": np.dtype("<i4"),
    "ShortStorage": np.dtype("<i2"),
    "CharStorage": np.dtype("i1"),
    "ByteStorage": np.dtype("u1"),
    "BoolStorage": np.dtype("?"),
}
_NUMPY = ("numpy", "numpy.core.multiarray", "numpy._core.multiarray")
_MOST_AXES = 8
_LOCAL_HEADER = struct.Struct("<4s22xHH")


def read(path: Path) -> Any:
    """What the file holds: an array, or lists, tuples and dicts of arrays, numbers and texts; bfloat16 as `BF16`.

    Args:
        path: a file that is there (see `bench.interop.reading.present`).

    Raises:
        InputError: it is no such file, torn, claims more than it holds, or holds other objects than arrays.
    """
    if not is_zip(path):
        with path.open("rb") as file:
            start = file.read(2)
        if start[:1] == b"\x80":
            raise InputError(
                f"{path} is a bare pickle, which could run any code and is not read (torch has written zips since "
                "1.6): where you trust it, load it and write it anew with torch.save"
            )
        raise InputError(f"{path} is torn or not a file that torch.save wrote: get it again")
    try:
        with zipfile.ZipFile(path) as archive:
            return _Archive(path, archive).read()
    except InputError:
        raise
    except Exception as error:  # zipfile has many words for a damaged archive
        raise InputError(f"{path} is torn ({error}): get it again") from error


def is_zip(path: Path) -> bool:
    """Whether a file is a zip, whole or damaged: opening it says which.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        try:
            return zipfile.is_zipfile(file)
        except zipfile.BadZipFile:  # some damage it does not answer by no
            return True


def widened(array: Array) -> Array:
    """The same numbers; bfloat16 as float32."""
    if array.dtype != BF16:
        return array
    return (array["bfloat16"].astype(np.uint32) << 16).view(np.float32)


def member(path: Path, name: str) -> str:
    """The name of a file in an archive, which must be a plain relative one.

    Raises:
        InputError: it leads out of the folder that the archive would be unpacked to.
    """
    plain = PurePosixPath(name.replace("\\", "/"))
    if plain.is_absolute() or ".." in plain.parts or ":" in name or "\0" in name:
        raise InputError(f"{path} holds a file of the name {name!r}, which leads out of it: do not trust this archive")
    return name


class _Archive:
    """One opened file."""

    def __init__(self, path: Path, archive: zipfile.ZipFile) -> None:
        self.path, self.archive = path, archive
        self.files = {member(path, info.filename): info for info in archive.infolist()}
        roots = [name.removesuffix("data.pkl") for name in self.files if name.count("/") < 2 and _is_pickle(name)]
        if len(roots) != 1:
            raise InputError(f"{path} is an archive without a data.pkl, so not a file that torch.save wrote")
        self.root = roots[0]
        for name, info in self.files.items():
            if info.compress_type != zipfile.ZIP_STORED:
                raise InputError(f"{path}: {name} is compressed, which torch.save never does: write it with torch.save")

    def read(self) -> Any:
        """What was saved."""
        order = self.files.get(f"{self.root}byteorder")
        if order is not None and self._small(order, 16).strip() not in (b"", b"little"):
            raise InputError(f"{self.path} was written on a big-endian machine: write it on another")
        info = self.files[f"{self.root}data.pkl"]
        text = self.archive.read(info)  # stored, hence no longer than the file
        unpickler = _Unpickler(self.path, text, self.storage)
        try:
            found = unpickler.load()
            return _plain(self.path, found, 0)
        except InputError as error:
            if str(self.path) in str(error):
                raise
            raise InputError(f"{self.path}: {error}") from error
        except Exception as error:  # a torn or made-up pickle fails in as many ways as there are opcodes
            raise InputError(
                f"{self.path}: its data.pkl is torn or no pickle of arrays ({error}): get it again"
            ) from error

    def _small(self, info: zipfile.ZipInfo, most: int) -> bytes:
        if info.file_size > most:
            raise InputError(f"{self.path}: {info.filename} is of {info.file_size} bytes, where a word is needed")
        return self.archive.read(info)

    def storage(self, dtype: np.dtype[Any], key: str, count: int) -> Array:
        """The elements of a storage, mapped from the file."""
        info = self.files.get(f"{self.root}data/{key}")
        if info is None:
            raise InputError(f"{self.path} lacks the data of a tensor (data/{key}): it is torn, so get it again")
        if count < 0 or count * dtype.itemsize > info.file_size:
            raise InputError(
                f"{self.path}: data/{key} has {info.file_size:,} bytes, and a tensor claims {count:,} elements of "
                f"{dtype.itemsize}: it is torn or made up"
            )
        if not count:
            return np.empty(0, dtype)
        with self.path.open("rb") as file:
            file.seek(info.header_offset)
            magic, name, extra = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
        offset = info.header_offset + _LOCAL_HEADER.size + name + extra
        if magic != b"PK\x03\x04" or offset + count * dtype.itemsize > self.path.stat().st_size:
            raise InputError(f"{self.path} is torn: data/{key} goes beyond its end; get it again")
        return np.memmap(self.path, dtype, "r", offset, (count,))


def _is_pickle(name: str) -> bool:
    return name.rpartition("/")[2] == "data.pkl"


class _Storage(NamedTuple):
    dtype: np.dtype[Any]


class _Held:
    """A storage that a pickle has named: it can be given to a tensor, and nothing else."""

    __slots__ = ("array",)

    def __init__(self, array: Array) -> None:
        self.array = array

    def __setstate__(self, state: Any) -> None:
        raise InputError("a pickle that alters a storage is no pickle of arrays")


class _Call:
    """Stands for a function that a pickle may name: it can be called, and nothing else."""

    __slots__ = ("_does",)
    _does: Callable[..., Any]

    def __init__(self, does: Callable[..., Any]) -> None:
        object.__setattr__(self, "_does", does)

    def __call__(self, *arguments: Any) -> Any:
        return self._does(*arguments)

    def __setattr__(self, name: str, value: Any) -> None:
        raise InputError(f"a pickle that sets {name} is no pickle of arrays")

    def __setstate__(self, state: Any) -> None:
        raise InputError("a pickle that alters what it calls is no pickle of arrays")


class _Dtype:
    """A numpy dtype in the making."""

    __slots__ = ("code", "dtype")

    def __init__(self, code: Any, *_: Any) -> None:
        if not isinstance(code, str) or code[:1] not in "biuf" or not code[1:].isdigit():
            raise InputError(f"arrays of type {code!r} are not read, only of numbers and truth values")
        self.code = code
        self.dtype = np.dtype(code)

    def __setstate__(self, state: Any) -> None:
        order: Any = state[1] if isinstance(state, tuple) and len(state) > 1 else "|"
        if order not in ("<", ">", "|", "="):
            raise InputError(f"a byte order {order!r} does not exist")
        self.dtype = np.dtype(self.code).newbyteorder(order)


class _Numpy:
    """A numpy array in the making: empty until its state is set."""

    __slots__ = ("array",)

    def __init__(self, *_: Any) -> None:
        self.array: Array | None = None

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran, data = state
        if not isinstance(dtype, _Dtype):
            raise InputError("an array of Python objects is not read, as that could run any code")
        size = _size(shape)
        if not isinstance(data, bytes):
            raise InputError("an array of Python objects is not read, as that could run any code")
        if size * dtype.dtype.itemsize != len(data):
            raise InputError(
                f"an array claims shape {list(shape)}, {size * dtype.dtype.itemsize:,} bytes, and has {len(data):,}"
            )
        made = np.frombuffer(data, dtype.dtype).reshape(shape, order="F" if fortran else "C")
        self.array = made.astype(made.dtype.newbyteorder("="), copy=False)


def _size(shape: Any) -> int:
    if not isinstance(shape, tuple) or len(shape) > _MOST_AXES or not all(type(n) is int and n >= 0 for n in shape):
        raise InputError(f"{str(shape)[:100]} is no shape of an array")
    return math.prod(shape)


class _Tensor:
    """A tensor in the making: `_rebuild_tensor_v2` of torch."""

    __slots__ = ("array",)

    def __init__(self, storage: Any, offset: Any, shape: Any, stride: Any, *_: Any) -> None:
        size = _size(shape)
        _size(stride)
        if not isinstance(storage, _Held) or type(offset) is not int or offset < 0 or len(stride) != len(shape):
            raise InputError("a tensor without a storage is torn or made up")
        storage = storage.array
        last = offset + sum((n - 1) * step for n, step in zip(shape, stride, strict=True))
        if size and (last >= len(storage) or size > len(storage)):
            raise InputError(
                f"a tensor claims shape {list(shape)}, and its storage has {len(storage):,} elements: it is torn, or "
                "an expanded view, which must be written as clone()"
            )
        steps = tuple(step * storage.itemsize for step in stride)
        self.array: Array = np.lib.stride_tricks.as_strided(storage[offset:], shape, steps, writeable=False)

    def __setstate__(self, state: Any) -> None:
        raise InputError("a tensor with a state of its own is not read: save it as a plain tensor")


def _encode(text: Any, encoding: Any) -> bytes:
    if not isinstance(text, str) or encoding != "latin1":
        raise InputError("a pickle that encodes anything but an array's bytes is no pickle of arrays")
    return text.encode("latin1")


def _no_bytes(*arguments: Any) -> bytes:
    if arguments:
        raise InputError("a pickle that makes bytes of anything is no pickle of arrays")
    return b""


def _ordered(*arguments: Any) -> dict[Any, Any]:
    if arguments:
        raise InputError("an OrderedDict with content at its making is not read")
    return {}


def _parameter(tensor: Any, *_: Any) -> Any:
    return tensor


# The pure-Python unpickler: the compiled one lets a few bytes ask for gigabytes of memo.
class _Unpickler(pickle._Unpickler):  # type: ignore[misc, name-defined, unused-ignore]
    def __init__(self, path: Path, text: bytes, storage: Callable[[np.dtype[Any], str, int], Array]) -> None:
        super().__init__(io.BytesIO(text))
        self.path, self.storage = path, storage
        self.storages: dict[str, Array] = {}

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and name in _STORAGES:
            return _Storage(_STORAGES[name])
        if module in _NUMPY and name in ("ndarray", "dtype", "_reconstruct"):
            return _Call(_Dtype if name == "dtype" else _Numpy)
        known: dict[tuple[str, str], Callable[..., Any]] = {
            ("torch._utils", "_rebuild_tensor_v2"): _Tensor,
            ("torch._utils", "_rebuild_parameter"): _parameter,
            ("_codecs", "encode"): _encode,
            ("collections", "OrderedDict"): _ordered,
            ("__builtin__", "bytes"): _no_bytes,  # an empty array's
        }
        if (module, name) not in known:
            raise InputError(
                f"{self.path} holds more than arrays ({module}.{name}) and is not read, as that could run any code: "
                "where you trust it, load it yourself and save its arrays alone"
            )
        return _Call(known[module, name])

    def get_extension(self, code: int) -> None:
        raise InputError(f"{self.path} names an object by a number ({code}), which no pickle of arrays does")

    def persistent_load(self, pid: Any) -> _Held:
        if not (
            isinstance(pid, tuple)
            and len(pid) == 5
            and pid[0] == "storage"
            and isinstance(pid[1], _Storage)
            and isinstance(pid[2], str)
            and pid[2].isascii()
            and pid[2].isdigit()
            and type(pid[4]) is int
        ):
            raise InputError(f"{self.path}: its pickle names a storage that there cannot be: it is torn or made up")
        if pid[2] not in self.storages:
            self.storages[pid[2]] = self.storage(pid[1].dtype, pid[2], pid[4])
        return _Held(self.storages[pid[2]])


def _plain(path: Path, value: Any, depth: int) -> Any:
    """Arrays in place of their stand-ins; anything else but containers, numbers and texts is refused."""
    if isinstance(value, _Tensor | _Numpy):
        if value.array is None:
            raise InputError(f"{path} holds an array without content: it is torn, so get it again")
        return value.array
    if depth < _MOST_AXES and isinstance(value, list | tuple):
        return [_plain(path, one, depth + 1) for one in value]
    if depth < _MOST_AXES and isinstance(value, dict):
        return {key: _plain(path, one, depth + 1) for key, one in value.items() if isinstance(key, str | int)}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise InputError(f"{path} holds a {type(value).__name__.strip('_')}, where arrays are needed")


if sys.byteorder != "little":  # storages are little-endian, and are mapped as they are
    _STORAGES = {}
