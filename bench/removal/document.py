"""removal.json: how memorized a store's training examples are, and how well models do without some of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

if TYPE_CHECKING:
    import pandas as pd

SCHEMA = 1
LEVEL = 0.95


class Estimate(msgspec.Struct, frozen=True):
    """A mean over trainings, in shares of the test examples.

    Attributes:
        mean: of `each`; stderr: its standard error; ci: 95% interval by Student's t; None where too few are left.
        each: by seed; None where a model diverged.
    """

    mean: float | None
    stderr: float | None
    ci: tuple[float, float] | None
    each: list[float | None]

    @classmethod
    def of(cls, each: Sequence[float | None]) -> Estimate:
        """The estimate from one number per seed."""
        from bench.stats.student import student

        return cls(*student(np.array([value for value in each if value is not None], np.float64), LEVEL), list(each))

    def minus(self, other: Estimate) -> Estimate:
        """The difference, seed by seed."""
        pairs = zip(self.each, other.each, strict=True)
        return Estimate.of([None if a is None or b is None else a - b for a, b in pairs])


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """Models without so many training examples.

    Attributes:
        share: of the training examples; removed: how many that is.
        least: memorization of the least memorized example that is removed.
        memorized: test accuracy without the most memorized; random: without as many random ones, a set per seed.
        difference: `random` minus `memorized`, seed by seed: positive where memorized examples are worth more.
        cost: what all training examples together have over `memorized`, seed by seed; cost_random: over `random`.
    """

    share: float
    removed: int
    least: float
    memorized: Estimate
    random: Estimate
    difference: Estimate
    cost: Estimate
    cost_random: Estimate


class Histogram(msgspec.Struct, frozen=True):
    """Training examples by memorization: `counts[i]` of them from `edges[i]` to `edges[i + 1]`."""

    edges: list[float]
    counts: list[int]


class Removal(msgspec.Struct, frozen=True, kw_only=True):
    """The experiment.

    Attributes:
        schema: version of this format.
        setting, alpha, runs: of the store; store: its folder as it was given; key: the ground truth's.
        n_train, n_targets: training and test examples.
        outputs: what memorization is of, `train_correct` or `train_margins`.
        memorization: what `bench memorization --json` says of it (`bench.memorization_files.described`).
        histogram: of the estimates that are known.
        seeds: models per number of examples; seed: what initialisations, batch orders and random sets come from.
        full: test accuracy of models of all training examples.
        steps: by the number of examples removed.
        notes: what a reader must know.
        versions, hardware: what it ran on.
    """

    schema: int = SCHEMA
    setting: str
    alpha: float
    runs: int
    store: str
    key: str
    n_train: int
    n_targets: int
    outputs: str
    memorization: dict[str, float | int]
    histogram: Histogram
    seeds: int
    seed: int
    full: Estimate
    steps: list[Step]
    notes: list[str] = []
    versions: dict[str, str]
    hardware: dict[str, str]

    def to_frame(self) -> pd.DataFrame:
        """One row per number of examples removed, the full training set first; what there is not as NaN."""
        import pandas as pd

        nothing = {"share": 0.0, "removed": 0, "least": None}
        rows = [nothing | _flat("memorized", self.full) | _flat("random", self.full)]
        for step in self.steps:
            row: dict[str, Any] = {"share": step.share, "removed": step.removed, "least": step.least}
            for name in ("memorized", "random", "difference", "cost", "cost_random"):
                row |= _flat(name, getattr(step, name))
            rows.append(row)
        return pd.DataFrame(rows)

    def text(self) -> str:
        """As JSON."""
        return msgspec.json.format(msgspec.json.encode(self)).decode() + "\n"


def _flat(name: str, value: Estimate) -> dict[str, float | None]:
    low, high = value.ci or (None, None)
    return {name: value.mean, f"{name}_stderr": value.stderr, f"{name}_low": low, f"{name}_high": high}
