"""The linear datamodelling score (LDS): how well a score matrix ranks the margins of models trained on subsets.

For target j, LDS_j is Spearman's correlation over subsets i of the predicted margin Σ_{k ∈ subset i} scores[k, j] with
the margin that the model trained on subset i has; the LDS is the mean over targets (Park et al. 2023, "TRAK", sec. 2).

Arrays may be memmaps larger than memory: targets are worked through in slabs, and the products in chunks, such that
the temporaries stay under `max_bytes`. Arrays on a CUDA device are scored there (`bench.scorer_torch`).
"""

import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from bench.errors import InputError
from bench.memory import unmap
from bench.predictions import (
    MAX_BYTES,
    Precision,
    Predictor,
    any_finite,
    as_matrix,
    check_shapes,
    identify_masks,
)
from bench.stats.intervals import GroupSums, group_ids, two_way_interval
from bench.stats.paired import SKETCH

if TYPE_CHECKING:
    import torch

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]


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
        zeroed: the same of targets that count as 0 because `undefined` is "zero".
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
    zeroed: dict[str, int]
    n_tied: int
    influence: Floats = field(repr=False)

    @property
    def why_not(self) -> str:
        """Why targets have no correlation, and how many each."""
        return ", ".join(f"{why}: {count}" for why, count in {**self.excluded, **self.zeroed}.items())


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
        from bench.kernels import ranks as kernel
        from bench.kernels.packed import rank_block

        array = as_matrix("margins", margins, "[n_subsets, n_targets]")
        n_subsets, n_targets = array.shape
        ranks = np.empty((n_targets, n_subsets), np.int32)
        kinds = np.empty(n_targets, np.uint8)
        step = max(1, max_bytes // (2 * n_subsets * array.itemsize))
        for start in range(0, n_targets, step):
            slab = np.ascontiguousarray(array[:, start : start + step])

            parts = kernel.blocks(slab.shape[1], n_subsets)
            space = kernel.Workspace(parts, n_subsets)

            def work(block: slice, start: int = start, slab: Array = slab, space: kernel.Workspace = space) -> None:
                here = slice(start + block.start, start + block.stop)
                rank_block(slab[:, block].T, space.values, ranks[here], kinds[here])

            kernel.map_blocks(work, parts)
        return cls(ranks, kinds)


class Trace:
    """What `lds` can leave behind of its work, for tests and comparisons.

    Attributes:
        groups: [n_subsets], labels 0, 1, …, each in use; one group where none are given.
        ranks: int32 [n_targets, n_subsets], of the predictions, as `MarginRanks.ranks`; zeros where there are none.
        sketch: float64 [1024], of the influences (`bench.stats.paired`).
        grouped: float64 [n_targets, groups], the influences h_i on each target's LDS, summed over the subsets of each
            group of `groups`.
    """

    def __init__(self, n_targets: int, n_subsets: int, groups: npt.NDArray[np.intp] | None = None) -> None:
        self.groups = np.zeros(n_subsets, np.intp) if groups is None else groups
        self._sums = GroupSums(self.groups)
        self.ranks = np.zeros((n_targets, n_subsets), np.int32)
        self.sketch = np.zeros(SKETCH)
        self.grouped = np.zeros((n_targets, int(self.groups.max()) + 1))

    def note(self, targets: slice, ranks: Array, influence: Floats) -> Floats:
        """Keep a block of targets; returns its share of the sketch."""
        from bench.kernels.sketch import add_to_sketch

        self.ranks[targets] = ranks
        self.grouped[targets] = self._sums.sums(influence)
        part = np.zeros_like(self.sketch)
        add_to_sketch(influence, targets.start, part)
        return part


def lds(
    scores: "npt.ArrayLike | torch.Tensor",
    masks: "npt.ArrayLike | torch.Tensor",
    margins: "npt.ArrayLike | torch.Tensor",
    *,
    groups: npt.ArrayLike | None = None,
    ranks: MarginRanks | None = None,
    precision: Precision = "auto",
    level: float = 0.95,
    undefined: Literal["exclude", "zero"] = "exclude",
    max_bytes: int = MAX_BYTES,
    trace: Trace | None = None,
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
            is small; otherwise float32, whose rounding can swap near-ties. A swap of neighbours moves one target's
            correlation by at most 12/n_subsets², and the mean by that over n_targets.
        level: nominal coverage of the interval.
        undefined: what a target counts whose scores are not all finite or whose predictions are constant. "zero" is
            for ranking methods: left out, what a method has nothing to say on would raise its mean.
        max_bytes: bound on temporaries.
        trace: filled in, where one is given (on a CPU).

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
        if trace is not None:
            raise InputError(f"trace is filled in on a CPU, and there are tensors on {device}; pass tensor.cpu()")
        from bench import scorer_torch

        return scorer_torch.lds(
            scores,
            masks,
            margins,
            groups=groups,
            ranks=ranks,
            precision=precision,
            level=level,
            undefined=undefined,
            device=device,
        )

    score_array = as_matrix("scores", scores, "[n_train, n_targets]")
    mask_array = as_matrix("masks", masks, "[n_subsets, n_train]")
    margin_array = as_matrix("margins", margins, "[n_subsets, n_targets]")
    check_shapes(score_array.shape, mask_array.shape, margin_array.shape)
    n_subsets, n_targets = margin_array.shape
    if ranks is not None and ranks.ranks.shape != (n_targets, n_subsets):
        raise InputError(
            f"ranks are of margins with shape {ranks.ranks.shape[::-1]}, but margins has shape {margin_array.shape};"
            " compute them from the same margins"
        )
    mask_ids = identify_masks(mask_array, max_bytes)
    clusters = group_ids(mask_ids if groups is None else groups, n_subsets)

    from bench.kernels import ranks as kernel
    from bench.kernels.packed import rank_block

    rho = np.full(n_targets, np.nan)
    noise = np.zeros(n_targets)
    total = np.zeros(n_subsets)
    score_kinds = np.zeros(n_targets, np.uint8)
    prediction_kinds = np.zeros(n_targets, np.uint8)
    margin_kinds = np.zeros(n_targets, np.uint8)
    margin_itemsize = margin_array.itemsize if ranks is None else 0
    predictor = Predictor(score_array, mask_array, mask_ids, precision, max_bytes, margin_itemsize)
    by_group = GroupSums(clusters)

    for part in predictor.slabs():
        predictions, score_kinds[part] = predictor(part)
        # One sequential read: a memmap's columns are far apart.
        slab = np.ascontiguousarray(margin_array[:, part]) if ranks is None else None
        unmap(margin_array)
        if ranks is not None:
            margin_kinds[part] = ranks.kinds[part]

        parts = kernel.blocks(len(predictions), n_subsets)
        space = kernel.Workspace(parts, n_subsets)

        def work(
            block: slice,
            first: int = part.start,
            predictions: Array = predictions,
            slab: Array | None = slab,
            space: kernel.Workspace = space,
        ) -> tuple[Floats, Floats | None]:
            here = slice(first + block.start, first + block.stop)
            size = block.stop - block.start
            x, y, h = space.x[:size], space.y[:size], space.influence[:size]
            rank_block(predictions[block], space.values, x, prediction_kinds[here])
            x[score_kinds[here] != 0] = 0
            if ranks is not None:
                y = ranks.ranks[here]
            elif slab is not None:
                rank_block(slab[:, block].T, space.values, y, margin_kinds[here])
            kernel.correlate_rows(x, y, rho[here], h)
            noise[here] = by_group(h)
            return h.sum(axis=0), None if trace is None else trace.note(here, x, h)

        for part_total, part_sketch in kernel.map_blocks(work, parts):
            total += part_total
            if trace is not None and part_sketch is not None:
                trace.sketch += part_sketch

    if (score_kinds != 0).all() and not any_finite(score_array, max_bytes):
        raise InputError(f"scores has no finite value in its {score_array.shape} entries; nothing can be ranked")
    return summarise(rho, total, noise, score_kinds, margin_kinds, prediction_kinds, clusters, level, undefined)


def summarise(
    rho: Floats,
    total: Floats,
    noise: Floats,
    score_kinds: npt.NDArray[np.uint8],
    margin_kinds: npt.NDArray[np.uint8],
    prediction_kinds: npt.NDArray[np.uint8],
    clusters: npt.NDArray[np.intp],
    level: float,
    undefined: Literal["exclude", "zero"] = "exclude",
) -> LDS:
    """Build the result from correlations [T], influences summed over targets [M] and their squares by group [T]."""
    from bench.kernels.ranks import CONSTANT, NOT_A_NUMBER, TIED

    reasons = {
        "margins contain NaN": margin_kinds == NOT_A_NUMBER,
        "margins constant": margin_kinds == CONSTANT,
    }
    faults = {
        "scores not finite": score_kinds != 0,
        "predictions constant": prediction_kinds == CONSTANT,
        "predictions overflow": prediction_kinds == NOT_A_NUMBER,
    }
    zeroed: dict[str, int] = {}
    if undefined == "zero":
        fault = np.zeros(len(rho), bool)
        for reason, holds in faults.items():
            mine = holds & ~fault & ~reasons["margins contain NaN"] & ~reasons["margins constant"]
            if count := int(mine.sum()):
                zeroed[reason] = count
            fault |= mine
        rho[fault] = 0.0
    else:
        reasons |= faults
    kept = np.ones(len(rho), bool)
    excluded = {}
    for reason, holds in reasons.items():
        if count := int((kept & holds).sum()):
            excluded[reason] = count
        kept &= ~holds
    n_kept, n_subsets = int(kept.sum()), len(total)
    influence = total / n_kept if n_kept else np.full(n_subsets, np.nan)
    interval = two_way_interval(
        rho[kept],
        np.bincount(clusters, weights=influence) / n_subsets,
        noise[kept] / n_subsets**2,
        level=level,
    )
    return LDS(
        per_target=rho,
        mean=float(rho[kept].mean()) if n_kept else float("nan"),
        ci=(interval.low, interval.high),
        stderr=interval.stderr,
        level=level,
        n_subsets=n_subsets,
        n_groups=int(clusters.max()) + 1,
        n_targets=len(rho),
        n_excluded=len(rho) - n_kept,
        excluded=excluded,
        zeroed=zeroed,
        n_tied=int((kept & ((margin_kinds == TIED) | (prediction_kinds == TIED))).sum()),
        influence=influence,
    )


def _cuda_device(value: Any) -> Any:
    torch = sys.modules.get("torch")
    on_device = torch is not None and isinstance(value, torch.Tensor) and value.device.type != "cpu"
    return value.device if on_device else None
