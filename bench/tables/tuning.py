"""What methods chose on the tune rows, and what that gained: each method's default beside its tuned row."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from bench.tables.text import lds

if TYPE_CHECKING:
    import pandas as pd

    from bench.results import Leaderboard, Pair, Row, SearchRow

_TUNE = "tune"
TUNING = {
    "method": "string",
    "default_lds": "float64",
    "tuned": "string",
    "tuned_lds": "float64",
    "gain": "float64",
    "gain_low": "float64",
    "gain_high": "float64",
    "p_holm": "float64",
    "what": "string",
    "chosen": "string",
    "tried": "string",
}
"""Of `of`: one row per choice. `gain` is in LDS, with its 95% interval and p-value from the paired comparison;
`tried` has every value with its LDS on the tune rows."""


class Tuned(NamedTuple):
    """A row that was tuned, and the method's row with its default; None where the table has none."""

    row: Row
    default: Row | None


def pairs(board: Leaderboard) -> list[Tuned]:
    """Every row that chose something on the tune rows, with its default."""
    return [Tuned(row, _default(row, board.methods)) for row in board.methods if row.searches]


def _default(tuned: Row, rows: list[Row]) -> Row | None:
    """The row of the same method whose parameters differ in nothing but what was tuned."""
    free = {name for name, value in tuned.params.items() if value == _TUNE}
    alike = [
        row
        for row in rows
        if row is not tuned
        and row.name.partition(":")[0] == tuned.name.partition(":")[0]
        and not row.searches
        and {k: v for k, v in row.params.items() if k not in free}
        == {k: v for k, v in tuned.params.items() if k not in free}
    ]
    return min(alike, key=lambda row: len(row.name), default=None)


def tried(search: SearchRow) -> str:
    """Every value with its LDS on the tune rows."""
    return ", ".join(f"{value}: {lds(found)}" for value, found in search.tried.items())


def said(search: SearchRow) -> str:
    """A choice as a sentence for readers of the table."""
    values = list(search.tried)
    others = ", ".join(values) if len(values) <= 7 else f"{values[0]}, {values[1]}, …, {values[-1]} ({len(values)})"
    text = f"{search.what} {search.chosen} was best on the tune rows, of {others}"
    numbers = sorted(number for value in values if (number := _number(value)) is not None)
    chosen = _number(search.chosen)
    at_end = len(numbers) > 2 and chosen in (numbers[0], numbers[-1]) and chosen != 0  # none is below it
    return f"{text}; it is at the end of them, so a better one may lie beyond" if at_end else text


def _number(value: str) -> float | None:
    try:
        return float(value)
    except ValueError:
        return None


def gain(board: Leaderboard, pair: Tuned) -> Pair | None:
    """The comparison of a tuned row with its default; None where there is none."""
    names = {pair.row.name, pair.default.name if pair.default else ""}
    return next((found for found in board.pairs if {found.better, found.worse} == names), None)


def sentence(board: Leaderboard) -> str | None:
    """Default and tuned LDS of each method that has both; None where none has."""
    both = [
        f"{pair.default.name} {lds(pair.default.lds)} → {lds(pair.row.lds)} ({_chosen(pair.row)})"
        for pair in pairs(board)
        if pair.default is not None and pair.default.lds is not None and pair.row.lds is not None
    ]
    return f"default → tuned: {'; '.join(both)}" if both else None


def _chosen(row: Row) -> str:
    return ", ".join(dict.fromkeys(f"{search.what} {search.chosen}" for search in row.searches))


def of(board: Leaderboard) -> pd.DataFrame:
    """One row per choice, methods in the leaderboard's order; columns TUNING."""
    from bench.tables import frames

    lines: list[dict[str, Any]] = []
    for pair in pairs(board):
        found = gain(board, pair)
        turned = 1 if found is None or found.better == pair.row.name else -1
        ends = sorted(turned * end for end in found.ci) if found else (None, None)
        for search in pair.row.searches:
            lines.append(
                {
                    "method": pair.default.name if pair.default else pair.row.name.partition(":")[0],
                    "default_lds": pair.default and pair.default.lds,
                    "tuned": pair.row.name,
                    "tuned_lds": pair.row.lds,
                    "gain": found and turned * found.difference,
                    "gain_low": ends[0],
                    "gain_high": ends[1],
                    "p_holm": found and found.p_holm,
                    "what": search.what,
                    "chosen": search.chosen,
                    "tried": tried(search),
                }
            )
    return frames.frame({name: [line[name] for line in lines] for name in TUNING}, TUNING)
