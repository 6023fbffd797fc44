"""Moments of masks and margins: all that linear datamodels need to know about the rows, computed once and exactly.

Masks are read once, checked, and kept packed (one bit per entry). Co-occurrence counts XᵀX are integers from popcounts,
so sums and differences of row sets' counts (the rows of a fold, all rows but a fold) are exact too. Cross products XᵀY
are summed in float64. No array of rows × train examples is ever held beyond one chunk.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.errors import InputError

Array = NDArray[Any]
Float = NDArray[np.float64]
Index = NDArray[np.intp]

_WORD = 64
_PACK_ROWS = 8192  # rows whose bits are transposed at a time: 1 KiB per train example
_CHUNK_BYTES = 1 << 26  # of one dense float64 chunk of masks


@dataclass(frozen=True)
class Moments:
    """Raw sums over a set of rows. Those of disjoint sets add; those of a subset may be taken away.

    Attributes:
        rows: number of rows m.
        count: int32 `[n, n]`, rows that keep both examples (XᵀX).
        cross: float64 `[n, T]`, Xᵀ(Y − shift), where `shift` is the same for all sets of a `Design`.
        total: float64 `[T]`, sum of Y − shift.
        square: float64 `[T]`, sum of (Y − shift)².
    """

    rows: int
    count: NDArray[np.int32]
    cross: Float
    total: Float
    square: Float

    def __add__(self, other: Moments) -> Moments:
        return Moments(
            self.rows + other.rows,
            self.count + other.count,
            self.cross + other.cross,
            self.total + other.total,
            self.square + other.square,
        )

    def __sub__(self, other: Moments) -> Moments:
        return Moments(
            self.rows - other.rows,
            self.count - other.count,
            self.cross - other.cross,
            self.total - other.total,
            self.square - other.square,
        )

    @property
    def kept(self) -> Float:
        """Share of rows that keep each example, float64 `[n]`."""
        return np.diagonal(self.count) / self.rows

    @property
    def mean(self) -> Float:
        """Mean of Y − shift, float64 `[T]`."""
        return self.total / self.rows


@dataclass(frozen=True)
class Centred:
    """Second moments of centred rows, divided by their number.

    Attributes:
        G: `[n, n]`, (X−x̄)ᵀ(X−x̄)/m.
        C: `[n, T]`, (X−x̄)ᵀ(Y−ȳ)/m.
        yy: float64 `[T]`, ‖Y−ȳ‖²/m; exactly 0 for a constant target.
    """

    G: Array
    C: Float
    yy: Float


def centre(moments: Moments, about: Moments | None = None, dtype: type[np.floating[Any]] = np.float64) -> Centred:
    """Second moments about the rows' own means, or about the means of other rows (`about`, for held-out rows).

    About their own means, each entry of `G` is (m·count − sᵢsⱼ)/m²: an exact integer numerator, rounded to `dtype`.
    """
    m = float(moments.rows)
    s = moments.kept * m
    G = np.empty(moments.count.shape, dtype)
    x = moments.kept if about is None else about.kept
    for block in _chunks(len(s), max(1, _CHUNK_BYTES // (8 * len(s)))):
        sb, xb = s[block, None], x[block, None]
        if about is None:
            G[block] = (moments.count[block] * m - sb * s) / (m * m)
        else:
            G[block] = (moments.count[block] - sb * x - xb * s + m * xb * x) / m
    if about is None:
        return Centred(G, *centre_cross(moments))
    y = about.mean
    C = (moments.cross - s[:, None] * y - x[:, None] * (moments.total - m * y)) / m
    return Centred(G, C, (moments.square - 2 * y * moments.total + m * y * y) / m)


def centre_cross(moments: Moments) -> tuple[Float, Float]:
    """The parts `C` and `yy` of `centre`, exactly zero for constant columns and constant targets."""
    m = float(moments.rows)
    s = np.diagonal(moments.count)
    C = (moments.cross - s[:, None] * moments.mean) / m
    yy = np.maximum(moments.square / m - moments.mean**2, 0)
    # What rounding leaves of an exact zero would look like signal to a solver without a scale.
    flat = yy <= 1e-13 * (moments.square / m)
    yy[flat] = 0
    C[:, flat] = 0
    C[(s == 0) | (s == moments.rows)] = 0
    return C, yy


def gram_product(moments: Moments, W: Float) -> Float:
    """(X−x̄)ᵀ(X−x̄)W/m in float64 from the exact counts, without the centred Gram. `[n, T]`."""
    s = np.diagonal(moments.count).astype(np.float64)
    out = np.empty(W.shape)
    for block in _chunks(len(s), max(1, _CHUNK_BYTES // (8 * len(s)))):
        out[block] = moments.count[block].astype(np.float64) @ W
    return (out - s[:, None] * ((s / moments.rows) @ W)) / moments.rows


class Design:
    """Checked masks (packed into bits) with their margins.

    Args:
        masks: bool or 0/1 `[m, n]`; an array or a memmap, read once, by chunks of rows.
        margins: real `[m, T]`; an array or a memmap, read by chunks of rows.
        threads: threads for counting; results do not depend on it.

    Raises:
        InputError: wrong shapes, masks other than 0/1, margins that are not finite.
    """

    def __init__(self, masks: Any, margins: Any, threads: int | None = None):
        self.masks_shape, self.margins = _check_shapes(masks, margins)
        self.m, self.n = self.masks_shape
        self.T = int(self.margins.shape[1])
        self.threads = thread_count(threads)
        self.bits = np.empty((self.m, -(-self.n // 8)), np.uint8)
        bad = np.zeros(self.T, np.int64)
        for rows in _chunks(self.m, self._chunk):
            self.bits[rows] = _pack(np.asarray(masks[rows]), rows.start)
            bad += np.count_nonzero(~np.isfinite(self.margins[rows]), axis=0)
        if bad.any():
            raise InputError(
                f"margins: {int(bad.sum())} values are NaN or infinite, the first in target {int(np.argmax(bad > 0))}; "
                "retrain those rows or drop them."
            )
        # One origin for all row sets: it keeps squares small, and makes constant targets exactly zero.
        self.shift = np.asarray(self.margins[0], np.float64)

    @property
    def _chunk(self) -> int:
        return int(np.clip(_CHUNK_BYTES // (8 * self.n), _WORD, _PACK_ROWS))

    def rows(self, index: Index) -> NDArray[np.uint8]:
        """Masks of some rows as 0/1 uint8 `[len(index), n]`."""
        return np.unpackbits(self.bits[index], axis=1, count=self.n, bitorder="little")

    def groups(self) -> Index:
        """Number of each row's distinct mask, `[m]`: rows that share a mask share a number."""
        seen: dict[bytes, int] = {}
        digest = (hashlib.blake2b(row.tobytes(), digest_size=16).digest() for row in self.bits)
        return np.fromiter((seen.setdefault(key, len(seen)) for key in digest), np.intp, self.m)

    def moments(self, index: Index | None = None) -> Moments:
        """Sums over the rows `index` (all by default)."""
        index = np.arange(self.m) if index is None else np.sort(index)
        counts = np.zeros((self.n, self.n), np.int32)
        for rows in _chunks(len(index), _PACK_ROWS):
            _count(_columns(self.rows(index[rows])), counts, self.threads)
        cross = np.zeros((self.n, self.T))
        total = np.zeros(self.T)
        square = np.zeros(self.T)
        for rows in _chunks(len(index), self._chunk):
            y = self.targets(index[rows])
            cross += self.rows(index[rows]).astype(np.float64).T @ y
            total += y.sum(0)
            square += np.einsum("it,it->t", y, y)
        return Moments(len(index), counts, cross, total, square)

    def row_counts(self) -> NDArray[np.int32]:
        """Examples that two rows both keep (XXᵀ), int32 `[m, m]`."""
        counts = np.zeros((self.m, self.m), np.int32)
        width = -(-self.bits.shape[1] // 8) * 8
        padded = np.zeros((self.m, width), np.uint8)
        padded[:, : self.bits.shape[1]] = self.bits
        _count(padded.view(np.uint64), counts, self.threads)
        return counts

    def transposed_product(self, A: Float) -> Float:
        """XᵀA for `A` `[m, T]`, by chunks of rows. `[n, T]`."""
        out = np.zeros((self.n, A.shape[1]))
        for rows in _chunks(self.m, self._chunk):
            out += self.rows(np.arange(rows.start, rows.stop)).astype(np.float64).T @ A[rows]
        return out

    def targets(self, index: Index) -> Float:
        """Margins of some rows less `shift`, float64 `[len(index), T]`."""
        return np.asarray(self.margins[index], np.float64) - self.shift


def thread_count(threads: int | None) -> int:
    """The number of threads to use: as asked, else the cores that this process may run on."""
    if threads is None:
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if threads < 1:
        raise InputError(f"threads is {threads}; give at least 1, or None for all cores.")
    return int(threads)


def in_threads(work: Callable[[slice], None], blocks: Iterable[slice], threads: int) -> None:
    """Run `work` on every block, `threads` at a time; kernels release the GIL. The first error is raised."""
    blocks = list(blocks)
    if threads == 1 or len(blocks) < 2:
        for block in blocks:
            work(block)
        return
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, blocks))


