"""Two runs, method by method: how much better or worse the second is, and whether that is more than noise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from os import PathLike
from typing import TYPE_CHECKING, Literal

import msgspec

from bench.comparing.sources import (
    Changed,
    as_changes,
    changed,
    check_level,
    in_words,
    judges,
    made_otherwise,
    source,
    state,
)
from bench.errors import InputError, nearest
from bench.stats import holm

if TYPE_CHECKING:
    from bench.baselines import Baseline, Entry
    from bench.comparing.sources import Judges, Source
    from bench.stats import Difference

SCHEMA = 1
Verdict = Literal["better", "worse", "not distinguishable", "identical"]


class Compared(msgspec.Struct, frozen=True, kw_only=True):
    """One method of both runs.

    Attributes:
        name: of the method.
        lds: in the first run and in the second.
        difference: second minus first, over the targets that have an LDS in both.
        ci: its interval, of this method alone.
        p_value, p_holm: of no difference; p_holm after Holm's correction for all methods compared.
        n_targets: targets compared.
        verdict: `better` and `worse` are of the second run, with p_holm below 1 − level.
        params: that differ.
    """

    name: str
    lds: tuple[float, float]
    difference: float
    ci: tuple[float, float]
    p_value: float
    p_holm: float
    n_targets: int
    verdict: Verdict
    params: list[Changed] = []


class Uncompared(msgspec.Struct, frozen=True):
    """A method that has no LDS in one run or in both.

    Attributes:
        name: of the method.
        first, second: `ok`, `absent`, or why it has no LDS there.
    """

    name: str
    first: str
    second: str


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """Two runs beside each other.

    Attributes:
        schema: version of this format.
        first, second: their names.
        setting: of the second.
        judged: setting and sizes of each, in words.
        n_targets, n_subsets: of the smaller.
        level: of the intervals, and 1 minus that of the tests.
        differs: what was not judged alike, `seed (0, 1)`; empty unless that was allowed.
        paired_over: what was the same, in words.
        methods: compared, in the order of the second run's table.
        uncompared: without an LDS in one run or both.
        made: versions and hardware that differ.
    """

    schema: int = SCHEMA
    first: str
    second: str
    setting: str
    judged: tuple[str, str]
    n_targets: int
    n_subsets: int
    level: float
    differs: list[str]
    paired_over: str
    methods: list[Compared]
    uncompared: list[Uncompared]
    made: list[Changed]

    @property
    def worse(self) -> list[str]:
        """Names of methods that are worse in the second run."""
        return [one.name for one in self.methods if one.verdict == "worse"]


def compare(
    first: str | PathLike[str] | Baseline,
    second: str | PathLike[str] | Baseline,
    *,
    methods: Sequence[str] = (),
    allow_different: bool = False,
    level: float = 0.95,
) -> Comparison:
    """What the second run does better or worse than the first, with paired intervals (`bench.stats.paired_difference`).

    Args:
        first: a run's folder, its baseline.json or another baseline; or one that was read (`bench.baselines.read`).
        second: the same.
        methods: only these, by the names in the tables.
        allow_different: compare runs that were not judged by the same models too: paired over the targets or the
            subsets that are still the same, as independent samples otherwise.
        level: of the intervals; verdicts have p below 1 − level after Holm's correction.

    Raises:
        InputError: a file that is no baseline, runs that were judged differently, or nothing to compare.
    """
    check_level(level)
    a, b = source(first, "the first run"), source(second, "the second run")
    both = judges(a.baseline.judged, b.baseline.judged)
    if both.differences and not allow_different:
        raise InputError(
            f"{a.name} and {b.name} were judged differently: {', '.join(both.differences)}; "
            "--allow-different compares them all the same, over what they share"
        )
    names = _named(methods, a, b)
    found: dict[str, Difference] = {}
    left: list[Uncompared] = []
    for name in names:
        one, other = a.methods.get(name), b.methods.get(name)
        if one is not None and other is not None and one.lds is not None and other.lds is not None:
            difference = both.difference(one, other, level)
            if math.isfinite(difference.stderr):
                found[name] = difference
            else:
                left.append(Uncompared(name, "ok", "no target has an LDS in both runs"))
        else:
            left.append(Uncompared(name, state(one), state(other)))
    if not found:
        why = "; ".join(f"{one.name}: {one.first} and {one.second}" for one in left)
        raise InputError(f"no method has an LDS in both {a.name} and {b.name} ({why}): compare runs that share one")
    adjusted = dict(zip(found, holm([d.p_value for d in found.values()]).tolist(), strict=True))
    compared = [
        _compared(a.methods[name], b.methods[name], difference, adjusted[name], both, level)
        for name, difference in found.items()
    ]
    one_judged, other_judged = a.baseline.judged, b.baseline.judged
    return Comparison(
        first=a.name,
        second=b.name,
        setting=other_judged.setting,
        judged=(in_words(one_judged), in_words(other_judged)),
        n_targets=min(one_judged.n_targets, other_judged.n_targets),
        n_subsets=min(one_judged.n_subsets, other_judged.n_subsets),
        level=level,
        differs=both.differences,
        paired_over=both.pairing,
        methods=compared,
        uncompared=left,
        made=as_changes(made_otherwise(a.baseline, b.baseline)),
    )


def _named(wanted: Sequence[str], a: Source, b: Source) -> list[str]:
    """The methods to look at, in the order of the second run."""
    there = list(dict.fromkeys([*b.methods, *a.methods]))
    for name in wanted:
        if name not in there:
            raise InputError(
                f"{a.name} and {b.name} have no method {name!r}{nearest(name, there)} (there are: {', '.join(there)})"
            )
    return [name for name in there if not wanted or name in wanted]


def _compared(one: Entry, other: Entry, difference: Difference, p_holm: float, both: Judges, level: float) -> Compared:
    assert one.lds is not None
    assert other.lds is not None
    verdict: Verdict = "not distinguishable"
    # Two results without any noise between them; of different samples no two values are known to be the same.
    if difference.value == 0 == difference.stderr and both.same_targets and both.same_subsets:
        verdict = "identical"
    elif p_holm < 1 - level:
        verdict = "better" if difference.value > 0 else "worse"
    return Compared(
        name=other.name,
        lds=(one.lds, other.lds),
        difference=difference.value,
        ci=difference.ci,
        p_value=difference.p_value,
        p_holm=p_holm,
        n_targets=difference.n_targets,
        verdict=verdict,
        params=as_changes(changed(one.params, other.params)),
    )
