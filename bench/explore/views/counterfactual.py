"""How `bench explore counterfactual` is shown."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bench.explore.blocks import Block, Heading, Lead, Plot, Table
from bench.explore.effects import Estimate
from bench.explore.removals_document import Cell, Counterfactual, Predicted
from bench.report import svg
from bench.report.labels import shortened
from bench.tables.text import Grid, interval, lds
from bench.wording import counted

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DOCUMENT = Counterfactual
TITLE = "What happens without a group of training examples?"
_LOOKS = {
    "top": (svg.SERIES[0], "o", "highest scores of the target"),
    "random": (svg.SERIES[2], "x", "random examples"),
    "class": (svg.SERIES[1], "^", "random examples of one class"),
    "file": (svg.SERIES[3], "s", "groups from files"),
}
_SHORT = {"top": "highest", "random": "random", "class": "one class", "file": "files"}
_METHOD_LOOKS = (
    *((svg.SERIES[0], "o", "-"), (svg.SERIES[1], "s", (0, (5, 2))), (svg.SERIES[3], "^", (0, (1, 1.5)))),
    *((svg.SERIES[2], "D", (0, (6, 2, 1, 2))), (svg.MARK, "v", (0, (3, 1, 1, 1, 1, 1)))),
)


def blocks(found: Counterfactual) -> list[Block]:
    """The score of each method, what it is made of, calibration, and the check against the LDS."""
    groups = sum(found.groups.values())
    made: list[Block] = [
        Lead(
            "Scores claim to know what would happen: without a group of training examples, the margin of a target "
            "should fall by the sum of the group's scores. Here this is tried. "
            f"{groups:,} groups of {_sizes(found)} examples are removed, one at a time, {found.seeds} models are "
            f"trained without each, and the change of the margins of {counted(len(found.targets), 'target')} is "
            f"compared with what each method predicts. {_kinds(found)}"
        ),
        Table(
            "Do methods rank the changes rightly?",
            _header(found),
            [_row(one, found) for one in found.methods],
            set(_header(found)[1:]),
            _note(found),
        ),
        Plot(
            "scatter",
            "Predicted and actual changes",
            "; ".join(
                f"{one.name}: " + ", ".join(f"{cell.kind} R² {_number(cell.r2.value)}" for cell in _whole(one))
                for one in _drawn(found)
            ),
            "Each mark is a group and a target, some of them drawn at random: across, the predicted change of the "
            "margin, upwards the one that models show. On the dashed line predictions are right; below it the model "
            "loses more than was predicted. Predictions are sums, and models are not linear: the more examples of a "
            "kind are gone, the more do the others matter.",
            lambda: _scatter(found),
        ),
        Plot(
            "sizes",
            "Agreement by size",
            "; ".join(
                f"{one.name}, {cell.kind} {cell.removed}: {lds(cell.spearman.value)}"
                for one in _picking(found)
                for cell in one.cells
                if cell.removed is not None
            ),
            "Spearman's correlation of predicted with actual changes, by how many examples are removed. Small groups "
            "change margins less than the luck of a training does, so that no method can be expected to rank them well "
            f"({_ceilings(found)}). Bars: 95% intervals, shown for the first method.",
            lambda: _by_size(found),
        ),
        Heading("Are predictions of the right size?"),
        _calibration(
            found,
            "slope",
            "Slope of actual on predicted changes, with 95% intervals",
            "How much the margin really changes where a change of 1 is predicted: 1 is calibrated, above 1 the method "
            "says too little, below 1 too much, below 0 the opposite. Predictions are in units of margins by one "
            "slope per method, fitted on "
            f"{found.calibrated_by}, not on these changes.",
        ),
        _calibration(
            found,
            "r2",
            "R²: how near predictions are to the actual changes, with 95% intervals",
            "1 − Σ (actual − predicted)² / Σ (actual − its mean)², of the predictions as they are, in units of "
            "margins by the one slope: 1 is exact; 0 is as good as always saying the mean of the actual changes; below "
            "0 is worse than that, as where a slope is far from 1. Intervals are of targets and groups, drawn anew. "
            "counterfactual.csv has all methods.",
        ),
    ]
    if found.halves:
        made += [Heading("The LDS, once more"), *_halves(found)]
    return made


def _kinds(found: Counterfactual) -> str:
    pickers = sum(one.picks for one in found.methods)
    said = {
        "top": f"{found.groups.get('top', 0):,} groups are the highest scores of one of these targets by one of "
        f"{pickers} methods, and all methods predict all of them",
        "random": f"{found.groups.get('random', 0):,} are random",
        "class": f"{found.groups.get('class', 0):,} are random parts of one class",
        "file": f"{len(found.files)} are named by files ({', '.join(f'{n}: {k:,}' for n, k in found.files.items())})",
    }
    there = [text for kind, text in said.items() if found.groups.get(kind)]
    return "; ".join(there) + "."


def _sizes(found: Counterfactual) -> str:
    return f"{found.sizes[0]:,}" if len(found.sizes) == 1 else f"{found.sizes[0]:,} to {found.sizes[-1]:,}"


def _header(found: Counterfactual) -> tuple[str, ...]:
    return ("method", "score", "95% interval", *(_SHORT[kind] for kind in found.groups), "LDS")


def _row(one: Predicted, found: Counterfactual) -> tuple[str, ...]:
    cells = {cell.kind: cell for cell in _whole(one)}
    values = [lds(cells[kind].spearman.value) if kind in cells else "–" for kind in found.groups]
    return (one.name, lds(one.score.value), interval(one.score.ci), *values, lds(one.lds))


def _whole(one: Predicted) -> list[Cell]:
    return [cell for cell in one.cells if cell.removed is None]


def _picking(found: Counterfactual) -> list[Predicted]:
    return [one for one in found.methods if one.picks]


def _drawn(found: Counterfactual) -> list[Predicted]:
    return [one for one in found.methods if one.scatter is not None]


def _note(found: Counterfactual) -> str:
    best = _expected(found.ceiling)
    return (
        "Score: Spearman's correlation of predicted with actual changes over all groups of one size (of all kinds but "
        "files), for each target; mean over sizes and targets, as an LDS is of random subsets. 0 is chance: within one "
        f"size it is no merit to know that removing more does more.{best} Highest: over the groups of a target's own "
        "highest scores and all targets, mean over sizes. Random and one class: as the score, of these groups alone."
    )


def _ceilings(found: Counterfactual) -> str:
    known = [
        f"{_ended(one)} of {_SHORT[name]} groups" for name, one in found.cell_ceilings.items() if one.value is not None
    ]
    return (
        f"the seeds' noise lets expect at most about {' and '.join(known)}, mean of all sizes"
        if known
        else "one model per group, or too few groups, cannot tell how well"
    )


def _expected(best: Estimate) -> str:
    """A sentence on the ceiling."""
    if best.value is None:
        return ""
    return (
        f" The noise between seeds lets expect a score of at most about {_ended(best)}; that is an estimate, and a "
        "method may be above it by luck."
    )


def _ended(value: Estimate) -> str:
    return lds(value.value) + ("" if value.ci is None else f" {interval(value.ci)}")


def _calibration(found: Counterfactual, what: str, caption: str, note: str) -> Table:
    """Slopes or R² by kind and size, of the methods that picked groups."""
    methods = _picking(found)
    header = ["groups", *(shortened(one.name, 26) for one in methods)]
    rows = []
    for at, cell in enumerate(methods[0].cells):
        if cell.removed is None and sum(other.kind == cell.kind for other in methods[0].cells) > 1:
            continue  # its sizes are there one by one
        size = "" if cell.removed is None else f", {cell.removed:,}"
        rows.append((_SHORT[cell.kind] + size, *(_valued(getattr(one.cells[at], what)) for one in methods)))
    return Table(caption, header, rows, set(header[1:]), note)


def _valued(value: Estimate) -> str:
    ends = "" if value.ci is None else f" [{_number(value.ci[0])}, {_number(value.ci[1])}]"
    return _number(value.value) + ends


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:z.2f}".replace("-", "−")


def _halves(found: Counterfactual) -> list[Block]:
    header = ["method", "Spearman", "95% interval", "LDS", "difference", "95% interval of it"]
    rows = [
        (
            one.name,
            lds(one.half.spearman.value),
            interval(one.half.spearman.ci),
            lds(one.half.lds),
            lds(one.half.difference.value),
            interval(one.half.difference.ci),
        )
        for one in found.methods
        if one.half is not None
    ]
    said = (
        f"{found.halves:,} times {found.removed_half:,} random examples are removed, as many as the ground truth's "
        f"subsets leave out, with {found.half_seeds} models each that share their seed with no other. That is what the "
        "LDS measures, on new subsets and new models: the correlation should be the LDS, up to chance. Of these "
        "removals it is meant, not of the smaller random ones above, whose correlation is lower: the effects of fewer "
        "examples are smaller beside the noise between seeds."
    )
    note = (
        f"Over all targets.{_expected(found.half_ceiling)} Intervals of differences count both as independent, though "
        "they are of the same targets: they are rather too wide (conservative)."
    )
    return [Lead(said), Table("Random removals of that size, and the LDS", header, rows, set(header[1:]), note)]


def _scatter(found: Counterfactual) -> Figure:
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    shown = _drawn(found)
    drawn = Figure(figsize=(max(6.4, 2.75 * len(shown)), 3.5), layout=ConstrainedLayoutEngine())
    panels: Any = drawn.subplots(1, len(shown), squeeze=False, sharex=True, sharey=True)
    for at, (axes, one) in enumerate(zip(panels[0], shown, strict=True)):
        assert one.scatter is not None
        for kind, points in one.scatter.points.items():
            colour, mark, label = _LOOKS[kind]
            x, y = zip(*points, strict=True) if points else ((), ())
            hollow = {} if mark == "x" else {"facecolors": "none"}
            given = {"color": colour} if mark == "x" else {"edgecolors": colour}
            axes.scatter(x, y, s=11, marker=mark, linewidths=0.7, label=label, **given, **hollow)
        axes.axline((0, 0), slope=1, color=svg.LINE, linewidth=1, linestyle=(0, (4, 3)), zorder=0)
        axes.set_title(shortened(one.name, 30), fontsize=svg.FONT, loc="left")
        axes.set_xlabel("predicted change of the margin")
        if at == 0:
            axes.set_ylabel("actual change of the margin")
    handles, labels = panels[0][0].get_legend_handles_labels()
    drawn.legend(handles, labels, loc="outside lower center", ncols=2 if len(shown) < 2 else 4, frameon=False)
    return drawn


def _by_size(found: Counterfactual) -> Figure:
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    kinds = [kind for kind in found.groups if kind != "file"]
    drawn = Figure(figsize=(7.8, 3.5), layout=ConstrainedLayoutEngine())
    panels: Any = drawn.subplots(1, len(kinds), squeeze=False, sharey=True)
    for at, (axes, kind) in enumerate(zip(panels[0], kinds, strict=True)):
        _panel(axes, found, kind)
        axes.set_title(_LOOKS[kind][2], fontsize=svg.FONT, loc="left")
        if at == 0:
            axes.set_ylabel("Spearman's correlation")
    handles, labels = panels[0][0].get_legend_handles_labels()
    drawn.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False, handlelength=3.2)
    return drawn


def _panel(axes: Axes, found: Counterfactual, kind: str) -> None:
    for at, one in enumerate(_picking(found)):
        colour, mark, dash = _METHOD_LOOKS[at % len(_METHOD_LOOKS)]
        cells = [c for c in one.cells if c.kind == kind and (c.removed or len(found.sizes) == 1) and _is_known(c)]
        x = [c.removed or found.sizes[0] for c in cells]
        y = [c.spearman.value or 0.0 for c in cells]
        axes.plot(
            x,
            y,
            color=colour,
            marker=mark,
            linestyle=dash,
            markersize=4.5,
            linewidth=1.4,
            label=shortened(one.name, 52),
        )
        if at == 0:
            for cell in cells:
                if cell.spearman.ci is not None:
                    axes.plot([cell.removed or found.sizes[0]] * 2, cell.spearman.ci, color=colour, linewidth=1)
    axes.set_xscale("log")
    axes.set_xticks(found.sizes, [f"{size:,}" for size in found.sizes])
    axes.minorticks_off()
    axes.axhline(0, color=svg.LINE, linewidth=0.8)
    axes.grid(axis="y")
    axes.set_xlabel("examples removed (log scale)")


def _is_known(cell: Cell) -> bool:
    return cell.spearman.value is not None


def frame(found: Counterfactual) -> pd.DataFrame:
    """A row per method, kind and size; all sizes together without a number, and of the score with the kind `score`."""
    import pandas as pd

    rows: list[dict[str, Any]] = []
    for one in found.methods:
        rows.append({"method": one.name, "kind": "score"} | _flat("spearman", one.score))
        for cell in one.cells:
            about = {"method": one.name, "kind": cell.kind, "removed": cell.removed}
            about |= {"groups": cell.groups, "points": cell.points}
            rows.append(about | _flat("spearman", cell.spearman) | _flat("slope", cell.slope) | _flat("r2", cell.r2))
        if one.half is not None:
            about = {"method": one.name, "kind": "half", "removed": found.removed_half, "groups": found.halves}
            rows.append(about | _flat("spearman", one.half.spearman))
    made = pd.DataFrame(rows)
    for name in ("removed", "groups", "points"):
        made[name] = made[name].astype("Int64")
    return made


def _flat(name: str, value: Estimate) -> dict[str, float | None]:
    low, high = value.ci or (None, None)
    return {name: value.value, f"{name}_low": low, f"{name}_high": high}


def grid(found: Counterfactual) -> Grid:
    """The score of each method, and what it is made of."""
    header = [*_header(found), *(["of LDS size"] if found.halves else [])]
    rows = [
        (*_row(one, found), *([lds(one.half.spearman.value if one.half else None)] if found.halves else []))
        for one in found.methods
    ]
    caption = [
        f"{found.about.setting}: {sum(found.groups.values()):,} groups of {_sizes(found)} of {found.about.n_train:,} "
        f"training examples removed, {counted(found.seeds, 'model')} without each; "
        f"{counted(len(found.targets), 'target')}."
    ]
    notes = [
        "score: Spearman's correlation of predicted with actual changes of margins over groups of one size, mean over "
        "sizes and targets"
        + (
            ""
            if found.ceiling.value is None
            else f"; the seeds' noise lets expect at most about {_ended(found.ceiling)}"
        ),
    ]
    if found.halves:
        notes.append(
            f"of LDS size: {found.removed_half:,} random examples removed, {found.halves:,} times × {found.half_seeds} "
            "seeds, over all targets: should be the LDS (smaller removals are below it)"
        )
    return Grid(header, rows, set(header[1:]), caption, (), [*notes, *found.notes])
