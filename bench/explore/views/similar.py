"""How `bench explore similar` is shown."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bench.explore.blocks import Block, Heading, Lead, Picture, Plot, Table
from bench.explore.choice import class_cell, class_name, signed
from bench.explore.pictures import DENSITY
from bench.explore.toplists import SIDES, Named, Similar
from bench.report import svg
from bench.report.labels import shortened
from bench.tables.text import Grid, lds
from bench.wording import counted

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

DOCUMENT = Similar
TITLE = "Which training examples help and harm a target?"


def blocks(found: Similar) -> list[Block]:
    """The examples, and how far methods agree on them."""
    made: list[Block] = [
        Lead(
            "A score says what a training example does to the model's answer on one target: above 0, having it in the "
            "training set makes the model surer of the target's true class; below 0, it makes the model less sure. "
            f"Here are the {found.each} highest and the {found.each} lowest scores of "
            f"{counted(len(found.shown), 'target')}, by each of {counted(len(found.shown_methods), 'method')}, the "
            "best by LDS first. What helps is often of the target's class, and what harms often a look-alike of "
            "another; a table below says how often."
        ),
        *_examples(found),
    ]
    if found.agreement:
        made += [Heading("Do methods name the same examples?"), *_agreement(found)]
    made += [
        Heading("Are they of the target's class?" if found.class_share is not None else "The methods"),
        _own(found),
    ]
    return made


def _examples(found: Similar) -> list[Block]:
    where = (
        f"similar.csv lists the {found.k} of either side for {counted(len(found.targets), 'target')} by all methods."
    )
    if found.picture:
        caption = (
            "On the left the target; in each row one method, with the training examples that it says help most, the "
            "most helpful first, and those that harm most, the most harmful first. Below each its class and its score, "
            "in the method's own unit: compare scores within a row only. A blue frame: of the target's own class. "
            "“none”: the method has no score on that side."
        )
        alt = f"{counted(len(found.shown), 'target')} with the most helpful and most harmful training examples"
        return [Picture("similar-targets.png", alt, f"{caption} {where}", density=DENSITY)]
    made: list[Block] = []
    some = [one for one in found.lists if one.method in found.shown_methods]
    for at, target in enumerate(found.shown):
        rows = [
            (one.method, side, str(place + 1), *_example(named, found))
            for one in some
            for side in SIDES
            for place, named in enumerate(getattr(one, side)[at][: found.each])
        ]
        label = None if found.target_labels is None else found.target_labels[at]
        said = [f"target {target}"]
        said += [] if label is None else [class_name(label, found.class_names)]
        said += [found.target_features[str(target)]] if str(target) in found.target_features else []
        header = ["method", "side", "place", "example", "score"]
        header += [] if found.target_labels is None else ["class"]
        header += ["what it holds"] if found.train_features else []
        made.append(Table(": ".join(said), header, rows, {"place", "example", "score"}))
    return [*made, Lead(where)]


def _example(named: Named, found: Similar) -> list[str]:
    made = [str(named.train), signed(named.score)]
    made += [] if found.target_labels is None else [class_name(named.label, found.class_names)]
    return made + ([found.train_features[str(named.train)]] if found.train_features else [])


def _agreement(found: Similar) -> list[Block]:
    names = [one.method for one in found.own]
    said = (
        f"Of two methods' {found.k} most helpful examples of a target, the overlap is the share that both have. "
        "Rank-biased overlap also asks in which order: it compares the first place, the first two, the first three and "
        f"so on, and the first places weigh most (Webber, Moffat, Zobel 2010, extrapolated, p = {found.p:g}). Both "
        "are 1 for the same lists and 0 for lists without a common example. Two random lists reach an overlap of "
        f"{found.chance_overlap:.2%} and a rank-biased overlap of {found.chance_rbo:.2%}."
    )
    made: list[Block] = [Lead(said)]
    made.append(
        Plot(
            "agreement",
            "Rank-biased overlap of methods",
            "; ".join(f"{one.a} and {one.b}, {one.side}: {lds(one.rbo)}" for one in found.agreement),
            f"Rank-biased overlap of the {found.k} most helpful and the {found.k} most harmful examples in percent, "
            f"mean over {found.compared:,} targets: the darker, the more two methods name the same.",
            lambda: _heat(found, names),
        )
    )
    for what, title in (("overlap", f"Overlap of the {found.k} most helpful"), ("rbo", "Rank-biased overlap of them")):
        made.append(_matrix(found, names, what, title))
    return made


def _values(found: Similar, names: list[str], what: str, side: str) -> list[list[float | None]]:
    """A symmetric matrix; 1 on its diagonal."""
    place = {name: at for at, name in enumerate(names)}
    made: list[list[float | None]] = [[1.0 if a == b else None for b in names] for a in names]
    for one in found.agreement:
        if one.side == side:
            a, b = place[one.a], place[one.b]
            made[a][b] = made[b][a] = getattr(one, what)
    return made


def _matrix(found: Similar, names: list[str], what: str, title: str) -> Table:
    values = _values(found, names, what, "helpful")
    header = ["method", *(str(at + 1) for at in range(len(names)))]
    rows = [
        (f"{at + 1} {name}", *(_percent(value) if at != column else "·" for column, value in enumerate(values[at])))
        for at, name in enumerate(names)
    ]
    errors = [getattr(one, f"{what}_stderr") for one in found.agreement if one.side == "helpful"]
    most = max((error for error in errors if error is not None), default=None)
    note = f"Mean over {found.compared:,} targets"
    note += "." if most is None else f"; standard errors are at most {100 * most:.1f} points."
    return Table(f"{title}, of each pair of methods", header, rows, set(header[1:]), note)


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.0%}"


def _heat(found: Similar, names: list[str]) -> Figure:
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    shown = [shortened(name, 30) for name in names]
    cell, left = 0.29, 0.5 + 0.075 * max(map(len, shown))
    side = cell * len(names)
    width, height = left + 2 * side + 0.55, side + 0.62
    made: Figure = Figure(figsize=(width, height))
    for panel, which in enumerate(SIDES):
        at = (left + panel * (side + 0.35)) / width, 0.1 / height, side / width, side / height
        axes = made.add_axes(at)
        for y, line in enumerate(_values(found, names, "rbo", which)):
            for x, value in enumerate(line):
                if value is None or x == y:
                    continue
                axes.add_patch(Rectangle((x, y), 1, 1, facecolor=svg.MARK, alpha=0.7 * value, linewidth=0))
                axes.text(x + 0.5, y + 0.5, f"{100 * value:.0f}", ha="center", va="center", fontsize=8)
        axes.set_xlim(0, len(names))
        axes.set_ylim(len(names), 0)
        axes.xaxis.tick_top()
        axes.set_xticks([x + 0.5 for x in range(len(names))], [str(x + 1) for x in range(len(names))])
        axes.set_yticks([])
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        axes.set_title(f"most {which}", fontsize=svg.FONT, color=svg.INK)
        if not panel:
            for y, name in enumerate(shown):
                axes.annotate(f"{y + 1} {name}", (0, y + 0.5), (-6, 0), textcoords="offset points", ha="right",
                              va="center", annotation_clip=False, parse_math=False)  # fmt: skip
    return made


def _own(found: Similar) -> Table:
    header = ["method", "LDS"]
    header += [] if found.class_share is None else ["helpful of its class", "harmful of its class"]
    header += ["helpful named", "harmful named"]
    rows = []
    for one in found.own:
        row = [one.method, lds(found.about.methods.get(one.method))]
        if found.class_share is not None:
            row += [_share(one.helpful, one.helpful_stderr), _share(one.harmful, one.harmful_stderr)]
        rows.append([*row, f"{one.helpful_length:.1f}", f"{one.harmful_length:.1f}"])
    note = (
        f"Means over {found.compared:,} targets, with standard errors; named: of at most {found.k} examples per side."
    )
    if found.class_share is not None:
        note += f" By chance {found.class_share:.0%} are of the target's class."
    return Table("What each method names", header, rows, set(header[1:]), note)


def _share(value: float | None, stderr: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.0%}" if stderr is None else f"{value:.0%} ± {100 * stderr:.1f}"


def frame(found: Similar) -> pd.DataFrame:
    """One row per target, method, side and rank."""
    import pandas as pd

    rows: list[dict[str, Any]] = []
    for at, target in enumerate(found.targets):
        label = None if found.target_labels is None else found.target_labels[at]
        for one in found.lists:
            for side in SIDES:
                rows += [
                    {
                        **{"target": target, "method": one.method, "side": side, "rank": rank, "train": named.train},
                        **{"score": named.score, "train_label": named.label, "target_label": label},
                    }
                    for rank, named in enumerate(getattr(one, side)[at], 1)
                ]
    columns = ["target", "method", "side", "rank", "train", "score", "train_label", "target_label"]
    return pd.DataFrame(rows, columns=columns).astype({"train_label": "Int64", "target_label": "Int64"})


def grid(found: Similar) -> Grid:
    """The first examples of the first targets, by the first methods; how far the others agree with the best."""
    some = [one for one in found.lists if one.method in found.shown_methods]
    header = ("target", "method", "most helpful (class)", "most harmful (class)")
    rows = [
        (str(target), one.method, *(_listed(getattr(one, side)[at][: found.each], found) for side in SIDES))
        for at, target in enumerate(found.shown)
        for one in some
    ]
    caption = [
        f"{found.about.setting}: training examples by number; {found.k} on either side of "
        f"{counted(len(found.targets), 'target')} by {counted(len(found.lists), 'method')} in all."
    ]
    best = found.own[0].method
    with_best = [one for one in found.agreement if one.a == best and one.side == "helpful"]
    if with_best:
        said = ", ".join(f"{one.b} {_percent(one.overlap)}/{_percent(one.rbo)}" for one in with_best)
        caption.append(
            f"Overlap and rank-biased overlap of the {found.k} most helpful with {best} (chance "
            f"{found.chance_overlap:.1%}/{found.chance_rbo:.1%}; mean over {found.compared:,} targets): {said}."
        )
    if found.class_share is not None:
        said = ", ".join(f"{one.method} {_percent(one.helpful)}" for one in found.own)
        caption.append(f"Most helpful that are of the target's class (chance {found.class_share:.0%}): {said}.")
    return Grid(header, rows, {"target"}, caption, (), found.notes)


def _listed(some: list[Named], found: Similar) -> str:
    def one(named: Named) -> str:
        label = "" if named.label is None else f" ({class_cell(named.label, found.class_names)})"
        return f"{named.train}{label}"

    return ", ".join(map(one, some)) or "none"
