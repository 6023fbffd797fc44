"""The classes of a dataset's examples, in its order: its labels alone, without reading or making images where possible.

CIFAR-100 is known here too, which no setting trains on, because estimates of it are published.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bench import _plugins, cifar, fmow
from bench.datasets import Dataset
from bench.errors import BenchError
from bench.files import Files, md5_of

Labels = NDArray[np.int64]

CIFAR100_MD5 = {"train": "16019d7e3df5f24257cddd939b257f8d", "test": "f0ef6b0ae62326f3e7ffdfab6717acfc"}
PER_CLASS: Mapping[str, tuple[int, int, int]] = {"cifar10": (10, 5_000, 1_000), "cifar100": (100, 500, 100)}
"""Of datasets whose classes are of one size: classes, training and test examples of each. For when no file is there."""


class Examples(NamedTuple):
    """A dataset's examples.

    Attributes:
        train, test: class of each, int64, in its order.
        origin: file → what vouches for it.
    """

    train: Labels
    test: Labels
    origin: Mapping[str, str]


def of(spec: str, files: Files) -> Examples:
    """Classes of `dataset[:key=value,…]`; files that are not there are downloaded where the dataset can.

    Raises:
        BenchError: there is no such dataset, or a file of it is missing, damaged or not the published one.
    """
    name, arguments = _plugins.split_spec(spec)
    name = _plugins.canonical(name)
    if name == "cifar100":
        if arguments:
            raise BenchError(f"cifar100 has no parameter {next(iter(arguments))!r} (it has none)")
        return _cifar100(files)
    cls = _plugins.load("datasets", name, Dataset)  # type: ignore[type-abstract]
    made: Any = _plugins.construct(cls, f"the dataset {name}", arguments).made
    if name in _QUICK:
        whole = _QUICK[name](files)
        sizes = [made.n_train, made.n_test]
        for part, n, labels in zip(("n_train", "n_test"), sizes, whole[:2], strict=True):
            if n is not None and not 1 <= n <= len(labels):
                raise BenchError(f"{name}: {part} is {n}, and there are {len(labels)} images: take 1 to {len(labels)}")
        return Examples(whole.train[: sizes[0]], whole.test[: sizes[1]], whole.origin)
    data = made.load(files)
    return Examples(data.train_y, data.test_y, data.origin)


def here(name: str, files: Files) -> bool:
    """Whether a dataset's labels can be had without a download."""
    if name == "cifar10":
        return files.there("cifar10", cifar.MD5, cifar.FOLDER)
    if name == "cifar100":
        return files.there("cifar100", CIFAR100_MD5, "cifar-100-python")
    return name == "fmow" and fmow.look(files) is not None


def _cifar10(files: Files) -> Examples:
    found = files.find("cifar10", "CIFAR10", cifar.MD5, cifar.FOLDER)
    train = [cifar.read_labels(found.paths[batch], "labels", 10) for batch in cifar.TRAIN]
    return Examples(np.concatenate(train), cifar.read_labels(found.paths[cifar.TEST], "labels", 10), found.origin)


def _cifar100(files: Files) -> Examples:
    found = files.find("cifar100", "CIFAR100", CIFAR100_MD5, "cifar-100-python")
    train, test = (cifar.read_labels(found.paths[part], "fine_labels", 100) for part in ("train", "test"))
    return Examples(train, test, found.origin)


def _fmow(files: Files) -> Examples:
    path = fmow.find(files) / fmow.TABLE
    rows, labels = fmow.table(path)
    return Examples(labels[rows["train"]], labels[rows["test"]], {path.name: f"md5 {md5_of(path)}"})


_QUICK: dict[str, Callable[[Files], Examples]] = {"cifar10": _cifar10, "fmow": _fmow}
