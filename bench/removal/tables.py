"""The experiment as a table of texts."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from bench.tables.text import Grid
from bench.wording import counted

if TYPE_CHECKING:
    from bench.removal.document import Estimate, Removal

HEADER = (
    *("removed", "share", "memorized from", "without memorized", "without random"),
    *("difference, points", "95% interval"),
)


def grid(made: Removal) -> Grid:
    """Test accuracies in percent, and the difference that it makes which examples are removed."""
    rows = [("0", "0%", "–", _accuracy(made.full), _accuracy(made.full), "–", "–")]
    for step in made.steps:
        difference = step.difference
        rows.append(
            (
                f"{step.removed:,}",
                f"{100 * step.share:.3g}%",
                f"{step.least:.3f}".replace("-", "−"),
                _accuracy(step.memorized),
                _accuracy(step.random),
                "–" if difference.mean is None else _points(difference.mean),
                "–" if difference.ci is None else f"[{_points(difference.ci[0])}, {_points(difference.ci[1])}]",
            )
        )
    notes = [
        "test accuracy in percent ± standard error over seeds; a random set per seed; differences seed by seed",
        *made.notes,
    ]
    return Grid(HEADER, rows, set(HEADER), caption(made), (), notes)


def caption(made: Removal) -> list[str]:
    """What the table is of, and how memorization is spread."""
    told = made.memorization
    limit = format(told["limit"], "g")
    what = "correctness" if made.outputs == "train_correct" else "margins"
    return [
        f"{made.setting}: {counted(made.seeds, 'seed')} each, without the most memorized of {made.n_train:,} training "
        f"examples and without random ones; {counted(made.n_targets, 'test example', form=',')}.",
        f"Memorization of {what}, from {made.runs:,} models (α = {made.alpha:g}): {told['near_zero']:.1%} within "
        f"±{told['near']:g} of 0; median {told['median']:.3f}, 95% {told['q95']:.3f}, 99% {told['q99']:.3f}, largest "
        f"{told['max']:.3f}; {told['above']} from {limit} on, {told['below']} from −{limit} down (median standard "
        f"error {told['stderr']:.3f}); the top tenth holds {told['top_tenth']:.0%} of all above 0.",
    ]


def show(made: Removal) -> None:
    """Print it on stdout."""
    sys.stdout.write(grid(made).plain())


def _accuracy(value: Estimate) -> str:
    if value.mean is None:
        return "diverged"
    spread = "" if value.stderr is None else f" ± {100 * value.stderr:.2f}"
    return f"{100 * value.mean:.2f}{spread}"


def _points(value: float) -> str:
    return f"{100 * value:+z.2f}".replace("-", "−")
