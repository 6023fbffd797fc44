"""The report's plots: figures of matplotlib as inline SVG, with captions for those who see such for the first time."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from bench import tables
from bench.report import markup, svg
from bench.report.labels import placed, shortened
from bench.results import Row
from bench.tables import efficiency
from bench.wording import counted

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from bench.curve import Curve
    from bench.results import Leaderboard

Floats = "NDArray[np.float64]"
_LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)
_POINTS = 72.0  # per inch
_BINS = 30
_ESTIMATORS = {"lasso": ("LASSO", "o"), "ridge": ("ridge", "s"), "heldout": ("difference in means", "^")}
_ESTIMATORS["least-squares"] = ("least squares", "D")


def scored(board: Leaderboard) -> list[Row]:
    """The methods that have an LDS, best first."""
    return [row for row in board.methods if row.lds is not None]


def quantiles(row: Row, per_target: dict[str, NDArray[np.float64]]) -> list[float] | None:
    """Of the row's LDS over targets: 5%, 25%, 50%, 75%, 95%; None where they are not known."""
    if row.spread is not None and all(f"{level:g}" in row.spread.quantiles for level in _LEVELS):
        return [row.spread.quantiles[f"{level:g}"] for level in _LEVELS]
    values = per_target.get(row.name)
    if values is None or not np.isfinite(values).any():
        return None
    found: list[float] = np.nanquantile(values, _LEVELS).tolist()
    return found


def _figure(width: float, height: float, left: float, bottom: float, right: float = 0.12, top: float = 0.1) -> Any:
    """A figure and its axes; all in inches, so that nothing has to be laid out."""
    from matplotlib.figure import Figure

    made: Figure = Figure(figsize=(width, height))
    axes = made.add_axes((left / width, bottom / height, 1 - (left + right) / width, 1 - (bottom + top) / height))
    return made, axes


def standings(board: Leaderboard, per_target: dict[str, NDArray[np.float64]]) -> str:
    """LDS by method, with intervals, spread over targets, ceiling and chance."""
    rows = scored(board)
    names = [shortened(row.name, 26) for row in rows]
    left = 0.3 + 0.072 * max(map(len, names))
    made, axes = _figure(7.4, 0.7 + 0.27 * len(rows), left, 0.45, right=0.5, top=0.25)
    spreads = [quantiles(row, per_target) for row in rows]
    for at, (row, spread) in enumerate(zip(rows, spreads, strict=True)):
        if spread is not None:
            axes.plot([spread[0], spread[4]], [at, at], color=svg.BAND, linewidth=1.6, solid_capstyle="butt")
            axes.plot([spread[1], spread[3]], [at, at], color=svg.BAND, linewidth=8, solid_capstyle="butt")
        if row.ci is not None:
            axes.plot(row.ci, [at, at], color=svg.MARK, linewidth=3, solid_capstyle="butt")
        axes.plot([row.lds], [at], color=svg.MARK, marker="o", markersize=5.5, linestyle="none")
    low = min(
        0.0, *(spread[0] for spread in spreads if spread), *(row.ci[0] if row.ci else row.lds or 0.0 for row in rows)
    )
    axes.set_xlim(math.floor(low * 10) / 10, 1)
    axes.set_ylim(len(rows) - 0.5, -0.6)
    if board.chance is not None:
        axes.axvspan(*board.chance.ci, color=svg.LINE, linewidth=0)
    axes.axvline(0, color=svg.SOFT, linewidth=0.8)
    _ceiling(axes, board, vertical=True)
    axes.set_yticks(range(len(rows)), [""] * len(rows))
    axes.tick_params(axis="y", length=0)
    for at, name in enumerate(names):
        axes.annotate(name, (0, at), (-8, 0), ("axes fraction", "data"), "offset points", ha="right", va="center",
                      annotation_clip=False, parse_math=False)  # fmt: skip
    axes.grid(axis="x")
    axes.spines["left"].set_visible(False)
    axes.set_xlabel("LDS (Spearman's ρ, mean over targets)")
    said = "; ".join(f"{row.name} {tables.lds(row.lds)} {tables.interval(row.ci)}" for row in rows)
    ceiling = "" if board.ceiling is None else f". Noise ceiling {tables.lds(board.ceiling.lds)}"
    drawn = svg.inline(made, "standings", "LDS of each method with its 95% interval", said + ceiling)
    caption = "Dot and dark bar: the mean LDS of a method with its 95% interval."
    if any(spreads):
        caption += (
            " Light box and line: the middle half and the middle nine tenths of single targets, so how much it differs "
            "from one target to the next."
        )
    if board.ceiling is not None:
        caption += " Dashed: the noise ceiling, which no method can be expected to pass."
    if board.chance is not None:
        caption += " Grey band at 0: where scores lie that know nothing."
    return markup.figure(markup.scroller(drawn, "LDS of each method, plot"), caption)


