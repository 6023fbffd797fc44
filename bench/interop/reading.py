"""Open arrays in other tools' files: .npy, .npz, .pt, .safetensors. Nothing is unpickled, and no claim is believed.

Every failure is one sentence with the file's name.
"""

from __future__ import annotations

import errno
import stat
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from bench.errors import InputError
from bench.interop import torch_zip

Array = NDArray[Any]

_MOST_DEFLATED = 1100  # zlib's best is 1,032 to 1; what claims more is made up
_NPZ_BYTES = 2**32  # of one array of an .npz, which is unpacked into memory
_SAFE = {"F16", "F32", "F64", "I8", "I16", "I32", "I64", "U8", "BOOL"}


def present(path: Path) -> Path:
    """The path of a file that has content.

    Raises:
        InputError: it is missing, a folder, a link that leads nowhere or in a circle, no plain file, or empty.
    """
    try:
        found = path.stat()
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise InputError(f"{path} is a symbolic link that leads in a circle: name the file itself") from error
        if path.is_symlink():
            raise InputError(f"{path} is a symbolic link to a file that is not there") from error
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    except ValueError as error:  # a name with a NUL
        raise InputError(f"cannot read {str(path)!r}: {error}") from error
    if stat.S_ISDIR(found.st_mode):
        raise InputError(f"{path} is a folder, where a file is needed")
    if not stat.S_ISREG(found.st_mode):
        raise InputError(f"{path} is a device or a pipe, where a file is needed")
    if not found.st_size:
        raise InputError(f"{path} is empty (0 bytes): get it again")
    return path


def folder(path: Path, what: str) -> Path:
    """The path of a folder.

    Raises:
        InputError: it is missing, in a circle of links, or a file.
    """
    try:
        found = path.stat()
    except OSError as error:
        circle = error.errno == errno.ELOOP
        why = "it is a symbolic link that leads in a circle" if circle else error.strerror or error
        raise InputError(f"cannot read {path}: {why}; name {what}") from error
    if not stat.S_ISDIR(found.st_mode):
        raise InputError(f"{path} is a file, where {what} is needed")
    return path


def read(path: Path, key: str | None = None) -> Array:
    """The one array of a file, or the one of that name in it; mapped where the file allows it.

    Args:
        path: the file.
        key: of the dict in a .pt, or the archive.

    Raises:
        InputError: it is no such file, holds Python objects, claims more than it holds, or the key is missing.
    """
    found = contents(path)
    if isinstance(found, dict):
        names = [name for name in found if key is None or name == key]
        if len(names) != 1:
            there = ", ".join(map(repr, list(found)[:10])) or "nothing"
            wanted = f"there is no {key!r}" if key is not None else "it is not said which to take, so add --key NAME"
            raise InputError(f"{path} holds {there}, and {wanted}")
        return as_array(path, found[names[0]])
    if key is not None:
        raise InputError(f"{path} holds one array without a name, and --key is {key!r}: leave it out")
    return as_array(path, found)


def contents(path: Path) -> Any:
    """All that a file holds, by its ending: an array, or what `torch_zip.read` says, or a dict of arrays.

    Raises:
        InputError: see `read`.
    """
    present(path)
    ending = path.suffix.lower()
    if ending in (".npy", ".mmap"):
        return npy(path)
    if ending == ".npz":
        return npz(path)
    if ending in (".pt", ".pth", ".bin"):
        return torch_zip.read(path)
    if ending == ".safetensors":
        return safetensors(path)
    if ending in (".pkl", ".pickle"):
        raise InputError(
            f"{path} is a pickle, which can run any code when it is opened, and is not read here: where you trust it, "
            "convert it to .npy yourself (bench import --list shows how, under d-trak)"
        )
    raise InputError(f"{path} ends in {ending or 'nothing'!r}, where .npy, .npz, .pt or .safetensors is needed")


def as_array(path: Path, value: Any) -> Array:
    """A value of a file as one array of numbers; a list of equally long arrays or lists becomes a matrix.

    Raises:
        InputError: it is something else, or its rows are of unequal lengths.
    """
    if isinstance(value, list):
        rows = [as_array(path, row) if isinstance(row, list) else np.asarray(row) for row in value]
        lengths = {row.shape for row in rows}
        if len(lengths) > 1:
            first = next(i for i, row in enumerate(rows) if row.shape != rows[0].shape)
            raise InputError(
                f"{path}: row {first} is of length {list(rows[first].shape)} and row 0 of {list(rows[0].shape)}: all "
                "must be as long"
            )
        value = np.stack([torch_zip.widened(row) for row in rows]) if rows else np.empty((0, 0))
    if not isinstance(value, np.ndarray):
        raise InputError(f"{path} holds a {type(value).__name__}, where an array is needed")
    if value.dtype != torch_zip.BF16 and value.dtype.kind not in "biuf":
        raise InputError(f"{path} is of type {value.dtype}, where numbers are needed")
    return value


