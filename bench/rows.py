"""Rows of a ground truth, as methods are given them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Rows:
    """Some rows of a ground truth: read-only views or copies, and which rows they are.

    Attributes:
        index: int64 `[m]`, row numbers in the store.
        masks: bool `[m, n_train]`.
        margins: float32 `[m, n_targets]` (as stored: the stored dtype; both perhaps a `RowView`).
        subset: int64 `[m]`: rows of equal number share a mask.
        train: what the store keeps of every training example, in the subset or not: `train_margins` real and
            `train_correct` bool, `[m, n_train]` each, read when they are indexed; empty where it keeps neither.
    """

    index: NDArray[np.int64]
    masks: NDArray[np.bool_]
    margins: NDArray[np.float32]
    subset: NDArray[np.int64]
    train: Mapping[str, RowView] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.index)


class RowView:
    """Some rows of an array on disk, read when they are asked for: `view[a:b]`, `view[index]`.

    Args:
        array: the array.
        row_numbers: int64 `[m]`, which rows of it.
        bits: of an array of bits that are packed along the last axis, how many there are: they are read as bool.

    Attributes:
        shape, dtype: as of an array of these rows.
        name: the array's file.
        row_numbers: int64 `[m]`, which rows of it they are.
    """

    def __init__(self, array: NDArray[Any], row_numbers: NDArray[np.int64], bits: int | None = None) -> None:
        self.shape, self.dtype = (len(row_numbers), *array.shape[1:]), array.dtype
        if bits is not None:
            self.shape, self.dtype = (*self.shape[:-1], bits), np.dtype(np.bool_)
        self.name = str(getattr(array, "filename", "array"))
        self.row_numbers = row_numbers = row_numbers.copy()
        row_numbers.setflags(write=False)

        def read(rows: slice | NDArray[np.intp]) -> NDArray[Any]:
            found = np.asarray(array[row_numbers[rows]])
            return found if bits is None else np.unpackbits(found, axis=-1, count=bits).view(np.bool_)

        self._read = read  # a function: no attribute leads from the view to the array's other rows

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.row_numbers)

    def __getitem__(self, rows: slice | NDArray[np.intp]) -> NDArray[Any]:
        """Copies of some of the rows."""
        return self._read(rows)
