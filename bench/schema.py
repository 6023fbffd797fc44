"""The spec of a store, as MadryLab's `datamodels` tools read it, and whether what a worker returns is a row of it.

A spec is JSON: `{"num_models": M, "schema": {key: {"shape": […], "dtype": "float16"}}}`; a dtype is the name of a numpy
type. A row is `{key: array}` with exactly the keys of the schema.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from bench.errors import BenchError

if TYPE_CHECKING:
    from numpy.typing import NDArray

_MOST_ROWS = 10**9 - 1  # what the names of blocks have digits for
_MOST_BYTES = 128  # of a key: it becomes a file's name, with room for what a partial file is called


class Array(NamedTuple):
    """One key of a schema: the shape of a row, its dtype, and the dtype's name as the spec has it."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    word: str


@dataclass(frozen=True)
class Spec:
    """What a spec file declares: how many rows, and what arrays one consists of."""

    n_rows: int
    schema: dict[str, Array]

    def text(self) -> str:
        """The spec as JSON."""
        schema = {key: {"shape": list(array.shape), "dtype": array.word} for key, array in self.schema.items()}
        return json.dumps({"num_models": self.n_rows, "schema": schema}, indent=2) + "\n"


def read_spec(path: Path) -> Spec:
    """Read and check a spec file.

    Raises:
        BenchError: it cannot be read, or a field of it is missing or wrong.
    """
    try:
        raw = json.loads(path.read_bytes(), object_pairs_hook=_no_key_twice)
    except OSError as error:
        raise BenchError(f"--spec: cannot read {path}: {error.strerror or error}; name a JSON file") from error
    except (ValueError, RecursionError) as error:
        raise BenchError(f"--spec: {path} is not JSON: {error}") from error
    if not isinstance(raw, dict):
        raise BenchError(f"{path}: it holds no object: write " + '{"num_models": M, "schema": {…}}')
    for name in ("num_models", "schema"):
        if name not in raw:
            raise BenchError(f"{path}: {name} is missing")
    n_rows, schema = raw["num_models"], raw["schema"]
    if type(n_rows) is not int or not 1 <= n_rows <= _MOST_ROWS:
        raise BenchError(f"{path}: num_models is {n_rows!r}, and must be a whole number from 1 to {_MOST_ROWS}")
    if not isinstance(schema, dict) or not schema:
        raise BenchError(f"{path}: schema must be an object with at least one key")
    return Spec(n_rows, {key: _array(f"{path}: schema: {key!r}", key, value) for key, value in schema.items()})


def _no_key_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"{key!r} is given twice")
        found[key] = value
    return found


def _array(where: str, key: str, value: Any) -> Array:
    if key == "_completed":
        raise BenchError(f"{where} is the name of the array that says which rows are done: choose another")
    if not key.isprintable() or key[:1] in ("", ".") or {*"/\\"} & {*key} or len(key.encode()) > _MOST_BYTES:
        raise BenchError(f"{where} cannot be the name of a .npy file: choose another")
    if not isinstance(value, dict):
        raise BenchError(f"{where} must be an object with shape and dtype")
    for name in ("shape", "dtype"):
        if name not in value:
            raise BenchError(f"{where}: {name} is missing")
    shape, word = value["shape"], value["dtype"]
    if not isinstance(shape, list) or any(type(n) is not int or n < 1 for n in shape):
        raise BenchError(f"{where}: shape is {json.dumps(shape)}, and must be a list of whole numbers of at least 1")
    return Array(tuple(shape), _dtype(where, word), word)


def _dtype(where: str, word: Any) -> np.dtype[Any]:
    known = "a numpy type of numbers, such as bool_, uint8 or float16"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numpy warns of names that it has given up
        # "float" and "int" are what the documentation of datamodels uses; numpy had them until 1.24.
        plain = {"bool": bool, "int": int, "float": float, "complex": complex}
        found = (plain.get(word) or getattr(np, word, None)) if isinstance(word, str) else None
        if not isinstance(found, type) or not (found in plain.values() or issubclass(found, np.generic)):
            raise BenchError(f"{where}: dtype is {word!r}, and must be {known}")
        try:
            dtype: np.dtype[Any] = np.dtype(found)
        except TypeError:  # np.number and the like: a family of types
            dtype = np.dtype(object)
    concrete = found in plain.values() or dtype.type is found
    if not concrete or dtype.kind not in "biufc":
        raise BenchError(f"{where}: dtype {word!r} cannot be stored: it must be {known}")
    return dtype


class UnfitError(Exception):
    """Keys, shapes or types that are not the schema's."""


class UnstorableError(Exception):
    """A value that the schema's dtype cannot hold."""


def row(returned: Any, schema: Mapping[str, Array]) -> dict[str, NDArray[Any]]:
    """What a worker returned, as copies of the schema's dtypes.

    Raises:
        UnfitError: it is not what the schema says.
        UnstorableError: it is, but for a value that the dtype cannot hold.
    """
    if not isinstance(returned, Mapping):
        raise UnfitError(f"it returned {type(returned).__name__}, not a dict of arrays")
    for key in schema:
        if key not in returned:
            raise UnfitError(f"it returned no {key!r}")
    for key in returned:
        if key not in schema:
            raise UnfitError(f"it returned {key!r}, which the schema does not have")
    return {key: _cast(key, returned[key], array) for key, array in schema.items()}


def _cast(key: str, returned: Any, array: Array) -> NDArray[Any]:
    try:
        value = np.asarray(returned)
    except (TypeError, ValueError, RuntimeError) as error:  # ragged lists, tensors on a GPU or with a gradient
        raise UnfitError(f"it returned {key!r}, which is no array: {error}") from error
    while value.ndim > len(array.shape) and len(value) == 1:
        value = value[0]  # numpy assigns a batch of one to a row, and so do the datamodels tools
    if value.shape != array.shape:
        raise UnfitError(f"it returned {key!r} of shape {list(value.shape)}, and the schema says {list(array.shape)}")
    if value.dtype.kind not in "biufc" or (value.dtype.kind == "c" and array.dtype.kind != "c"):
        raise UnfitError(f"it returned {key!r} of {value.dtype}, and the schema says {array.word}")
    with np.errstate(all="ignore"):
        made = np.array(value, dtype=array.dtype, order="C")
        # An integer must be kept as it is; of a float only the range counts, and NaN is the worker's own.
        lost = made != value if array.dtype.kind in "biu" else np.isfinite(value) & ~np.isfinite(made)
    if np.any(lost):
        raise UnstorableError(f"it returned {value[lost][0]} in {key!r}, which {array.word} cannot hold")
    return made