def _chunks(length: int, step: int) -> Iterator[slice]:
    return (slice(a, min(a + step, length)) for a in range(0, length, step))


def _count(words: NDArray[np.uint64], counts: NDArray[np.int32], threads: int) -> None:
    from bench.kernels.lasso import add_counts

    in_threads(lambda b: add_counts(words, b.start, b.stop, counts), _chunks(len(words), _WORD), threads)


def _columns(rows: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """0/1 rows `[r, n]` → their columns packed into words `[n, ⌈r/64⌉]`."""
    packed = np.packbits(rows, axis=0, bitorder="little")
    out = np.zeros((rows.shape[1], -(-len(rows) // _WORD) * 8), np.uint8)
    out[:, : len(packed)] = packed.T
    return out.view(np.uint64)


def _pack(chunk: Array, first: int) -> NDArray[np.uint8]:
    if chunk.dtype != np.bool_:
        wrong = (chunk != 0) & (chunk != 1)
        if wrong.any():
            r, j = np.argwhere(wrong)[0]
            raise InputError(f"masks[{first + r}, {j}] is {chunk[r, j]}; masks hold 0/1 (or bool): kept or not.")
        chunk = chunk.astype(np.bool_)
    return np.packbits(chunk, axis=1, bitorder="little")


def _check_shapes(masks: Any, margins: Any) -> tuple[tuple[int, int], Array]:
    for name, array in (("masks", masks), ("margins", margins)):
        shape = np.shape(array)
        if len(shape) != 2 or 0 in shape:
            raise InputError(f"{name} has shape {shape}; give a non-empty matrix with one row per trained model.")
    if len(masks) != len(margins):
        raise InputError(
            f"masks has {len(masks)} rows and margins {len(margins)}; give one row per trained model in both."
        )
    margins = margins if isinstance(margins, np.ndarray) else np.asarray(margins)
    if margins.dtype.kind not in "fiu":
        raise InputError(f"margins has dtype {margins.dtype}; give real numbers (float32).")
    m, n = np.shape(masks)
    return (m, n), margins
