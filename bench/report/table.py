"""The ranked table, sortable by every column, with interval bars; and the comparison of every two methods."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench import tables
from bench.report.markup import breakable, number, scroller, text
from bench.results import Row
from bench.tables import tuning
from bench.wording import counted

if TYPE_CHECKING:
    from bench.results import Leaderboard

_WIDTH, _HEIGHT = 180, 26  # of a bar, in pixels
_MARGIN = 6
_RIGHT = ' class="r"'


@dataclass(frozen=True)
class _Column:
    """One that can be sorted by: `falls` where the greatest comes first."""

    name: str
    title: str
    falls: bool = False
    right: bool = True
    hint: str = ""


_COLUMNS = (
    _Column("rank", "Rank", hint="place, and the places that it may have (95%, all methods at once)"),
    _Column("method", "Method", right=False),
    _Column("lds", "LDS", falls=True, hint="mean over targets, with its 95% interval"),
    _Column("group", "Group", right=False, hint="methods that share a letter cannot be told apart"),
    _Column("share", "Of ceiling", falls=True, hint="the LDS as a share of the noise ceiling, with its 95% interval"),
    _Column(
        "counterfactual",
        "Counterfactual",
        falls=True,
        hint="correlation of predicted with actual changes when groups of one size are removed, with its 95% interval",
    ),
    _Column("p", "p-value", hint="of so large an LDS by chance, two-sided"),
    _Column("models", "Models", hint="models trained for it"),
    _Column("ratio", "LDS per model", falls=True, hint="the LDS divided by the models trained for it"),
    _Column("training", "Training", hint="seconds that training these models took"),
    _Column("attributing", "Attributing", hint="seconds that the method itself took"),
    _Column("memory", "Memory", hint="most memory above what was held before"),
    _Column("disk", "Disk", hint="what it keeps on disk"),
)


@dataclass(frozen=True)
class _Scale:
    """From LDS to pixels, one for all rows."""

    low: float
    high: float

    @classmethod
    def of(cls, board: Leaderboard) -> _Scale:
        values = [0.0, *((board.ceiling.ci[1],) if board.ceiling else ())]
        for row in board.methods:
            if row.lds is not None:
                values += [row.lds, *(row.ci or ())]
        high = max(0.1, math.ceil(max(values) * 10 - 1e-9) / 10)
        return cls(math.floor(min(values) * 20 + 1e-9) / 20, high)

    def __call__(self, value: float) -> str:
        share = (min(max(value, self.low), self.high) - self.low) / (self.high - self.low)
        return f"{_MARGIN + share * (_WIDTH - 2 * _MARGIN):.1f}"


def ranked(board: Leaderboard) -> str:
    """The table with its filter."""
    scale = _Scale.of(board)
    explored = any(row.counterfactual for row in board.methods)
    columns = [column for column in _COLUMNS if explored or column.name != "counterfactual"]
    head = "".join(_head(column, scale) for column in columns)
    body = "\n".join(_row(row, board, scale, at, columns) for at, row in enumerate(board.methods))
    count = len(board.methods)
    caption = "Methods, best first. The button of a column sorts by it."
    made = (
        f'<table id="ranking-table"><caption class="hidden">{caption}</caption>'
        f"<thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table>"
    )
    return (
        '<p class="tools script-only"><label for="filter">Filter methods</label> '
        '<input id="filter" type="search" autocomplete="off" spellcheck="false"> '
        f'<span id="filter-count" role="status" aria-live="polite">{count} of {counted(count, "method")}</span></p>'
        + scroller(made, "Ranked methods, table")
        + _legend(board)
    )


def _head(column: _Column, scale: _Scale) -> str:
    sorted_ = ' aria-sort="ascending"' if column.name == "rank" else ""
    title = f' title="{text(column.hint)}"' if column.hint else ""
    falls = ' data-falls="1"' if column.falls else ""
    kind = ' class="r"' if column.right else ""
    button = f'<button type="button" data-key="{column.name}"{falls}{title}>{column.title}</button>'
    span = ' colspan="2"' if column.name == "lds" else ""
    axis = _axis(scale) if column.name == "lds" else ""
    if axis:
        button = f'<div class="lds-head">{button}{axis}</div>'
    return f'<th scope="col"{span}{kind}{sorted_}>{button}</th>'


def _axis(scale: _Scale) -> str:
    """Numbers above the bars."""
    marks = [
        f'<text x="{scale(0)}" y="15">0</text>',
        f'<text class="last" x="{scale(scale.high)}" y="15">{scale.high:g}</text>',
    ]
    return f'<svg class="bar" width="{_WIDTH}" height="{_HEIGHT}" aria-hidden="true">{"".join(marks)}</svg>'


def _row(row: Row, board: Leaderboard, scale: _Scale, at: int, columns: Sequence[_Column]) -> str:
    scored = row.status == "ok" and row.lds is not None
    keys = {"method": row.name, "at": at}
    if scored:
        keys |= {"rank": row.rank, "lds": row.lds, "group": row.group, "p": row.p_value}
        keys |= {"share": row.of_ceiling and row.of_ceiling.value, "ratio": _per_model(row)}
        keys |= {"counterfactual": row.counterfactual and row.counterfactual.spearman}
        if row.cost is not None:
            cost = row.cost
            keys |= {"models": cost.models, "training": cost.train_seconds, "attributing": cost.seconds}
            keys |= {"memory": cost.peak_bytes, "disk": cost.disk_bytes}
    data = "".join(f' data-{name}="{text(value)}"' for name, value in keys.items() if value is not None)
    name = f'<th scope="row" class="name">{breakable(row.name)}</th>'
    if not scored:
        why = text(row.reason or "no LDS")
        said = row.status if row.status != "ok" else "no LDS"
        cell = f'<td colspan="{len(columns) - 1}" class="why"><b class="badge">{said}</b> {why}</td>'
        return f'<tr class="{row.status}"{data}><td class="r">–</td>{name}{cell}</tr>'
    return f"<tr{data}>{_rank(row)}{name}{_lds(row)}{_bar(row, board, scale)}{_rest(row, columns)}</tr>"


def _rank(row: Row) -> str:
    places = ""
    if row.rank_ci is not None and row.rank_ci[0] != row.rank_ci[1]:
        places = f' <span class="below">{row.rank_ci[0]}–{row.rank_ci[1]}</span>'
    return f'<td class="r"><b>{row.rank or ""}</b>{places}</td>'


def _lds(row: Row) -> str:
    return f'<td class="r"><b>{tables.lds(row.lds)}</b> <span class="below">{tables.interval(row.ci)}</span></td>'


def _bar(row: Row, board: Leaderboard, scale: _Scale) -> str:
    middle = _HEIGHT / 2
    marks = [f'<line class="zero" x1="{scale(0)}" x2="{scale(0)}" y1="0" y2="{_HEIGHT}"/>']
    if board.ceiling is not None:
        x = scale(board.ceiling.lds)
        marks.append(f'<line class="ceiling" x1="{x}" x2="{x}" y1="0" y2="{_HEIGHT}"/>')
    value = row.lds or 0.0
    a, b = sorted((float(scale(0)), float(scale(value))))
    marks.append(f'<rect class="length" x="{a}" y="{middle - 5:g}" width="{b - a:.1f}" height="10"/>')
    if row.ci is not None:
        x1, x2 = scale(row.ci[0]), scale(row.ci[1])
        ends = "".join(f"M{x} {middle - 5:g}v10" for x in (x1, x2))
        marks.append(f'<path class="interval" d="M{x1} {middle:g}H{x2}{ends}"/>')
    else:
        marks.append(f'<path class="interval" d="M{scale(value)} {middle - 5:g}v10"/>')
    drawn = "".join(marks)
    return f'<td><svg class="bar" width="{_WIDTH}" height="{_HEIGHT}" aria-hidden="true">{drawn}</svg></td>'


def _rest(row: Row, columns: Sequence[_Column]) -> str:
    cost, share = row.cost, row.of_ceiling
    of_ceiling = "–"
    if share is not None:
        low, high = (number(100 * value, 0) for value in share.ci)
        of_ceiling = f'{number(100 * share.value, 0)}% <span class="below">[{low}, {high}]</span>'
    figures = ("–",) * 6
    if cost is not None:
        ratio = _per_model(row)
        times = seconds(cost.train_seconds), seconds(cost.seconds)
        each = "–" if ratio is None else f"{ratio:.2g}".replace("-", "−")
        figures = (f"{cost.models:,}", each, *times, size(cost.peak_bytes), size(cost.disk_bytes))
    explored = any(column.name == "counterfactual" for column in columns)
    cells = (of_ceiling, *([_counterfactual(row)] if explored else []), p_value(row.p_value), *figures)
    return f"<td>{text(row.group or '–')}</td>" + "".join(f'<td class="r">{cell}</td>' for cell in cells)


def _counterfactual(row: Row) -> str:
    found = row.counterfactual
    if found is None:
        return "–"
    return f'{tables.lds(found.spearman)} <span class="below">{tables.interval(found.ci)}</span>'


def _per_model(row: Row) -> float | None:
    return row.lds / row.cost.models if row.lds is not None and row.cost is not None and row.cost.models else None


def _legend(board: Leaderboard) -> str:
    notes = ["Group: methods that share a letter cannot be told apart."] if any(r.group for r in board.methods) else []
    if any(row.rank_ci and row.rank_ci[0] != row.rank_ci[1] for row in board.methods):
        notes.append("Grey beside a rank: the places that it may have.")
    removed = next((row.counterfactual for row in board.methods if row.counterfactual), None)
    if removed is not None:
        notes.append(
            "Counterfactual: correlation of predicted with actual changes of margins when groups of one size are "
            f"removed ({removed.removals:,} groups); no part of the ranking."
        )
    notes.append("Bar: from 0 to the LDS, with its 95% interval at the end.")
    if board.ceiling is not None:
        notes.append("Dashed line: the noise ceiling.")
    elif board.why_no_ceiling:
        notes.append(f"There is no noise ceiling: {text(board.why_no_ceiling)}.")
    return f'<p class="soft">{" ".join(notes)}</p>'


def p_value(value: float | None) -> str:
    """As everywhere in the report."""
    if value is None:
        return "–"
    return "&lt; 0.001" if value < 0.001 else f"{value:.3f}"


def seconds(value: float) -> str:
    """As everywhere in the report."""
    return f"{value:.2f} s" if value < 10 else f"{value:.1f} s" if value < 100 else f"{value:,.0f} s"


def size(value: float) -> str:
    """Bytes in words."""
    if value < 1e6:
        return f"{value / 1e3:.0f} kB"
    return f"{value / 1e6:.0f} MB" if value < 1e9 else f"{value / 1e9:.1f} GB"


def tuned(board: Leaderboard) -> str:
    """Each method's default beside its tuned row, with what was tried; empty where nothing was tuned."""
    found = tuning.pairs(board)
    if not found:
        return ""
    numbers = ("Default", "Tuned", "Difference")
    titles = ("Method", *numbers, "Chosen", "LDS on the tune rows of all that was tried")
    head = "".join(f'<th scope="col"{_RIGHT if title in numbers else ""}>{title}</th>' for title in titles)
    body = "\n".join(_tuned(board, pair) for pair in found)
    made = (
        '<table id="tuning-table"><caption class="hidden">Default and tuned rows</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    )
    return (
        "<h3>Default and tuned</h3>"
        '<p class="soft">Parameters were chosen on tune rows, never on those that judge; so a tuned row may be the '
        f"worse of the two. Differences have 95% intervals.</p>{scroller(made, 'Default and tuned, table')}"
    )


def _tuned(board: Leaderboard, pair: tuning.Tuned) -> str:
    compared, difference = tuning.gain(board, pair), "–"
    if compared is not None:
        turned = 1 if compared.better == pair.row.name else -1
        low, high = sorted(turned * end for end in compared.ci)
        difference = f"{number(turned * compared.difference)} {tables.interval((low, high))}"
    name = pair.default.name if pair.default is not None else pair.row.name
    chosen = "; ".join(f"{search.what} {search.chosen}" for search in pair.row.searches)
    tried = "; ".join(tuning.tried(search) for search in pair.row.searches)
    values = [tables.lds(pair.default.lds if pair.default else None), tables.lds(pair.row.lds), difference]
    figures = "".join(f'<td class="r">{value}</td>' for value in values)
    return f'<tr><th scope="row">{text(name)}</th>{figures}<td>{text(chosen)}</td><td>{text(tried)}</td></tr>'


def pairs(board: Leaderboard) -> str:
    """Every two methods on the same subsets and targets; empty where there is nothing to compare."""
    if not board.pairs:
        return ""
    head = "".join(
        f'<th scope="col"{kind}>{title}</th>'
        for title, kind in (
            ("Better", ""),
            ("Worse", ""),
            ("Difference", ' class="r"'),
            ("95% interval", ' class="r"'),
            ("p-value", ' class="r"'),
            ("p, corrected", ' class="r"'),
            ("Told apart?", ""),
        )
    )
    body = "\n".join(
        f'<tr><th scope="row">{text(p.better)}</th><td>{text(p.worse)}</td><td class="r">{number(p.difference)}</td>'
        f'<td class="r">{tables.interval(p.ci)}</td><td class="r">{p_value(p.p_value)}</td>'
        f'<td class="r">{p_value(p.p_holm)}</td><td>{"yes" if p.p_holm < 0.05 else "no"}</td></tr>'
        for p in board.pairs
    )
    made = (
        '<table><caption class="hidden">Every two methods compared</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    )
    apart = sum(pair.p_holm < 0.05 for pair in board.pairs)
    return (
        f"<details><summary>Every two methods compared: {apart} of {counted(len(board.pairs), 'pair')} can be told "
        "apart</summary>"
        '<p class="soft">On the same subsets and targets, so that what they share cancels. The corrected p-value is '
        f"Holm's, for all these comparisons at once.</p>{scroller(made, 'Every two methods compared, table')}</details>"
    )
