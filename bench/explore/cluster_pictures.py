"""Examples of clusters, of components and of conflicts as pictures: rows of images, each row with its name."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.report.images import Pixels
from bench.report.markup import printable

if TYPE_CHECKING:
    from bench.datasets import Data
    from bench.explore.clusters_document import Subpopulations

MOST_ROWS = 36
_SIDE = 40  # pixels of a picture at least, in the file; pages show half of it on dense screens
_NAME, _GAP, _PAD, _HEAD = 190, 28, 4, 26
_INK, _SOFT, _LINE, _PAPER = "#1a1f26", "#56606c", "#d5dbe1", "#ffffff"
Row = tuple[str, str, Sequence[int], Sequence[int]]


def of(found: Subpopulations, data: Data) -> dict[str, bytes]:
    """PNG bytes of `clusters`, `components` and `conflicts`; none of what are no images."""
    pixels = Pixels.of(data)
    if pixels is None:
        return {}
    made = {"clusters": (_clusters(found), "targets", "training examples that help them most", "targets")}
    if found.components:
        made["components"] = (_components(found), "targets", "training examples", "targets")
    if found.conflicts:
        made["conflicts"] = (_conflicts(found), "training examples", "targets that they harm", "train")
    return {
        name: _sheet(pixels, data, rows, headings=(left, right), left=side)
        for name, (rows, left, right, side) in made.items()
    }


def _clusters(found: Subpopulations) -> list[Row]:
    """Of many, whole groups spread over all of them."""
    labels = sorted({one.label for one in found.targets}, key=lambda label: -1 if label is None else label)
    groups = [[one for one in found.targets if one.label == label] for label in labels]
    most = max(1, MOST_ROWS // max(map(len, groups)))
    if len(groups) > most:
        groups = [groups[at] for at in np.linspace(0, len(groups) - 1, most).round().astype(int)]
    rows: list[Row] = []
    for group in groups:
        rows += [(one.name, f"{len(one.members):,} targets", one.typical, one.helpful) for one in group]
    return rows[:MOST_ROWS]


def _components(found: Subpopulations) -> list[Row]:
    made: list[Row] = []
    for number, one in enumerate(found.components, 1):
        made.append((f"{number}, one end", f"{one.share:.1%} of variance", one.high_targets, one.high_train))
        made.append((f"{number}, other end", "", one.low_targets, one.low_train))
    return made


def _conflicts(found: Subpopulations) -> list[Row]:
    train, targets = ({one.name: one for one in side} for side in (found.train, found.targets))
    return [
        (f"{one.train} against {one.targets}", "", train[one.train].typical, targets[one.targets].typical)
        for one in found.conflicts[:6]
    ]


def _sheet(pixels: Pixels, data: Data, rows: Sequence[Row], headings: tuple[str, str], left: str) -> bytes:
    """Rows below each other: a name with a second line, images on the left and on the right."""
    from PIL import Image, ImageDraw

    ours, theirs = (data.test_x, data.train_x) if left == "targets" else (data.train_x, data.test_x)
    _, height, width = pixels.size
    scale = max(1, round(_SIDE / height))
    cell = width * scale + _PAD, height * scale + 2 * _PAD
    broad = [
        max(max(len(row[at]) for row in rows) * cell[0], int(_font().getlength(words)) + 1)
        for at, words in zip((2, 3), headings, strict=True)
    ]
    starts = _NAME, _NAME + broad[0] + _GAP
    size = starts[1] + broad[1] + _PAD, _HEAD + len(rows) * cell[1]
    picture = Image.new("RGB", size, _PAPER)
    draw = ImageDraw.Draw(picture)
    for x, words in zip(starts, headings, strict=True):
        draw.text((x, _PAD), words, _SOFT, _font())
    for at, (name, below, first, second) in enumerate(rows):
        y = _HEAD + at * cell[1]
        draw.line((0, y, size[0], y), _LINE)
        middle = y + cell[1] // 2
        draw.text((_PAD, middle - (17 if below else 9)), _fitted(name, _NAME - 2 * _PAD), _INK, _font())
        if below:
            draw.text((_PAD, middle + 1), _fitted(below, _NAME - 2 * _PAD), _SOFT, _font())
        for start, examples, shown in zip(starts, (ours, theirs), (first, second), strict=True):
            for place, example in enumerate(shown):
                values = pixels.bytes_of(examples[example])
                one = Image.fromarray(values[..., 0] if values.shape[2] == 1 else values).convert("RGB")
                tile = one.resize((width * scale, height * scale), Image.Resampling.NEAREST)
                picture.paste(tile, (start + place * cell[0], y + _PAD))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _font() -> Any:
    """The font that matplotlib brings along, so that pictures are the same everywhere."""
    import matplotlib as mpl
    from PIL import ImageFont

    return ImageFont.truetype(str(Path(mpl.get_data_path()) / "fonts/ttf/DejaVuSans.ttf"), 14)


def _fitted(words: str, room: int) -> str:
    words, font = printable(words), _font()
    while words and font.getlength(words) > room:
        words = words[:-2] + "…" if len(words) > 2 else ""
    return words