def _ceiling(axes: Axes, board: Leaderboard, *, vertical: bool) -> None:
    if board.ceiling is None:
        return
    value = board.ceiling.lds
    (axes.axvline if vertical else axes.axhline)(value, color=svg.SOFT, linewidth=1.1, linestyle=(0, (4, 3)))
    where: dict[str, Any] = {"color": svg.SOFT, "annotation_clip": False, "textcoords": "offset points"}
    if vertical:
        axes.annotate(
            "noise ceiling", (value, 1), xytext=(0, 4), xycoords=("data", "axes fraction"), ha="center", **where
        )
    else:
        axes.annotate(
            "noise ceiling", (1, value), xytext=(0, 3), xycoords=("axes fraction", "data"), ha="right", **where
        )


def costs(board: Leaderboard) -> str:
    """Quality against cost, in seconds and in models trained, with the front of what nothing beats in both."""
    rows = [row for row in scored(board) if row.cost is not None]
    if not rows:
        return ""
    seconds = _cost(board, rows, "seconds", _seconds, "seconds to train and attribute (log scale, from 0.01)", "log")
    models = _cost(board, rows, "models", _models, "models trained (log scale from 1)", "symlog")
    caption = (
        "Each dot is a method, with its 95% interval; up and to the left is better. The line joins methods that are "
        "worth their price: no other is at least as good for less."
    )
    for what, price in (("seconds", _seconds), ("models trained", _models)):
        names = ", ".join(row.name for row in efficiency.front(rows, price)) or "none"
        caption += f" By {what}: {markup.text(names)}."
    hint = (
        '<p class="soft">Two prices: on the left all seconds, those of training models included; on the right the '
        "number of models that had to be trained.</p>"
    )
    return hint + markup.figure(f'<div class="pair">{seconds}{models}</div>', caption)


def _seconds(row: Row) -> float:
    return max(efficiency.seconds(row) or 0.0, 0.01)


def _models(row: Row) -> float:
    return efficiency.models(row) or 0.0


def _cost(board: Leaderboard, rows: list[Row], name: str, price: Callable[[Row], float], label: str, scale: str) -> str:
    made, axes = _figure(5.4, 3.6, 0.5, 0.48, right=1.05)
    x, y = [price(row) for row in rows], [float(row.lds or 0.0) for row in rows]
    front = efficiency.front(rows, price)
    axes.set_xscale(scale, **({"linthresh": 1} if scale == "symlog" else {}))
    if front:
        at_x, at_y = [price(row) for row in front], [float(row.lds or 0.0) for row in front]
        axes.plot(
            [*at_x, max(x) * 3], [*at_y, at_y[-1]], color=svg.BAND, linewidth=2.2, drawstyle="steps-post", zorder=1
        )
    for row, here in zip(rows, x, strict=True):
        if row.ci is not None:
            axes.plot([here, here], row.ci, color=svg.MARK, linewidth=1.6, zorder=2)
    axes.plot(x, y, color=svg.MARK, marker="o", markersize=5, linestyle="none", zorder=3)
    if scale == "log":
        axes.set_xlim(min(x) / 2, max(x) * 3)
    else:
        axes.set_xlim(-0.25, max(1, *x) * 3)
    low = min(0.0, *(row.ci[0] if row.ci else value for row, value in zip(rows, y, strict=True)))
    highest = max(row.ci[1] if row.ci else value for row, value in zip(rows, y, strict=True))
    top = max(highest, board.ceiling.lds if board.ceiling else 0.0, 0.05)
    axes.set_ylim(low - 0.06 * (top - low), top + 0.1 * (top - low))
    _plain_ticks(axes, scale)
    axes.grid()
    axes.set_xlabel(label)
    axes.set_ylabel("LDS")
    _ceiling(axes, board, vertical=False)
    names = [shortened(row.name, 24) for row in rows]
    line = {"arrowstyle": "-", "color": svg.SOFT, "linewidth": 0.6, "shrinkA": 0, "shrinkB": 3}
    for text, spot in zip(names, placed(axes, x, y, names), strict=True):
        style: dict[str, Any] = {"ha": spot.align, "va": "center", "fontsize": 8, "parse_math": False}
        style |= {"arrowprops": line} if spot.far else {}
        axes.annotate(text, spot.at, spot.offset, textcoords="offset points", annotation_clip=False, **style)
    said = "; ".join(f"{row.name}: LDS {tables.lds(row.lds)} for {here:.3g}" for row, here in zip(rows, x, strict=True))
    on_front = ", ".join(row.name for row in front)
    description = f"{said}. Not beaten in both: {on_front or 'none'}."
    title = f"LDS against {label.partition(' (')[0]}"
    return markup.scroller(svg.inline(made, f"cost-{name}", title, description), f"{title}, plot")


