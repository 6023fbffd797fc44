"""Wrong labels: planted ones, and those of a file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bench.errors import BenchError, InputError
from bench.explore import asked

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bench.datasets import Data

_STREAM = 81  # of the root seed


@dataclass(frozen=True)
class Labels:
    """Labels of the training examples, some of them wrong.

    Attributes:
        trained: int64 `[n_train]`, those that models are trained with.
        right: int64 `[n_train]`, what they should be.
        source: the file that one of them is from.
    """

    trained: NDArray[np.int64]
    right: NDArray[np.int64]
    source: Path | None = None

    @property
    def wrong(self) -> NDArray[np.bool_]:
        """Which labels are wrong, `[n_train]`."""
        made: NDArray[np.bool_] = self.trained != self.right
        return made


def flipped(data: Data, share: float, seed: int) -> Labels:
    """A share of the labels replaced by one of the other classes, drawn evenly.

    Raises:
        BenchError: a share that is not of at least one label, or leaves none right.
    """
    count = round(share * data.n_train) if 0 < share < 1 else 0
    if not 0 < count < data.n_train:
        raise BenchError(
            f"--share is {share:g}: of {data.n_train} labels it must make at least one wrong, and leave one right"
        )
    rng = np.random.default_rng([seed, _STREAM])
    at = rng.choice(data.n_train, count, replace=False)
    trained = data.train_y.copy()
    trained[at] = (trained[at] + rng.integers(1, data.n_classes, count)) % data.n_classes
    return Labels(trained, data.train_y)


def of_file(path: str | Path, data: Data, *, noisy: bool) -> Labels:
    """Labels from a file: .npy, or text with white space or commas between whole numbers.

    Args:
        path: the file, one label per training example.
        data: whose training examples they are of.
        noisy: whether models are trained with them, the dataset's being right; otherwise they are the right ones.

    Raises:
        InputError: it cannot be read, does not fit, or agrees with the dataset on all labels or on none.
    """
    place = Path(path)
    values = asked.from_file(place, "labels, a whole number per training example")
    if values.shape != (data.n_train,) or values.dtype.kind not in "iu":
        raise InputError(
            f"{place} holds {values.dtype} {list(values.shape)}: it takes {data.n_train} whole numbers, a label for "
            "each training example"
        )
    outside = values[(values < 0) | (values >= data.n_classes)]
    if len(outside):
        raise InputError(f"{place} has a label {outside[0]}: they are 0 … {data.n_classes - 1}")
    found = values.astype(np.int64)
    made = Labels(found, data.train_y, place) if noisy else Labels(data.train_y, found, place)
    differ = int(made.wrong.sum())
    if differ in (0, data.n_train):
        which = "all" if differ == 0 else "none"
        raise InputError(f"{place} agrees with the dataset on {which} of its labels: there is nothing to tell apart")
    return made
