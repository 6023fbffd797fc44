"""Comparisons as text: aligned for a terminal, Markdown for a pull request or a job's summary."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bench import tables
from bench.wording import counted, either

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from bench.comparing.check import Check, Checked
    from bench.comparing.compare import Comparison
    from bench.comparing.sources import Changed
    from bench.comparing.update import Updated

_RIGHT = {"LDS in A", "LDS in B", "B − A", "p (Holm)", "baseline", "run", "drop", "tolerated"}


def signed(value: float) -> str:
    """A difference, with its sign unless it is none."""
    text = f"{value:+.3f}".replace("-", "−")
    return text[1:] if text[1:] == "0.000" else text


def interval(ci: tuple[float, float]) -> str:
    """An interval of differences."""
    return f"[{signed(ci[0])}, {signed(ci[1])}]"


def compared(found: Comparison, *, markdown: bool) -> str:
    """A comparison: what A and B are, one line per method, then what could not be compared."""
    a, b = (f"`{name}`" if markdown else name for name in (found.first, found.second))
    apart = ", which count as independent" if "different" in found.paired_over else ""
    head = [
        f"A is {a}, B is {b}: {found.judged[1]}."
        if len(set(found.judged)) == 1
        else f"A is {a}: {found.judged[0]}. B is {b}: {found.judged[1]}.",
        f"B − A is over {found.paired_over}{apart}; all verdicts hold at once at {_percent(found.level)} (Holm).",
    ]
    if found.differs:
        stamp = f"NOT JUDGED ALIKE: {', '.join(found.differs)}."
        head.insert(0, f"**{stamp}**" if markdown else stamp)
    header = ("method", "LDS in A", "LDS in B", "B − A", f"{_percent(found.level)} interval", "p (Holm)", "verdict")
    rows = [
        (
            one.name,
            *map(tables.lds, one.lds),
            signed(one.difference),
            "–" if one.verdict == "identical" else interval(one.ci),
            "<0.001" if one.p_holm < 0.001 else f"{one.p_holm:.3f}",
            one.verdict,
        )
        for one in found.methods
    ]
    notes = [f"{one.name}: {_changes(one.params, 'A', 'B')}" for one in found.methods if one.params]
    if found.paired_over.startswith("the same targets"):
        notes += [
            f"{one.name}: only {one.n_targets} of {found.n_targets} targets {either(one.n_targets, 'has', 'have')} an "
            "LDS in both, and B − A is of these"
            for one in found.methods
            if one.n_targets < found.n_targets
        ]
    notes += [f"{one.name}: in A {one.first}, in B {one.second}" for one in found.uncompared]
    notes += _made_with(found.made, "A", "B")
    return _text(head, [header, *rows], notes, markdown)


def checked(found: Check) -> str:
    """A check as Markdown: the outcome, one line per method, then what a reader must know."""
    worse, failed, better = found.of("regression"), found.of("failed"), found.of("better")
    faults = [counted(len(worse), "regression")] if worse else []
    faults += [f"{counted(len(failed), 'method')} failed"] if failed else []
    outcome = ", ".join(faults) or "passed"
    head = [
        f"### bench check: {outcome}",
        "",
        f"`{found.run}` against `{found.baseline}`{_of_date(found)}: {found.setting}, {found.n_subsets} held-out "
        f"subsets × {counted(found.n_targets, 'target')}. A regression is a drop in LDS by more than "
        f"{found.tolerance}, whose {_percent(found.level)} interval excludes zero.",
    ]
    header = ("method", "baseline", "run", "drop", f"{_percent(found.level)} interval", "tolerated", "verdict")
    rows = [
        (
            one.name,
            tables.lds(one.baseline),
            tables.lds(one.run),
            "–" if one.drop is None else signed(one.drop),
            "–" if one.ci is None or one.verdict == "identical" else interval(one.ci),
            f"{one.allowed:.3f}",
            _verdict(one),
        )
        for one in found.methods
    ]
    notes = [f"{one.name}: {_changes(one.params, 'baseline', 'run')}" for one in found.methods if one.params]
    notes += [f"{', '.join(better)}: better, and --update would raise the bar"] if better else []
    for one in found.unchecked:
        if one.run == "ok":
            notes.append(f"{one.name}: not in the baseline, and --update adds it")
        else:
            notes.append(f"{one.name}: not checked; in the baseline {one.baseline}, in the run {one.run}")
    notes += _made_with(found.made, "the baseline", "the run")
    return _text(head, [header, *rows], notes, markdown=True)


def updated(found: Updated) -> str:
    """What was written, as Markdown."""
    head = [
        "### bench check: baseline written",
        "",
        f"`{found.baseline}` now holds `{found.run}`: {found.setting}, {found.n_subsets} held-out subsets × "
        f"{counted(found.n_targets, 'target')}, {counted(found.n_methods, 'method')}.",
    ]
    return _text(head, [], found.changes, markdown=True)


def not_checked(sentence: str) -> str:
    """Bad input, for a job's summary."""
    return f"### bench check: not checked\n\n{' '.join(sentence.split())}\n"


def _text(head: list[str], table: Sequence[Sequence[str]], notes: Iterable[str], markdown: bool) -> str:
    lines = (tables.piped if markdown else tables.aligned)(table, _RIGHT) if table else []
    noted = [f"- {note}" if markdown else note for note in notes]
    parts = [" ".join(head) if markdown and head[0][0] != "#" else "\n".join(head)]
    return "\n\n".join([*parts, *("\n".join(block) for block in (lines, noted) if block)]) + "\n"


def _verdict(one: Checked) -> str:
    if one.verdict in ("regression", "failed"):
        return f"**{one.verdict}**" + (f": {one.reason}" if one.reason else "")
    return one.verdict


def _of_date(found: Check) -> str:
    made = found.baseline_made
    date = made.get("date") or made.get("updated")
    words = [date[:10]] if date else []
    words += [f"commit {made['commit'][:10]}"] if "commit" in made else []
    return f" ({', '.join(words)})" if words else ""


def _changes(changes: Sequence[Changed], first: str, second: str) -> str:
    return "; ".join(
        f"{one.name} is {_value(one.first)} in {first}, {_value(one.second)} in {second}" for one in changes
    )


def _made_with(changes: Sequence[Changed], first: str, second: str) -> list[str]:
    return [f"made otherwise: {_changes(changes, first, second)}"] if changes else []


def _value(value: Any) -> str:
    return "not set" if value is None else str(value)


def _percent(level: float) -> str:
    return f"{100 * level:g}%"
