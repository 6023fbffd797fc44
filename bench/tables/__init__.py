"""The leaderboard as a table: rich on a terminal, plain text in a pipe, Markdown in a file.

`bench.tables.latex` makes it LaTeX, `bench.tables.frames` pandas frames and CSV.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from bench.tables import efficiency, tuning
from bench.tables.text import Grid, aligned, interval, lds, p_value, piped, seconds, share
from bench.wording import counted, either

if TYPE_CHECKING:
    from bench.results import Leaderboard, Row

Column = tuple[str, Sequence[str]]

__all__ = ["HEADER", "aligned", "caption", "cells", "footnotes", "grid", "interval", "lds", "markdown", "piped"]
__all__ += ["p_value", "plain", "share", "show", "stamps"]
HEADER = (
    *("rank", "method", "LDS", "95% interval", "of ceiling", "group", "counterfactual"),
    *("models", "training", "attributing", "memory"),
)
"""All columns; a leaderboard without a ceiling, or of a single method, is shown without some (`grid`)."""
_RIGHT = {"rank", "LDS", "of ceiling", "counterfactual", "models", "training", "attributing", "memory"}
_FIRST_TO_GO = ("memory", "training", "attributing", "counterfactual", "group", "models", "of ceiling", "95% interval")
_SHOWN = {
    **{"rank": "rank", "rank_low": "rank", "rank_high": "rank", "method": "method", "lds": "LDS", "status": "LDS"},
    **{"ci_low": "95% interval", "ci_high": "95% interval", "of_ceiling": "of ceiling", "group": "group"},
    **{"counterfactual": "counterfactual", "models": "models", "train_seconds": "training", "seconds": "attributing"},
    "peak_bytes": "memory",
}  # by column of the CSV
_WORDS = {"group", "reason", "tuned", "probable_sign_error"}
_SIGN = -0.1
_LEVEL = 0.05


def cells(row: Row) -> tuple[str, ...]:
    """One method as texts, in the order of HEADER."""
    cost = row.cost
    figures = ("–",) * 4
    if cost is not None:
        times = seconds(cost.train_seconds), seconds(cost.seconds)
        figures = (str(cost.models), *times, f"{cost.peak_bytes / 1e6:.0f} MB")
    return (
        ranks(row),
        row.name,
        row.status if row.status != "ok" else lds(row.lds),
        interval(row.ci),
        share(row.of_ceiling.value if row.of_ceiling else None),
        row.group or "–",
        lds(row.counterfactual.spearman if row.counterfactual else None),
        *(figures if row.status == "ok" else ("",) * len(figures)),
    )


def ranks(row: Row) -> str:
    """The place, or the first and last of those that the method may have."""
    first, last = row.rank_ci or (row.rank, row.rank)
    return str(first or "") if first == last else f"{first}–{last}"


def shown(board: Leaderboard, column: str) -> bool:
    """Whether a column of the CSV, or what is made of it, is one of the table's."""
    return _SHOWN.get(column) in columns(board)


def columns(board: Leaderboard) -> list[str]:
    """Those of HEADER that this leaderboard has something in."""
    gone = set()
    if not any(row.of_ceiling for row in board.methods):
        gone.add("of ceiling")
    if sum(row.group is not None for row in board.methods) < 2:
        gone.add("group")
    if not any(row.counterfactual for row in board.methods):
        gone.add("counterfactual")
    return [name for name in HEADER if name not in gone]


def grid(board: Leaderboard, also: Column | None = None) -> Grid:
    """The table with caption and notes, of the columns that this leaderboard has something in.

    Args:
        board: what is shown.
        also: a further column of the CSV, with a text for each method; it is added where the table has not got it.
    """
    names = columns(board)
    kept = [i for i, name in enumerate(HEADER) if name in names]
    lines = [HEADER, *map(cells, board.methods)]
    header, *rows = (tuple(line[i] for i in kept) for line in lines)
    right = set(_RIGHT)
    if also is not None and not shown(board, also[0]):
        header = (*header, also[0])
        rows = [(*row, text) for row, text in zip(rows, also[1], strict=True)]
        right |= set() if also[0] in _WORDS else {also[0]}
    return Grid(header, rows, right, caption(board), stamps(board), footnotes(board))


def caption(board: Leaderboard) -> list[str]:
    """What the table is of, in sentences."""
    rows = board.rows
    subsets = rows.eval // rows.repeats
    per_seed = "one seed" if rows.repeats == 1 else f"{rows.repeats} seeds"
    lines = [
        f"{board.setting}: LDS on {subsets} held-out subsets × {per_seed} (protocol {board.protocol}, "
        f"α = {board.alpha:g}, {board.output} margin, {board.n_train} train × {counted(board.n_targets, 'target')}); "
        f"{rows.fit} fit and {rows.tune} tune rows.",
    ]
    if rows.diverged:
        lines.append(f"{counted(rows.diverged, 'model diverged and is', 'models diverged and are')} left out.")
    if board.ceiling is not None:
        lines.append(f"Noise ceiling: {lds(board.ceiling.lds)} {interval(board.ceiling.ci)}.")
    elif board.why_no_ceiling:
        lines.append(f"No noise ceiling: {board.why_no_ceiling}.")
    return lines


def stamps(board: Leaderboard) -> list[str]:
    """What must stand above the table where the data are not the published ones."""
    from bench import files

    return [files.stamp(board.data) or f"data: {files.NOT_PUBLISHED} files"] if board.modified_data else []


