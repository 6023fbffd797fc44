"""Read the python batches of CIFAR-10 (Krizhevsky 2009), which are pickles, without trusting them."""

from __future__ import annotations

import io
import pickle
import pickletools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.errors import BenchError
from bench.files import ALLOW, NOT_PUBLISHED
from bench.recipes import Architecture, Augmentation, Recipe

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bench.datasets import Data
    from bench.files import Files

TRAIN = tuple(f"data_batch_{i}" for i in range(1, 6))
TEST = "test_batch"
FOLDER = "cifar-10-batches-py"
MD5 = {  # those that torchvision checks
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    "test_batch": "40351d587109b95175f43aff81a1287e",
}
PER_CLASS = {"train": 5000, "test": 1000}
SHAPE = (3, 32, 32)
# The recipe of both settings, near that of the datamodels repository (Ilyas et al. 2022).
RESNET9 = Recipe(
    Architecture("resnet9"),
    epochs=16,
    batch_size=512,
    lr=0.5,
    weight_decay=5e-4,
    schedule="triangular",
    optimiser="nesterov",
    label_smoothing=0.1,
    augmentation=Augmentation(flip="alternating", translate=2, cutout=4),
    mirror=True,
)
NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)  # by channel, of all 50,000 training images

_REPLACE = "replace it with the published file"
_MOST_BYTES = 2**29  # a batch of 10,000 images takes 31 to 62 MB
_MOST_OPERATIONS = 2_000_000  # and about 60,000 of them
_MOST_CONTAINERS = 28  # and up to 20: nested much deeper, hashing or freeing them can take all time or all stack
_CONTAINERS = {"TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "LIST", "EMPTY_LIST", "DICT", "EMPTY_DICT", "FROZENSET"}
_CONTAINERS |= {"EMPTY_SET"}
_REFUSED = {"INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "PERSID", "BINPERSID", "EXT1", "EXT2", "EXT4"}
_REFUSED |= {"NEXT_BUFFER", "READONLY_BUFFER"}


class _Refused(Exception):  # noqa: N818
    """A pickle wants what no batch needs; the message completes "… asks for"."""


class _Dtype:
    """Stands in for numpy.dtype: remembers what it was called with."""

    def __init__(self, code: Any, *_: Any) -> None:
        self.code = code

    def __setstate__(self, state: Any) -> None:
        """Byte order and the like, which a byte has none of."""


class _Array:
    """Stands in for numpy.ndarray, whose own __setstate__ trusts its argument: remembers its state."""

    state: Any = None

    def __setstate__(self, state: Any) -> None:
        """`(version, shape, dtype, is_fortran, bytes)`."""
        self.state = state


def _reconstruct(*_: Any) -> _Array:
    return _Array()


def _encode(text: str, encoding: str) -> bytes:
    """What Python 3 writes for bytes in old protocols: `_codecs.encode(text, "latin1")`."""
    if encoding not in ("latin1", "latin-1"):
        raise _Refused(f"the codec {encoding!r:.40}")
    return text.encode("latin-1")


_KNOWN = {
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
    ("_codecs", "encode"): _encode,
}


class _Unpickler(pickle.Unpickler):
    """Imports nothing: the few names that an array needs stand for the classes above, every other is refused."""

    def find_class(self, module: str, name: str) -> Any:
        """The stand-in for `module.name`."""
        if (module, name) not in _KNOWN:
            raise _Refused(f"{module}.{name}"[:80])
        return _KNOWN[module, name]


def _unpickled(path: Path) -> Any:
    if path.stat().st_size > _MOST_BYTES:
        raise BenchError(f"{path} has {path.stat().st_size / 1e6:.0f} MB, and no CIFAR-10 batch has: {_REPLACE}")
    raw = path.read_bytes()
    try:
        _check_operations(raw)
        return _Unpickler(io.BytesIO(raw), encoding="bytes").load()
    except _Refused as error:
        raise BenchError(f"{path} asks for {error}, which a CIFAR-10 batch does not need: {_REPLACE}") from error
    except Exception as error:  # a torn or made-up pickle can raise nearly anything
        raise BenchError(f"{path} cannot be read as a CIFAR-10 batch ({str(error)[:100]}): {_REPLACE}") from error


def _check_operations(raw: bytes) -> None:
    """Refuse what would cost memory, time or stack before anything could be refused by name."""
    containers = 0
    for count, (operation, argument, _) in enumerate(pickletools.genops(raw)):
        containers += operation.name in _CONTAINERS
        if operation.name in _REFUSED:
            raise _Refused(f"the pickle operation {operation.name}")
        if count > _MOST_OPERATIONS or containers > _MOST_CONTAINERS:
            raise _Refused("more nesting or more steps than one array and its labels take")
        if operation.name in ("PUT", "BINPUT", "LONG_BINPUT") and (argument or 0) > _MOST_OPERATIONS:
            raise _Refused("a memo of billions of entries")


def read_batch(path: Path) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Images `[n, 3072]` and labels `[n]` of one batch.

    Raises:
        BenchError: the file is no batch, or its pickle asks for anything but arrays of bytes.
    """
    batch = _unpickled(path)
    if not isinstance(batch, dict):
        raise BenchError(f"{path} holds no dict with data and labels: {_REPLACE}")
    named = {key.decode("latin-1") if isinstance(key, bytes) else key: value for key, value in batch.items()}
    for key in ("data", "labels"):
        if key not in named:
            raise BenchError(f"{path} has no {key!r}: {_REPLACE}")
    images, labels = _pixels(named["data"]), named["labels"]
    if images is None:
        raise BenchError(f"{path}: data is not an array of uint8 [n, 3072]: {_REPLACE}")
    if not isinstance(labels, list) or len(labels) != len(images):
        n = len(labels) if isinstance(labels, list) else "none"
        raise BenchError(
            f"{path}: labels is not a list of one label for each of {len(images)} images ({n}): {_REPLACE}"
        )
    if not all(type(label) is int and 0 <= label <= 9 for label in labels):
        raise BenchError(f"{path}: labels are not all integers in 0 … 9: {_REPLACE}")
    return images, np.array(labels, np.int64)


def read_labels(path: Path, key: str, n_classes: int) -> NDArray[np.int64]:
    """Labels of one batch of CIFAR-10 (`labels`) or CIFAR-100 (`fine_labels`), without its images.

    Raises:
        BenchError: the file is no batch, or its pickle asks for anything but arrays of bytes.
    """
    batch = _unpickled(path)
    labels = (batch.get(key, batch.get(key.encode()))) if isinstance(batch, dict) else None
    if not isinstance(labels, list) or not all(type(label) is int and 0 <= label < n_classes for label in labels):
        raise BenchError(f"{path}: {key} is no list of integers in 0 … {n_classes - 1}: {_REPLACE}")
    return np.array(labels, np.int64)


def _pixels(found: Any) -> NDArray[np.uint8] | None:
    """The array whose state was remembered, if it is bytes `[n, 3072]`."""
    state = found.state if isinstance(found, _Array) else None
    if not (isinstance(state, tuple) and len(state) in (4, 5)):
        return None
    shape, dtype, fortran, content = state[-4:]  # a version comes first, since numpy 1.0
    bytewise = isinstance(dtype, _Dtype) and dtype.code in ("u1", b"u1", "|u1", b"|u1", "B", b"B")
    if not (bytewise and isinstance(content, bytes) and isinstance(shape, tuple) and len(shape) == 2):
        return None
    if not all(type(n) is int for n in shape) or shape[1] != 3072 or len(content) != shape[0] * 3072 or not content:
        return None
    return np.frombuffer(content, np.uint8).reshape(shape, order="F" if fortran else "C")


def load(files: Files, n_train: int, n_test: int, classes: Sequence[int] = tuple(range(10))) -> Data:
    """The first `n_train` and `n_test` images of some classes, float32 `[n, 3, 32, 32]`, standardised by channel.

    Args:
        files: where the batches are.
        n_train: how many images to learn from.
        n_test: how many targets.
        classes: the classes; the i-th is labelled i.

    Raises:
        BenchError: a batch is missing, damaged, hostile or not the published one, classes have not as many images as
            is published (unless modified data are allowed), or more are asked for than there are.
    """
    from bench.datasets import Data

    found = files.find("cifar10", "CIFAR10", MD5, FOLDER)
    batches = [read_batch(found.paths[name]) for name in TRAIN]
    images, labels = (np.concatenate(parts) for parts in zip(*batches, strict=True))
    del batches
    test_images, test_labels = read_batch(found.paths[TEST])
    origin = {**found.origin, **_counted({"train": labels, "test": test_labels}, files.allow_modified)}
    train_x, train_y = _standardised(images, labels, "n_train", n_train, classes)
    test_x, test_y = _standardised(test_images, test_labels, "n_test", n_test, classes)
    names = tuple(NAMES[i] for i in classes)
    return Data(train_x, train_y, test_x, test_y, len(classes), origin, class_names=names)


def _counted(labels: dict[str, NDArray[np.int64]], allow_modified: bool) -> dict[str, str]:
    """What is to be said of the numbers of images by class: nothing where they are the published ones."""
    said = {}
    for part, y in labels.items():
        counts = np.bincount(y, minlength=10)
        if (counts != PER_CLASS[part]).any():
            said[part] = f"{counts.min():,} to {counts.max():,} images a class"
    if not said:
        return {}
    published = " and ".join(f"{PER_CLASS[part]:,}" for part in said)
    if not allow_modified:
        found = ", ".join(f"{part} has {what}" for part, what in said.items())
        raise BenchError(f"cifar10: {found}, {NOT_PUBLISHED} {published}; replace the files, {ALLOW}")
    return {part: f"{what} ({NOT_PUBLISHED} {PER_CLASS[part]:,})" for part, what in said.items()}


def _standardised(
    images: NDArray[np.uint8], labels: NDArray[np.int64], what: str, n: int, classes: Sequence[int]
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    number = np.full(10, -1)
    number[list(classes)] = range(len(classes))
    (rows,) = np.nonzero(number[labels] >= 0)
    if not 1 <= n <= len(rows):
        raise BenchError(f"{what} is {n}, and there are {len(rows)} images: take 1 to {len(rows)}")
    x = images[rows[:n]].reshape(n, *SHAPE).astype(np.float32)
    for channel, (mean, std) in enumerate(zip(MEAN, STD, strict=True)):
        x[:, channel] -= 255 * mean
        x[:, channel] /= 255 * std
    return x, number[labels[rows[:n]]]
