"""How `bench explore mislabel` is shown."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.explore import lines
from bench.explore.blocks import Block, Heading, Lead, Picture, Plot, Table
from bench.explore.choice import class_cell
from bench.explore.label_noise import ALL, CHANCE, MEMORIZATION, UNSEEN, Mislabel, Suspicion
from bench.explore.pairs import DENSITY
from bench.report import svg
from bench.report.labels import shortened
from bench.report.markup import number
from bench.tables.text import Grid, interval, lds

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

DOCUMENT = Mislabel
TITLE = "Which training examples are mislabelled?"

_MEANING = {
    MEMORIZATION: "mean margin of the models that were trained on the example minus that of the others",
    UNSEEN: "the lowest mean margin first, over the models that were not trained on the example",
    ALL: "the lowest mean margin first, over all models",
    CHANCE: "an order drawn at random",
}


def blocks(found: Mislabel) -> list[Block]:
    """The suspects, and how well wrong labels are told."""
    made: list[Block] = [Lead(_lead(found))]
    first = found.suspicions[0].method
    if found.picture:
        known = "" if found.wrong is None else " “is”: the right label, where the one it has was wrong."
        made.append(
            Picture(
                "mislabel-suspects.png",
                "the most suspicious training examples",
                f"The most suspicious training examples by {first}, the most suspicious first. “says”: the label that "
                f"models were trained with.{known} Examples whose label is right yet that are suspected are often hard "
                "to read, or the only ones of their sort.",
                density=DENSITY,
            )
        )
    made.append(_suspects(found))
    if found.told:
        made += [Heading("Are wrong labels found?"), _plot(found), _table(found)]
    return made


def _lead(found: Mislabel) -> str:
    said = (
        "A model answers a mislabelled example as its label says only if it was trained on it: without it, the model "
        "follows the examples that look alike, and contradicts the label. So what an example does to the margin on "
        "itself, its self-influence, is large where its label is wrong. It is large too for right labels of rare or "
        "hard examples, which models must learn by heart."
    )
    if found.how == "own":
        said += " Here the run's own training examples are ranked by its own models; nothing was trained."
    if found.wrong is not None:
        where = "were made wrong at random" if found.how == "planted" else "are wrong by the file"
        said += f" Of {found.about.n_train:,} labels {found.wrong:,} ({found.share:.1%}) {where}."
    if found.about.models:
        said += (
            f" {found.about.models:,} models were trained on random halves of the training examples with these labels, "
            "and each method was run with the training examples, wrong labels included, as its targets: its score of "
            "an example on itself ranks it."
        )
    return said


def _suspects(found: Mislabel) -> Table:
    first = found.suspicions[0].method
    header = ["example", "label", *(["right label", "wrong"] if found.wrong is not None else []), "value"]
    header += [] if found.picture else ["what it holds"]
    rows = []
    for one in found.suspicions:
        if one.method == first and one.rank <= found.shown:
            known = (
                [] if one.wrong is None else [class_cell(one.right, found.class_names), "yes" if one.wrong else "no"]
            )
            held = [] if found.picture else [one.holds]
            rows.append((str(one.train), class_cell(one.label, found.class_names), *known, number(one.value), *held))
    note = "Value: the example's score on itself. mislabel.csv has the first 100 of every ranking."
    return Table(f"The most suspicious training examples by {first}", header, rows, {"example", "value"}, note)


def _plot(found: Mislabel) -> Plot:
    return Plot(
        "found",
        "Wrong labels found by the share of examples looked at",
        "; ".join(f"{one.name}: AUC {lds(one.auc)}" for one in found.told),
        "Someone who checks labels starts with the most suspicious: how many of the wrong labels are found, by how "
        "many examples have been looked at. The thin line on the left is the best that can be: every look finds a "
        "wrong label; the light line near the bottom is chance. Grey lines are baselines, which need no attribution "
        "method: a method is worth its cost only where it is above them.",
        lambda: _curves(found),
    )


def _seen(found: Mislabel) -> float:
    """Where the axis ends, in percent: soon after every method has found all."""
    last = 0.0
    for one in found.told:
        if not one.baseline:
            last = max(last, min(x for x, y in zip(one.inspected, one.recalls, strict=True) if y >= 1))
    return min(100.0, max(200 * (found.share or 0), 110 * last))


def _curves(found: Mislabel) -> Figure:
    from matplotlib.figure import Figure

    names = [(one.name, one.baseline) for one in found.told if one.name != CHANCE]
    style = lines.styles(names)
    width, panel, key = 8.3, 3.9, 0.2 * -(-len(names) // 2) + 0.15
    height = panel + key
    made: Figure = Figure(figsize=(width, height))
    axes = made.add_axes((0.65 / width, (key + 0.5) / height, 1 - 0.85 / width, (panel - 0.65) / height))
    axes.plot([0, 100], [0, 100], color=svg.LINE, linewidth=1)
    axes.plot([0, 100 * (found.share or 0), 100], [0, 100, 100], color=svg.SOFT, linewidth=0.8)
    handles = []
    for at, one in enumerate(one for one in found.told if one.name != CHANCE):
        x, y = [100 * value for value in one.inspected], [100 * value for value in one.recalls]
        every = max(1, len(x) // 9)
        handles += axes.plot(x, y, **style[one.name], markevery=(at * every // 8, every))
    axes.set_xlim(0, _seen(found))
    axes.set_ylim(0, 102)
    axes.grid()
    axes.set_xlabel("training examples looked at, %")
    axes.set_ylabel("wrong labels found, %")
    made.legend(
        handles,
        [shortened(name, 52) for name, _ in names],
        loc="lower left",
        bbox_to_anchor=(0.05, 0.0),
        ncols=2,
        frameon=False,
        fontsize=8,
        handlelength=3.2,
    )
    return made


def _table(found: Mislabel) -> Table:
    header = ["ranked by", "LDS", "AUC", "95% interval", f"wrong among the first {found.wrong:,}", "95% interval "]
    rows = [
        (
            f"{one.name} (baseline)" if one.baseline else one.name,
            lds(found.lds.get(one.name)),
            lds(one.auc),
            interval(one.ci),
            f"{one.found:,} ({one.precision:.0%})",
            interval(one.precision_ci),
        )
        for one in found.told
    ]
    said = "; ".join(
        f"{name}: {meaning}" for name, meaning in _MEANING.items() if any(name == t.name for t in found.told)
    )
    note = (
        "AUC: how likely a wrong label is ranked before a right one; 0.5 by chance; interval by DeLong. Methods are "
        f"ranked by the score of each example on itself. LDS: with the training examples as targets. "
        f"{said[0].upper()}{said[1:]}."
    )
    return Table("Wrong labels told from right ones", header, rows, set(header[1:]), note)


def frame(found: Mislabel) -> pd.DataFrame:
    """One row per ranking and example."""
    import msgspec
    import pandas as pd

    rows = [msgspec.structs.asdict(one) for one in found.suspicions]
    made = pd.DataFrame(rows, columns=list(Suspicion.__struct_fields__))
    return made.astype({"right": "Int64", "wrong": "boolean"})


def grid(found: Mislabel) -> Grid:
    """How well each ranking tells wrong labels; where they are not known, the most suspicious examples."""
    shown = _table(found) if found.told else _suspects(found)
    first = found.suspicions[0].method
    some = ", ".join(str(one.train) for one in found.suspicions if one.method == first and one.rank <= found.shown)
    caption = [f"{found.about.setting}: {shown.caption}."]
    if found.told:
        caption.append(f"Most suspicious by {first}: {some}.")
    return Grid(shown.header, shown.rows, shown.right, caption, (), found.notes)
