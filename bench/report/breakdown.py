"""LDS by the targets' class and by how much their margins vary, as tables whose shade follows the number."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from bench.report.markup import breakable, number, scroller, text

if TYPE_CHECKING:
    from bench.results import Leaderboard

_SHADES = 9
_FIFTHS = ("least varying", "2nd fifth", "3rd fifth", "4th fifth", "most varying")


def heat(board: Leaderboard, class_names: Sequence[str] = ()) -> str:
    """Both tables; empty where the run does not say (it is of before)."""
    rows = [row for row in board.methods if row.spread is not None and row.lds is not None]
    if not rows:
        return ""
    spreads = [(row.name, row.spread) for row in rows if row.spread is not None]
    classes = list(dict.fromkeys(label for _, spread in spreads for label in spread.by_class))
    titles = [f"{label} {_named(label, class_names)}".strip() for label in classes]
    by_class = [(name, [spread.by_class.get(label) for label in classes]) for name, spread in spreads]
    by_variance = [(name, list(spread.by_variance)) for name, spread in spreads]
    parts = []
    if len(classes) > 1:
        parts.append("<h3>By class</h3>" + _table("Mean LDS by class of the target", titles, by_class))
    if any(values for _, values in by_variance):
        parts.append(
            "<h3>By how much the margin varies</h3>"
            '<p class="soft">Targets in fifths, by the variance of their margins over subsets: where the training set '
            "matters little for a target, most of what is left to predict is noise.</p>"
            + _table("Mean LDS by fifth of the margin's variance", _FIFTHS, by_variance)
        )
    return "".join(parts)


def _named(label: str, names: Sequence[str]) -> str:
    return names[int(label)] if label.isdecimal() and int(label) < len(names) else ""


def _table(caption: str, titles: Sequence[str], rows: Sequence[tuple[str, Sequence[float | None]]]) -> str:
    most = max((abs(value) for _, values in rows for value in values if value is not None), default=0.0)
    head = "".join(f'<th scope="col" class="r">{text(title)}</th>' for title in titles)
    body = "\n".join(
        f'<tr><th scope="row" class="name">{breakable(name)}</th>{"".join(_cell(value, most) for value in values)}</tr>'
        for name, values in rows
    )
    made = (
        f'<table class="heat"><caption class="hidden">{caption}</caption>'
        f'<thead><tr><th scope="col">Method</th>{head}</tr></thead><tbody>{body}</tbody></table>'
    )
    return scroller(made, f"{caption}, table")


def _cell(value: float | None, most: float) -> str:
    if value is None:
        return '<td class="r">–</td>'
    shade = round(_SHADES * abs(value) / most) if most else 0
    kind = f" {'n' if value < 0 else 'h'}{shade}" if shade else ""
    return f'<td class="r{kind}">{number(value, 2)}</td>'
