"""How methods, baselines and chance are told apart in plots of `bench explore`: by colour, dash and mark."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bench.report import svg

_SOLID = "-"
_METHODS: tuple[tuple[str, Any, str], ...] = (
    (svg.SERIES[0], _SOLID, "o"),
    (svg.SERIES[1], (0, (6, 2)), "s"),
    (svg.SERIES[3], (0, (6, 2, 1, 2)), "^"),
    (svg.INK, (0, (3, 1.5)), "D"),
    (svg.SERIES[2], (0, (1.2, 1.2)), "v"),
    (svg.WARN, (0, (8, 2, 1, 2, 1, 2)), "P"),
)
_BASELINES: tuple[tuple[str, Any, str], ...] = (
    (svg.SOFT, (0, (1, 2)), "x"),
    (svg.SOFT, (0, (4, 2)), "+"),
    (svg.SOFT, _SOLID, "*"),
    (svg.SOFT, (0, (4, 2, 1, 2)), "1"),
)


def styles(names: Sequence[tuple[str, bool]]) -> dict[str, dict[str, Any]]:
    """What matplotlib's plot takes, by name.

    Args:
        names: of methods and baselines, each with whether it is a baseline.
    """
    made: dict[str, dict[str, Any]] = {}
    count = [0, 0]
    for name, baseline in names:
        family = _BASELINES if baseline else _METHODS
        colour, dash, mark = family[count[baseline] % len(family)]
        count[baseline] += 1
        made[name] = {
            **{"color": colour, "linestyle": dash, "marker": mark, "markersize": 4.5},
            **{"linewidth": 1.1 if baseline else 1.6},
        }
    return made
