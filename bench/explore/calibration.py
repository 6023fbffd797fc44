"""What a unit of a method's scores is in margins: TRAK's or graddot's have no unit, and a datamodel's are shrunk.

A method predicts of a group G that without it the margin of target j changes by −b · Σ_{k ∈ G} scores[k, j], with one
slope b per method: by least squares of the margins of models trained on subsets on their predicted sums, both centred
by target, over all targets together. The models are those of the tune rows, or new ones: rows that judge have no part
in it, and rows that methods were fitted on would flatter those that fit them best.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bench import subsets
from bench.explore.retraining import margins_without

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bench.explore.subject import Scored, Subject
    from bench.recipes import Output
    from bench.train import Trainer

_LEAST, _NEW, _TARGETS = 50, 100, 500
_STREAM = 16  # of the root seed
_SLAB = 1024  # training examples


@dataclass(frozen=True)
class Rows:
    """Models that scores are calibrated by.

    Attributes:
        masks: bool `[models, n_train]`; margins: float32 `[models, n_targets]`.
        said: which they are, in words; trained: how many of them are new.
    """

    masks: NDArray[np.bool_]
    margins: NDArray[np.float32]
    said: str
    trained: int = 0


def output_of(subject: Subject) -> Output:
    """Which margin the scores are of."""
    return "logsumexp" if subject.truth.meta is None else subject.truth.meta.identity.output


def rows(subject: Subject, trainer: Trainer, seed: int) -> Rows:
    """The store's tune rows where there are 50, else 100 new models on random subsets as large as the store's."""
    truth = subject.truth
    tune = np.zeros(0, np.int64) if truth.meta is None else truth.of_group("tune")
    if len(tune) >= _LEAST:
        found = truth.rows(tune)
        return Rows(found.masks, found.margins, f"{len(tune)} tune rows of the ground truth")
    groups = random_complements(subject, _NEW, [seed, _STREAM])
    made = margins_without(
        trainer, groups, 1, seed, subject.progress, "models to calibrate by", output=output_of(subject), apart=True
    )
    masks = np.ones((_NEW, subject.n_train), bool)
    for mask, group in zip(masks, groups, strict=True):
        mask[group] = False
    whole = np.isfinite(made[:, 0]).all(axis=1)
    return Rows(masks[whole], made[whole, 0], f"{_NEW} models trained for it on random subsets", _NEW)


def random_complements(subject: Subject, count: int, stream: Sequence[int]) -> list[NDArray[np.int64]]:
    """What random subsets as large as the store's leave out, a list of training examples each."""
    alpha = 0.5 if subject.alpha is None else subject.alpha
    gone = subject.n_train - subsets.subset_size(subject.n_train, alpha)
    rng = np.random.default_rng(list(stream))
    return [np.sort(rng.permutation(subject.n_train)[:gone]) for _ in range(count)]


def slope(one: Scored, models: Rows, known: NDArray[np.bool_]) -> float:
    """The slope b of a method.

    Args:
        one: the method.
        models: to calibrate by.
        known: its targets of finite scores, of which at most 500 are looked at, evenly spread.

    Returns:
        Margin per unit of score; 0 where the sums do not vary.
    """
    targets = np.flatnonzero(known & np.isfinite(models.margins).all(axis=0))
    targets = targets[np.unique(np.linspace(0, len(targets) - 1, min(len(targets), _TARGETS)).astype(np.int64))]
    x = sums(one.scores, models.masks, targets)
    y = models.margins[:, targets].astype(np.float64)
    x -= x.mean(axis=0)
    y -= y.mean(axis=0)
    squares = float((x * x).sum())
    return float((x * y).sum()) / squares if squares > 0 else 0.0


def sums(scores: NDArray[np.floating], masks: NDArray[np.bool_], targets: NDArray[np.integer]) -> NDArray[np.float64]:
    """Σ_{k ∈ mask} scores[k, j], float64 `[masks, targets]`, from slabs of a matrix that may be a memmap."""
    found = np.zeros((len(masks), len(targets)))
    for at in range(0, len(scores), _SLAB):
        slab = np.asarray(scores[at : at + _SLAB])[:, targets].astype(np.float64)
        found += masks[:, at : at + _SLAB].astype(np.float64) @ slab
    return found
