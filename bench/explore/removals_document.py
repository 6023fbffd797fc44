"""counterfactual.json: predicted and real changes of margins when groups of training examples are removed."""

from __future__ import annotations

from typing import Literal

import msgspec

from bench.explore.document import Document
from bench.explore.effects import Estimate

SIZES = (0.005, 0.01, 0.02, 0.05, 0.1)
Kind = Literal["top", "random", "class", "file"]
KINDS: tuple[Kind, ...] = ("top", "random", "class", "file")


class Cell(msgspec.Struct, frozen=True, kw_only=True):
    """Agreement of one method's predictions with real changes, for one kind and size of groups.

    Attributes:
        kind: `top`: the k highest scores of a target by one of the methods, seen on that target; `random` and `class`:
            random examples of all, or of one class, seen on all targets looked at; `file`: groups that users named,
            seen on all targets.
        removed: examples per group; None for all sizes together (of files always).
        groups, points: how many; a point is a group and a target.
        spearman: correlation of predicted with actual changes: of `random` and `class` over groups of one size, mean
            over targets and sizes, as an LDS; of `top` and `file` over points.
        slope: of the least-squares line of actual on predicted changes over points: 1 is calibrated, below 1 the
            method says too much, below 0 its sign is wrong.
        r2: 1 − Σ (actual − predicted)² / Σ (actual − its mean)² over points, of the predictions as they are; below 0
            where they are further off than the mean of the actual changes (`bench.explore.effects.Line`).
    """

    kind: Kind
    removed: int | None
    groups: int
    points: int
    spearman: Estimate
    slope: Estimate
    r2: Estimate


class Half(msgspec.Struct, frozen=True, kw_only=True):
    """Random removals of as much as the ground truth's subsets leave out, where the LDS says what to expect.

    Attributes:
        spearman: mean over targets, with its interval; lds, lds_ci: of the leaderboard.
        difference: spearman − lds; its interval counts both as independent though they share the targets, and so is
            rather too wide.
    """

    spearman: Estimate
    lds: float | None
    lds_ci: tuple[float, float] | None
    difference: Estimate


class Scatter(msgspec.Struct, frozen=True):
    """Some points: `[predicted, actual]` changes, by kind of group."""

    points: dict[str, list[tuple[float, float]]]


class Predicted(msgspec.Struct, frozen=True, kw_only=True):
    """One method.

    Attributes:
        name, lds: of it; slope: margin per unit of score (`bench.explore.calibration`).
        picks: whether groups are of its own highest scores.
        score: the counterfactual score: Spearman's correlation over all groups of one size but those of files, mean
            over sizes and targets.
        targets: whose scores are finite, of those looked at; the others count 0.
        cells: by kind and size.
        half: of random removals of as much as subsets leave out; None where none were asked for.
        scatter: points to draw, of the leading methods.
        checksum: sha256 of the run's score file; None of other scores.
    """

    name: str
    lds: float | None
    slope: float
    picks: bool
    score: Estimate
    targets: int
    cells: list[Cell]
    half: Half | None
    scatter: Scatter | None
    checksum: str | None


class Counterfactual(Document, frozen=True, kw_only=True):
    """What `bench explore counterfactual` finds.

    Attributes:
        output: the margin whose changes are compared; calibrated_by: the models that slopes come from.
        seeds: models per group; seed: what all comes from.
        targets: those looked at.
        sizes: examples removed, ascending; groups: how many of each kind, all sizes together.
        files: groups that users named, and how many examples each has.
        ceiling: about the most that a score can be expected to be for the noise between seeds, an estimate with its
            interval (`bench.explore.effects.ceiling`); None where it cannot be told.
        cell_ceilings: likewise of kinds seen over groups, all sizes together.
        removed_half: examples that are removed for `half`, 1 − α of the training set; halves: groups; half_seeds:
            models each, as of the ground truth's eval subsets, each with a seed of its own; half_ceiling: with its
            interval.
        methods: the best LDS first.
    """

    output: str
    calibrated_by: str
    seeds: int
    seed: int
    targets: list[int]
    sizes: list[int]
    groups: dict[str, int]
    files: dict[str, int]
    ceiling: Estimate
    cell_ceilings: dict[str, Estimate]
    removed_half: int
    halves: int
    half_seeds: int
    half_ceiling: Estimate
    methods: list[Predicted]