def _plain_ticks(axes: Axes, scale: str) -> None:
    """10,000 in place of 10⁴."""
    from matplotlib.ticker import FuncFormatter, NullFormatter, NullLocator

    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    if scale == "symlog":
        axes.xaxis.set_minor_locator(NullLocator())


def histograms(board: Leaderboard, per_target: dict[str, NDArray[np.float64]]) -> str:
    """The LDS of single targets: a histogram for each method, all on one scale."""
    rows = [row for row in scored(board) if np.isfinite(per_target.get(row.name, np.empty(0))).any()]
    if not rows:
        return ""
    all_values = np.concatenate([per_target[row.name] for row in rows])
    low = min(0.0, math.floor(float(np.nanmin(all_values)) * 10) / 10)
    edges = np.linspace(low, 1, _BINS + 1)
    counts = [np.histogram(per_target[row.name], edges)[0] for row in rows]
    most = max(int(count.max()) for count in counts)
    drawn = [
        _histogram(f"histogram-{i}", row, per_target, edges, count, most)
        for i, (row, count) in enumerate(zip(rows, counts, strict=True))
    ]
    return f'<div class="multiples">{"".join(drawn)}</div>'


def _histogram(
    name: str, row: Row, per_target: dict[str, NDArray[np.float64]], edges: Any, counts: Any, most: int
) -> str:
    made, axes = _figure(3.7, 1.4, 0.36, 0.28, right=0.16, top=0.08)
    axes.stairs(counts, edges, fill=True, color=svg.BAND, linewidth=0)
    values = quantiles(row, per_target) or []
    for level, value in zip(_LEVELS, values, strict=False):
        width, height = (1.8, 1.0) if level == 0.5 else (1.0, 0.55)
        axes.axvline(value, ymax=height, color=svg.MARK, linewidth=width)
    axes.axvline(0, color=svg.SOFT, linewidth=0.8)
    axes.set_xlim(edges[0], edges[-1])
    axes.set_xticks([0, 0.5, 1] if edges[0] > -0.5 else [-0.5, 0, 0.5, 1])
    axes.set_ylim(0, most * 1.05)
    axes.set_yticks([0, _round_down(most)])
    axes.spines["left"].set_visible(False)
    finite = per_target[row.name][np.isfinite(per_target[row.name])]
    below = float((finite < 0).mean())
    low, middle, high = (markup.number(value, 2) for value in values[1:4])
    said = f"median {middle}, middle half {low} to {high}, {_percent(below)} below 0"
    title = f"Histogram of the LDS of {counted(len(finite), 'target', form=',')}, {row.name}"
    drawn = svg.inline(made, name, title, said)
    return f"<figure><figcaption><b>{markup.text(row.name)}</b> {said}</figcaption>{drawn}</figure>"


def _round_down(count: int) -> int:
    """To one digit, for a tick."""
    step: int = 10 ** (len(str(count)) - 1)
    return max(1, count // step * step)


def _percent(share: float) -> str:
    return f"{share:.1%}" if 0 < share < 0.1 else f"{share:.0%}"


def learning(curve: Curve) -> str:
    """LDS of datamodels against the fit rows."""
    made, axes = _figure(6.6, 3.3, 0.6, 0.5, right=0.2)
    said = []
    counts = sorted({point.rows for point in curve.points})
    for colour, (name, (label, mark)) in zip(svg.SERIES, _ESTIMATORS.items(), strict=True):
        points = [(p.rows, p.lds, *p.ci) for p in curve.points if p.estimator == name and p.lds is not None and p.ci]
        if not points:
            continue
        x, middle, low, high = zip(*points, strict=True)
        axes.fill_between(x, low, high, color=colour, alpha=0.18, linewidth=0)
        axes.plot(x, middle, color=colour, marker=mark, markersize=5, linewidth=1.8, label=label)
        said.append(f"{label}: " + ", ".join(f"{tables.lds(b)} at {a:,} rows" for a, b, *_ in points))
    axes.set_xscale("log")
    axes.set_xticks(counts, [f"{count:,}" for count in counts])
    axes.minorticks_off()
    axes.set_xlim(counts[0] / 1.12, counts[-1] * 1.12)
    axes.grid()
    axes.set_xlabel("fit rows: models trained on random subsets (log scale)")
    axes.set_ylabel("LDS on tune rows")
    axes.legend(loc="best", frameon=False, labelcolor=svg.INK)
    title = "LDS of datamodels against the number of fit rows"
    return markup.scroller(svg.inline(made, "curve", title, "; ".join(said)), f"{title}, plot")
