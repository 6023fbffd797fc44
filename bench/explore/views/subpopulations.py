"""How `bench explore subpopulations` is shown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from bench.explore.blocks import Block, Heading, Lead, Picture, Plot, Table
from bench.explore.choice import class_cell
from bench.explore.clusters_document import Change, Check, Cluster, Conflict, Evaluation, Subpopulations
from bench.report import svg
from bench.report.labels import shortened
from bench.tables.text import Grid, lds, p_value
from bench.wording import counted

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

DOCUMENT = Subpopulations
TITLE = "Which groups of examples does the model treat alike?"
_SHOWN = 10  # conflicts of the table
_NAMED = 6  # examples of a cluster, by number
_DONE = {
    "cosine": "as they are",
    "balanced": "each training example's scores divided by their root mean square, so that all count the same",
    "helpful": "those above 0, each training example's divided by their root mean square, so that all count the same",
    "top": "the 100 of each target that are farthest from 0",
    "pca": "their first 10 principal components",
}


def blocks(found: Subpopulations) -> list[Block]:
    """Clusters, how far to believe them, components, conflicts."""
    each = "Each class is divided by itself" if found.within == "class" else "All targets are divided at once"
    made: list[Block] = [
        Lead(
            "The scores of a target say which training examples the model's answer on it rests on. Targets with alike "
            "scores rest on the same examples, so they form groups that the model treats alike, whether anybody has "
            "labelled them or not: ways to write a digit, breeds of an animal, one camera. Here such groups are found "
            f"by the scores of {found.method}. {each}, into {found.clusters} clusters or, where a class has fewer "
            "targets, as many as it has."
        ),
        *_clusters(found),
    ]
    if found.evaluation is not None:
        made += [Heading("Are such clusters real?"), *_evaluation(found.evaluation)]
    if found.components:
        made += [Heading("In what do targets differ most?"), *_components(found)]
    return [*made, Heading("Which groups are at odds?"), *_conflicts(found)]


def _clusters(found: Subpopulations) -> list[Block]:
    made: list[Block] = []
    if "clusters" in found.pictures:
        made.append(
            Picture(
                "subpopulations-clusters.png",
                f"Typical targets of clusters by {found.method}, and the training examples that help them most",
                "A row is a cluster. On the left the targets nearest to its middle, on the right the training examples "
                "whose scores for its targets are highest on average. Look for what the pictures of a row have in "
                "common that those of the class's other rows have not; of digits a slant, an open loop, a crossing "
                "stroke.",
            )
        )
    note = (
        "Spectral clustering (scikit-learn) of the graph that joins each target with its 10 nearest by the cosine of "
        f"their scores: {_DONE[found.normalise]}. Silhouette: how much nearer a target is to its own cluster than to "
        "the next, from −1 to 1, mean over the group: near 0, clusters have no clear borders, and there is a continuum "
        "rather than groups. subpopulations.csv has the cluster of every target and training example."
    )
    by_group = [
        (
            "all" if one.label is None else class_cell(one.label, found.classes),
            f"{one.targets:,}",
            ", ".join(f"{part.name}: {len(part.members):,}" for part in found.targets if part.label == one.label),
            lds(one.silhouette),
        )
        for one in found.divided
    ]
    header = ["group", "targets", "in its clusters", "silhouette"]
    made.append(Table("Clusters of targets", header, by_group, {"targets", "silhouette"}, note))
    if "clusters" not in found.pictures:
        some = found.targets[: 3 * _SHOWN]
        rows = [
            (
                one.name,
                _listed(one.typical, found.target_labels, found, one.label),
                _listed(one.helpful, found.train_labels, found, one.label),
            )
            for one in some
        ]
        most = "" if len(some) == len(found.targets) else f", of the first {len(some)} clusters"
        caption = f"Targets nearest to the middle, and the training examples that help them most, by number{most}"
        made.append(Table(caption, ["cluster", "targets", "training examples"], rows))
    return made


def _listed(some: Sequence[int], labels: dict[str, int], found: Subpopulations, own: int | None = None) -> str:
    """Examples by number, with their class in brackets where it is not the group's own."""

    def one(number: int) -> str:
        label = labels.get(str(number), own)
        return str(number) if label is None or label == own else f"{number} ({class_cell(label, found.classes)})"

    return ", ".join(map(one, some[:_NAMED])) or "–"


