"""Read the idx files of the MNIST family (LeCun, Cortes and Burges 1998)."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bench.errors import BenchError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bench.datasets import Data
    from bench.files import Files

_UINT8 = 0x08


def read(path: Path) -> NDArray[np.uint8]:
    """The array of one gzip-compressed idx file of unsigned bytes.

    Raises:
        BenchError: the file is not gzip, not idx, not of bytes, or not as long as its header says.
    """
    try:
        raw = gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise BenchError(f"{path} cannot be decompressed ({error}): replace it with the published file") from error
    if len(raw) < 4 or len(raw) < 4 + 4 * raw[3] or raw[:2] != b"\0\0" or raw[2] != _UINT8:
        raise BenchError(f"{path} is not an idx file of bytes: it starts with {raw[:4].hex()!r}")
    rank = raw[3]
    shape = struct.unpack(f">{rank}I", raw[4 : 4 + 4 * rank])
    body = np.frombuffer(raw, np.uint8)[4 + 4 * rank :]
    if body.size != math.prod(shape):
        raise BenchError(f"{path} holds {body.size} values where its header says {shape}: it is torn, replace it")
    return body.reshape(shape)


def read_split(
    files: Files,
    name: str,
    torchvision: str,
    md5: Mapping[str, str],
    n_train: int,
    n_test: int,
    mean: float,
    std: float,
    class_names: tuple[str, ...] = (),
) -> Data:
    """The first `n_train` training and `n_test` test images, standardised by `mean` and `std` of pixels in [0, 1].

    Raises:
        BenchError: a file is missing or damaged, or more images are asked for than there are.
    """
    from bench.datasets import Data

    found = files.find(name, torchvision, md5)

    def part(prefix: str, what: str, n: int) -> tuple[NDArray[np.float32], NDArray[np.int64], tuple[int, ...]]:
        images = read(found.paths[f"{prefix}-images-idx3-ubyte.gz"])
        labels = read(found.paths[f"{prefix}-labels-idx1-ubyte.gz"])
        if not 1 <= n <= len(images):
            raise BenchError(f"{name}: {what} is {n}, and there are {len(images)} images: take 1 to {len(images)}")
        x = ((images[:n] / np.float32(255) - np.float32(mean)) / np.float32(std)).astype(np.float32)
        return x.reshape(n, -1), labels[:n].astype(np.int64), (1, *images.shape[1:])

    train_x, train_y, image = part("train", "n_train", n_train)
    test_x, test_y, _ = part("t10k", "n_test", n_test)
    return Data(train_x, train_y, test_x, test_y, 10, found.origin, image=image, class_names=class_names)
