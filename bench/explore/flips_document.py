"""brittleness.json: which removals are predicted to flip targets, and what models without them say."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from bench.explore.document import Document
from bench.explore.shares import Share

SIZES = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1)
OF_CLASS = 0.5  # random ones of a class are removed up to this share of it


class Tried(msgspec.Struct, frozen=True):
    """Models without some examples, by one target.

    Attributes:
        removed: how many examples; margin: of the target, mean over seeds, None where all models diverged.
        share: of the seeds that misclassify it; flipped: whether the mean margin is below 0.
    """

    removed: int
    margin: float | None
    share: float | None
    flipped: bool | None


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """One target by one method.

    Attributes:
        target: its number; label: its class.
        before: mean margin of full-set models.
        k: removals that are predicted to flip it, None where none does up to the limit; removed: what came of them.
        random, same_class: without as many random examples, and random ones of its class; None where these would be
            more than half of it (`OF_CLASS`).
        smallest: the least removal that was seen to flip it, of k and the grid's sizes; None where none did.
        tried: all removals of highest scores that models were trained without, the smallest first.
    """

    target: int
    label: int
    before: float
    k: int | None
    removed: Tried | None
    random: Tried | None
    same_class: Tried | None
    smallest: int | None
    tried: list[Tried]


class Point(msgspec.Struct, frozen=True):
    """Targets flipped by removing at most so many.

    Attributes:
        removed: examples; size: as a share of the training set.
        flipped: how many targets.
    """

    removed: int
    size: float
    flipped: Share


class Curve(msgspec.Struct, frozen=True):
    """Of random groups: `draws` of them at every size, each nested in itself; counts are means over draws."""

    draws: int
    points: list[Point]


class Flips(msgspec.Struct, frozen=True, kw_only=True):
    """One method.

    Attributes:
        name, lds: of the method; slope: margin per unit of score (`bench.explore.calibration`).
        targets: whose scores are finite.
        predicted: targets that are predicted to flip by removing at most the limit.
        median: of their predicted k.
        verified: of those, the ones that the k do flip; random, same_class: that as many others flip; of a class only
            where k is at most half of it.
        times: verified over random; None where random examples flip none. at_least: the low end of the interval of the
            one over the high end of the other, a cautious figure that is always there; None without predicted targets.
        both: of all targets, those that are predicted to flip and do.
        points: targets flipped by removing at most the grid's sizes, as was seen.
        cases: by target.
    """

    name: str
    lds: float | None
    slope: float
    targets: int
    predicted: Share
    median: float | None
    verified: Share
    random: Share
    same_class: Share
    times: float | None
    at_least: float | None
    both: Share
    points: list[Point]
    cases: list[Case]


class Reference(msgspec.Struct, frozen=True):
    """A published figure to stand beside."""

    size: float
    share: float
    said: str

    @classmethod
    def of(cls, setting: str) -> Reference | None:
        """Of a setting of CIFAR-10."""
        if setting.partition("/")[0].partition(":")[0] != "cifar10":
            return None
        said = "Ilyas et al. 2022: about 25% of CIFAR-10 test images by less than 0.2% (ResNet-9, 50,000 examples)"
        return cls(0.002, 0.25, said)


class Brittleness(Document, frozen=True, kw_only=True):
    """What `bench explore brittleness` finds.

    Attributes:
        output: the margin that scores are of; flips are told by the max margin.
        calibrated_by: the models that slopes come from.
        seeds: models per group; full_models: of the full training set; seed: what all comes from.
        most: the largest removal that is predicted, as a share; limit: as a number.
        right: targets that full-set models classify rightly on average.
        targets: those looked at; labels: their classes; classes: how many there are; class_names: empty where they are
            numbers.
        methods: the best LDS first.
        random, same_class: targets flipped by random groups of the grid's sizes; of a class only of sizes that are at
            most half of the smallest class looked at.
        reference: a published figure, where there is one.
    """

    output: str
    calibrated_by: str
    seeds: int
    full_models: int
    seed: int
    most: float
    limit: int
    right: int
    targets: list[int]
    labels: list[int]
    classes: int
    methods: list[Flips]
    random: Curve
    same_class: Curve
    reference: Reference | None = None
    class_names: Sequence[str] = ()
