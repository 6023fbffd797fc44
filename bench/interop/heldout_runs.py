"""Runs of google-research/heldout-influence-estimation on disk: which there are, and what one holds.

    <experiment>/<subset_ratio>/<run_id>/aux_arrays.npz
        correctness_{train,removed,test}   0/1, whether the final model is right
        index_{train,removed,test}         which examples these are; arrays come in any order
        subsample_idx                      the training examples of the run

`train` and `removed` together are the whole training set.
"""

from __future__ import annotations

import re
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.errors import InputError

Bits = NDArray[np.bool_]

FILE = "aux_arrays.npz"
SPLITS = ("train", "removed", "test")
_RATIO = re.compile(r"(0?\.\d+|1(\.0*)?|0)")
_SLACK = 1.5  # examples that rounding a ratio may make of a difference


class RunError(Exception):
    """What is wrong with a run's file, as the end of a sentence that begins with its name."""


@dataclass(frozen=True)
class Run:
    """One run: bool `[n_train]` kept, bool `[n_train]` right on them, bool `[n_targets]` right on the test examples."""

    mask: Bits
    train_correct: Bits
    correct: Bits


def ratios(folder: Path) -> dict[float, Path]:
    """The folders of the subset ratios of an experiment, or of the one that `folder` is itself.

    Raises:
        InputError: there is no such folder, or nothing of the layout in it.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder: name an experiment's, which holds <subset_ratio>/<run_id>/{FILE}")
    found = {float(path.name): path for path in sorted(folder.iterdir()) if _is_ratio(path)}
    if not found and _is_ratio(folder.absolute()) and runs(folder):
        found = {float(folder.absolute().name): folder}
    if not found:
        raise InputError(f"{folder} holds no folder of a subset ratio, such as 0.7, with runs: <run_id>/{FILE}")
    return found


def _is_ratio(path: Path) -> bool:
    return _RATIO.fullmatch(path.name) is not None and 0 < float(path.name) < 1 and path.is_dir()


def runs(folder: Path) -> list[Path]:
    """The folders of the runs of a ratio, by number."""
    found = [path for path in folder.iterdir() if path.is_dir() or path.is_symlink()]
    return sorted(
        found, key=lambda path: (not path.name.isdecimal(), int(path.name) if path.name.isdecimal() else 0, path.name)
    )


def absent(folders: list[Path]) -> list[str]:
    """Numbers that are left out between the first run (or 0) and the last."""
    numbers = {int(path.name) for path in folders if path.name.isdecimal()}
    return [str(number) for number in range(max(numbers, default=-1) + 1) if number not in numbers]


def read(path: Path, ratio: float, sizes: tuple[int, int] | None) -> Run:
    """Read a run and put its arrays in the order of the examples.

    Args:
        path: of its aux_arrays.npz.
        ratio: the share of the training set that it must keep.
        sizes: training examples and targets that it must have; None takes those that it says.

    Raises:
        RunError: it is missing, torn, holds other than arrays of numbers, or does not add up.
    """
    arrays = _arrays(path)
    index = {split: _index(arrays, split) for split in SPLITS}
    right = {split: _right(arrays, split, len(index[split])) for split in SPLITS}
    n_train, n_targets = len(index["train"]) + len(index["removed"]), len(index["test"])
    if sizes is not None and sizes != (n_train, n_targets):
        raise RunError(
            f"has {n_train} training and {n_targets} test examples, where others have {sizes[0]} and {sizes[1]}"
        )
    train_correct, correct = np.zeros(n_train, bool), np.zeros(n_targets, bool)
    mask, seen = np.zeros(n_train, bool), np.zeros(n_train, np.int64)
    for split in ("train", "removed"):
        _within(index[split], n_train, f"index_{split}")
        np.add.at(seen, index[split], 1)
        train_correct[index[split]] = right[split]
    if (seen != 1).any():
        twice = int(np.flatnonzero(seen != 1)[0])
        raise RunError(f"has training example {twice} {seen[twice]} times in index_train and index_removed, not once")
    _within(index["test"], n_targets, "index_test")
    if len(np.unique(index["test"])) < n_targets:
        raise RunError("has a test example twice in index_test")
    correct[index["test"]] = right["test"]
    mask[index["train"]] = True
    subsample = _integers(arrays, "subsample_idx")
    _within(subsample, n_train, "subsample_idx")
    if len(subsample) != len(index["train"]) or not mask[subsample].all() or len(np.unique(subsample)) < len(subsample):
        raise RunError("has a subsample_idx that is not the set of its index_train")
    if abs(len(subsample) - ratio * n_train) > _SLACK:
        raise RunError(
            f"keeps {len(subsample)} of {n_train} examples, where its folder's ratio {ratio:g} is {ratio * n_train:g}"
        )
    return Run(mask, train_correct, correct)


def _arrays(path: Path) -> dict[str, NDArray[Any]]:
    wanted = [*(f"{kind}_{split}" for kind in ("correctness", "index") for split in SPLITS), "subsample_idx"]
    try:
        if path.stat().st_size == 0:
            raise RunError("is empty (0 bytes)")
        with np.load(path, allow_pickle=False) as archive:
            if not hasattr(archive, "files"):
                raise RunError("is not an archive of arrays")
            missing = [name for name in wanted if name not in archive.files]
            if missing:
                raise RunError(f"lacks {', '.join(missing)}")
            return {name: archive[name] for name in wanted}
    except FileNotFoundError as error:
        raise RunError("is missing") from error
    except OSError as error:
        raise RunError(f"cannot be read ({error.strerror or error})") from error
    except ValueError as error:
        reason = "holds Python objects, which are not read" if "pickle" in str(error).lower() else f"is torn ({error})"
        raise RunError(reason) from error
    except (zipfile.BadZipFile, EOFError, KeyError, MemoryError) as error:
        raise RunError(f"is torn ({error})") from error


def _integers(arrays: dict[str, NDArray[Any]], name: str) -> NDArray[np.int64]:
    found = arrays[name]
    if found.dtype.kind not in "iu" or found.ndim != 1:
        raise RunError(
            f"has {name} of type {found.dtype} and shape {list(found.shape)}, where a list of integers belongs"
        )
    return found.astype(np.int64)


def _index(arrays: dict[str, NDArray[Any]], split: str) -> NDArray[np.int64]:
    return _integers(arrays, f"index_{split}")


def _right(arrays: dict[str, NDArray[Any]], split: str, count: int) -> Bits:
    name = f"correctness_{split}"
    found = arrays[name]
    if found.dtype.kind not in "biuf" or found.shape != (count,):
        raise RunError(
            f"has {name} of type {found.dtype} and shape {list(found.shape)}, where index_{split} has {count}"
        )
    right = found != 0
    if not np.array_equal(right, found):
        raise RunError(f"has values in {name} that are neither 0 nor 1")
    return np.asarray(right, bool)


def _within(index: NDArray[np.int64], size: int, name: str) -> None:
    if len(index) and not 0 <= index.min() <= index.max() < size:
        out = int(index[(index < 0) | (index >= size)][0])
        raise RunError(f"has {out} in {name}, where indices are 0 to {size - 1}")