def _evaluation(found: Evaluation) -> list[Block]:
    methods = [one for one in found.rows if not one.raw]
    groups = sorted({*found.groups}, key=found.groups.index)
    times = "" if found.pairings == 1 else f", {found.pairings} times anew"
    lead = (
        f"{found.what}{times}: {', '.join(groups[:8])}{', …' if len(groups) > 8 else ''}. Nothing told the models of "
        "the groups inside. Then the targets of each merged class were clustered by each method's scores into as many "
        "clusters as it hides classes, and compared with the hidden classes by the adjusted Rand index: 1 where they "
        "are the same, 0 where they agree no more than by chance."
    )
    if "upside down" in found.what:
        lead = (
            f"{found.what}. Nothing told the models which. Then the targets of each class were clustered by each "
            "method's scores into two, and compared with what was turned by the adjusted Rand index: 1 where they "
            "are the same, 0 where they agree no more than by chance."
        )
    caption = (
        f"Adjusted Rand index, mean over {len(found.groups)} groups with its 95% interval (Student's t over groups; "
        f"each group's is the mean over {found.seeds} seeds of k-means). Dots: by the scores of a method. Squares: by "
        "what the examples look like, which needs no method, and by random numbers, which is what knows nothing."
    )
    header = ["clusters by", "adjusted Rand index", "95% interval", f"difference from {found.baseline}"]
    rows = [(one.name, lds(one.mean), _interval(one.ci), _change(one.difference)) for one in found.rows]
    note = (
        f"Groups: {', '.join(f'{a} ({n:,} targets)' for a, n in zip(found.groups, found.sizes, strict=True))}. "
        f"{found.models:,} models per planting. Differences are paired by group. "
        "Pairs of classes differ: --pairings N plants more of them."
    )
    note += "".join(f" {name} is missing: {why}." for name, why in found.missing.items())
    return [
        Lead(lead),
        Plot(
            "agreement",
            "Agreement of clusters with planted subgroups",
            "; ".join(f"{one.name} {lds(one.mean)} {_interval(one.ci)}" for one in found.rows),
            caption,
            lambda: _agreement(found),
        ),
        Table("Clusters beside planted subgroups", header, rows, set(header[1:]), note),
        Lead(_verdict(found, [one.name for one in methods])),
    ]


def _verdict(found: Evaluation, methods: Sequence[str]) -> str:
    """What the table says, in words."""
    by_name = {one.name: one for one in found.rows}
    best, baseline = by_name[methods[0]], by_name[found.baseline]
    raw = next(one for one in found.rows if one.raw)
    if best.difference is None or best.difference.ci is None:
        return "One group alone says little: there is no interval to compare by."
    low, high = best.difference.ci
    why = (
        " Where hidden groups differ in plain looks, as classes of small pictures do, pixels tell them apart without "
        "any model, and scores can hardly do better: they describe the groups through what the model has learned, "
        "with the noise of their estimation. What scores add is that they speak of the model: which examples an "
        "answer rests on."
    )
    what = found.baseline.partition(",")[0]
    if low > 0:
        return f"Clusters by {best.name} are closer to the hidden groups than clusters of {what}, beyond chance."
    if high < 0:
        return f"No method's clusters come as close to the hidden groups as clusters of {what} do.{why}"
    said = f"The best method, {best.name} ({lds(best.mean)}), and clusters of {what} ({lds(baseline.mean)}) "
    said += "cannot be told apart by these groups."
    if raw.mean > max(best.mean, baseline.mean):
        said += f" The best of all without a method is {raw.name} ({lds(raw.mean)})."
    return said + why


def _interval(ci: tuple[float, float] | None) -> str:
    return "–" if ci is None else f"[{lds(ci[0])}, {lds(ci[1])}]"


def _change(change: Change | None, digits: int = 3) -> str:
    if change is None or change.mean is None:
        return "–"
    said = f"{change.mean:+z.{digits}f}"
    if change.ci is not None:
        said += f" [{change.ci[0]:+z.{digits}f}, {change.ci[1]:+z.{digits}f}]"
    return said.replace("-", "−")


