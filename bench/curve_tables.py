"""The learning curve of datamodels as a table: rich on a terminal, plain text in a pipe, Markdown in a file."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from bench import tables
from bench.wording import counted, either

if TYPE_CHECKING:
    from bench.curve import Curve, Point, Quartiles

HEADER = (
    *("estimator", "fit rows", "LDS", "95% interval", "R² mean", "R² median"),
    *("non-zeros", "λ/λ_max", "at last λ", "max gap", "not converged", "fit"),
)
_FIRST_TO_GO = ("R² median", "at last λ", "max gap", "fit", "not converged", "λ/λ_max", "R² mean", "non-zeros")
_RIGHT = set(HEADER) - {"estimator", "95% interval", "non-zeros", "λ/λ_max"}


def cells(point: Point, brief: bool = False) -> tuple[str, ...]:
    """One point as texts, in the order of HEADER, a dash for what there is not; `brief` is without quartiles."""
    return (
        point.estimator,
        f"{point.rows:,}",
        tables.lds(point.lds),
        tables.interval(point.ci),
        tables.lds(point.r2_mean),
        tables.lds(point.r2_median),
        _quartiles(point.nonzero, ".0f", brief),
        _quartiles(point.ratio, ".3f", brief),
        "–" if point.at_last is None else f"{point.at_last:.0%}",
        "–" if point.gap_max is None else f"{point.gap_max:.1e}".replace("-", "−"),
        "–" if point.not_converged is None else f"{point.not_converged:,}",
        f"{point.seconds:.2f} s" if point.seconds < 10 else f"{point.seconds:.0f} s",
    )


def _quartiles(values: Quartiles | None, form: str, brief: bool) -> str:
    if values is None:
        return "–"
    low, middle, high = (format(value, form) for value in values)
    return middle if brief else f"{middle} [{low}, {high}]"


def caption(curve: Curve) -> str:
    """What the table is of, in a sentence."""
    seeds = " × one seed" if curve.tune_rows == curve.tune_subsets else f" ({counted(curve.tune_rows, 'row')})"
    return (
        f"{curve.setting}: datamodels against fit rows, judged on {curve.tune_subsets} tune subsets{seeds} (α = "
        f"{curve.alpha:g}, {curve.output} margin, {curve.n_train} train × {counted(curve.n_targets, 'target')})."
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
            notes.append(
                f"{who}: {point.constant} of {n} targets {either(point.constant, 'is', 'are')} constant over the fit "
                "rows: zero datamodels"
            )
        if point.no_r2:
            notes.append(
                f"{who}: {point.no_r2} of {n} targets {either(point.no_r2, 'has', 'have')} no R²: constant or not "
                "finite on the tune rows"
            )
        notes += [
            f"{who}: {count} of {n} targets {either(count, 'is', 'are')} excluded ({why})"
            for why, count in point.excluded.items()
        ]
        notes += [
            f"{who}: {count} of {n} targets {either(count, 'counts', 'count')} as 0 ({why})"
            for why, count in point.zeroed.items()
        ]
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
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console, notes = Console(), footnotes(curve)
    lines, gone = _that_fits(curve, console.width)
    table = Table(box=box.SIMPLE_HEAD, header_style="bold", padding=(0, 1, 0, 0), show_edge=False)
    for name in lines[0]:
        table.add_column(name, justify="right" if name in _RIGHT else "left", overflow="fold")
    last = None
    for line in lines[1:]:
        if last not in (None, line[0]):
            table.add_section()
        last = line[0]
        table.add_row(*map(Text, line))
    if gone:
        notes = [note.replace(" [quartiles]", "") for note in notes]
        notes.append(f"no room for {', '.join(gone)}: widen the terminal, or use --out or --json")
    for text in (caption(curve), "", table, "", *notes):
        console.print(text, highlight=False, markup=False)


def _that_fits(curve: Curve, width: int) -> tuple[list[list[str]], list[str]]:
    """Header and rows that a terminal of `width` columns has room for, and what is left out of them."""
    gone: list[str] = []
    for brief, n_gone in [(False, 0), *((True, n) for n in range(len(_FIRST_TO_GO) + 1))]:
        gone = ["quartiles", *_FIRST_TO_GO[:n_gone]] if brief else []
        table = [HEADER, *(cells(point, brief) for point in curve.points)]
        kept = [column for column in zip(*table, strict=True) if column[0] not in gone]
        if sum(max(map(len, column)) + 2 for column in kept) <= width:
            break
    return [list(line) for line in zip(*kept, strict=True)], gone