def footnotes(board: Leaderboard) -> list[str]:
    """What a reader of the table must know of its columns and of single rows; what holds for several is said once."""
    said: dict[str, list[str]] = {}
    for row in board.methods:
        for text in _remarks(row, board.n_targets):
            said.setdefault(text, []).append(row.name)
    scored = [row.name for row in board.methods if row.lds is not None]
    everyone = scored if len(scored) > 1 else None
    notes = [f"{'all methods' if who == everyone else ', '.join(who)}: {text}" for text, who in said.items()]
    # Mostly the margins' own, hence alike for every method.
    tied = sorted({row.n_tied for row in board.methods if row.lds is not None})
    if tied and tied[-1]:
        count = f"{tied[0]}–{tied[-1]}" if len(tied) > 1 else f"{tied[0]}"
        notes.append(f"{count} of {board.n_targets} targets {'has' if tied == [1] else 'have'} ties (average ranks)")
    views = [text for text in (tuning.sentence(board), efficiency.sentence(board)) if text]
    return [*_legend(board), *views, *notes]


def _legend(board: Leaderboard) -> Iterator[str]:
    grouped = [row for row in board.methods if row.group is not None]
    if len(grouped) > 1:
        yield (
            "group: methods that share a letter are not distinguishable (paired tests on the same subsets and targets, "
            "5% for all pairs together)"
        )
    several = [row for row in grouped if row.rank_ci is not None and row.rank_ci[0] < row.rank_ci[1]]
    if several:
        yield f"rank: {ranks(several[0])} stands for any of these places, since those tests leave them open"
    removed = next((row.counterfactual for row in board.methods if row.counterfactual), None)
    if removed is not None:
        yield (
            "counterfactual: Spearman's correlation of predicted with actual changes of margins when groups of one "
            f"size are removed, mean over sizes and targets ({removed.removals:,} groups, models trained without each; "
            "no part of the ranking)"
        )
    yield from _chance(board)


def _chance(board: Leaderboard) -> Iterator[str]:
    known = [(row.name, row.p_value) for row in board.methods if row.p_value is not None]
    if board.chance is None or not known:
        return
    unlike = [p for _, p in known if p < _LEVEL]
    like = [f"{name} (p = {p_value(p)})" for name, p in known if p >= _LEVEL]
    said = [f"chance: 95% of independent random scores have an LDS in {interval(board.chance.ci)}"]
    if like:
        said.append(f"not distinguishable from chance: {', '.join(like)}")
    if unlike:
        who = "all others" if like else "all methods" if len(unlike) > 1 else known[0][0]
        said.append(f"{who} p ≤ {p_value(max(unlike))}")
    yield "; ".join(said)


def _remarks(row: Row, n_targets: int) -> Iterator[str]:
    if row.reason:
        yield f"{row.status}: {row.reason}" if row.status != "ok" else row.reason
    if row.n_excluded:
        yield f"{row.n_excluded} of {n_targets} targets {either(row.n_excluded, 'is', 'are')} excluded (no correlation)"
    if row.lds is not None and row.lds < _SIGN and row.p_value is None:  # else a note says it of every one below chance
        yield "strongly negative: are its scores of the opposite sign?"
    yield from map(tuning.said, row.searches)
    yield from (" ".join(note.split()) for note in row.notes)


def plain(board: Leaderboard, also: Column | None = None) -> str:
    """Aligned plain text, for pipes; `also` as for `grid`."""
    return grid(board, also).plain()


def markdown(board: Leaderboard, also: Column | None = None) -> str:
    """A GitHub table with caption and notes; `also` as for `grid`."""
    return grid(board, also).markdown()


def show(board: Leaderboard) -> None:
    """Print the table on stdout."""
    import sys

    if not sys.stdout.isatty():
        sys.stdout.write(plain(board))
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console, found = Console(), grid(board)
    lines, gone = _that_fits(found, console.width)
    table = Table(box=box.SIMPLE_HEAD, header_style="bold", padding=(0, 1, 0, 0), show_edge=False)
    for name in lines[0]:
        table.add_column(name, justify="right" if name in _RIGHT else "left", overflow="fold")
    for row, line in zip(board.methods, lines[1:], strict=True):
        table.add_row(*map(Text, line), style={"ok": "", "skipped": "dim", "failed": "red"}[row.status])
    for text in found.caption:
        console.print(text, highlight=False, markup=False)
    for text in found.stamps:
        console.print(text, style="bold yellow", highlight=False, markup=False)
    console.print()
    console.print(table)
    notes = list(found.notes)
    if gone:
        notes.append(f"no room for {', '.join(gone)}: widen the terminal, or see leaderboard.md")
    if notes:
        console.print()
    for text in notes:
        console.print(text, highlight=False, markup=False)


def _that_fits(found: Grid, width: int) -> tuple[list[tuple[str, ...]], list[str]]:
    """Header and rows that a terminal of `width` columns has room for, and the columns that it has not."""
    columns = list(zip(found.header, *found.rows, strict=True))
    gone: list[str] = []
    for name in [None, *(name for name in _FIRST_TO_GO if name in found.header)]:
        if name is not None:
            gone.append(name)
        kept = [column for column in columns if column[0] not in gone]
        if sum(max(map(len, column)) + 2 for column in kept) <= width:
            break
    return list(zip(*kept, strict=True)), gone
