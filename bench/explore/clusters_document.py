"""What `bench explore subpopulations` finds."""

from __future__ import annotations

import msgspec

from bench.explore.document import Document


class Cluster(msgspec.Struct, frozen=True, kw_only=True):
    """Targets, or training examples, that are alike in their scores.

    Attributes:
        name: `3b`, the class and a letter; without classes the letter alone.
        side: `targets` or `train`.
        label: the class that was divided; None where all were.
        members: ascending; cosines: of each to the cluster's mean vector.
        typical: members nearest to the mean vector, the nearest first.
        helpful: of a cluster of targets, the training examples of the highest mean scores.
        labels: how many members each class has; empty without classes.
    """

    name: str
    side: str
    label: int | None
    members: list[int]
    cosines: list[float]
    typical: list[int]
    helpful: list[int] = []
    labels: dict[str, int] = {}


class Divided(msgspec.Struct, frozen=True, kw_only=True):
    """How well a group falls into clusters: mean silhouette of its targets by cosine, −1 to 1."""

    label: int | None
    targets: int
    silhouette: float | None


class Component(msgspec.Struct, frozen=True, kw_only=True):
    """A principal component of the targets' vectors.

    Attributes:
        share: of the variance.
        high_targets, low_targets: the farthest projections at either end, the farthest first.
        high_train, low_train: the training examples of the largest loadings at either end.
    """

    share: float
    high_targets: list[int]
    low_targets: list[int]
    high_train: list[int]
    low_train: list[int]


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """A mean change of margins with a 95% interval; None where models diverged."""

    mean: float | None
    ci: tuple[float, float] | None = None


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """What retraining without the training cluster did to the target cluster's mean margin.

    Attributes:
        removed: examples; seeds: models per set; sets: random sets of as many examples of the same classes.
        rise: margins without the cluster less those of the full training set.
        random: the same of the random sets.
        difference: of the two.
    """

    removed: int
    seeds: int
    sets: int
    rise: Change
    random: Change
    difference: Change


class Conflict(msgspec.Struct, frozen=True, kw_only=True):
    """A cluster of training examples whose scores for a cluster of targets are below 0.

    Attributes:
        train, targets: names of the clusters.
        mean: score, over the half of the scores that the clusters were not made from; pairs: how many scores.
        elsewhere: the training cluster's mean score for the group's other targets; None where there are none.
        expected: mean score of as many random training examples of the same group.
        z: by how many of their standard deviations the mean is below that.
        p: that the most extreme of all pairs of clusters is so far below by chance.
        check: by retraining, where it was done.
    """

    train: str
    targets: str
    mean: float
    pairs: int
    elsewhere: float | None
    expected: float
    z: float
    p: float
    check: Check | None = None


class Agreement(msgspec.Struct, frozen=True, kw_only=True):
    """How well clusters of one embedding are the planted subgroups.

    Attributes:
        name: a method, or what the examples themselves are described by.
        raw: whether it is such a description.
        mean: adjusted Rand index, over groups; ci: 95%, of Student's t over groups.
        groups: of each, mean over seeds of k-means.
        difference: from `baseline`, paired by group.
    """

    name: str
    raw: bool
    mean: float
    ci: tuple[float, float] | None
    groups: list[float]
    difference: Change | None = None


class Evaluation(msgspec.Struct, frozen=True, kw_only=True):
    """Clusters beside subgroups that were planted.

    Attributes:
        what: was planted, as a sentence.
        groups: what was divided: `0+7`, each with its two or three hidden subgroups.
        sizes: targets of each group.
        models: trained for each of the `pairings`.
        pairings: how often it was planted, each anew; seeds: of k-means.
        baseline: the raw description that differences are from.
        rows: the best first.
        missing: why a method is not among them, by name.
    """

    what: str
    groups: list[str]
    sizes: list[int]
    models: int
    pairings: int
    seeds: int
    baseline: str
    rows: list[Agreement]
    missing: dict[str, str] = {}


class Subpopulations(Document, frozen=True, kw_only=True):
    """Clusters, components, conflicts, and how far clusters can be believed.

    Attributes:
        method: whose scores were clustered; normalise: what was done to them first (`clusters.embedding`).
        within: `class` or `all`; clusters: of each group; seed: of all that is drawn.
        classes: names, empty where they are numbers or there are none.
        target_labels, train_labels: class by number, of the examples that are named; empty without classes.
        divided: each group.
        targets, train: the clusters.
        components: the leading ones.
        conflicts: beyond chance, the most negative mean first; pairs: how many were looked at.
        evaluation: None where nothing was planted.
        pictures: names of the files beside the document.
    """

    method: str
    normalise: str
    within: str
    clusters: int
    seed: int
    classes: list[str]
    target_labels: dict[str, int]
    train_labels: dict[str, int]
    divided: list[Divided]
    targets: list[Cluster]
    train: list[Cluster]
    components: list[Component]
    conflicts: list[Conflict]
    conflicts_found: int
    pairs: int
    evaluation: Evaluation | None = None
    pictures: tuple[str, ...] = ()
