"""Runs of google-research/heldout-influence-estimation on disk: which there are, and what one holds.

    <experiment>/<subset_ratio>/<run_id>/aux_arrays.npz
        correctness_{train,removed,test}   0/1, whether the final model is right
        index_{train,removed,test}         which examples these are; arrays come in any order
        subsample_idx                      the training examples of the run

`train` and `removed` together are the whole training set.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import stat
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.errors import InputError
from bench.interop import small_npz

Bits = NDArray[np.uint8]

FILE = "aux_arrays.npz"
SPLITS = ("train", "removed", "test")
_NAMES = (*(f"{kind}_{split}" for kind in ("correctness", "index") for split in SPLITS), "subsample_idx")
_INDICES = (*(f"index_{split}" for split in SPLITS), "subsample_idx")
_SEEN, _RIGHT, _KEPT = np.uint8(1), np.uint8(2), np.uint8(4)  # what is said of an example, as bits of a byte
_RATIO = re.compile(r"(0?\.\d+|1(\.0*)?|0)")
_MOST = 2**32  # bytes of a run, packed or not: of 1.3 million examples, ImageNet's, one takes 2.3e7
_SLACK = 1.5  # examples that rounding a ratio may make of a difference


class RunError(Exception):
    """What is wrong with a run's file, as the end of a sentence that begins with its name."""


@dataclass(frozen=True)
class Run:
    """One run, as bits (`numpy.packbits`), and the file that it is from.

    Attributes:
        mask: of `n_train` examples, which are kept; train_correct: on which of them the model is right.
        correct: on which of `n_targets` test examples it is.
        sizes: `n_train` and `n_targets`.
        sha256, size: of the file.
    """

    mask: Bits
    train_correct: Bits
    correct: Bits
    sizes: tuple[int, int]
    sha256: str
    size: int


