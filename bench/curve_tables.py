"""The learning curve of datamodels as a table: rich on a terminal, plain text in a pipe, Markdown in a file."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from bench import tables

if TYPE_CHECKING:
    from bench.curve import Curve, Point, Quartiles

HEADER = (
    *("estimator", "fit rows", "LDS", "95% interval", "R² mean", "R² median"),
    *("non-zeros", "λ/λ_max", "at last λ", "max gap", "not converged", "fit"),
)
_RIGHT = set(HEADER) - {"estimator", "95% interval", "non-zeros", "λ/λ_max"}


def cells(point: Point) -> tuple[str, ...]:
    """One point as texts, in the order of HEADER; what an estimator does not have is a dash."""
    return (
        point.estimator,
        f"{point.rows:,}",
        tables.lds(point.lds),
        tables.interval(point.ci),
        tables.lds(point.r2_mean),
        tables.lds(point.r2_median),
        _quartiles(point.nonzero, ".0f"),
        _quartiles(point.ratio, ".3f"),
        "–" if point.at_last is None else f"{point.at_last:.0%}",
        "–" if point.gap_max is None else f"{point.gap_max:.1e}".replace("-", "−"),
        "–" if point.not_converged is None else f"{point.not_converged:,}",
        f"{point.seconds:.2f} s" if point.seconds < 10 else f"{point.seconds:.0f} s",
    )


def _quartiles(values: Quartiles | None, form: str) -> str:
    if values is None:
        return "–"
    low, middle, high = (format(value, form) for value in values)
    return f"{middle} [{low}, {high}]"


def caption(curve: Curve) -> str:
    """What the table is of, in a sentence."""
    seeds = " × one seed" if curve.tune_rows == curve.tune_subsets else f" ({curve.tune_rows} rows)"
    return (
        f"{curve.setting}: datamodels against fit rows, judged on {curve.tune_subsets} tune subsets{seeds} (α = "
        f"{curve.alpha:g}, {curve.output} margin, {curve.n_train} train × {curve.n_targets} targets)."
    )


def footnotes(curve: Curve) -> list[str]:
    """What a reader must know of the columns, and of single points."""
    tol, n = curve.lasso.get("tol"), curve.n_targets
    notes = []
    if any(point.nonzero for point in curve.points):
        notes.append("non-zeros and λ/λ_max: median over targets [quartiles]")
    if curve.repeats > 1 and curve.tune_rows == curve.tune_subsets:
        notes.append(
            f"LDS is lower here than in bench run's table, where a subset's margin is the mean of {curve.repeats} seeds"
        )
    for point in curve.points:
        who = f"{point.estimator}, {point.rows:,} rows"
        if point.not_converged:
            limit = f" (relative duality gap {tol:g})" if point.estimator == "lasso" and tol else ""
            notes.append(f"{who}: {point.not_converged} of {n} targets did not converge{limit}")
        if point.constant:
            notes.append(f"{who}: {point.constant} of {n} targets are constant over the fit rows: zero datamodels")
        if point.no_r2:
            notes.append(f"{who}: {point.no_r2} of {n} targets have no R²: constant or not finite on the tune rows")
        notes += [f"{who}: {count} of {n} targets are excluded ({why})" for why, count in point.excluded.items()]
        notes += [f"{who}: {count} of {n} targets count as 0 ({why})" for why, count in point.zeroed.items()]
    return notes


def plain(curve: Curve) -> str:
    """Aligned plain text, for pipes."""
    lines = tables.aligned([HEADER, *map(cells, curve.points)], _RIGHT)
    notes = footnotes(curve)
    return "\n".join([caption(curve), "", *lines, *(["", *notes] if notes else [])]) + "\n"


def markdown(curve: Curve) -> str:
    """A GitHub table with caption and notes."""
    lines = tables.piped([HEADER, *map(cells, curve.points)], _RIGHT)
    notes = [f"- {note}" for note in footnotes(curve)]
    return "\n".join([caption(curve), "", *lines, *(["", *notes] if notes else [])]) + "\n"


def show(curve: Curve) -> None:
    """Print the table on stdout."""
    if not sys.stdout.isatty():
        sys.stdout.write(plain(curve))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    notes = footnotes(curve)
    table = Table(header_style="bold", caption=Text("\n".join(notes)) if notes else None, caption_justify="left")
    for name in HEADER:
        table.add_column(name, justify="right" if name in _RIGHT else "left", overflow="fold")
    last = None
    for point in curve.points:
        if last not in (None, point.estimator):
            table.add_section()
        last = point.estimator
        table.add_row(*map(Text, cells(point)))
    console = Console()
    console.print(caption(curve), highlight=False, markup=False)
    console.print(table)
