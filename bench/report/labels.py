"""Names beside dots, so that few of them lie on others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from bench.report.markup import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_HEIGHT, _LETTER = 10.0, 4.5  # of a letter, in points
_DOT = 4.0
_NEAR = 4  # spots that need no line
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Spot:
    """Where a name goes.

    Attributes:
        at: the dot's place, in data units.
        offset: points right and up of it.
        align: which end of the name is there.
        far: whether a line must say whose name it is.
    """

    at: tuple[float, float]
    offset: tuple[float, float]
    align: str
    far: bool


def shortened(name: str, most: int) -> str:
    """The name in at most so many characters."""
    name = printable(name)
    return name if len(name) <= most else f"{name[: most - 1]}…"


def placed(axes: Axes, x: Sequence[float], y: Sequence[float], names: Sequence[str]) -> list[Spot]:
    """A spot for each dot, from the right on: of some around it the one with least on it.

    Args:
        axes: with its final scales and limits.
        x: of the dots, in data units.
        y: the same.
        names: what stands beside them.
    """
    figure = cast("Figure", axes.figure)
    inches = figure.dpi_scale_trans.inverted()
    transform = axes.transData + inches
    dots = [tuple(72 * value for value in transform.transform((a, b))) for a, b in zip(x, y, strict=True)]
    frame = axes.get_window_extent().transformed(inches)
    width = figure.bbox_inches.width
    room: Box = (72 * frame.x0, 72 * frame.y0, 72 * width, 72 * frame.y1)
    taken: list[Box] = [(a - _DOT, b - _DOT, a + _DOT, b + _DOT) for a, b in dots]
    found: dict[int, Spot] = {}
    for i in sorted(range(len(dots)), key=lambda i: dots[i], reverse=True):  # on the right there is least room
        (a, b), length = dots[i], _LETTER * len(names[i])
        best: tuple[float, Box, Spot] | None = None
        for rank, (right, up, align) in enumerate(_around()):
            start = a + right - {"left": 0.0, "center": length / 2, "right": length}[align]
            box = (start, b + up - _HEIGHT / 2, start + length, b + up + _HEIGHT / 2)
            far = rank >= _NEAR
            cost = sum(_overlap(box, other) for other in taken) + 4 * _outside(box, room) + 6 * far + rank
            if best is None or cost < best[0]:
                best = (cost, box, Spot((x[i], y[i]), (right, up), align, far))
        assert best is not None
        taken.append(best[1])
        found[i] = best[2]
    return [found[i] for i in range(len(dots))]


def _around() -> list[tuple[float, float, str]]:
    spots = [(7.0, 0.0, "left"), (-7.0, 0.0, "right"), (0.0, 10.0, "center"), (0.0, -10.0, "center")]
    for far in (9.0, 18.0, 27.0):
        spots += [(6.0, far, "left"), (6.0, -far, "left"), (-6.0, far, "right"), (-6.0, -far, "right")]
    return spots


def _overlap(a: Box, b: Box) -> float:
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))


def _outside(box: Box, room: Box) -> float:
    area = (box[2] - box[0]) * (box[3] - box[1])
    return area - _overlap(box, room)