def ratios(folder: Path) -> dict[float, Path]:
    """The folders of the subset ratios of an experiment, or of the one that `folder` is itself.

    Raises:
        InputError: there is no such folder, or nothing of the layout in it.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder: name an experiment's, which holds <subset_ratio>/<run_id>/{FILE}")
    found: dict[float, Path] = {}
    for path in sorted(folder.iterdir()):
        if _is_ratio(path) and found.setdefault(float(path.name), path) != path:
            raise InputError(f"{found[float(path.name)]} and {path} are of the same ratio: move one elsewhere")
    if not found and _is_ratio(folder.absolute()) and runs(folder):
        found = {float(folder.absolute().name): folder}
    if not found:
        raise InputError(f"{folder} holds no folder of a subset ratio, such as 0.7, with runs: <run_id>/{FILE}")
    return found


def _is_ratio(path: Path) -> bool:
    return _RATIO.fullmatch(path.name) is not None and 0 < float(path.name) < 1 and path.is_dir()


def runs(folder: Path) -> list[Path]:
    """The folders of the runs of a ratio, by number.

    Raises:
        InputError: two have the same number, as 7 and 07.
    """
    with os.scandir(folder) as entries:  # which knows what is a folder without asking of each
        names = [entry.name for entry in entries if entry.is_symlink() or entry.is_dir()]
    names.sort(key=lambda name: (not name.isdecimal(), int(name) if name.isdecimal() else 0, name))
    for one, other in pairwise(names):
        if one.isdecimal() and other.isdecimal() and int(one) == int(other):
            raise InputError(f"{folder / one} and {folder / other} have the same number: move one elsewhere")
    return [folder / name for name in names]


def absent(folders: list[Path]) -> list[tuple[int, int]]:
    """Numbers that are left out between the first run (or 0) and the last: the first and the last of each gap."""
    numbers = [-1, *(int(path.name) for path in folders if path.name.isdecimal())]  # which are in order
    return [(one + 1, other - 1) for one, other in pairwise(numbers) if other > one + 1]


def read(path: Path, ratio: float) -> Run:
    """Read a run and put its arrays in the order of the examples.

    Args:
        path: of its aux_arrays.npz.
        ratio: the share of the training set that it must keep.

    Raises:
        RunError: it is missing, torn, holds other than arrays of numbers, or does not add up.
    """
    data = _bytes(path)
    arrays = small_npz.arrays(data, _NAMES) or _arrays(data)
    train, removed, test, subsample = (_integers(arrays, name) for name in _INDICES)
    n_train, n_targets = len(train) + len(removed), len(test)
    if not (n_train and n_targets):
        raise RunError(f"has {n_train} training and {n_targets} test examples, where there are some of each")
    found = np.zeros(n_train, np.uint8)
    _put(found, train, _KEPT | _SEEN | _right(arrays, "train", len(train)), "index_train")
    _put(found, removed, _SEEN | _right(arrays, "removed", len(removed)), "index_removed")
    if not found.all():  # as many indices as examples: where one is there twice, another is missing
        counts = np.bincount(np.concatenate([train, removed]), minlength=n_train)
        odd = int(np.flatnonzero(counts != 1)[0])
        raise RunError(f"has training example {odd} {counts[odd]} times in index_train and index_removed, not once")
    correct = np.zeros(n_targets, np.uint8)
    _put(correct, test, _SEEN | _right(arrays, "test", n_targets), "index_test")
    if not correct.all():
        raise RunError("has a test example twice in index_test")
    mask, subset = found & _KEPT, np.zeros(n_train, np.uint8)
    _put(subset, subsample, _KEPT, "subsample_idx")
    if len(subsample) != len(train) or not np.array_equal(subset, mask):
        raise RunError("has a subsample_idx that is not the set of its index_train")
    if abs(len(subsample) - ratio * n_train) > _SLACK:
        raise RunError(
            f"keeps {len(subsample)} of {n_train} examples, where its folder's ratio {ratio:g} is {ratio * n_train:g}"
        )
    bits = [np.packbits(one) for one in (mask, found & _RIGHT, correct & _RIGHT)]
    return Run(bits[0], bits[1], bits[2], (n_train, n_targets), hashlib.sha256(data).hexdigest(), len(data))


def _bytes(path: Path) -> bytes:
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise RunError("is no file")
        if found.st_size > _MOST:
            raise RunError(f"has {found.st_size:,} bytes, more than any run")
        with path.open("rb", buffering=0) as file:
            data = file.read()
    except FileNotFoundError as error:
        raise RunError("is missing") from error
    except OSError as error:
        raise RunError(f"cannot be read ({error.strerror or error})") from error
    if not data:
        raise RunError("is empty (0 bytes)")
    return data


def _arrays(data: bytes) -> dict[str, NDArray[Any]]:
    """What `numpy.load` makes of an unusual archive, or what is wrong with it."""
    if data[:2] != b"PK":
        pickled = data[:1] == b"\x80" or (data[:6] == b"\x93NUMPY" and b"'|O'" in data[:128])
        raise RunError("holds Python objects, which are not read" if pickled else "is torn or no .npz")
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            if len(set(archive.zip.namelist())) < len(archive.zip.namelist()):
                raise RunError("holds two arrays of the same name")
            for info in archive.zip.infolist():
                if small_npz.leads_out(info.filename.encode()):
                    raise RunError(f"holds a file of the name {info.filename!r}, which leads out of it")
            claimed = sum(info.file_size for info in archive.zip.infolist())
            if claimed > _MOST:
                raise RunError(f"claims to unpack to {claimed:,} bytes, more than any run")
            missing = [name for name in _NAMES if name not in archive.files]
            if missing:
                raise RunError(f"lacks {', '.join(missing)}")
            return {name: archive[name] for name in _NAMES}
    except RunError:
        raise
    except Exception as error:  # numpy, zipfile and zlib have many words for a broken file
        objects = isinstance(error, ValueError) and "pickle" in str(error).lower()
        raise RunError("holds Python objects, which are not read" if objects else f"is torn ({error})") from error


def _integers(arrays: dict[str, NDArray[Any]], name: str) -> NDArray[np.int64]:
    found = arrays[name]
    if found.dtype.kind not in "iu" or found.ndim != 1:
        raise RunError(
            f"has {name} of type {found.dtype} and shape {list(found.shape)}, where a list of integers belongs"
        )
    return found.astype(np.int64)  # a copy, which is aligned: numpy looks up with it three times as fast


def _right(arrays: dict[str, NDArray[Any]], split: str, count: int) -> Bits:
    """`_RIGHT` where the model is right, else 0."""
    name = f"correctness_{split}"
    found = arrays[name]
    if found.dtype.kind not in "biuf" or found.shape != (count,):
        raise RunError(
            f"has {name} of type {found.dtype} and shape {list(found.shape)}, where index_{split} has {count}"
        )
    right = found.view(np.uint8) if found.dtype == bool else found
    if not np.isin(right, (0, 1)).all() if right.dtype != np.uint8 else right.max(initial=0) > 1:
        raise RunError(f"has values in {name} that are neither 0 nor 1")
    return right.astype(np.uint8, copy=False) * _RIGHT


def _put(into: Bits, index: NDArray[np.int64], values: Bits | np.uint8, name: str) -> None:
    size = len(into)
    if len(index) and index.view(np.uint64).max() >= size:  # a negative number is a large one then
        out = int(index[(index < 0) | (index >= size)][0])
        raise RunError(f"has {out} in {name}, where indices are 0 to {size - 1}")
    into[index] = values
