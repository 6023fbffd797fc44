"""The experiment as a plot: how memorization is spread, and what models lose without memorized and random examples."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from bench import atomic
from bench.curve_plot import RC, SOFT
from bench.wording import counted

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from bench.removal.document import Removal

_WIDTH, _HEIGHT = 8.3, 3.6  # inches; a README shows 830 pixels
# As in the learning curve: colours that the colour-blind tell apart, and of other mark and dash each.
_MEMORIZED, _RANDOM = ("most memorized", "#D55E00", "s", "-"), ("random", "#0072B2", "o", (0, (5, 2)))


def write(folder: Path, made: Removal) -> None:
    """Write removal.png and removal.svg."""
    import matplotlib as mpl

    with mpl.rc_context(RC):
        drawn = figure(made)
        atomic.write(folder / "removal.png", lambda file: drawn.savefig(file, format="png", dpi=200))
        atomic.write(folder / "removal.svg", lambda file: drawn.savefig(file, format="svg", metadata={"Date": None}))


def figure(made: Removal) -> Figure:
    """The plot: a histogram of memorization on the left, test accuracy against examples removed on the right."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    drawn = Figure(figsize=(_WIDTH, _HEIGHT), layout=ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.05, wspace=0.05))
    what = (
        f"{made.setting}, {made.n_train:,} training and {made.n_targets:,} test examples; memorization from "
        f"{made.runs:,} models, α = {made.alpha:g}; {counted(made.seeds, 'seed')} per point"
    )
    drawn.suptitle(what, x=0.01, ha="left", fontsize=8.5, color=SOFT)
    left, right = drawn.subplots(1, 2)
    _histogram(left, made)
    _accuracies(right, made)
    return drawn


def _histogram(axes: Axes, made: Removal) -> None:
    edges, counts, told = made.histogram.edges, made.histogram.counts, made.memorization
    there = [i for i, count in enumerate(counts) if count]
    axes.stairs(counts, edges, fill=True, color="#9E9E9E")
    axes.axvline(told["limit"], color=_MEMORIZED[1], linewidth=1.2, linestyle=(0, (3, 2)))
    axes.set_yscale("log")
    axes.set_ylim(0.7, 2.5 * max(counts))
    # The threshold and 0 are always in sight.
    axes.set_xlim(min(edges[there[0]], -0.1), max(edges[there[-1] + 1], 1.15 * told["limit"]))
    share = told["above"] / told["examples"]
    axes.annotate(
        f"{told['above']:,} ({share:.1%}) from {told['limit']:g} on",
        (told["limit"], 1.5 * max(counts)),
        xytext=(4, 0),
        textcoords="offset points",
        va="center",
        color=_MEMORIZED[1],
    )
    axes.set_xlabel("memorization")
    axes.set_ylabel("training examples (log scale)")
    axes.set_title("a  Memorization of training examples")


def _accuracies(axes: Axes, made: Removal) -> None:
    removed = [0.0, *(100 * step.share for step in made.steps)]
    for (label, colour, mark, dash), values in (
        (_RANDOM, [made.full, *(step.random for step in made.steps)]),
        (_MEMORIZED, [made.full, *(step.memorized for step in made.steps)]),
    ):
        points = [
            (x, 100 * v.mean, 100 * v.ci[0], 100 * v.ci[1])
            for x, v in zip(removed, values, strict=True)
            if v.mean is not None and v.ci is not None
        ]
        if points:
            x, middle, low, high = zip(*points, strict=True)
            axes.fill_between(x, low, high, color=colour, alpha=0.18, linewidth=0)
            axes.plot(x, middle, color=colour, marker=mark, linestyle=dash, label=label)
    axes.set_xlabel("training examples removed, %")
    axes.set_ylabel("test accuracy, %")
    axes.set_title("b  Models without them, with 95% intervals")
    axes.legend(title="removed", loc="best", handlelength=2.8, framealpha=1, edgecolor="none", borderpad=0.2)