def json(path: Path) -> Any:
    """What a JSON file holds.

    Raises:
        InputError: it is no such file, or torn.
    """
    try:
        return msgspec.json.decode(present(path).read_bytes())
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"{path} is torn or no JSON ({error}): get it again") from error
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error


def npy(path: Path) -> Array:
    """A .npy file as a memmap.

    Raises:
        InputError: it is torn, shorter than it says, or holds Python objects.
    """
    try:
        return np.lib.format.open_memmap(path, mode="r")
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    except Exception as error:  # numpy has many words for a broken file
        if "object" in str(error).lower():
            raise InputError(
                f"{path} holds Python objects, which could run any code, and is not read: save its numbers alone"
            ) from error
        raise InputError(f"{path} is torn, shorter than it says or not a .npy file ({error}): get it again") from error


def npz(path: Path, texts: Iterable[str] = (), left_out: list[str] | None = None) -> dict[str, Array]:
    """The arrays of an .npz, in memory.

    Args:
        path: the file.
        texts: names of arrays that may be texts, str or bytes; where they are Python objects they are left out, unread.
        left_out: gets the names of those.

    Raises:
        InputError: it is torn, holds Python objects, two arrays of a name, or names that lead out of it, or claims more
            than it holds.
    """
    if not torch_zip.is_zip(path):
        raise InputError(f"{path} is torn or not a .npz file: get it again")
    texts = set(texts)
    found: dict[str, Array] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                name = torch_zip.member(path, info.filename)
                if not name.endswith(".npy"):
                    raise InputError(f"{path} holds {name!r}, which is no .npy: write it with numpy.savez")
                if info.file_size > min(_NPZ_BYTES, _MOST_DEFLATED * info.compress_size + 1024):
                    raise InputError(
                        f"{path}: {name} claims {info.file_size:,} bytes, packed into {info.compress_size:,}: it is "
                        "made up, or too large for an .npz, so write it as .npy"
                    )
                key = name.removesuffix(".npy")
                if key in found:
                    raise InputError(f"{path} holds {key} twice, and does not say which counts: get it again")
                array = _packed(path, archive, info, text=key in texts)
                if array is not None:
                    found[key] = array
                elif left_out is not None:
                    left_out.append(key)
    except InputError:
        raise
    except Exception as error:  # zipfile, zlib and numpy each have words of their own
        raise InputError(f"{path} is torn or not a .npz file ({error}): get it again") from error
    return found


def _packed(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo, *, text: bool) -> Array | None:
    with archive.open(info) as stream:
        version = np.lib.format.read_magic(stream)
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read_header(stream)
        if text and dtype.hasobject:
            return None
        if dtype.hasobject or dtype.kind not in ("biufSU" if text else "biuf"):
            raise InputError(
                f"{path}: {info.filename} is of type {dtype}, and only numbers are read: Python objects could run any "
                "code"
            )
        size = int(np.prod(shape, dtype=object)) * dtype.itemsize
        if size > info.file_size:
            raise InputError(f"{path}: {info.filename} claims shape {list(shape)}, more than it holds: it is torn")
        data = stream.read(size)
    if len(data) != size:
        raise InputError(f"{path}: {info.filename} is torn: get it again")
    return np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C")


def safetensors(path: Path) -> dict[str, Array]:
    """The tensors of a .safetensors file, read when they are looked up.

    Raises:
        InputError: the package is missing, or the file is torn.
    """
    try:
        from safetensors import safe_open
    except ImportError as error:
        raise InputError(
            f"{path} needs the package safetensors, which is not installed: pip install 'ldsbench[safetensors]'"
        ) from error
    return _Safe(path, safe_open)


class _Safe(dict[str, Array]):
    """Tensors by name, each read when it is asked for."""

    def __init__(self, path: Path, opener: Any) -> None:
        self.path, self.opener = path, opener
        try:
            with opener(path, framework="numpy") as file:
                super().__init__(dict.fromkeys(file.keys(), np.empty(0)))
        except OSError as error:
            raise InputError(f"cannot read {path}: {error.strerror or error}") from error
        except Exception as error:
            raise InputError(f"{path} is torn or not a .safetensors file ({error}): get it again") from error

    def __getitem__(self, name: str) -> Array:
        with self.opener(self.path, framework="numpy") as file:
            part = file.get_slice(name)
            kind = part.get_dtype()
            if kind == "BF16":  # which the package does not give to numpy
                return self._mapped(name, tuple(part.get_shape()))
            if kind not in _SAFE:
                raise InputError(f"{self.path}: {name} is of type {kind}: convert it to F32, which numpy knows")
            found: Array = file.get_tensor(name)
            return found

    def _mapped(self, name: str, shape: tuple[int, ...]) -> Array:
        """A tensor of bfloat16, from the bytes that the header names; the package has checked that they are there."""
        with self.path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            start, _ = msgspec.json.decode(file.read(size))[name]["data_offsets"]
        if 0 in shape:
            return np.empty(shape, torch_zip.BF16)
        return np.memmap(self.path, torch_zip.BF16, "r", 8 + size + start, shape)
