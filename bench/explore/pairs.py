"""Pairs of a target and a training example side by side, as one PNG."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from bench.report.images import Pixels
from bench.report.labels import shortened

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from bench.datasets import Data

_INK, _SOFT = "#1a1f26", "#56606c"  # as the page's light theme has them: a picture does not change with it
_NAME, _CELL, _TALL = 1.9, 1.12, 0.82  # inches
DENSITY = 2  # pixels of the file for one of the page


def sheet(data: Data, rows: Sequence[tuple[str, Sequence[tuple[int, int]]]]) -> bytes | None:
    """A row of pairs for each name: on the left the target, on the right the training example.

    Args:
        data: the examples.
        rows: names with numbers of targets and training examples.

    Returns:
        PNG; None where the examples are not known to be images, or there is no pair.
    """
    pixels = Pixels.of(data)
    most = max((len(some) for _, some in rows), default=0)
    if pixels is None or not most:
        return None
    cells = [(name, [(_pair(pixels, data, *pair), _said(data, *pair)) for pair in some]) for name, some in rows]
    return drawn(cells, most)


def faces(data: Data, examples: Sequence[int], said: Sequence[str], each: int) -> bytes | None:
    """Training examples with two lines below each, as PNG; None as for `sheet`.

    Args:
        data: the examples.
        examples: their numbers.
        said: what is written below each.
        each: examples in a row.
    """
    pixels = Pixels.of(data)
    if pixels is None or not len(examples):
        return None
    made = [(_picture(pixels, data.train_x[at]), words) for at, words in zip(examples, said, strict=True)]
    return drawn([("", made[at : at + each]) for at in range(0, len(made), each)], each, 0.78)


def drawn(
    rows: Sequence[tuple[str, Sequence[tuple[NDArray[np.float32], str]]]], most: int, cell: float = _CELL
) -> bytes:
    """Pictures `[height, width, channels]` of 0 … 1 in a grid, with words below each and a name on each row.

    Args:
        rows: names, with pictures and words.
        most: pictures in the longest row.
        cell: width of a picture with its margin, in inches.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    from bench.report import svg

    left = _NAME if any(name for name, _ in rows) else 0.06
    width, height = left + most * cell + 0.05, len(rows) * _TALL + 0.03
    with svg.style(), mpl.rc_context({"text.color": _INK}):
        figure = Figure(figsize=(width, height))
        for at, (name, some) in enumerate(rows):
            top = 1 - (at * _TALL + 0.03) / height
            if name:
                figure.text(0.06 / width, top - 0.25 / height, _broken(name), va="center", fontsize=8, parse_math=False)
            for place, (picture, words) in enumerate(some):
                box = ((left + place * cell) / width, top - 0.5 / height, (cell - 0.1) / width, 0.5 / height)
                axes: Axes = figure.add_axes(box)
                axes.imshow(picture, vmin=0, vmax=1, cmap="gray", interpolation="nearest")
                axes.set_axis_off()
                axes.text(0.5, -0.08, words, transform=axes.transAxes, ha="center", va="top", fontsize=6.5,
                          color=_SOFT, linespacing=1.15, parse_math=False)  # fmt: skip
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=96 * DENSITY, facecolor="white", metadata={"Software": None})
    return buffer.getvalue()


def _broken(name: str) -> str:
    """In lines after `:` and `,`, each as long as there is room for."""
    parts = name.replace(":", ":\n").replace(",", ",\n").split("\n")
    return "\n".join(shortened(part, 28) for part in parts[:4])


def _picture(pixels: Pixels, example: NDArray[np.float32]) -> NDArray[np.float32]:
    span = np.maximum(pixels.high - pixels.low, 1e-12)
    made: NDArray[np.float32] = np.clip((example.reshape(pixels.shape) - pixels.low) / span, 0, 1).transpose(1, 2, 0)
    return made


def _pair(pixels: Pixels, data: Data, target: int, train: int) -> NDArray[np.float32]:
    one, other = _picture(pixels, data.test_x[target]), _picture(pixels, data.train_x[train])
    gap = np.ones((one.shape[0], max(1, one.shape[1] // 12), one.shape[2]), np.float32)
    return np.concatenate([one, gap, other], axis=1)


def _said(data: Data, target: int, train: int) -> str:
    names = data.class_names or [str(number) for number in range(data.n_classes)]
    classes = [shortened(names[label], 9) for label in (data.test_y[target], data.train_y[train])]
    return f"{target} | {train}\n{classes[0]} | {classes[1]}"
