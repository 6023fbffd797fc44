"""The linear datamodelling score (LDS): how well a score matrix ranks the margins of models trained on subsets.

For target j, LDS_j is Spearman's correlation over subsets i of the predicted margin Σ_{k ∈ subset i} scores[k, j] with
the margin that the model trained on subset i has; the LDS is the mean over targets (Park et al. 2023, "TRAK", sec. 2).

Arrays may be memmaps larger than memory: targets are worked through in slabs, and the products in chunks, such that
the temporaries stay under `max_bytes`. Arrays on a CUDA device are scored there (`bench.lds_torch`).
"""

import hashlib
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from bench.errors import InputError

if TYPE_CHECKING:
    import torch

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]
Precision = Literal["auto", "float32", "float64"]

MAX_BYTES = 256 << 20
_FLOAT64_WORK = 200_000_000
"""`precision="auto"` predicts in float64 up to this many multiply-adds, where it costs milliseconds."""
_BLOCK = 64
"""Targets per unit of threaded work, and per partial sum: fixed, so that results do not depend on the threads."""
_MAX_SUBSETS = 1_000_000
"""The sums of integer ranks stay below 2⁶³ up to here."""


@dataclass(frozen=True)
class LDS:
    """The score of one score matrix against one ground truth.

    Attributes:
        per_target: float64 [n_targets], Spearman's correlation over subsets; NaN where the target is excluded.
        mean: mean over the targets that are not excluded; NaN where there are none.
        ci: confidence interval of `mean` for new subsets and new targets (`bench.stats.two_way_interval`).
        stderr: the standard error behind it.
        level: its nominal coverage.
        n_subsets: rows of `masks`.
        n_groups: distinct groups of rows; subsets trained several times count once.
        n_targets: columns of `margins`, excluded ones included.
        n_excluded: targets without a correlation.
        excluded: how many of them for which reason; a target counts under the first that holds.
        n_tied: targets with tied margins or tied predictions, among those not excluded.
        influence: float64 [n_subsets], derivative of `mean` in each subset's weight (times n_subsets), summing to zero.
            The difference of two methods' influences on the same subsets is that of their difference in LDS.
    """

    per_target: Floats = field(repr=False)
    mean: float
    ci: tuple[float, float]
    stderr: float
    level: float
    n_subsets: int
    n_groups: int
    n_targets: int
    n_excluded: int
    excluded: dict[str, int]
    n_tied: int
    influence: Floats = field(repr=False)