def _agreement(found: Evaluation) -> Figure:
    from matplotlib.figure import Figure

    names = [shortened(one.name, 40) for one in found.rows]
    left, width, height = 0.3 + 0.07 * max(map(len, names)), 7.4, 0.75 + 0.27 * len(names)
    made: Figure = Figure(figsize=(width, height))
    axes = made.add_axes((left / width, 0.5 / height, 1 - (left + 0.3) / width, 1 - 0.6 / height))
    for at, one in enumerate(found.rows):
        colour, mark = (svg.SERIES[2], "s") if one.raw else (svg.MARK, "o")
        axes.plot(one.groups, [at] * len(one.groups), color=svg.BAND, marker="|", markersize=9, linestyle="none")
        if one.ci is not None:
            axes.plot(one.ci, [at, at], color=colour, linewidth=2.4, solid_capstyle="butt")
        axes.plot([one.mean], [at], color=colour, marker=mark, markersize=6, linestyle="none")
    low = min(0.0, *(min(one.groups) for one in found.rows), *(one.ci[0] for one in found.rows if one.ci))
    axes.set_xlim(low - 0.05, 1.03)
    axes.set_ylim(len(names) - 0.5, -0.6)
    axes.axvline(0, color=svg.SOFT, linewidth=0.8)
    axes.set_yticks(range(len(names)), [""] * len(names))
    axes.tick_params(axis="y", length=0)
    for at, name in enumerate(names):
        axes.annotate(name, (0, at), (-8, 0), ("axes fraction", "data"), "offset points", ha="right", va="center",
                      annotation_clip=False, parse_math=False)  # fmt: skip
    axes.grid(axis="x")
    axes.spines["left"].set_visible(False)
    axes.set_xlabel("adjusted Rand index (bars: 95% interval; light strokes: single groups)")
    return made


def _components(found: Subpopulations) -> list[Block]:
    made: list[Block] = [
        Lead(
            "A principal component is a direction in which targets' scores differ. At one end of it are targets that "
            "rest on one kind of training examples, at the other end targets that rest on another kind, so each end "
            "is a subpopulation. The first components mostly tell classes apart, later ones kinds within classes."
        )
    ]
    if "components" in found.pictures:
        made.append(
            Picture(
                "subpopulations-components.png",
                "Targets and training examples at both ends of the first principal components",
                "Two rows for each component: on the left the targets at either end, on the right the training "
                "examples that differ most in what they do to the two ends: those of the upper row help the upper "
                "targets and not the lower ones. Vectors of scores with length 1, each training example's divided by "
                "their root mean square first.",
            )
        )
        return made
    rows = [
        (
            f"{number}, {end}",
            f"{one.share:.1%}",
            _listed(targets, found.target_labels, found),
            _listed(train, found.train_labels, found),
        )
        for number, one in enumerate(found.components, 1)
        for end, targets, train in (
            ("one end", one.high_targets, one.high_train),
            ("other end", one.low_targets, one.low_train),
        )
    ]
    header = ["component", "of the variance", "targets", "training examples"]
    note = "Of the vectors of scores with length 1, each training example's divided by their root mean square first."
    return [*made, Table("Principal components", header, rows, {"of the variance"}, note)]


def _conflicts(found: Subpopulations) -> list[Block]:
    lead = (
        "Training examples are clustered like targets, by their scores for targets. A cluster of training examples is "
        "at odds with a cluster of targets where its scores for them are below 0 on average: keeping it lowers their "
        "margins. Clusters made from noise differ in that noise, too. So they are made from one half of the scores "
        "(of targets by half of the training examples, of training examples by half of the targets) and compared in "
        "the other half, beside as many random training examples of the same class."
    )
    if not found.conflicts:
        none = f"Of {found.pairs:,} pairs of clusters none is below 0 by more than chance."
        return [Lead(lead), Lead(none if found.pairs else "There are too few examples to look for such pairs.")]
    made: list[Block] = [
        Lead(
            f"{lead} Of {found.pairs:,} pairs, {found.conflicts_found:,} are below 0 by more than chance (p ≤ 0.05 for "
            "all pairs together)."
        )
    ]
    if "conflicts" in found.pictures:
        made.append(
            Picture(
                "subpopulations-conflicts.png",
                "Training clusters and the clusters of targets that they are at odds with",
                "A row is a pair of clusters at odds: on the left the most typical training examples, on the right the "
                "most typical targets whose margins they lower. Look for what makes one pass for the other.",
            )
        )
    header = ["training cluster", "against targets", "mean score", "random ones", "other targets", "z", "p"]
    rows = [
        (
            *(f"{one.train} ({_size(found.train, one.train)})", f"{one.targets} ({_size(found.targets, one.targets)})"),
            *(_small(one.mean), _small(one.expected), _small(one.elsewhere)),
            *(f"{one.z:z.1f}".replace("-", "−"), p_value(one.p)),
        )
        for one in found.conflicts[:_SHOWN]
    ]
    note = (
        "In brackets how many examples a cluster has. Random ones: the mean score of as many random "
        "training examples of the same class for these targets; other targets: the cluster's mean score for the other "
        "targets of their class; z: by how many standard deviations of random ones the mean is below theirs; p: how "
        "often the most extreme of all pairs is so far below when clusters of training examples are shuffled."
    )
    made.append(Table("Clusters at odds", header, rows, set(header[2:]), note))
    checks = [(one, one.check) for one in found.conflicts if one.check is not None]
    return [*made, *_checks(checks)] if checks else made


