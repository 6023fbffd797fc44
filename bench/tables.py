"""The leaderboard as a table: rich on a terminal, plain text in a pipe, Markdown in a file."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING

from bench import files

if TYPE_CHECKING:
    from bench.results import Leaderboard, Row

HEADER = ("rank", "method", "LDS", "95% interval", "models", "training", "attributing", "memory")
_RIGHT = {"rank", "LDS", "models", "training", "attributing", "memory"}
_SIGN = -0.1


def lds(value: float | None) -> str:
    """An LDS as everywhere in tables: three digits."""
    return "–" if value is None else f"{value:.3f}".replace("-", "−")


def interval(ci: tuple[float, float] | None) -> str:
    """An interval as everywhere in tables."""
    return "–" if ci is None else f"[{lds(ci[0])}, {lds(ci[1])}]"


def cells(row: Row) -> tuple[str, ...]:
    """One method as texts, in the order of HEADER."""
    cost = row.cost
    figures = (
        str(cost.models),
        _seconds(cost.train_seconds),
        _seconds(cost.seconds),
        f"{cost.peak_bytes / 1e6:.0f} MB",
    )
    return (
        str(row.rank or ""),
        row.name,
        row.status if row.status != "ok" else lds(row.lds),
        interval(row.ci),
        *(figures if row.status == "ok" else ("",) * len(figures)),
    )


def _seconds(value: float) -> str:
    return f"{value:.1f} s" if value < 100 else f"{value:.0f} s"


def caption(board: Leaderboard) -> list[str]:
    """What the table is of, in sentences."""
    rows = board.rows
    subsets = rows.eval // rows.repeats
    per_seed = "one seed" if rows.repeats == 1 else f"{rows.repeats} seeds"
    lines = [
        f"{board.setting}: LDS on {subsets} held-out subsets × {per_seed} (α = {board.alpha:g}, {board.output} margin, "
        f"{board.n_train} train × {board.n_targets} targets); {rows.fit} fit and {rows.tune} tune rows.",
    ]
    if rows.diverged:
        lines.append(f"{rows.diverged} models diverged and are left out.")
    if board.ceiling is not None:
        lines.append(f"Noise ceiling: {lds(board.ceiling.lds)} {interval(board.ceiling.ci)}.")
    return lines


def stamps(board: Leaderboard) -> list[str]:
    """What must stand above the table where the data are not the published ones."""
    return [files.stamp(board.data) or f"data: {files.NOT_PUBLISHED} files"] if board.modified_data else []


def footnotes(board: Leaderboard) -> list[str]:
    """What a reader of the table must know of single rows; what holds for several is said once."""
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
        notes.append(f"{count} of {board.n_targets} targets have ties (average ranks)")
    return notes


def _remarks(row: Row, n_targets: int) -> Iterator[str]:
    if row.reason:
        yield f"{row.status}: {row.reason}" if row.status != "ok" else row.reason
    if row.n_excluded:
        yield f"{row.n_excluded} of {n_targets} targets are excluded (no correlation)"
    if row.lds is not None and row.lds < _SIGN:
        yield "strongly negative: are its scores of the opposite sign?"
    yield from (" ".join(note.split()) for note in row.notes)


def plain(board: Leaderboard) -> str:
    """Aligned plain text, for pipes."""
    lines = aligned([HEADER, *(cells(row) for row in board.methods)], _RIGHT)
    return "\n".join([*caption(board), *stamps(board), "", *lines, *_spaced(footnotes(board))]) + "\n"


def markdown(board: Leaderboard) -> str:
    """A GitHub table with caption and notes."""
    lines = piped([HEADER, *(cells(row) for row in board.methods)], _RIGHT)
    notes = [f"- {note}" for note in footnotes(board)]
    return "\n".join([" ".join(caption(board)), *_spaced(stamps(board)), "", *lines, *_spaced(notes)]) + "\n"


def aligned(table: Sequence[Sequence[str]], right: Collection[str]) -> list[str]:
    """Lines of plain text, from a header and the rows below it; the columns named in `right` end at one place."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return [
        "  ".join(
            text.rjust(width) if name in right else text.ljust(width)
            for text, width, name in zip(line, widths, table[0], strict=True)
        ).rstrip()
        for line in table
    ]


def piped(table: Sequence[Sequence[str]], right: Collection[str]) -> list[str]:
    """The same as a GitHub table."""
    align = ["---:" if name in right else "---" for name in table[0]]
    lines = [table[0], align, *table[1:]]
    return ["| " + " | ".join(text.replace("|", "\\|") for text in line) + " |" for line in lines]


def _spaced(lines: list[str]) -> list[str]:
    return ["", *lines] if lines else []


def show(board: Leaderboard) -> None:
    """Print the table on stdout."""
    import sys

    if not sys.stdout.isatty():
        sys.stdout.write(plain(board))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    notes = footnotes(board)
    caption_text = Text("\n".join(notes)) if notes else None  # a string would be read as rich's markup
    table = Table(header_style="bold", caption=caption_text, caption_justify="left")
    for name in HEADER:
        table.add_column(name, justify="right" if name in _RIGHT else "left", overflow="fold")
    for row in board.methods:
        style = {"ok": "", "skipped": "dim", "failed": "red"}[row.status]
        table.add_row(*(Text(text) for text in cells(row)), style=style)
    console = Console()
    for line in caption(board):
        console.print(line, highlight=False, markup=False)
    for line in stamps(board):
        console.print(line, style="bold yellow", highlight=False, markup=False)
    console.print(table)
