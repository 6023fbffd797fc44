"""How `bench explore brittleness` is shown."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bench.explore.blocks import Block, Heading, Lead, Plot, Table
from bench.explore.choice import class_cell
from bench.explore.flips_document import OF_CLASS, Brittleness, Case, Flips, Point, Tried
from bench.explore.shares import Share
from bench.report import svg
from bench.report.labels import shortened
from bench.tables.text import Grid
from bench.wording import counted

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    from matplotlib.figure import Figure

DOCUMENT = Brittleness
TITLE = "How few training examples decide an answer?"
_SHOWN = 12
_TIMES = 5  # as many flips as by random examples are what methods are expected to reach
_LOOKS = (
    *((svg.SERIES[0], "o", "-"), (svg.SERIES[1], "s", (0, (5, 2))), (svg.SERIES[3], "^", (0, (1, 1.5)))),
    *((svg.SERIES[2], "D", (0, (6, 2, 1, 2))), (svg.MARK, "v", (0, (3, 1, 1, 1, 1, 1)))),
)


def blocks(found: Brittleness) -> list[Block]:
    """The predictions and what became of them, the shares by size, single targets."""
    made: list[Block] = [
        Lead(
            "Can a few training examples decide whether the model is right about a target? Scores predict which ones: "
            "taking the most helpful examples away lowers the target's margin by the sum of their scores, and below 0 "
            f"the model is wrong. For each of {counted(len(found.targets), 'target')}, {_origin(found)}, this is the "
            "smallest k whose removal should make the model wrong, and what models trained without these k examples "
            f"really say: {found.seeds} models each, and a target is flipped where their mean margin is below 0."
        ),
        Table(
            "Predicted flips, and what came of them",
            _HEADER,
            [_row(one) for one in found.methods],
            set(_HEADER[1:]),
            _note(found),
        ),
        Lead(_against_chance(found)),
        Heading("Targets flipped by removing at most so much"),
        Plot(
            "sizes",
            "Targets flipped, by the size of what is removed",
            "; ".join(
                f"{name}: " + ", ".join(f"{p.size:.1%} {_share(p.flipped)}" for p in points)
                for name, points in _lines(found)
            ),
            "Share of the targets that were seen to flip when at most so much of the training set was removed: the "
            "highest scores of each method, random examples, or random examples of the target's class. Among methods, "
            "higher is better: it finds the examples that matter. Against random examples, higher is a more brittle "
            f"target. {_of_class()} Bands: 95% intervals (Wilson) for the best method by LDS and for both "
            "controls." + _reference(found),
            lambda: _figure(found),
        ),
        _by_size(found),
        Heading("Single targets"),
        _cases(found),
    ]
    return made


_HEADER = (*("method", "predicted", "median k", "flipped", "k random", "k of its class", "times random", "slope"),)


def _origin(found: Brittleness) -> str:
    return f"of {found.right:,} that {found.full_models} models of the full training set classify rightly on average"


def _row(one: Flips) -> tuple[str, ...]:
    return (
        one.name,
        _counted(one.predicted),
        "–" if one.median is None else f"{one.median:g}",
        _counted(one.verified),
        _counted(one.random),
        _counted(one.same_class),
        _times(one),
        f"{one.slope:.3g}".replace("-", "−"),
    )


def _against_chance(found: Brittleness) -> str:
    """For which methods it is beyond doubt that their examples flip more targets than random ones, with the numbers."""
    shown: list[str] = []
    open_: list[str] = []
    for one in found.methods:
        if one.at_least is None or not one.verified.count:
            continue
        said = f"{one.name}: {_ranged(one.verified)} against {_ranged(one.random)}"
        (shown if one.at_least >= _TIMES else open_).append(f"{said}, so at least {one.at_least:.1f} times")
    if not shown and not open_:
        return "No method's predicted removals flip a target."
    made = "Do the examples that a method names flip more targets than as many random ones do, with 95% intervals? "
    if shown:
        made += f"Even cautiously counted at least {_TIMES} times as many: {'; '.join(shown)}. "
    if open_:
        made += f"Too few targets to say {_TIMES} times: {'; '.join(open_)}."
    return made.rstrip()


def _ranged(share: Share) -> str:
    return f"{share.count:g} of {share.of} ({_interval(share)}%)"


def _of_class() -> str:
    """Up to which size a class is thinned."""
    return (
        f"Of a class at most {OF_CLASS:.0%} of the smallest is removed, so that its line ends there: models that "
        "hardly know a class are wrong about it whichever of its examples are gone."
    )


def _times(one: Flips) -> str:
    if one.at_least is None or not one.verified.count:
        return "–"
    return f"{'∞' if one.times is None else format(one.times, '.1f')} (≥ {one.at_least:.1f})"


def _counted(share: Share) -> str:
    return "–" if not share.of else f"{share.count:g} of {share.of}"


def _share(share: Share) -> str:
    return "–" if share.share is None else f"{share.share:.0%}"


def _note(found: Brittleness) -> str:
    return (
        f"Predicted: targets with a k of at most {found.most:.0%} of the training set ({found.limit:,} examples); the "
        "next columns are of these. Flipped: by removing the k examples that the method names; k random: by removing "
        "as many random ones, drawn anew for each target; k of its class: as many random ones of the target's class, "
        f"of the targets where that is at most {OF_CLASS:.0%} of it. "
        "Flips are told by the max margin (logit of the true class less the greatest other), which is below 0 where "
        "the answer is wrong. Times random: flipped over k random, and in brackets a cautious figure: the low end of "
        "the one's 95% interval (Wilson) over the high end of the other's, which of few targets is wide. "
        "Slope: margin per unit of score, fitted on "
        f"{found.calibrated_by}."
    )


def _reference(found: Brittleness) -> str:
    return "" if found.reference is None else f" Star: {found.reference.said}."


def _lines(found: Brittleness) -> list[tuple[str, list[Point]]]:
    made = [(one.name, one.points) for one in found.methods]
    return [*made, ("random", found.random.points), ("same class", found.same_class.points)]


def _by_size(found: Brittleness) -> Table:
    header = ["removed", *(f"≤ {p.removed:,} ({_percent(p.size)})" for p in found.random.points)]
    rows = [(name, *(_interval(p.flipped) for p in points), *_rest(found, points)) for name, points in _lines(found)]
    return Table(
        "Share of targets flipped by removing at most so many, in percent, with 95% intervals",
        header,
        rows,
        set(header[1:]),
        "Verified by training: the smallest size that flips a target is searched by bisection, so that a method's "
        "share is what was seen, and at least that many can be flipped. Controls were trained at every size: "
        f"{found.random.draws} random groups, {found.same_class.draws} of each class, means over them. " + _of_class(),
    )


def _rest(found: Brittleness, points: list[Point]) -> list[str]:
    """Cells of sizes that are not there."""
    return ["–"] * (len(found.random.points) - len(points))


def _percent(size: float) -> str:
    return f"{100 * size:.2g}%"


def _interval(share: Share) -> str:
    if share.share is None or share.ci is None:
        return "–"
    return f"{100 * share.share:.0f} [{100 * share.ci[0]:.0f}, {100 * share.ci[1]:.0f}]"


def _cases(found: Brittleness) -> Table:
    best = found.methods[0]
    order = sorted(best.cases, key=lambda case: (case.smallest is None, case.smallest or 0, case.before))
    rows = [_case(case, found.class_names) for case in order[:_SHOWN]]
    header = (
        *("target", "class", "margin before", "predicted k", "margin after", "seeds wrong", "after k random"),
        "least that flipped",
    )
    return Table(
        f"The {len(rows)} most brittle targets by {best.name}",
        header,
        rows,
        set(header[1:]) - {"class"},
        "Margins are means over seeds. brittleness.csv has all targets and methods.",
    )


def _case(case: Case, names: Sequence[str]) -> tuple[str, ...]:
    return (
        str(case.target),
        class_cell(case.label, names),
        _number(case.before),
        "–" if case.k is None else f"{case.k:,}",
        _margin(case.removed),
        "–" if case.removed is None or case.removed.share is None else f"{case.removed.share:.0%}",
        _margin(case.random),
        "–" if case.smallest is None else f"{case.smallest:,}",
    )


def _margin(tried: Tried | None) -> str:
    return "–" if tried is None or tried.margin is None else _number(tried.margin)


def _number(value: float) -> str:
    return f"{value:z.2f}".replace("-", "−")


def _figure(found: Brittleness) -> Figure:
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    drawn = Figure(figsize=(7.6, 3.9), layout=ConstrainedLayoutEngine())
    axes = drawn.subplots()
    controls = {"random": (svg.SOFT, "x", "-"), "same class": (svg.SOFT, "+", (0, (4, 2)))}
    for at, (name, points) in enumerate(_lines(found)):
        colour, mark, dash = controls[name] if at >= len(found.methods) else _LOOKS[at % len(_LOOKS)]
        known = [(100 * p.size, p.flipped) for p in points if p.flipped.share is not None and p.flipped.ci is not None]
        if not known:
            continue
        x = [size for size, _ in known]
        if at == 0 or at >= len(found.methods):
            low, high = zip(*((100 * s.ci[0], 100 * s.ci[1]) for _, s in known if s.ci), strict=True)
            axes.fill_between(x, low, high, color=colour, alpha=0.13, linewidth=0)
        y = [100 * s.share for _, s in known if s.share is not None]
        label = shortened(name, 34) if at < len(found.methods) else f"{name} examples"
        axes.plot(x, y, color=colour, marker=mark, linestyle=dash, markersize=5, linewidth=1.5, label=label)
    if found.reference is not None:
        axes.plot([100 * found.reference.size], [100 * found.reference.share], "*", color=svg.WARN, markersize=11)
        axes.axhline(100 * found.reference.share, color=svg.WARN, linewidth=0.8, linestyle=(0, (2, 3)))
    sizes = [100 * p.size for p in found.random.points]
    axes.set_xscale("log")
    axes.set_xticks(sizes, [f"{size:.2g}" for size in sizes])
    axes.minorticks_off()
    axes.set_ylim(-3, 103)
    axes.grid(axis="y")
    axes.set_xlabel("removed, % of the training set (log scale)")
    axes.set_ylabel("targets flipped, %")
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, handlelength=3.2)
    return drawn


def frame(found: Brittleness) -> pd.DataFrame:
    """A row per method and target."""
    import pandas as pd

    rows = []
    for one in found.methods:
        for case in one.cases:
            row: dict[str, Any] = {"method": one.name, "target": case.target, "label": case.label}
            row |= {"margin_before": case.before, "predicted_k": case.k}
            for name, tried in (("removed", case.removed), ("random", case.random), ("same_class", case.same_class)):
                row |= {
                    f"{name}_margin": tried and tried.margin,
                    f"{name}_seeds_wrong": tried and tried.share,
                    f"{name}_flipped": tried and tried.flipped,
                }
            rows.append({**row, "smallest_that_flipped": case.smallest})
    made = pd.DataFrame(rows)
    for name in ("predicted_k", "smallest_that_flipped"):
        made[name] = made[name].astype("Int64")
    return made


def grid(found: Brittleness) -> Grid:
    """The methods, and the shares by size."""
    sizes = [f"≤ {_percent(p.size)}" for p in found.random.points]
    header = (*_HEADER[:-1], *sizes)
    rows = [(*_row(one)[:-1], *(_share(p.flipped) for p in one.points)) for one in found.methods]
    for name, curve in (("random", found.random), ("same class", found.same_class)):
        rows.append(
            (name, *("",) * (len(_HEADER) - 2), *(_share(p.flipped) for p in curve.points), *_rest(found, curve.points))
        )
    caption = [
        f"{found.about.setting}: {counted(len(found.targets), 'target')} {_origin(found)}; "
        f"{counted(found.seeds, 'model')} per removal.",
    ]
    notes = [
        f"predicted: targets with a k, the smallest removal that should flip, of at most {found.most:.0%} of the "
        "training set; flipped: those that removing these k did flip; k random, k of its class: that as many others do",
        "≤ x%: share of the targets that were seen to flip by removing at most so much",
        *([found.reference.said] if found.reference else []),
        *found.notes,
    ]
    return Grid(header, rows, set(header[1:]), caption, (), notes)
