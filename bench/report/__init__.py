"""report.html: the table, the intervals and the spread over targets, in one file that needs no network."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

import numpy as np

from bench import tables

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bench.results import Leaderboard

_STYLE = """
:root { color-scheme: light dark; --ink: #1a1a1a; --soft: #6b7280; --line: #d4d4d8; --mark: #2563eb; --band: #93c5fd; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e5e7eb; --soft: #9ca3af; --line: #3f3f46; --mark: #60a5fa; --band: #1e40af; }
  body { background: #18181b; }
}
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .6rem; border-bottom: 1px solid var(--line); text-align: left; white-space: nowrap; }
.r { text-align: right; } .soft, figcaption { color: var(--soft); } .failed td, .stamp { color: #dc2626; }
figure { margin: 2rem 0; overflow-x: auto; } svg text { fill: var(--ink); font: 13px system-ui, sans-serif; }
svg .soft { fill: var(--soft); }
"""
_WIDTH, _STEP, _LETTER = 640, 30, 7.5


def html(board: Leaderboard, per_target: dict[str, NDArray[np.float64]]) -> str:
    """The page.

    Args:
        board: the leaderboard.
        per_target: LDS of every target, float64 `[n_targets]`, by method name.
    """
    caption = " ".join(tables.caption(board))
    facts = [*board.versions.items(), *board.hardware.items()]
    notes = "".join(f"<li>{escape(note)}</li>" for note in tables.footnotes(board))
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(board.setting)}: attribution methods by LDS</title><style>{_STYLE}</style></head><body>
<h1>{escape(board.setting)}</h1>
<p>{escape(caption)}</p>{"".join(f'<p class="stamp">{escape(text)}</p>' for text in tables.stamps(board))}
<p class="soft">The LDS of a method is Spearman's rank correlation, over held-out training subsets, between the sum of
its scores over the subset and the margin of the model trained on it, averaged over targets.</p>
{_table(board)}
{f"<ul>{notes}</ul>" if notes else ""}
{_figure(board, per_target)}
<h2>Made with</h2>
<p class="soft">{"; ".join(f"{escape(k)} {escape(v)}" for k, v in facts)}. Seed {board.seed}.</p>
</body></html>
"""


def _table(board: Leaderboard) -> str:
    kinds = ["r" if name in tables._RIGHT else "" for name in tables.HEADER]
    head = "".join(f'<th class="{k}">{escape(t)}</th>' for k, t in zip(kinds, tables.HEADER, strict=True))
    body = "".join(
        f'<tr class="{row.status}">'
        + "".join(f'<td class="{k}">{escape(t)}</td>' for k, t in zip(kinds, tables.cells(row), strict=True))
        + "</tr>"
        for row in board.methods
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _figure(board: Leaderboard, per_target: dict[str, NDArray[np.float64]]) -> str:
    rows = [row for row in board.methods if row.lds is not None and row.name in per_target]
    if not rows:
        return ""
    left = 24 + _LETTER * max(len(row.name) for row in rows)
    low = min(-0.1, *(float(np.nanquantile(per_target[row.name], 0.05)) for row in rows))

    def at(value: float) -> float:
        return left + _WIDTH * (value - low) / (1 - low)

    marks = []
    height = _STEP * len(rows) + 40
    for fifths in range(int(np.ceil(low * 5)), 6):
        tick = fifths / 5
        x = at(tick)
        marks.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="8" y2="{height - 30}" stroke="var(--line)"/>')
        marks.append(f'<text class="soft" x="{x:.1f}" y="{height - 12}" text-anchor="middle">{tick:.1f}</text>')
    if board.ceiling is not None:
        x = at(board.ceiling.lds)
        marks.append(
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="8" y2="{height - 30}" stroke="var(--soft)" stroke-dasharray="4 3"/>'
        )
    for i, row in enumerate(rows):
        y = 24 + _STEP * i
        q = [at(float(v)) for v in np.nanquantile(per_target[row.name], [0.05, 0.25, 0.75, 0.95])]
        marks.append(f'<text x="{left - 12:.0f}" y="{y + 4}" text-anchor="end">{escape(row.name)}</text>')
        marks.append(f'<line x1="{q[0]:.1f}" x2="{q[3]:.1f}" y1="{y}" y2="{y}" stroke="var(--band)" stroke-width="2"/>')
        marks.append(f'<rect x="{q[1]:.1f}" y="{y - 6}" width="{q[2] - q[1]:.1f}" height="12" fill="var(--band)"/>')
        if row.ci is not None and row.lds is not None:
            a, b, c = at(row.ci[0]), at(row.ci[1]), at(row.lds)
            marks.append(f'<line x1="{a:.1f}" x2="{b:.1f}" y1="{y}" y2="{y}" stroke="var(--mark)" stroke-width="4"/>')
            marks.append(f'<circle cx="{c:.1f}" cy="{y}" r="5" fill="var(--mark)"/>')
    dashed = " The dashed line is the noise ceiling." if board.ceiling is not None else ""
    width = left + _WIDTH + 20
    return (
        f'<figure><svg viewBox="0 0 {width:.0f} {height}" width="{width:.0f}" role="img" aria-label="LDS by method">'
        f"{''.join(marks)}</svg><figcaption>Dot and dark bar: the mean LDS with its 95% interval. Light box and line: "
        f"the middle half and the middle nine tenths of single targets.{dashed}</figcaption></figure>"
    )
