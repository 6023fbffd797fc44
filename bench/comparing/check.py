"""Whether a run fell below a baseline: by more than noise, and by more than is tolerated."""

from __future__ import annotations

import math
from dataclasses import dataclass
from os import PathLike
from typing import TYPE_CHECKING, Literal

import msgspec

from bench.comparing.sources import Changed, as_changes, changed, check_level, judges, made_otherwise, source, state
from bench.errors import InputError

if TYPE_CHECKING:
    from bench.baselines import Baseline, Entry
    from bench.comparing.sources import Judges, Source

SCHEMA = 1
TOLERANCE = ".005,5%"
"""Methods that were drawn anew (projections, checkpoints) differ by up to .007 on `digits/mlp`, at LDS .3 to .7."""
Verdict = Literal["regression", "failed", "within tolerance", "not distinguishable", "identical", "better"]


@dataclass(frozen=True)
class Tolerance:
    """How far an LDS may drop: by a number or by a share of the baseline's, whichever is more."""

    absolute: float = 0.0
    share: float = 0.0

    @classmethod
    def of(cls, given: str | float | Tolerance) -> Tolerance:
        """Read `.005`, `5%`, or both as `.005,5%`.

        Raises:
            InputError: anything else.
        """
        if isinstance(given, Tolerance):
            return given
        made = cls()
        words = [word.strip() for word in str(given).split(",")]
        if len({word.endswith("%") for word in words}) < len(words):
            raise InputError(f"tolerance is {given!r}: write one LDS, one share of it, or one of each, as .005,5%")
        for word in words:
            value = _number(word.removesuffix("%"))
            if not 0 <= value < math.inf:
                raise InputError(
                    f"tolerance is {given!r}: write an LDS, a share of it, or both, as .005, 5% or .005,5%"
                )
            if word.endswith("%"):
                made = cls(made.absolute, value / 100)
            elif value >= 1:
                raise InputError(f"tolerance is {given!r}: no LDS drops by {value:g}; write {value:g}% for a share")
            else:
                made = cls(value, made.share)
        if made.share > 1:
            raise InputError(f"tolerance is {given!r}: more than 100% of an LDS")
        return made

    def allowed(self, lds: float) -> float:
        """The greatest drop from this LDS that is tolerated."""
        return max(self.absolute, self.share * abs(lds))

    def __str__(self) -> str:
        share = f"{100 * self.share:g}% of the baseline's LDS"
        if not self.share:
            return f"{self.absolute:g}"
        return f"{share} (at least {self.absolute:g})" if self.absolute else share


def _number(word: str) -> float:
    try:
        return float(word)
    except ValueError:
        return math.nan


class Checked(msgspec.Struct, frozen=True, kw_only=True):
    """One method of the baseline that has an LDS there.

    Attributes:
        name: of the method.
        baseline, run: its LDS; None where it failed.
        drop: baseline minus run, over the targets that have an LDS in both; ci: its interval.
        allowed: the drop that is tolerated.
        verdict: `regression`: the interval is above zero and the drop above what is tolerated; `within tolerance`: only
            the former; `better`: the interval is below zero; `not distinguishable`: it holds zero; `identical`: no
            number differs.
        reason: why it failed.
        params: that differ.
    """

    name: str
    baseline: float
    run: float | None
    drop: float | None = None
    ci: tuple[float, float] | None = None
    allowed: float
    verdict: Verdict
    reason: str | None = None
    params: list[Changed] = []


class Unchecked(msgspec.Struct, frozen=True):
    """A method without an LDS in the baseline: what it is there, and in the run (`bench.comparing.sources.state`)."""

    name: str
    baseline: str
    run: str


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """A run beside a baseline.

    Attributes:
        schema: version of this format.
        run, baseline: their names.
        setting, n_targets, n_subsets: what judged both.
        level: of the intervals.
        tolerance: in words.
        passed: whether nothing regressed or failed.
        methods: checked, in the order of the baseline.
        unchecked: without an LDS in the baseline.
        agreement: of the margins of both (1 = the same numbers).
        baseline_made: its date, commit, command, and when it was made a baseline.
        made: versions and hardware that differ.
    """

    schema: int = SCHEMA
    run: str
    baseline: str
    setting: str
    n_targets: int
    n_subsets: int
    level: float
    tolerance: str
    passed: bool
    methods: list[Checked]
    unchecked: list[Unchecked]
    agreement: float | None
    baseline_made: dict[str, str]
    made: list[Changed]

    def of(self, *verdicts: Verdict) -> list[str]:
        """Names of the methods with one of these verdicts."""
        return [one.name for one in self.methods if one.verdict in verdicts]


