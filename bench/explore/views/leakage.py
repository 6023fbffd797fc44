"""How `bench explore leakage` is shown."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bench.explore import lines
from bench.explore.blocks import Block, Heading, Lead, Picture, Plot, Table
from bench.explore.choice import class_cell
from bench.explore.copies import MEANING
from bench.explore.duplicates import PRECISION, Evaluation, Leakage, Suspect
from bench.explore.pairs import DENSITY
from bench.report import svg
from bench.report.labels import shortened
from bench.report.markup import number
from bench.tables.text import Grid, interval, lds

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

DOCUMENT = Leakage
TITLE = "Are targets copies of training examples?"

_STATISTICS = {
    "cosine": "cosine of the training example's and the target's directions in the score matrix, in which most of what "
    "all examples share is taken out",
    "top": "largest score of the target",
    "gap": "distance of the target's largest score to its second, in units of its spread",
    "z": "distance of the target's largest score to its median, in units of its spread",
}
_SHORT = {"cosine": "cosine", "top": "largest score", "gap": "gap to the second", "z": "distance to the median"}


def blocks(found: Leakage) -> list[Block]:
    """The suspects, then the evaluation."""
    made: list[Block] = [
        Lead(
            "A target that is also in the training set tells how well models remember, not how well they generalise. "
            "Methods do not compare what examples look like: they say which training examples a model's answer rests "
            "on. A training example and its copy should push and be pushed alike, so for each target the training "
            f"example is named that is most alike in this way ({_STATISTICS[found.statistic]}). Targets whose named "
            "example is the most alike come first."
        )
    ]
    if found.picture:
        made.append(
            Picture(
                "leakage-pairs.png",
                "suspicious pairs of a target and a training example, a row for each method",
                "Each pair: the target on the left, the training example that the method names on the right; below, "
                "their numbers and classes. The most suspicious pairs of a method come first. The last row is the "
                "plain baseline, the pairs that are nearest in pixels. Look for pairs that are the same picture: those "
                "that are merely alike are natural near-duplicates, as of things of one sort or digits by one writer.",
                density=DENSITY,
            )
        )
    made.append(_suspects(found))
    return made + (_evaluation(found, found.evaluation) if found.evaluation is not None else [])


def _first(found: Leakage) -> str:
    return found.suspects[0].method


def _suspects(found: Leakage) -> Table:
    name = _first(found)
    some = [one for one in found.suspects if one.method == name and one.rank <= found.shown]
    nearer = "nearer in pixels" if found.picture else "nearer"
    columns: dict[str, list[str]] = {
        "target": [str(one.target) for one in some],
        "class": [class_cell(one.target_label, found.class_names) for one in some],
        "what it holds": [one.target_holds for one in some],
        "training example": [str(one.train) for one in some],
        "class ": [class_cell(one.train_label, found.class_names) for one in some],
        "what it holds ": [one.train_holds for one in some],
        "value": [number(one.value) for one in some],
        nearer: ["–" if one.nearer is None else str(one.nearer) for one in some],
        "methods that name it": [f"{one.agree} of {len(found.about.methods)}" for one in some],
    }
    columns = {head: cells for head, cells in columns.items() if set(cells) - {"", "–"}}
    note = "Value: what pairs are ranked by."
    if nearer in columns:
        where = "in pixels" if found.picture else "by what the examples hold"
        note += (
            f" {nearer.capitalize()}: how many training examples are nearer to the target {where} than the one named; "
            "0 where it is the nearest."
        )
    note += " leakage.csv has the first 50 pairs of all methods."
    words = {"class", "class ", "what it holds", "what it holds "}
    rows = list(zip(*columns.values(), strict=True))
    return Table(f"The most suspicious pairs by {name}", list(columns), rows, {*columns} - words, note)


def _evaluation(found: Leakage, rated: Evaluation) -> list[Block]:
    total = sum(rated.kinds.values())
    said = "; ".join(f"{count} {kind} ({MEANING[kind]})" for kind, count in rated.kinds.items())
    near = (
        f" {rated.near} of these others are natural near-duplicates: they are as near to a training example as the "
        "least similar copy of the last kind is to its original. Naming those counts as an error here, though a person "
        "who looks for leakage may want to see them."
    )
    made: list[Block] = [
        Heading("Are planted copies found?"),
        Lead(
            f"To know what should be found, {total} of {total + rated.others} targets were replaced by copies of "
            f"training examples: {said}. {rated.models:,} models were trained on the unchanged training set, the "
            "methods were run anew, and their pairs ranked as above. A pair is right only if it names the training "
            f"example that was copied. The other {rated.others} targets are as they were.{near}"
        ),
        Plot(
            "curves",
            "Precision and recall on planted copies",
            _described(rated),
            "From the most suspicious pair on: precision is the share of pairs so far that are right, recall the share "
            "of copies found so far; the best curve runs along the top to the right. Each panel has the copies of one "
            "kind among the targets that are no copies. Grey lines are baselines that only compare the examples "
            f"themselves, by {'pixels' if found.picture else 'what they hold'} or by what enters a trained network's "
            f"last layer. Line at {PRECISION}: one false "
            "alarm in twenty. A training example drawn at random is the one that was copied with a chance of 1 in "
            f"{found.about.n_train:,}.",
            lambda: _curves(rated),
        ),
        _averages(rated, "pixels" if found.picture else "what examples hold"),
        _recalls(rated),
        _statistics(rated),
        Lead(
            "An exact copy of a training example in the test set makes the model's margin on it depend strongly on "
            "that example only where the example is memorised: where models would get it wrong or be unsure without "
            "it. An example that is like many others is not missed by models that never saw it, and neither is its "
            "copy, so methods that measure the effect of leaving an example out from models with and without it "
            "(datamodels, heldout) see little of most copies, and more models are needed to see more. Gradient-based "
            "methods compare directions, which copies share whatever the size of the effect. For exact copies, "
            f"comparing {'pixels' if found.picture else 'the examples themselves'} is the simpler search; scores find "
            "those that the model treats alike."
        ),
    ]
    return made


def _described(rated: Evaluation) -> str:
    return "; ".join(
        f"{one.name}, {one.kind}: average precision {lds(one.average)}" for one in rated.rated if one.kind != "all"
    )


def _names(rated: Evaluation) -> list[tuple[str, bool]]:
    return list(dict.fromkeys((one.name, one.baseline) for one in rated.rated))


def _curves(rated: Evaluation) -> Figure:
    from matplotlib.figure import Figure

    kinds = list(rated.kinds)
    names = _names(rated)
    style = lines.styles(names)
    across = 2
    down = -(-len(kinds) // across)
    width, panel, key = 8.3, 2.75, 0.2 * -(-len(names) // 2) + 0.15
    height = down * panel + key
    made: Figure = Figure(figsize=(width, height))
    handles: dict[str, Any] = {}
    for at, kind in enumerate(kinds):
        left, top = 0.55 + at % across * width / across, at // across * panel
        box = left / width, 1 - (top + panel - 0.5) / height, (width / across - 0.75) / width, (panel - 0.85) / height
        axes = made.add_axes(box)
        axes.axhline(PRECISION, color=svg.LINE, linewidth=1)
        for one in rated.rated:
            if one.kind != kind:
                continue
            x, y = [0.0, *one.recalls], [one.precisions[0] if one.precisions else 0.0, *one.precisions]
            every = max(1, len(x) // 6)
            (handles[one.name],) = axes.plot(x, y, **style[one.name], markevery=(at % every, every))
        axes.set_xlim(-0.02, 1.03)
        axes.set_ylim(-0.03, 1.05)
        axes.grid()
        axes.set_title(f"{kind} ({rated.kinds[kind]} copies)", fontsize=svg.FONT, color=svg.INK, loc="left")
        axes.set_xlabel("recall")
        if at % across == 0:
            axes.set_ylabel("precision")
    order = [name for name, _ in names if name in handles]
    made.legend(
        [handles[name] for name in order],
        [shortened(name, 52) for name in order],
        loc="lower left",
        bbox_to_anchor=(0.05, 0.0),
        ncols=2,
        frameon=False,
        fontsize=8,
        handlelength=3.2,
    )
    return made


def _averages(rated: Evaluation, raw: str) -> Table:
    kinds = list(rated.kinds)
    by = {(one.name, one.kind): one for one in rated.rated}
    header = ["method", "LDS", *kinds]
    rows = []
    for name, baseline in _names(rated):
        cells = [f"{lds(by[name, kind].average)} {interval(by[name, kind].ci)}" for kind in kinds]
        rows.append((_labelled(name, baseline), "–" if baseline else lds(rated.lds.get(name)), *cells))
    likewise = " and by correlation" if any("correlation" in name for name, _ in _names(rated)) else ""
    note = (
        f"The area under the curve, with the 95% interval of a bootstrap over targets. Baselines: {raw} by Euclidean "
        f"distance{likewise}, and the cosine of what enters the last layer, mean over five trained models."
    )
    return Table("Average precision, by method and kind of copy", header, rows, set(header[1:]), note)


def _recalls(rated: Evaluation) -> Table:
    kinds = list(rated.kinds)
    by = {(one.name, one.kind): one for one in rated.rated}
    header = ["method", *kinds, "copies named rightly"]
    rows = []
    for name, baseline in _names(rated):
        cells = [f"{by[name, kind].recall:.2f} {interval(by[name, kind].recall_ci)}" for kind in kinds]
        whole = by[name, "all"]
        rows.append((_labelled(name, baseline), *cells, f"{whole.named} of {whole.planted}"))
    note = (
        f"The largest share of copies that is found while at least {PRECISION:.0%} of the pairs named are right, with "
        "Wilson's 95% interval; so a single natural near-duplicate near the top costs much of it. How many "
        f"targets are copies matters, here {rated.share:.0%}: where fewer are, natural near-duplicates weigh more, and "
        "this recall is lower. Last column: copies whose most alike training example is the one that was "
        "copied, wherever they are in the ranking."
    )
    return Table(f"Recall at a precision of {PRECISION} or more", header, rows, set(header[1:]), note)


def _labelled(name: str, baseline: bool) -> str:
    return f"{name} (baseline)" if baseline else name


def _statistics(rated: Evaluation) -> Table:
    header = ["method", *_SHORT.values()]
    rows = [(name, *(lds(row[what]) for what in _SHORT)) for name, row in rated.statistics.items()]
    note = (
        "Large scores go to training examples that are hard, not to those that are copied: each such example has large "
        "scores on every target of its class. The cosine compares directions only. The cosine's power was chosen "
        "among several dozen variants on planted copies in digits/mlp, of seeds 100 and 101, 30% of the targets."
    )
    return Table("Average precision over all kinds, by what pairs are ranked by", header, rows, set(header[1:]), note)


def frame(found: Leakage) -> pd.DataFrame:
    """One row per method and pair."""
    import msgspec
    import pandas as pd

    rows = [msgspec.structs.asdict(one) for one in found.suspects]
    whole = {"target_label": "Int64", "train_label": "Int64", "nearer": "Int64"}
    return pd.DataFrame(rows, columns=list(Suspect.__struct_fields__)).astype(whole)


def grid(found: Leakage) -> Grid:
    """The evaluation by method, or where there is none the most suspicious pairs."""
    rated = found.evaluation
    if rated is None:
        table = _suspects(found)
        caption = [f"{found.about.setting}: {table.caption}. {table.note}"]
        return Grid(table.header, table.rows, table.right, caption, (), found.notes)
    kinds = list(rated.kinds)
    by = {(one.name, one.kind): one for one in rated.rated}
    header = ["method", "LDS", "all", *kinds, *(f"recall: {kind}" for kind in kinds)]
    rows = [
        (
            _labelled(name, baseline),
            "–" if baseline else lds(rated.lds.get(name)),
            *(lds(by[name, kind].average) for kind in ("all", *kinds)),
            *(f"{by[name, kind].recall:.2f}" for kind in kinds),
        )
        for name, baseline in _names(rated)
    ]
    suspects = ", ".join(
        f"{one.target} and {one.train}" for one in found.suspects if one.method == _first(found) and one.rank <= 5
    )
    caption = [
        f"{found.about.setting}: average precision on {sum(rated.kinds.values())} planted copies among "
        f"{sum(rated.kinds.values()) + rated.others} targets, and the recall at a precision of {PRECISION} or more.",
        f"Most suspicious of the run's own targets and training examples, by {_first(found)}: {suspects}.",
    ]
    return Grid(header, rows, set(header[1:]), caption, (), found.notes)
