"""From verdicts to the rows of a leaderboard: scores, ranks, who can be told apart."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from bench.judge import ranking
from bench.results import Chance, OneSeedRow, Pair, Row, ShareRow, SpreadRow, ranked
from bench.stats.spread import QUANTILES
from bench.wording import either

if TYPE_CHECKING:
    from bench.judge import Judge, Verdict
    from bench.stats import Spread

FAR = 0.01  # p-value below which a negative LDS is called more than chance


def judged(row: Row, verdict: Verdict) -> Row:
    """A row of a method that ran, with what the verdict says of it."""
    found = verdict.lds
    changes: dict[str, Any] = {"n_excluded": found.n_excluded, "n_tied": found.n_tied}
    zeroed = sum(found.zeroed.values())
    if found.n_targets == found.n_excluded + zeroed:
        return msgspec.structs.replace(row, reason=f"no target has a correlation ({found.why_not})", **changes)
    silent = [
        f"{count} of {found.n_targets} targets {either(count, 'counts', 'count')} as 0 ({why})"
        for why, count in found.zeroed.items()
    ]
    notes = [*row.notes, *silent]
    wrong = found.mean < 0 and verdict.null.p_value < FAR
    if wrong:
        notes.append("probable sign error: below chance; are its scores of the opposite sign?")
    share = verdict.share
    return msgspec.structs.replace(
        row,
        lds=found.mean,
        ci=None if math.isnan(found.ci[0]) else found.ci,
        stderr=None if math.isnan(found.stderr) else found.stderr,
        of_ceiling=None if share is None else ShareRow(share.value, share.ci),
        one_seed=_one_seed(verdict),
        p_value=verdict.null.p_value,
        null_stderr=verdict.null.stderr,
        spread=_spread(verdict.spread),
        probable_sign_error=wrong,
        notes=notes,
        **changes,
    )


def _one_seed(verdict: Verdict) -> OneSeedRow | None:
    found = verdict.one_seed
    if found is None or math.isnan(found.mean):
        return None
    return OneSeedRow(found.mean, None if math.isnan(found.ci[0]) else found.ci)


def _spread(found: Spread) -> SpreadRow:
    def known(value: float) -> float | None:
        return None if math.isnan(value) else value

    return SpreadRow(
        quantiles={f"{level:g}": value for level, value in zip(QUANTILES, found.quantiles, strict=True)},
        negative=found.negative,
        by_class={str(label): known(value) for label, value in found.by_class.items()},
        by_variance=[known(value) for value in found.by_variance],
    )


def standings(rows: list[Row], verdicts: Mapping[str, Verdict]) -> tuple[list[Row], list[Pair]]:
    """Rows best first, with ranks, their intervals and groups; and every two methods compared.

    Args:
        rows: of every method, in the order given.
        verdicts: of those that ran, by name.
    """
    placed = ranked(rows)
    scored = [row for row in placed if row.rank is not None and row.name in verdicts]
    found = ranking([row.lds or 0.0 for row in scored], [verdicts[row.name].sample for row in scored])
    told = dict(zip((id(row) for row in scored), zip(found.ranks, found.groups, strict=True), strict=True))
    pairs = [
        Pair(scored[i].name, scored[j].name, -d.value, (-d.ci[1], -d.ci[0]), d.p_value, adjusted)
        for i, j, d, adjusted in found.pairs
        if not math.isnan(d.stderr)
    ]
    complete = [
        msgspec.structs.replace(row, rank_ci=told[id(row)][0], group=told[id(row)][1]) if id(row) in told else row
        for row in placed
    ]
    return complete, pairs


def chance(judge: Judge, seed: int) -> Chance | None:
    """Where chance stands on this ground truth."""
    verdict = judge.control(seed)
    found, null = verdict.lds, verdict.null
    if math.isnan(found.mean):
        return None
    return Chance(found.mean, null.p_value, null.ci, null.stderr, len(null.draws))