@dataclass(frozen=True)
class MarginRanks:
    """Ranks of the margins over subsets, per target: computed once per ground truth, reused for every method.

    Attributes:
        ranks: int32 [n_targets, n_subsets], `2·(average rank) − (n_subsets + 1)`.
        kinds: uint8 [n_targets], what each target's margins are (`bench.kernels.ranks`: distinct, tied, …).
    """

    ranks: npt.NDArray[np.int32] = field(repr=False)
    kinds: npt.NDArray[np.uint8] = field(repr=False)

    @classmethod
    def of(cls, margins: npt.ArrayLike, *, max_bytes: int = MAX_BYTES) -> "MarginRanks":
        """Rank margins.

        Args:
            margins: numbers [n_subsets, n_targets]; a memmap is read in column slabs of at most `max_bytes`.
            max_bytes: bound on temporaries (the ranks themselves take 4 bytes a margin).

        Raises:
            InputError: margins are not a numeric matrix.
        """
        array = _matrix("margins", margins, "[n_subsets, n_targets]")
        n_subsets, n_targets = array.shape
        ranks = np.empty((n_targets, n_subsets), np.int32)
        kinds = np.empty(n_targets, np.uint8)
        step = max(_BLOCK, max_bytes // (2 * n_subsets * array.itemsize))
        with _Pool() as pool:
            for start in range(0, n_targets, step):
                part = slice(start, start + step)
                _rank_columns(pool, array[:, part], ranks[part], kinds[part])
        return cls(ranks, kinds)


def lds(
    scores: "npt.ArrayLike | torch.Tensor",
    masks: "npt.ArrayLike | torch.Tensor",
    margins: "npt.ArrayLike | torch.Tensor",
    *,
    groups: npt.ArrayLike | None = None,
    ranks: MarginRanks | None = None,
    precision: Precision = "auto",
    level: float = 0.95,
    max_bytes: int = MAX_BYTES,
) -> LDS:
    """Score a score matrix against a ground truth.

    A target is excluded, with NaN in `per_target`, when its margins contain NaN, its scores are not all finite, or
    its margins or its predictions are constant. Ties get average ranks; infinite margins rank last or first.

    Args:
        scores: numbers [n_train, n_targets]; positive means that keeping the example raises the margin.
        masks: bool or 0/1 [n_subsets, n_train], the examples that each model was trained on.
        margins: numbers [n_subsets, n_targets], the output of the model trained on each subset.
        groups: integers [n_subsets]; rows of one group are not independent of each other. By default rows that share
            a mask (repeats with other seeds) form a group.
        ranks: `MarginRanks.of(margins)`, to save ranking the same margins for every method.
        precision: of the predictions. "auto" takes float64 when the scores are float64 or integers, or when the work
            is small; otherwise float32, whose order of summation can flip near-ties: up to 4e-6 in one target's
            correlation, 1e-8 in the mean.
        level: nominal coverage of the interval.
        max_bytes: bound on temporaries.

    Raises:
        InputError: shapes that do not fit, masks other than 0/1, values that are not numbers, fewer than two subsets,
            or scores without a single finite value.
    """
    if precision not in ("auto", "float32", "float64"):
        raise InputError(f"precision is {precision!r}; choose 'auto', 'float32' or 'float64'")
    if not 0 < level < 1:
        raise InputError(f"level is {level!r}; give a coverage between 0 and 1, such as 0.95")
    device = next((d for d in map(_cuda_device, (scores, masks, margins)) if d is not None), None)
    if device is not None:
        from bench import lds_torch

        return lds_torch.lds(
            scores, masks, margins, groups=groups, ranks=ranks, precision=precision, level=level, device=device
        )

    score_array = _matrix("scores", scores, "[n_train, n_targets]")
    mask_array = _matrix("masks", masks, "[n_subsets, n_train]")
    margin_array = _matrix("margins", margins, "[n_subsets, n_targets]")
    check_shapes(score_array.shape, mask_array.shape, margin_array.shape)
    n_subsets, n_targets = margin_array.shape
    if ranks is not None and ranks.ranks.shape != (n_targets, n_subsets):
        raise InputError(
            f"ranks are of margins with shape {ranks.ranks.shape[::-1]}, but margins has shape {margin_array.shape};"
            " compute them from the same margins"
        )
    mask_ids = _check_and_identify(mask_array, max_bytes)
    clusters = group_ids(mask_ids if groups is None else groups, n_subsets)

    from bench.kernels import ranks as kernel

    rho = np.full(n_targets, np.nan)
    noise = np.zeros(n_targets)
    total = np.zeros(n_subsets)
    score_kinds = np.zeros(n_targets, np.uint8)
    prediction_kinds = np.zeros(n_targets, np.uint8)
    margin_kinds = np.zeros(n_targets, np.uint8)
    predictor = _Predictor(score_array, mask_array, mask_ids, precision, max_bytes)
    by_group = GroupSums(clusters)

    with _Pool() as pool:
        for part in predictor.slabs(margin_array.itemsize if ranks is None else 0):
            predictions, score_kinds[part] = predictor(part)
            if ranks is None:
                slab_ranks = np.empty((len(predictions), n_subsets), np.int32)
                slab_margins = np.ascontiguousarray(margin_array[:, part])
            else:
                slab_ranks, margin_kinds[part] = ranks.ranks[part], ranks.kinds[part]

            def work(block: slice, part: slice = part) -> Floats:
                here = slice(part.start + block.start, part.start + block.stop)
                mine = np.empty((block.stop - block.start, n_subsets), np.int32)
                if ranks is None:
                    columns = _orderable(slab_margins[:, block])
                    kernel.rank_rows(columns, slab_ranks[block], margin_kinds[here])
                kernel.rank_rows(np.ascontiguousarray(predictions[block], np.float64), mine, prediction_kinds[here])
                mine[score_kinds[here] != 0] = 0
                h = np.empty(mine.shape)
                kernel.correlate_rows(mine, slab_ranks[block], rho[here], h)
                noise[here] = by_group(h)
                return h.sum(axis=0)

            for subtotal in pool.map(work, _blocks(len(predictions))):
                total += subtotal

    if (score_kinds != 0).all() and not _any_finite(score_array, max_bytes):
        raise InputError(f"scores has no finite value in its {score_array.shape} entries; nothing can be ranked")
    return summarise(rho, total, noise, score_kinds, margin_kinds, prediction_kinds, clusters, level)


def predict(
    scores: npt.ArrayLike,
    masks: npt.ArrayLike,
    precision: Precision = "auto",
    *,
    max_bytes: int = MAX_BYTES,
) -> Array:
    """Predicted margins: for every target and subset, the sum of the scores of the examples kept.

    Args:
        scores: numbers [n_train, n_targets].
        masks: bool or 0/1 [n_subsets, n_train].
        precision: as in `lds`.
        max_bytes: bound on temporaries, not on the result.

    Returns:
        float32 or float64 [n_targets, n_subsets]; rows with equal masks have bit-equal predictions.

    Raises:
        InputError: as `lds`.
    """
    score_array = _matrix("scores", scores, "[n_train, n_targets]")
    mask_array = _matrix("masks", masks, "[n_subsets, n_train]")
    check_shapes(score_array.shape, mask_array.shape, (mask_array.shape[0], score_array.shape[1]))
    predictor = _Predictor(score_array, mask_array, _check_and_identify(mask_array, max_bytes), precision, max_bytes)
    out = np.empty((score_array.shape[1], mask_array.shape[0]), predictor.dtype)
    for part in predictor.slabs(0):
        out[part] = predictor(part)[0]
    return out
