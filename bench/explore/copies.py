"""Planting copies of training examples among the targets."""

from __future__ import annotations

import io
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from bench.errors import BenchError
from bench.report.images import Pixels

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from bench.datasets import Data

IMAGES = ("exact", "shifted", "brightened", "re-encoded")
FEATURES = ("exact", "noisy")
MEANING = {
    "exact": "the same numbers",
    "shifted": "moved by one pixel up, down, left or right, the edge repeated",
    "brightened": "a fifth of the range from black to white added to every pixel, cut off at white",
    "re-encoded": "stored as JPEG of quality 50 and read again",
    "noisy": "normal noise added, a twentieth of each feature's standard deviation",
}
_BRIGHTER, _QUALITY, _NOISE = 0.2, 50, 0.05
_STREAM = 80  # of the root seed
_STEPS = ((0, 1), (0, -1), (1, 0), (-1, 0))


@dataclass(frozen=True)
class Copies:
    """Examples with copies planted.

    Attributes:
        data: its targets are other ones at `targets`.
        targets: int64, ascending; source: the training example that each is a copy of, none twice.
        kind: which of `kinds` each is, by number.
        kinds: their names.
    """

    data: Data
    targets: NDArray[np.int64]
    source: NDArray[np.int64]
    kind: NDArray[np.int64]
    kinds: tuple[str, ...]

    @property
    def truth(self) -> NDArray[np.int64]:
        """The training example that each target is a copy of, `[n_targets]`; −1 where it is none."""
        made = np.full(self.data.n_targets, -1)
        made[self.targets] = self.source
        return made


def plant(data: Data, share: float, seed: int) -> Copies:
    """Replace targets by copies of training examples, with their labels, in equal parts of each kind.

    Args:
        data: the examples; where they are no images there are two kinds instead of four.
        share: of the targets.
        seed: root seed.

    Raises:
        BenchError: a share that is not of at least one target per kind, or leaves none as it was.
    """
    pixels = Pixels.of(data)
    kinds = FEATURES if pixels is None else IMAGES
    count = round(share * data.n_targets) if 0 < share < 1 else 0
    if not len(kinds) <= count < data.n_targets or count > data.n_train:
        raise BenchError(
            f"--share is {share:g}: of {data.n_targets} targets it must make at least {len(kinds)} copies, one of each "
            "kind, and leave one target as it is"
        )
    rng = np.random.default_rng([seed, _STREAM])
    targets = np.sort(rng.choice(data.n_targets, count, replace=False))
    source = rng.choice(data.n_train, count, replace=False)
    kind = rng.permutation(np.arange(count) % len(kinds))
    made = _makers(data, pixels, rng)
    x, y = data.test_x.copy(), data.test_y.copy()
    for target, train, number in zip(targets, source, kind, strict=True):
        x[target] = made[kinds[number]](data.train_x[train]).reshape(x[target].shape)
        y[target] = data.train_y[train]
    return Copies(replace(data, test_x=x, test_y=y), targets, source, kind, kinds)


def _makers(
    data: Data, pixels: Pixels | None, rng: np.random.Generator
) -> dict[str, Callable[[NDArray[np.float32]], NDArray[np.float32]]]:
    """What makes a copy, by kind."""
    if pixels is None:
        deviation = data.train_x.std(axis=0)
        return {
            "exact": lambda x: x,
            "noisy": lambda x: (x + _NOISE * deviation * rng.standard_normal(x.shape)).astype(np.float32),
        }
    shape, low, high = pixels.shape, pixels.low, pixels.high

    def shifted(x: NDArray[np.float32]) -> NDArray[np.float32]:
        down, right = _STEPS[rng.integers(len(_STEPS))]
        wider = np.pad(x.reshape(shape), ((0, 0), (1, 1), (1, 1)), mode="edge")
        return wider[:, 1 - down : 1 - down + shape[1], 1 - right : 1 - right + shape[2]]

    def brightened(x: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.minimum(x.reshape(shape) + np.float32(_BRIGHTER) * (high - low), high)

    return {
        "exact": lambda x: x,
        "shifted": shifted,
        "brightened": brightened,
        "re-encoded": lambda x: _jpeg(x.reshape(shape), low, high),
    }


def _jpeg(x: NDArray[np.float32], low: NDArray[np.float32], high: NDArray[np.float32]) -> NDArray[np.float32]:
    from PIL import Image

    span = np.maximum(high - low, np.float32(1e-12))
    made = np.rint(255 * np.clip((x - low) / span, 0, 1)).astype(np.uint8).transpose(1, 2, 0)
    buffer = io.BytesIO()
    Image.fromarray(made[..., 0] if made.shape[2] == 1 else made).save(buffer, "JPEG", quality=_QUALITY)
    again = np.asarray(Image.open(buffer), np.float32).reshape(made.shape).transpose(2, 0, 1) / 255
    back: NDArray[np.float32] = (low + again * span).astype(np.float32)
    return back
