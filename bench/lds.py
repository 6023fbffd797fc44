"""The linear datamodelling score (LDS): how well a score matrix ranks the margins of models trained on subsets.

For target j, LDS_j is Spearman's correlation over subsets i of the predicted margin Σ_{k ∈ subset i} scores[k, j] with
the margin that the model trained on subset i has; the LDS is the mean over targets (Park et al. 2023, "TRAK", sec. 2).

Arrays may be memmaps larger than memory: targets are worked through in slabs, and the products in chunks, such that
the temporaries stay under `max_bytes`. Arrays on a CUDA device are scored there (`bench.lds_torch`).
"""

import hashlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from bench.errors import InputError
from bench.stats import GroupSums, group_ids, two_way_interval

if TYPE_CHECKING:
    import torch

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]
Precision = Literal["auto", "float32", "float64"]

MAX_BYTES = 256 << 20
_FLOAT64_WORK = 200_000_000
"""`precision="auto"` predicts in float64 up to this many multiply-adds, where it costs milliseconds."""
_MANY_SUBSETS = 400
"""From here on tables of 8 examples beat tables of 4: more masks share the work of filling them."""
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
        from bench.kernels import ranks as kernel

        array = _matrix("margins", margins, "[n_subsets, n_targets]")
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
                kernel.rank_rows(kernel.fill_orderable(space.values, slab[:, block].T), ranks[here], kinds[here])

            kernel.map_blocks(work, parts)
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
            is small; otherwise float32, whose rounding can swap near-ties. A swap of neighbours moves one target's
            correlation by at most 12/n_subsets², and the mean by that over n_targets.
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
    margin_itemsize = margin_array.itemsize if ranks is None else 0
    predictor = _Predictor(score_array, mask_array, mask_ids, precision, max_bytes, margin_itemsize)
    by_group = GroupSums(clusters)

    for part in predictor.slabs():
        predictions, score_kinds[part] = predictor(part)
        # One sequential read: a memmap's columns are far apart.
        slab = np.ascontiguousarray(margin_array[:, part]) if ranks is None else None
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
        ) -> Floats:
            here = slice(first + block.start, first + block.stop)
            size = block.stop - block.start
            x, y, h = space.x[:size], space.y[:size], space.influence[:size]
            kernel.rank_rows(kernel.fill_orderable(space.values, predictions[block]), x, prediction_kinds[here])
            x[score_kinds[here] != 0] = 0
            if ranks is not None:
                y = ranks.ranks[here]
            elif slab is not None:
                kernel.rank_rows(kernel.fill_orderable(space.values, slab[:, block].T), y, margin_kinds[here])
            kernel.correlate_rows(x, y, rho[here], h)
            noise[here] = by_group(h)
            subtotal: Floats = h.sum(axis=0)
            return subtotal

        for part_total in kernel.map_blocks(work, parts):
            total += part_total

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
    for part in predictor.slabs():
        out[part] = predictor(part)[0]
    return out


