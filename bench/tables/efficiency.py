"""What an LDS costs: per model trained and per second, and which methods are worth their price."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

    from bench.results import Leaderboard, Row

CHANCE = 0.05  # p-value below which a method is more than chance
EFFICIENCY = {
    "method": "string",
    "lds": "float64",
    "models": "Int64",
    "lds_per_model": "float64",
    "front_models": "boolean",
    "total_seconds": "float64",
    "lds_per_second": "float64",
    "front_seconds": "boolean",
    "peak_bytes": "Int64",
    "disk_bytes": "Int64",
}
"""Of `of`: one row per method with an LDS. `total_seconds` are those of training its models and of attributing;
`front_…`: no other method has as good an LDS for as little (NA where the cost is not known)."""


def models(row: Row) -> float | None:
    """Models trained for a method; None where that is not known."""
    return None if row.cost is None else row.cost.models


def seconds(row: Row) -> float | None:
    """Seconds of training its models and of attributing; None where they are not known."""
    return None if row.cost is None else row.cost.train_seconds + row.cost.seconds


def front(rows: list[Row], price: Callable[[Row], float | None]) -> list[Row]:
    """The methods better than chance that no other matches for less, from the cheapest on.

    Args:
        rows: those that have an LDS.
        price: of each; one without a price is not among them.
    """
    priced = [
        (cost, -row.lds, at)
        for at, row in enumerate(rows)
        if (cost := price(row)) is not None
        and row.lds is not None
        and row.lds > 0
        and (row.p_value is None or row.p_value < CHANCE)
    ]
    found: list[Row] = []
    for _, _, at in sorted(priced):
        if not found or (rows[at].lds or 0.0) > (found[-1].lds or 0.0):
            found.append(rows[at])
    return found


def of(board: Leaderboard) -> pd.DataFrame:
    """One row per method that has an LDS, most LDS per model first; columns EFFICIENCY.

    A method that needs no model, or no second, has no ratio: NaN, and such rows come last.
    """
    from bench.tables import frames

    rows = [row for row in board.methods if row.lds is not None]
    fronts = [{row.name for row in front(rows, price)} for price in (models, seconds)]
    lines: list[dict[str, Any]] = []
    for row in rows:
        cost, total = row.cost, seconds(row)
        lines.append(
            {
                "method": row.name,
                "lds": row.lds,
                "models": cost and cost.models,
                "lds_per_model": row.lds / cost.models if cost and cost.models and row.lds is not None else None,
                "front_models": None if cost is None else row.name in fronts[0],
                "total_seconds": total,
                "lds_per_second": row.lds / total if total and row.lds is not None else None,
                "front_seconds": None if cost is None else row.name in fronts[1],
                "peak_bytes": cost and cost.peak_bytes,
                "disk_bytes": cost and cost.disk_bytes,
            }
        )
    lines.sort(key=lambda line: -(line["lds_per_model"] if line["lds_per_model"] is not None else float("-inf")))
    return frames.frame({name: [line[name] for line in lines] for name in EFFICIENCY}, EFFICIENCY)


def sentence(board: Leaderboard) -> str | None:
    """Which methods no other beats in LDS and models trained; None where there is nothing to choose between."""
    rows = [row for row in board.methods if row.lds is not None]
    known = [row for row in rows if row.cost is not None]
    best = front(known, models)
    if len(best) < 2:
        return None
    worth = ", ".join(f"{row.name} ({row.cost.models:,})" for row in best if row.cost is not None)
    return f"worth their models (trained for it; no other method is as good with as few): {worth}"
