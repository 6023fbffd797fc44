"""Examples as pictures: which datasets have any, their pixels, and many of them in one file."""

from __future__ import annotations

import base64
import io
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bench.datasets import Data

_LARGEST = 64  # pixels of a side; what is larger is made smaller
_SEEN = 4096  # training images that say what black and white are
_QUALITY = 88


def shape_of(data: Data) -> tuple[int, int, int] | None:
    """`(channels, height, width)` of the examples, None where they are not known to be images."""
    shape = data.image or data.train_x.shape[1:]
    if len(shape) != 3 or shape[0] not in (1, 3) or min(shape[1:]) < 2:
        return None
    return shape[0], shape[1], shape[2]


@dataclass(frozen=True)
class Sheet:
    """Many pictures of one size in a grid, filled row by row.

    Attributes:
        url: the picture as `data:image/…`.
        columns, rows: of the grid.
        aspect: width over height of each picture.
    """

    url: str
    columns: int
    rows: int
    aspect: float


@dataclass(frozen=True)
class Pixels:
    """How numbers become bytes.

    Attributes:
        shape: `(channels, height, width)`.
        low, high: float32 `[channels, 1, 1]`: what is black and what is white, by channel, as training images have it.
    """

    shape: tuple[int, int, int]
    low: NDArray[np.float32]
    high: NDArray[np.float32]

    @classmethod
    def of(cls, data: Data) -> Pixels | None:
        """Of a dataset; None where its examples are not known to be images."""
        shape = shape_of(data)
        if shape is None:
            return None
        step = max(1, data.n_train // _SEEN)
        seen = np.asarray(data.train_x[::step]).reshape(-1, *shape)
        return cls(shape, seen.min((0, 2, 3))[:, None, None], seen.max((0, 2, 3))[:, None, None])

    def sheet(self, examples: NDArray[np.float32]) -> Sheet:
        """Examples `[n, …]` in one picture: PNG in grey, JPEG in colour."""
        from PIL import Image

        channels, height, width = self.size
        columns = max(1, math.ceil(math.sqrt(len(examples) * height / width)))
        rows = max(1, math.ceil(len(examples) / columns))
        whole = np.zeros((rows * height, columns * width, channels), np.uint8)
        for at, example in enumerate(examples):
            y, x = at // columns * height, at % columns * width
            whole[y : y + height, x : x + width] = self.bytes_of(example)
        grey = channels == 1
        picture = Image.fromarray(whole[..., 0] if grey else whole)
        buffer = io.BytesIO()
        options: dict[str, Any] = {"compress_level": 9} if grey else {"quality": _QUALITY, "subsampling": 0}
        picture.save(buffer, "PNG" if grey else "JPEG", **options)
        kind = "png" if grey else "jpeg"
        url = f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
        return Sheet(url, columns, rows, width / height)

    @property
    def size(self) -> tuple[int, int, int]:
        """Channels, height and width of a picture in a sheet.

        In colour in whole blocks of JPEG, so that neighbours do not run into each other.
        """
        channels, height, width = self.shape
        shrink = max(1.0, max(height, width) / _LARGEST)
        height, width = (max(1, round(side / shrink)) for side in (height, width))
        if channels == 3:
            height, width = (8 * math.ceil(side / 8) for side in (height, width))
        return channels, height, width

    def bytes_of(self, example: NDArray[np.float32]) -> NDArray[np.uint8]:
        """One example as a picture, uint8 `[height, width, channels]`."""
        from PIL import Image

        _, height, width = self.size
        span = np.maximum(self.high - self.low, 1e-12)
        scaled = np.clip((example.reshape(self.shape) - self.low) / span, 0, 1)
        made: NDArray[np.uint8] = np.rint(255 * scaled).astype(np.uint8).transpose(1, 2, 0)
        if made.shape[:2] != (height, width):
            picture = Image.fromarray(made[..., 0] if made.shape[2] == 1 else made)
            resized = np.asarray(picture.resize((width, height), Image.Resampling.LANCZOS))
            made = resized.reshape(height, width, -1)
        return made
