"""Predicted margins: masks @ scores, by slabs of targets, within a budget of bytes; and the checks of what is given."""

import hashlib
import sys
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from bench.errors import InputError
from bench.memory import unmap
from bench.wording import counted

Array = npt.NDArray[Any]
Precision = Literal["auto", "float32", "float64"]

MAX_BYTES = 256 << 20
_FLOAT64_WORK = 200_000_000
"""`precision="auto"` predicts in float64 up to this many multiply-adds, where it costs milliseconds."""
_MANY_SUBSETS = 400
"""From here on tables of 8 examples beat tables of 4: more masks share the work of filling them."""
_MAX_SUBSETS = 1_000_000
"""The sums of integer ranks stay below 2⁶³ up to here."""


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
    score_array = as_matrix("scores", scores, "[n_train, n_targets]")
    mask_array = as_matrix("masks", masks, "[n_subsets, n_train]")
    check_shapes(score_array.shape, mask_array.shape, (mask_array.shape[0], score_array.shape[1]))
    predictor = Predictor(score_array, mask_array, identify_masks(mask_array, max_bytes), precision, max_bytes)
    out = np.empty((score_array.shape[1], mask_array.shape[0]), predictor.dtype)
    for part in predictor.slabs():
        out[part] = predictor(part)[0]
    return out


class Predictor:
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
                unmap(scores)
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
        unmap(self.masks)
        if self.codes is not None:
            self.codes[k] = codes
        return codes


def _usable(array: Array, dtype: np.dtype[Any]) -> bool:
    """Whether a kernel compiled for plain arrays of this type takes the array as it is."""
    return array.dtype == dtype and array.flags.c_contiguous and array.flags.aligned and array.flags.writeable


def any_finite(scores: Array, max_bytes: int) -> bool:
    """Whether there is a finite number at all."""
    step = max(1, max_bytes // 8 // max(1, scores.shape[1]))
    return any(bool(np.isfinite(scores[k : k + step]).any()) for k in range(0, scores.shape[0], step))


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
        raise InputError(f"masks has {counted(m, 'row')} but margins has {m_margins} ({shapes}); {hint}")
    if (n, t) != (n_masks, t_margins):
        if (t, n) == (n_masks, t_margins):
            raise InputError(f"scores looks transposed ({shapes}); pass scores.T, which is [n_train, n_targets]")
        if n != n_masks:
            raise InputError(
                f"scores has {counted(n, 'row')} but masks has {counted(n_masks, 'column')} ({shapes}); both count "
                "examples"
            )
        raise InputError(
            f"scores has {counted(t, 'column')} but margins has {t_margins} ({shapes}); both count targets"
        )
    if m < 2:
        raise InputError(f"masks has {counted(m, 'row')}; ranking needs at least two subsets")
    if m > _MAX_SUBSETS:
        raise InputError(f"masks has {m} rows; at most {_MAX_SUBSETS} subsets can be ranked exactly")
    if not n or not t:
        raise InputError(f"there is nothing to score ({shapes}); give at least one example and one target")


def as_matrix(name: str, value: Any, expected: str) -> Array:
    """An array, memmap, nested list or CPU tensor as a matrix of numbers; InputError where it is not one."""
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


def identify_masks(masks: Array, max_bytes: int) -> npt.NDArray[np.intp]:
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
        unmap(masks)
    return ids
