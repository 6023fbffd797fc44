"""Moments of masks and margins: all that linear datamodels need to know about the rows, streamed once and exact.

Masks are read by chunks of rows and packed into bits, a column's rows in 64-bit words. Co-occurrence counts XᵀX are
integers from popcounts, so that sums and differences of row sets' counts (the rows of a fold, all rows but a fold) are
exact too. Cross products XᵀY are summed in float64 from tables of all sums of four rows. Beyond one chunk nothing is
held that grows with rows × train examples.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.errors import InputError
from bench.wording import counted, either

Array = NDArray[Any]
Float = NDArray[np.float64]
Index = NDArray[np.intp]

MIN_ROWS = 10  # fewer say nothing about as many as one example

_WORD = 64
_PACK_ROWS = 8192  # rows whose bits are transposed at a time: 1 KiB per train example
_CHUNK_BYTES = 1 << 26  # of a chunk's masks, and of a float64 block of counts
_SPARSE = 0.15  # of the weights: a denser product is quicker by a matrix product
_SHOWN = 5  # rows that a message names
_FLOAT16_MAX = 65504
_LARGEST = 1e30  # of margins: sums of squares stay far from the end of float64, weights from that of float32


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

    def of(self, targets: Index) -> Moments:
        """The sums of some targets."""
        return Moments(self.rows, self.count, self.cross[:, targets], self.total[targets], self.square[targets])

    @property
    def kept(self) -> Float:
        """Share of rows that keep each example, float64 `[n]`."""
        return np.diagonal(self.count) / self.rows

    @property
    def unused(self) -> NDArray[np.bool_]:
        """Examples that all rows, or none, keep, bool `[n]`."""
        kept = np.diagonal(self.count)
        return np.asarray((kept == 0) | (kept == self.rows))

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

    def of(self, targets: Index) -> Centred:
        """Those of some targets."""
        return Centred(self.G, self.C[:, targets], self.yy[targets])


def centre(
    moments: Moments,
    about: Moments | None = None,
    dtype: type[np.floating[Any]] = np.float64,
    threads: int = 1,
) -> Centred:
    """Second moments about the rows' own means, or about the means of other rows (`about`, for held-out rows).

    About their own means, each entry of `G` is (m·count − sᵢsⱼ)/m²: an exact integer numerator, rounded to `dtype`.
    """
    from bench.kernels.gram import centre_counts

    m = float(moments.rows)
    s = np.diagonal(moments.count).astype(np.float64)
    x = moments.kept if about is None else about.kept
    G = np.empty(moments.count.shape, dtype)
    in_threads(
        lambda b: centre_counts(moments.count, m, s, x, about is None, b.start, b.stop, G),
        _chunks(len(s), -(-len(s) // threads)),
        threads,
    )
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
    C[moments.unused] = 0
    return C, yy


def gram_product(moments: Moments, W: Float, threads: int = 1) -> Float:
    """(X−x̄)ᵀ(X−x̄)W/m in float64 from the exact counts, without the centred Gram. `[n, T]`."""
    s = np.diagonal(moments.count).astype(np.float64)
    if np.count_nonzero(W) < _SPARSE * W.size:
        from bench.kernels.gram import counts_times

        rows, product = np.ascontiguousarray(W.T), np.empty(W.shape[::-1])
        T = len(rows)
        in_threads(
            lambda b: counts_times(moments.count, rows, b.start, b.stop, product), _chunks(T, -(-T // threads)), threads
        )
        out = product.T
    else:
        out = np.empty(W.shape)
        for block in _chunks(len(s), max(1, _CHUNK_BYTES // (8 * len(s)))):
            out[block] = moments.count[block].astype(np.float64) @ W
    return (out - s[:, None] * ((s / moments.rows) @ W)) / moments.rows


class Design:
    """Masks with their margins, checked as they are read.

    Args:
        masks: bool or 0/1 `[m, n]`; an array, a memmap, or whatever is indexed like one. Read by chunks of rows.
        margins: real `[m, T]`; the same.
        threads: threads for counting; results do not depend on it.

    Raises:
        InputError: wrong shapes, fewer than 10 rows, margins that are not finite; and, when rows are read, masks other
            than 0/1.
    """

    def __init__(self, masks: Any, margins: Any, threads: int | None = None):
        self.masks, self.margins = _indexable("masks", masks), _indexable("margins", margins)
        (self.m, self.n), self.T = _check_shapes(self.masks, self.margins)
        self.threads = thread_count(threads)
        _check_range(self.margins, self._chunk(self.T * 8))
        # One origin for all row sets: it keeps squares small, and makes constant targets exactly zero.
        self.shift = on_host(self.margins[:1]).astype(np.float64)[0]

    def _chunk(self, row_bytes: int) -> int:
        return int(np.clip(_CHUNK_BYTES // row_bytes // _WORD * _WORD, _WORD, _PACK_ROWS))

    def rows(self, index: Index | slice) -> NDArray[np.bool_]:
        """Masks of some rows, bool `[len(index), n]`.

        Raises:
            InputError: one is neither 0 nor 1.
        """
        chunk = on_host(self.masks[index])
        if chunk.dtype == np.bool_:
            return chunk
        wrong = (chunk != 0) & (chunk != 1)
        if wrong.any():
            r, j = np.argwhere(wrong)[0]
            row = (index.start or 0) + r if isinstance(index, slice) else index[r]
            raise InputError(f"masks[{row}, {j}] is {chunk[r, j]}; masks hold 0/1 (or bool): kept or not.")
        return chunk.astype(np.bool_)

    def targets(self, index: Index | slice, targets: slice = slice(None)) -> Float:
        """Margins of some rows less `shift`, float64 `[len(index), T]`."""
        margins: Float = np.array(on_host(self.margins[index][:, targets]), np.float64)
        margins -= self.shift[targets]
        return margins

    def groups(self) -> Index:
        """Number of each row's distinct mask, `[m]`: rows that share a mask share a number."""
        seen: dict[bytes, int] = {}
        group = np.empty(self.m, np.intp)
        for rows in _chunks(self.m, self._chunk(self.n)):
            for i, row in enumerate(np.packbits(self.rows(rows), axis=1), rows.start):
                group[i] = seen.setdefault(hashlib.blake2b(row.tobytes(), digest_size=16).digest(), len(seen))
        return group

    def moments(
        self, index: Index | None = None, targets: slice = slice(None), count: NDArray[np.int32] | None = None
    ) -> Moments:
        """Sums over the rows `index` (all by default) for some targets; `count` of the same rows is not made anew."""
        from bench.kernels.gram import add_cross

        begin, end, _ = targets.indices(self.T)
        counts = np.zeros((self.n, self.n), np.int32) if count is None else count
        cross = np.zeros((self.n, end - begin))
        total = np.zeros(end - begin)
        square = np.zeros(end - begin)
        m = self.m if index is None else len(index)
        for chunk in _chunks(m, min(self._chunk(self.n), self._chunk(8 * (end - begin)))):
            rows = chunk if index is None else index[chunk]
            words = _columns(self.rows(rows))
            if count is None:
                _count(words, counts, self.threads)
            y = np.zeros((words.shape[1] * _WORD, end - begin))
            y[: chunk.stop - chunk.start] = self.targets(rows, targets)
            in_threads(partial(_over, add_cross, words, y, cross), self._shares(), self.threads)
            total += y.sum(0)
            square += np.einsum("it,it->t", y, y)
        return Moments(m, counts, cross, total, square)

    def _shares(self) -> Iterator[slice]:
        """Train examples in as many parts as there are threads: their sums are the same however they are cut."""
        return _chunks(self.n, -(-self.n // self.threads))

    def row_counts(self) -> NDArray[np.int32]:
        """Examples that two rows both keep (XXᵀ), int32 `[m, m]`; for fewer rows than examples."""
        counts = np.zeros((self.m, self.m), np.int32)
        step = max(_WORD, _CHUNK_BYTES // self.m // _WORD * _WORD)
        for columns in _chunks(self.n, step):
            words = np.zeros((self.m, -(-(columns.stop - columns.start) // _WORD) * 8), np.uint8)
            for rows in _chunks(self.m, self._chunk(self.n)):
                packed = np.packbits(self.rows(rows)[:, columns], axis=1, bitorder="little")
                words[rows, : packed.shape[1]] = packed
            _count(words.view(np.uint64), counts, self.threads)
        return counts

    def transposed_product(self, A: Float) -> Float:
        """XᵀA for `A` `[m, T]`, by chunks of rows. `[n, T]`."""
        out = np.zeros((self.n, A.shape[1]))
        for rows in _chunks(self.m, self._chunk(8 * self.n)):
            out += self.rows(rows).astype(np.float64).T @ A[rows]
        return out


def on_host(chunk: Any) -> Array:
    """An array, or a tensor on any device, as numpy; bfloat16, which numpy lacks, as float32."""
    if hasattr(chunk, "detach"):
        chunk = chunk.detach().cpu()
        chunk = chunk.float() if str(chunk.dtype) == "torch.bfloat16" else chunk
    return np.asarray(chunk)


def _indexable(name: str, given: Any) -> Any:
    """What rows can be read from by number: as it is, or sequences as an array.

    Raises:
        InputError: it is ragged, sparse, or an array of which parts are masked out.
    """
    if isinstance(given, np.ma.MaskedArray):
        raise InputError(f"{name} is a masked array; give a plain one, without what is masked out.")
    if getattr(given, "is_sparse", False) or hasattr(given, "nnz"):
        raise InputError(f"{name} is sparse; give a dense array.")
    if hasattr(given, "iloc"):  # pandas indexes columns first
        return given.to_numpy()
    if not isinstance(given, list | tuple):
        return given
    try:
        return np.asarray(given)
    except ValueError as error:
        raise InputError(f"{name} is not an array ({error}); give a matrix with one row per trained model.") from error


def thread_count(threads: int | None) -> int:
    """The number of threads to use: as asked, else the cores that this process may run on."""
    if threads is None:
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if not isinstance(threads, int | np.integer) or threads < 1:
        raise InputError(f"threads is {threads!r}; give a whole number of at least 1, or None for all cores.")
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


def _over(kernel: Callable[..., None], words: Array, y: Array, cross: Array, block: slice) -> None:
    kernel(words, y, block.start, block.stop, cross)


def _chunks(length: int, step: int) -> Iterator[slice]:
    return (slice(a, min(a + step, length)) for a in range(0, length, step))


def _count(words: NDArray[np.uint64], counts: NDArray[np.int32], threads: int) -> None:
    from bench.kernels.gram import add_counts

    in_threads(lambda b: add_counts(words, b.start, b.stop, counts), _chunks(len(words), _WORD), threads)


def _columns(rows: NDArray[np.bool_]) -> NDArray[np.uint64]:
    """Rows `[r, n]` → their columns packed into words `[n, ⌈r/64⌉]`."""
    packed = np.packbits(rows, axis=0, bitorder="little")
    out = np.zeros((rows.shape[1], -(-len(rows) // _WORD) * 8), np.uint8)
    out[:, : len(packed)] = packed.T
    return out.view(np.uint64)


def _check_range(margins: Any, step: int) -> None:
    """Refuse margins that are not finite, or that float32 cannot hold, naming their rows (in the store, of a view)."""
    count, wrong, overflow, large = 0, [], False, 0.0
    for rows in _chunks(len(margins), step):
        chunk = on_host(margins[rows])
        good = np.abs(chunk) <= _LARGEST if chunk.dtype.itemsize > 2 else np.isfinite(chunk)
        if good.all():
            continue
        count += int((~good).sum())
        wrong += [rows.start + int(i) for i in np.flatnonzero(~good.all(1))]
        overflow |= chunk.dtype == np.float16 and bool(np.isinf(chunk).any())
        large = max(large, float(np.abs(chunk[np.isfinite(chunk)]).max(initial=0)))
    if not wrong:
        return
    name, numbers = getattr(margins, "name", "margins"), getattr(margins, "row_numbers", None)
    if numbers is not None:
        wrong = [int(numbers[row]) for row in wrong]
    shown = ", ".join(map(str, wrong[:_SHOWN])) + (f" and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else "")
    what, advice = "NaN or infinite", "retrain those rows or drop them"
    if overflow:
        advice = f"float16 ends at {_FLOAT16_MAX}, so store them as float32, or drop those rows"
    elif large > _LARGEST:
        what, advice = (
            f"NaN, infinite or as large as {large:.3g}",
            f"drop those rows, or scale margins below {_LARGEST}",
        )
    raise InputError(
        f"{name}: {counted(count, 'value is', 'values are')} {what}, in {either(len(wrong), 'row', 'rows')} {shown}; "
        f"{advice}."
    )


def _check_shapes(masks: Any, margins: Any) -> tuple[tuple[int, int], int]:
    for name, array in (("masks", masks), ("margins", margins)):
        shape = tuple(np.shape(array))
        if len(shape) != 2 or 0 in shape:
            raise InputError(f"{name} has shape {shape}; give a non-empty matrix with one row per trained model.")
    if len(masks) != len(margins):
        raise InputError(
            f"masks has {counted(len(masks), 'row')} and margins {len(margins)}; give one row per trained model in "
            "both."
        )
    kind = on_host(margins[:1]).dtype
    if kind.kind not in "fiu":
        raise InputError(f"margins has dtype {kind}; give real numbers (float32).")
    m, n = np.shape(masks)
    if m < MIN_ROWS:
        raise InputError(
            f"masks has {counted(m, 'row')}; a datamodel takes at least {MIN_ROWS} trained models, better thousands."
        )
    return (m, n), int(np.shape(margins)[1])