def _size(side: Sequence[Cluster], name: str) -> int:
    return next(len(one.members) for one in side if one.name == name)


def _small(value: float | None) -> str:
    return "–" if value is None else f"{value:.2g}".replace("-", "−")


def _checks(checks: Sequence[tuple[Conflict, Check]]) -> list[Block]:
    header = ["removed", "examples", "margin of", "without it", "without random ones", "difference"]
    rows = [
        (
            *(f"training {one.train}", f"{check.removed:,}", f"targets {one.targets}"),
            *(_change(check.rise, 2), _change(check.random, 2), _change(check.difference, 2)),
        )
        for one, check in checks
    ]
    good = sum(c.difference.ci is not None and c.difference.ci[0] > 0 for _, c in checks)
    rises = sum(c.rise.ci is not None and c.rise.ci[0] > 0 for _, c in checks)
    first = checks[0][1]
    note = (
        f"What really happens: change of the targets' mean margin when models are trained without the cluster, and "
        f"without as many random examples of the same classes ({first.sets} random sets, {first.seeds} models each), "
        f"with 95% intervals. Of {len(checks)} pairs, in {rises} the margin rises, and in {good} it rises more than "
        "without random ones, by intervals that do not hold 0."
    )
    return [Table("The strongest, checked by retraining", header, rows, {*header[1:2], *header[3:]}, note)]


def frame(found: Subpopulations) -> pd.DataFrame:
    """One row per target and training example: its cluster, and its cosine to the cluster's middle."""
    import pandas as pd

    rows: list[dict[str, Any]] = [
        {"side": side, "example": example, "label": one.label, "cluster": one.name, "cosine": cosine}
        for side, some in (("target", found.targets), ("train", found.train))
        for one in some
        for example, cosine in zip(one.members, one.cosines, strict=True)
    ]
    made = pd.DataFrame(rows, columns=["side", "example", "label", "cluster", "cosine"]).astype({"label": "Int64"})
    return made.sort_values(["side", "example"], ignore_index=True)


def grid(found: Subpopulations) -> Grid:
    """The evaluation, where there is one, else the clusters; conflicts in the notes."""
    caption = [
        f"{found.about.setting}: {len(found.targets)} clusters of targets and {len(found.train)} of training examples "
        f"by {found.method}, within {'each class' if found.within == 'class' else 'all examples'}."
    ]
    notes = []
    for one in found.conflicts[:_SHOWN]:
        said = (
            f"training {one.train} against targets {one.targets}: mean score {_small(one.mean)} (p = {p_value(one.p)})"
        )
        if one.check is not None:
            said += (
                f"; without its {one.check.removed} examples the margin changes by {_change(one.check.rise, 2)}, "
                f"without random ones by {_change(one.check.random, 2)}"
            )
        notes.append(said)
    more = found.conflicts_found - len(notes)
    if more > 0 and notes:
        notes.append(f"{counted(more, 'more pair is', 'more pairs are')} at odds beyond chance, of {found.pairs}")
    if not found.conflicts:
        notes.append(f"of {found.pairs} pairs of clusters none is at odds beyond chance")
    notes += found.notes
    if found.evaluation is None:
        header: tuple[str, ...] = ("cluster", "targets", "most typical", "help them most")
        rows = [
            (
                *(one.name, f"{len(one.members):,}"),
                *(_listed(one.typical, {}, found), _listed(one.helpful, {}, found)),
            )
            for one in found.targets
        ]
        return Grid(header, rows, {"targets"}, caption, (), notes)
    planted = found.evaluation
    caption.append(
        f"Clusters beside {counted(len(planted.groups), 'group')} of planted subgroups, {planted.models:,} models per "
        "planting; adjusted Rand index (1: the same; 0: chance)."
    )
    header = ("clusters by", "Rand index", "95% interval", f"less {planted.baseline}")
    body = [(one.name, lds(one.mean), _interval(one.ci), _change(one.difference)) for one in planted.rows]
    return Grid(header, body, set(header[1:]), caption, (), notes)