class _Predictor:
    """Masks @ scores, by slabs of targets, within a budget of bytes."""

    def __init__(
        self, scores: Array, masks: Array, mask_ids: Array, precision: str, max_bytes: int, margin_itemsize: int = 0
    ) -> None:
        m, n = masks.shape
        t = scores.shape[1]
        self.scores, self.masks = scores, masks
        self.dtype = np.dtype(resolve_precision(precision, is_wide(scores.dtype), m * n * t))
        size = self.dtype.itemsize
        self.at_once = m * n * t <= _FLOAT64_WORK and size == 8 and 8 * (m * n + n * t + m * t) <= max_bytes
        self.repeats = np.flatnonzero(mask_ids != np.arange(m))
        self.firsts = mask_ids[self.repeats]
        # Half of the budget holds a slab's predictions, margins and ranks; an eighth each a chunk of scores and masks.
        self.width = t if self.at_once else min(t, max(1, max_bytes // 2 // (m * (size + margin_itemsize + 4))))
        narrow = size == 4 or (scores.dtype.kind == "f" and scores.itemsize <= 4)
        self.chunk_dtype = np.dtype(np.float32 if narrow else np.float64)
        self.bits = 4 if m < _MANY_SUBSETS else 8
        in_place = _usable(scores, self.chunk_dtype) and self.width == t
        chunk = min(n if in_place else max_bytes // 8 // (self.width * self.chunk_dtype.itemsize), max_bytes // 8 // m)
        whole_groups = 4 * self.bits
        self.step = max(whole_groups, chunk // whole_groups * whole_groups)
        self.codes: dict[int, Array] | None = {} if m * n // self.bits <= max_bytes // 4 else None

    def slabs(self) -> Iterator[slice]:
        """Slices of targets."""
        n_targets = self.scores.shape[1]
        for start in range(0, n_targets, self.width):
            yield slice(start, min(start + self.width, n_targets))

    def __call__(self, part: slice) -> tuple[Array, npt.NDArray[np.uint8]]:
        """Predictions [targets of the part, n_subsets], and per target 1 where a score is not finite."""
        if not self.at_once:
            return self._tabulated(self.scores[:, part])
        # The textbook expression: on small problems users compare with it to the last bit.
        whole = self.scores.astype(np.float64)
        with np.errstate(all="ignore"):  # scores that are not finite are reported by the second result
            predictions = np.ascontiguousarray((self.masks.astype(np.float64) @ whole).T)
        # BLAS may sum different rows in different orders: equal masks get equal predictions here.
        predictions[:, self.repeats] = predictions[:, self.firsts]
        return predictions, np.asarray(~np.isfinite(whole).all(axis=0), np.uint8)

    def _tabulated(self, scores: Array) -> tuple[Array, npt.NDArray[np.uint8]]:
        from bench.kernels import ranks as kernel

        n, t = scores.shape
        m = self.masks.shape[0]
        out = np.zeros((t, m), self.dtype)
        bad = np.zeros(t, bool)
        strips = [slice(start, start + kernel.STRIP) for start in range(0, t, kernel.STRIP)]
        tables = kernel.Tables(m, self.bits, self.dtype)
        buffer = None if _usable(scores, self.chunk_dtype) else np.empty((min(n, self.step), t), self.chunk_dtype)
        for k in range(0, n, self.step):
            chunk = scores[k : k + self.step]
            if buffer is not None:
                buffer[: len(chunk)] = chunk
                chunk = buffer[: len(chunk)]
            codes = self._codes(k)

            def work(strip: slice, codes: Array = codes, chunk: Array = chunk) -> None:
                kernel.add_predictions(codes, chunk, self.bits, strip.start, out, bad, tables.table, tables.sums)

            kernel.map_blocks(work, strips)
        return out, bad.view(np.uint8)

    def _codes(self, k: int) -> Array:
        from bench.kernels import ranks as kernel

        if self.codes is not None and k in self.codes:
            return self.codes[k]
        masks = self.masks[:, k : k + self.step]
        codes = kernel.pack_masks(
            masks if _usable(masks, np.dtype(bool)) else np.array(masks, bool, order="C"), self.bits
        )
        if self.codes is not None:
            self.codes[k] = codes
        return codes


def _usable(array: Array, dtype: np.dtype[Any]) -> bool:
    """Whether a kernel compiled for plain arrays of this type takes the array as it is."""
    return array.dtype == dtype and array.flags.c_contiguous and array.flags.aligned and array.flags.writeable


def _any_finite(scores: Array, max_bytes: int) -> bool:
    step = max(1, max_bytes // 8 // max(1, scores.shape[1]))
    return any(bool(np.isfinite(scores[k : k + step]).any()) for k in range(0, scores.shape[0], step))


def summarise(
    rho: Floats,
    total: Floats,
    noise: Floats,
    score_kinds: npt.NDArray[np.uint8],
    margin_kinds: npt.NDArray[np.uint8],
    prediction_kinds: npt.NDArray[np.uint8],
    clusters: npt.NDArray[np.intp],
    level: float,
) -> LDS:
    """Build the result from correlations [T], influences summed over targets [M] and their squares by group [T]."""
    from bench.kernels.ranks import CONSTANT, NOT_A_NUMBER, TIED

    reasons = {
        "margins contain NaN": margin_kinds == NOT_A_NUMBER,
        "scores not finite": score_kinds != 0,
        "margins constant": margin_kinds == CONSTANT,
        "predictions constant": prediction_kinds == CONSTANT,
        "predictions overflow": prediction_kinds == NOT_A_NUMBER,
    }
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
        n_tied=int((kept & ((margin_kinds == TIED) | (prediction_kinds == TIED))).sum()),
        influence=influence,
    )


def is_wide(dtype: np.dtype[Any]) -> bool:
    """Whether values of this type may need float64 to be told apart."""
    return dtype.kind in "biu" or dtype.itemsize >= 8


def resolve_precision(precision: str, wide: bool, work: int) -> Literal["float32", "float64"]:
    """The precision of predictions that "auto" stands for."""
    if precision == "auto":
        return "float64" if wide or work <= _FLOAT64_WORK else "float32"
    return "float32" if precision == "float32" else "float64"


def check_shapes(scores: tuple[int, ...], masks: tuple[int, ...], margins: tuple[int, ...]) -> None:
    """Raise InputError, with the likely cause, unless [n, T], [M, n] and [M, T] fit."""
    (n, t), (m, n_masks), (m_margins, t_margins) = scores, masks, margins
    shapes = f"scores {scores}, masks {masks}, margins {margins}"
    if m != m_margins:
        hint = "masks looks transposed; pass masks.T" if n_masks == m_margins else "give one row of each per subset"
        if t_margins == m and t == m_margins:
            hint = "margins looks transposed; pass margins.T"
        raise InputError(f"masks has {m} rows but margins has {m_margins} ({shapes}); {hint}")
    if (n, t) != (n_masks, t_margins):
        if (t, n) == (n_masks, t_margins):
            raise InputError(f"scores looks transposed ({shapes}); pass scores.T, which is [n_train, n_targets]")
        if n != n_masks:
            raise InputError(f"scores has {n} rows but masks has {n_masks} columns ({shapes}); both count examples")
        raise InputError(f"scores has {t} columns but margins has {t_margins} ({shapes}); both count targets")
    if m < 2:
        raise InputError(f"masks has {m} row(s); ranking needs at least two subsets")
    if m > _MAX_SUBSETS:
        raise InputError(f"masks has {m} rows; at most {_MAX_SUBSETS} subsets can be ranked exactly")
    if not n or not t:
        raise InputError(f"there is nothing to score ({shapes}); give at least one example and one target")


def _matrix(name: str, value: Any, expected: str) -> Array:
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.Tensor):
        value = value.detach()
        value = (value.float() if value.dtype == torch.bfloat16 else value).resolve_conj().resolve_neg().numpy()
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise InputError(f"{name} is not an array ({error}); give numbers {expected}") from None
    if array.dtype.kind not in "biuf":
        raise InputError(f"{name} has dtype {array.dtype}; give real numbers {expected}")
    if array.ndim != 2:
        raise InputError(f"{name} has shape {array.shape}; give a matrix {expected}")
    return array


def _cuda_device(value: Any) -> Any:
    torch = sys.modules.get("torch")
    on_device = torch is not None and isinstance(value, torch.Tensor) and value.device.type != "cpu"
    return value.device if on_device else None


def _check_and_identify(masks: Array, max_bytes: int) -> npt.NDArray[np.intp]:
    """For each row, the first row with the same mask; raises InputError where a value is neither 0 nor 1."""
    m, n = masks.shape
    first: dict[bytes, int] = {}
    ids = np.empty(m, np.intp)
    step = max(1, max_bytes // 8 // (n * max(4, masks.itemsize)))
    for start in range(0, m, step):
        block = masks[start : start + step]
        kept = block != 0
        if block.dtype != bool and not (kept == block).all():
            row, column = np.argwhere(kept != block)[0]
            raise InputError(
                f"masks[{start + row}, {column}] is {block[row, column]}; use 1 for examples kept, 0 for others"
            )
        for i, bits in enumerate(np.packbits(kept, axis=1), start):
            ids[i] = first.setdefault(hashlib.blake2b(bits.tobytes(), digest_size=16).digest(), i)
    return ids
