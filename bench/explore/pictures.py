"""Targets with the training examples that methods name for them, as one PNG."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.report.markup import printable

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image as Picture
    from PIL.ImageDraw import ImageDraw

    from bench.report.images import Pixels

DENSITY = 2  # pixels of the file for one of the page
_INK, _SOFT, _LINE, _MARK, _PAPER = "#1a1f26", "#56606c", "#d5dbe1", "#0b57a4", "#ffffff"
_TILE, _NAME, _PAD, _TEXT, _GAP = 92, 300, 12, 22, 44  # pixels of the file


@dataclass(frozen=True)
class Tile:
    """An example with what is written below it.

    Attributes:
        example: `[…]`, as the dataset has it.
        label: its class, in words.
        below: a second line, such as a score.
        framed: whether a frame sets it off.
    """

    example: NDArray[np.float32]
    label: str
    below: str
    framed: bool


@dataclass(frozen=True)
class Panel:
    """A target, and a row of tiles on either side for each method.

    Attributes:
        title: what is written beside the target.
        target: the target.
        rows: a method's name with its tiles on the left and on the right.
    """

    title: str
    target: Tile
    rows: Sequence[tuple[str, Sequence[Tile], Sequence[Tile]]]


def grid(pixels: Pixels, panels: Sequence[Panel], each: int, left: str, right: str) -> bytes:
    """All panels below each other, as PNG.

    Args:
        pixels: how numbers become bytes.
        panels: at least one.
        each: tiles on either side.
        left: heading of the first side.
        right: of the other.
    """
    from PIL import Image, ImageDraw

    _, height, width = pixels.size
    scale = math.ceil(_TILE / max(height, width))
    cell = max(scale * width, _TILE) + _PAD, scale * height + 2 * _TEXT + _PAD
    big = math.ceil(1.5 * _TILE / max(height, width))
    first = max(big * width, 150) + 2 * _PAD
    starts = first + _NAME, first + _NAME + each * cell[0] + _GAP
    whole = starts[1] + each * cell[0] + _PAD
    head = _TEXT + 2 * _PAD
    heights = [head + max(len(one.rows) * cell[1], big * height + 3 * _TEXT) + _PAD for one in panels]
    picture = Image.new("RGB", (whole, sum(heights)), _PAPER)
    draw = ImageDraw.Draw(picture)
    top = 0
    for one, tall in zip(panels, heights, strict=True):
        if top:
            draw.line((0, top, whole, top), _LINE, 2)
        for x, words in zip(starts, (left, right), strict=True):
            draw.text((x, top + _PAD), words, _SOFT, _font(True))
        _target(picture, draw, pixels, one, (_PAD, top + head), big)
        for at, (name, *sides) in enumerate(one.rows):
            y = top + head + at * cell[1]
            for line, words in enumerate(_lines(name, _NAME - 2 * _PAD)):
                draw.text((first, y + line * _TEXT + scale * height // 2 - _TEXT), words, _INK, _font())
            for start, tiles in zip(starts, sides, strict=True):
                for place, tile in enumerate(tiles):
                    _tile(picture, draw, pixels, tile, (start + place * cell[0], y), scale, cell[0] - _PAD // 2)
                if not tiles:
                    draw.text((start, y + scale * height // 2 - _TEXT // 2), "none", _SOFT, _font())
        middle = starts[1] - _GAP // 2 - _PAD // 2
        draw.line((middle, top + _PAD, middle, top + tall - _PAD), _LINE, 2)
        top += tall
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def _target(picture: Picture, draw: ImageDraw, pixels: Pixels, one: Panel, at: tuple[int, int], scale: int) -> None:
    shown = _picture(pixels, one.target.example, scale)
    picture.paste(shown, at)
    y = at[1] + shown.height
    room = max(shown.width, 150)
    for line, (words, bold) in enumerate(((one.title, True), (one.target.label, False), (one.target.below, False))):
        draw.text((at[0], y + 4 + line * _TEXT), _fitted(words, room, bold), _INK if line < 2 else _SOFT, _font(bold))


def _tile(
    picture: Picture, draw: ImageDraw, pixels: Pixels, tile: Tile, at: tuple[int, int], scale: int, room: int
) -> None:
    shown = _picture(pixels, tile.example, scale)
    picture.paste(shown, at)
    if tile.framed:
        x, y = at
        draw.rectangle((x - 4, y - 4, x + shown.width + 3, y + shown.height + 3), outline=_MARK, width=4)
    y = at[1] + shown.height + 4
    draw.text((at[0], y), _fitted(tile.label, room), _INK, _font())
    draw.text((at[0], y + _TEXT), _fitted(tile.below, room), _SOFT, _font())


def _picture(pixels: Pixels, example: NDArray[np.float32], scale: int) -> Picture:
    from PIL import Image

    values = pixels.bytes_of(example)
    made = Image.fromarray(values[..., 0] if values.shape[2] == 1 else values).convert("RGB")
    return made.resize((made.width * scale, made.height * scale), Image.Resampling.NEAREST)


@cache
def _font(bold: bool = False) -> Any:
    """The font that matplotlib brings along, so that pictures are the same everywhere."""
    import matplotlib as mpl
    from PIL import ImageFont

    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(mpl.get_data_path()) / "fonts/ttf" / name), 18)


def _fitted(words: str, room: int, bold: bool = False) -> str:
    """So much of the text as the room holds."""
    words, font = printable(words), _font(bold)
    if font.getlength(words) <= room:
        return words
    while words and font.getlength(f"{words}…") > room:
        words = words[:-1]
    return f"{words}…"


def _lines(name: str, room: int) -> list[str]:
    """A method's name in at most three lines, broken after `:` and `,`."""
    parts: list[str] = []
    for piece in printable(name).replace(":", ":\n").replace(",", ",\n").split("\n"):
        if parts and _font().getlength(parts[-1] + piece) <= room:
            parts[-1] += piece
        else:
            parts.append(piece)
    if len(parts) > 3:
        parts = [*parts[:2], "".join(parts[2:])]
    return [_fitted(part, room) for part in parts]