def check(
    run: str | PathLike[str] | Baseline,
    baseline: str | PathLike[str] | Baseline,
    *,
    tolerance: str | float | Tolerance = TOLERANCE,
    level: float = 0.95,
) -> Check:
    """Whether a run fell below a baseline; a regression is reported (`.passed`), not raised.

    Args:
        run: a run's folder, or its baseline.json; or one that was read (`bench.baselines.read`).
        baseline: a file that `bench check --update` wrote, or another run.
        tolerance: the drop that is no regression even if it is shown: an LDS (`.005`), a share of the baseline's
            (`5%`), or both, of which the greater counts.
        level: of the paired intervals (`bench.stats.paired_difference`).

    Raises:
        InputError: a file that is no baseline, other ground truth, or a method of the baseline that is missing, skipped
            or without an LDS in the run.
    """
    check_level(level)
    allowed = Tolerance.of(tolerance)
    new, old = source(run, "the run"), source(baseline, "the baseline")
    both = judges(old.baseline.judged, new.baseline.judged)
    if both.differences:
        raise InputError(
            f"{new.name} was judged by another ground truth than {old.name}: {', '.join(both.differences)}; run the "
            f"baseline's command{_command(old)}, or renew the baseline with --update"
        )
    guarded = [entry for entry in old.baseline.methods if entry.lds is not None]
    if not guarded:
        raise InputError(f"{old.name}: no entry of methods has an LDS: make a new one with --update")
    _complete(guarded, new, old)
    methods = [_checked(entry, new, old, both, allowed, level) for entry in guarded]
    rest = {**old.methods, **new.methods}
    for entry in guarded:
        del rest[entry.name]
    judged = old.baseline.judged
    return Check(
        run=new.name,
        baseline=old.name,
        setting=judged.setting,
        n_targets=judged.n_targets,
        n_subsets=judged.n_subsets,
        level=level,
        tolerance=str(allowed),
        passed=not any(one.verdict in ("regression", "failed") for one in methods),
        methods=methods,
        unchecked=[Unchecked(name, state(old.methods.get(name)), state(new.methods.get(name))) for name in rest],
        agreement=both.agreement,
        baseline_made={
            word: old.baseline.made[word]
            for word in ("date", "commit", "updated", "command")
            if word in old.baseline.made
        },
        made=as_changes(made_otherwise(old.baseline, new.baseline)),
    )


def _command(of: Source) -> str:
    command = of.baseline.made.get("command")
    return f" ({command})" if command else ""


def _complete(guarded: list[Entry], new: Source, old: Source) -> None:
    """Refuse a run that says nothing on a method of the baseline."""
    missing = [entry.name for entry in guarded if entry.name not in new.methods]
    if missing:
        raise InputError(
            f"{new.name}: methods lacks {', '.join(missing)}, and {old.name} has an LDS of "
            f"{'it' if len(missing) == 1 else 'each'}: run all methods of the baseline{_command(old)}"
        )
    for entry in guarded:
        found = new.methods[entry.name]
        if found.lds is None and found.status != "failed":
            words = state(found) if found.status == "skipped" else f"its lds is null ({found.reason or 'no target'})"
            raise InputError(
                f"{new.name}: {entry.name} has no LDS to check, and {old.name} has one: {words}; give the run what it "
                "needs"
            )


def _checked(entry: Entry, new: Source, old: Source, both: Judges, tolerance: Tolerance, level: float) -> Checked:
    assert entry.lds is not None
    found, allowed = new.methods[entry.name], tolerance.allowed(entry.lds)
    params = as_changes(changed(entry.params, found.params))
    if found.lds is None:
        return Checked(
            name=entry.name,
            baseline=entry.lds,
            run=None,
            allowed=allowed,
            verdict="failed",
            reason=" ".join((found.reason or "no reason given").split()),
            params=params,
        )
    difference = both.difference(found, entry, level)
    if not math.isfinite(difference.stderr):
        raise InputError(
            f"{new.name}: per_target of {entry.name} shares no target with {old.name}: run the same command again"
        )
    low, high = difference.ci
    verdict: Verdict = "not distinguishable"
    if difference.value == 0 == difference.stderr:
        verdict = "identical"
    elif low > 0:
        verdict = "regression" if difference.value > allowed else "within tolerance"
    elif high < 0:
        verdict = "better"
    return Checked(
        name=entry.name,
        baseline=entry.lds,
        run=found.lds,
        drop=difference.value,
        ci=difference.ci,
        allowed=allowed,
        verdict=verdict,
        params=params,
    )
