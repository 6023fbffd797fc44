"""The learning curve of datamodels as a plot: LDS with its interval, and the penalties and sparsity behind it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from bench import atomic
from bench.wording import counted

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from bench.curve import Curve, Point

_WIDTH, _HEIGHT = 8.3, 3.7  # inches; a README shows 830 pixels
_ROOM = 0.12  # of the axis, for the number below a tick
INK, SOFT = "#222222", "#767676"
# Okabe and Ito's colours, which the colour-blind can tell apart; of other lightness, mark and dash each, for greyscale.
_STYLES = {
    "lasso": ("LASSO", "#0072B2", "o", "-"),
    "ridge": ("ridge", "#D55E00", "s", (0, (5, 2))),
    "heldout": ("difference in means", "#5F5F5F", "^", (0, (1, 1.5))),
    "least-squares": ("least squares", "#009E73", "D", (0, (4, 1.5, 1, 1.5))),
}
RC: dict[Any, Any] = {
    "font.size": 9,
    "axes.edgecolor": SOFT,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": "#E4E4E4",
    "grid.linewidth": 0.7,
    "text.color": INK,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "lines.linewidth": 1.8,
    "lines.markersize": 5.5,
    "svg.hashsalt": "ldsbench",  # the same curve makes the same bytes
}


def write(folder: Path, curve: Curve) -> None:
    """Write curve.png and curve.svg."""
    import matplotlib as mpl

    with mpl.rc_context(RC):
        made = figure(curve)
        atomic.write(folder / "curve.png", lambda file: made.savefig(file, format="png", dpi=200))
        atomic.write(folder / "curve.svg", lambda file: made.savefig(file, format="svg", metadata={"Date": None}))


def figure(curve: Curve) -> Figure:
    """The plot: LDS on the left; non-zero weights and penalties on the right, where LASSO is in the curve."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    by_name = {name: [p for p in curve.points if p.estimator == name] for name in _STYLES}
    lasso = [point for point in by_name["lasso"] if point.ratio is not None]
    layout = ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.05, wspace=0.04)
    made = Figure(figsize=(_WIDTH if lasso else _WIDTH * 0.6, _HEIGHT), layout=layout)
    what = f"{curve.setting}, {curve.n_train:,} train × {counted(curve.n_targets, 'target', form=',')}"
    made.suptitle(what, x=0.01, ha="left", fontsize=8.5, color=SOFT)
    rows = sorted({point.rows for point in curve.points})
    title = "LDS with 95% interval"
    if not lasso:
        _lds(made.subplots(), title, by_name, rows, curve)
        return made
    grid = made.add_gridspec(2, 2, width_ratios=[1.25, 1])
    _lds(made.add_subplot(grid[:, 0]), f"a  {title}", by_name, rows, curve)
    top, bottom = made.add_subplot(grid[0, 1]), made.add_subplot(grid[1, 1])
    _quartiles(top, lasso, "nonzero", "non-zero weights\nper target")
    _quartiles(bottom, lasso, "ratio", "penalty chosen,\nλ / λ$_{max}$")
    _rows_axis(top, rows, label=False)
    _rows_axis(bottom, rows)
    top.set_title("b  LASSO: median target and quartiles")
    made.align_ylabels([top, bottom])
    return made


def _lds(axes: Axes, title: str, by_name: dict[str, list[Point]], rows: list[int], curve: Curve) -> None:
    for name, (label, colour, mark, dash) in _STYLES.items():
        points = [(p.rows, p.lds, *p.ci) for p in by_name[name] if p.lds is not None and p.ci is not None]
        if not points:
            continue
        x, middle, low, high = zip(*points, strict=True)
        if len(points) > 1:
            axes.fill_between(x, low, high, color=colour, alpha=0.16, linewidth=0)
        else:
            axes.vlines(x, low, high, color=colour, alpha=0.5)
        axes.plot(x, middle, color=colour, marker=mark, linestyle=dash, label=label)
    _rows_axis(axes, rows)
    axes.set_ylabel(f"LDS on {curve.tune_subsets:,} tune subsets (Spearman's ρ)")
    axes.set_title(title)
    if axes.lines:
        where: Literal["best", "center left"] = "best" if len(rows) > 1 else "center left"
        # On white: no grid line runs through its words.
        axes.legend(loc=where, handlelength=2.8, framealpha=1, edgecolor="none", borderpad=0.2)


def _quartiles(axes: Axes, points: list[Point], name: str, label: str) -> None:
    _, colour, mark, dash = _STYLES["lasso"]
    x = [point.rows for point in points]
    low, middle, high = zip(*(getattr(point, name) for point in points), strict=True)
    if len(points) > 1:
        axes.fill_between(x, low, high, color=colour, alpha=0.16, linewidth=0)
    else:
        axes.vlines(x, low, high, color=colour, alpha=0.5)
    axes.plot(x, middle, color=colour, marker=mark, linestyle=dash)
    axes.set_ylim(0, max(high) * 1.08 or 1)
    axes.set_ylabel(label)


def _rows_axis(axes: Axes, rows: list[int], label: bool = True) -> None:
    """A log axis with ticks at the numbers of rows, as far as there is room for them."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    axes.set_xscale("log")
    axes.set_xlim(rows[0] / 1.15, rows[-1] * 1.15)
    ticks: list[int] = []
    room = (rows[-1] / rows[0]) ** _ROOM
    for count in reversed(rows):
        if not ticks or count * room <= ticks[-1]:
            ticks.append(count)
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())

    def text(value: float, _: Any) -> str:
        return f"{value:,.0f}" if label else ""

    axes.xaxis.set_major_formatter(FuncFormatter(text))
    if label:
        axes.set_xlabel("fit rows: subset models (log scale)")
