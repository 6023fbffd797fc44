"""A table of texts, as lines of plain text or of Markdown; and how numbers are written in all of them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Grid:
    """A table of texts.

    Attributes:
        header: names of the columns; rows: one text for each.
        right: the columns that end at one place, as numbers do.
        caption: sentences above it; stamps: warnings above it; notes: sentences below it.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    right: Collection[str]
    caption: Sequence[str] = ()
    stamps: Sequence[str] = ()
    notes: Sequence[str] = ()

    def plain(self) -> str:
        """Aligned plain text, for pipes."""
        lines = aligned([self.header, *self.rows], self.right)
        return "\n".join([*self.caption, *self.stamps, "", *lines, *_spaced(self.notes)]) + "\n"

    def markdown(self) -> str:
        """A GitHub table with caption and notes."""
        lines = piped([self.header, *self.rows], self.right)
        notes = _spaced([f"- {note}" for note in self.notes])
        return "\n".join([" ".join(self.caption), *_spaced(self.stamps), "", *lines, *notes]) + "\n"


def lds(value: float | None) -> str:
    """An LDS as everywhere in tables: three digits."""
    return "–" if value is None or value != value else f"{value:z.3f}".replace("-", "−")


def interval(ci: tuple[float, float] | None) -> str:
    """An interval as everywhere in tables."""
    return "–" if ci is None else f"[{lds(ci[0])}, {lds(ci[1])}]"


def share(value: float | None) -> str:
    """A share as everywhere in tables: whole percent."""
    return "–" if value is None else f"{value:z.0%}".replace("-", "−")


def p_value(p: float) -> str:
    """A p-value as everywhere in tables: two decimals, or one digit that is not 0."""
    if p >= 0.01:
        return f"{p:.2f}"
    return f"{p:.1g}" if p >= 1e-4 else f"{p:.0e}".replace("e-0", "e−").replace("e-", "e−") if p else "0"


def seconds(value: float) -> str:
    """A duration as everywhere in tables."""
    return f"{value:.1f} s" if value < 100 else f"{value:.0f} s"


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


def _spaced(lines: Sequence[str]) -> list[str]:
    return ["", *lines] if lines else []
