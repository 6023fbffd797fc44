"""Whether imported examples are a dataset's, in its order: what can be told is checked, what cannot is said."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bench.errors import BenchError, InputError
from bench.files import NOT_PUBLISHED, Files, data_folders
from bench.interop import examples
from bench.interop.examples import PER_CLASS, Examples
from bench.wording import counted

_FOLDER = re.compile(rb"(?:^|/)(n\d{8})[_/]")
_NO_CLASSES = "no file tells their classes"


class Side(NamedTuple):
    """Examples on one axis of what is imported.

    Attributes:
        what: `training examples` or `targets`; part: of the dataset, `train` or `test`.
        size: how many there are.
        labels: their classes, int64, −1 where not told; None where nothing tells them.
        how: what tells them, as in `told by logits and margins`; why_not: else the reason.
    """

    what: str
    part: str
    size: int
    labels: NDArray[np.int64] | None = None
    how: str = ""
    why_not: str = _NO_CLASSES


def checked(given: argparse.Namespace, path: Path, sides: Iterable[Side], guess: str | None = None) -> list[str]:
    """Compare, and say what was and what was not.

    Args:
        given: the options.
        path: the file that the examples are of, for errors.
        sides: of what is imported.
        guess: the dataset that it looks like, where none is named; then only what is here is compared, and other
            numbers of examples are no error.

    Returns:
        Sentences that begin with `checked:` or `not checked:`.

    Raises:
        InputError: numbers or classes are not the dataset's; the first example is named. BenchError: the dataset that
            is named cannot be read.
    """
    sides = list(sides)
    name = given.check or guess
    if name is None:
        if given.data_dir or given.allow_modified_data:
            raise BenchError(
                "--data-dir and --allow-modified-data are for --check DATASET: name one, or leave them out"
            )
        return ["not checked: which examples these are, and their order, because no dataset is named (--check DATASET)"]
    files = Files(data_folders(given.data_dir), given.allow_modified_data)
    if given.check:
        known = examples.of(name, files)
        _same_numbers(path, name, known, sides)
        return _compared(path, name, known, sides)
    return _compared_if_here(path, name, files, sides)


def _compared_if_here(path: Path, name: str, files: Files, sides: list[Side]) -> list[str]:
    """With a dataset that is guessed."""
    reason = f"its files are not here (--data-dir DIR{', or --check to download them' if name != 'fmow' else ''})"
    if examples.here(name, files):
        try:
            known = examples.of(name, files)
        except BenchError as error:
            reason = str(error)
        else:
            odd = next((side for side in sides if side.size != len(getattr(known, side.part))), None)
            if odd is None:
                return _compared(path, name, known, sides)
            there = len(getattr(known, odd.part))
            return [f"not checked: their order, because there are {odd.size:,} {odd.what}, and {name} has {there:,}"]
    told = [_counted(path, name, side) for side in sides if _countable(name, side)]
    return [*told, f"not checked: their order against {name}, because {reason}"]


def _countable(name: str, side: Side) -> bool:
    if name not in PER_CLASS or side.labels is None or (side.labels < 0).any():
        return False
    classes, *sizes = PER_CLASS[name]
    return side.size == classes * sizes[side.part == "test"]


def _counted(path: Path, name: str, side: Side) -> str:
    classes, *sizes = PER_CLASS[name]
    each = sizes[side.part == "test"]
    assert side.labels is not None
    counts = np.bincount(side.labels, minlength=classes)
    if len(counts) > classes or (counts != each).any():
        odd = int(np.flatnonzero(counts != each)[0])
        some = counted(int(counts[odd]), side.what[:-1], form=",")
        raise InputError(
            f"{path}: class {odd} has {some}, told by {side.how}, and in {name} every class has "
            f"{each:,}: it is another dataset, or damaged"
        )
    return f"checked: each class has {each:,} {side.what}, told by {side.how}, as in {name}"


def _same_numbers(path: Path, name: str, known: Examples, sides: list[Side]) -> None:
    for side in sides:
        there = len(getattr(known, side.part))
        if side.size != there:
            raise InputError(
                f"{path} is of {side.size:,} {side.what}, and {name} has {there:,}, so that example "
                f"{min(there, side.size)} is in one of them alone: compare with another dataset, or a part of this "
                "one, as NAME:n_train=…,n_test=…"
            )


def _compared(path: Path, name: str, known: Examples, sides: list[Side]) -> list[str]:
    for side in sides:
        _same_order(path, name, side, getattr(known, side.part))
    other = [f"{file} {what.partition(' (')[0]}" for file, what in known.origin.items() if NOT_PUBLISHED in what]
    said = f" (by files that are {NOT_PUBLISHED} ones: {', '.join(other)})" if other else ""
    lines = [f"checked: {' and '.join(f'{side.size:,} {side.what}' for side in sides)}, as many as in {name}{said}"]
    for side in sides:
        if side.labels is None:
            lines.append(f"not checked: the order of the {side.what}, because {side.why_not}")
            continue
        unknown = int((side.labels < 0).sum())
        but = f", but for {unknown:,} of which nothing tells it" if unknown else ""
        lines.append(f"checked: the {side.what}' classes, told by {side.how}, are those of {name} in its order{but}")
    return lines


def _same_order(path: Path, name: str, side: Side, known: NDArray[np.int64]) -> None:
    if side.labels is None:
        return
    told = side.labels >= 0
    (odd,) = np.nonzero(told & (side.labels != known))
    if not len(odd):
        return
    first, one = int(odd[0]), side.what.removesuffix("s")
    counts = [np.bincount(labels[told], minlength=1).tolist() for labels in (side.labels, known)]
    why = (
        "as many are of each class, so that they are in another order"
        if counts[0] == counts[1]
        else ("it is another dataset, or in another order")
    )
    raise InputError(
        f"{path}: {one} {first} is of class {side.labels[first]}, told by {side.how}, and of class {known[first]} in "
        f"{name} ({len(odd):,} of {side.size:,} differ): {why}"
    )


def by_names(path: Path, names: NDArray[np.bytes_ | np.str_], labels: NDArray[np.int64], part: str) -> str | None:
    """Whether classes are those of ImageNet's folders, which its files are named by, as `n01440764_10026.JPEG`.

    Args:
        path: the file, for errors.
        names: of the examples' files; labels: their classes, as many.
        labels: see `names`.
        part: `tr` or `tt`, what the arrays' names begin with.

    Returns:
        A sentence; None where names are of another kind.

    Raises:
        InputError: two examples of a folder are of different classes, or of two folders of the same.
    """
    found = [_FOLDER.search(name) for name in names.astype(np.bytes_).tolist()]
    if not found or None in found:
        return None
    folders = [match[1].decode() for match in found if match is not None]
    class_of: dict[str, tuple[int, int]] = {}
    folder_of: dict[int, tuple[str, int]] = {}
    for row, (folder, label) in enumerate(zip(folders, labels.tolist(), strict=True)):
        other, first = class_of.setdefault(folder, (label, row))
        another, at = folder_of.setdefault(label, (folder, row))
        if other != label or another != folder:
            whose = f"{first}, of the same folder, is of class {other}" if other != label else f"{at} is of {another}"
            raise InputError(
                f"{path}: example {row} of {part}_filenames is of folder {folder} and class {label}, and example "
                f"{whose}: {part}_labels and {part}_filenames are in different orders"
            )
    return f"checked: {part}_labels has one class for each of {len(class_of):,} folders that {part}_filenames names"
