"""Average ranks and Spearman correlations of many rows at once, with each observation's influence on each correlation.

Ranks are kept as *centred doubled average ranks*, `2·rank − (M + 1)`: integers even under ties, summing to zero, so
every sum below is exact in int64 (for M up to two million) and a correlation carries only the rounding of its last
division. The kernels are serial and release the interpreter lock: callers run them on blocks of rows in threads, which
costs less compile time than numba's own parallel loops and keeps results independent of the number of threads.
"""

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache
from typing import Any, TypeVar

import numba
import numpy as np
import numpy.typing as npt
from numba import njit

T = TypeVar("T")

Floats = npt.NDArray[np.float64]
Ranks = npt.NDArray[np.int32]
Codes = npt.NDArray[np.uint8]

DISTINCT, TIED, CONSTANT, NOT_A_NUMBER = 0, 1, 2, 3
"""What a row is, as `rank_rows` reports it. Only the first two have a correlation."""

_RUN = 16
"""Segments up to this length are insertion-sorted; longer ones are merged from runs of it."""


@njit(cache=True, nogil=True)
def _insertion_sort(keys: Floats, order: Ranks, start: int, stop: int) -> None:
    for i in range(start + 1, stop):
        key = keys[i]
        index = order[i]
        j = i - 1
        while j >= start and keys[j] > key:
            keys[j + 1] = keys[j]
            order[j + 1] = order[j]
            j -= 1
        keys[j + 1] = key
        order[j + 1] = index


@njit(cache=True, nogil=True)
def _merge_sort(keys: Floats, order: Ranks, start: int, stop: int, spare_keys: Floats, spare_order: Ranks) -> None:
    for i in range(start, stop, _RUN):
        _insertion_sort(keys, order, i, min(i + _RUN, stop))
    width = _RUN
    while width < stop - start:
        for left in range(start, stop, 2 * width):
            middle = min(left + width, stop)
            right = min(left + 2 * width, stop)
            if middle >= right or keys[middle - 1] <= keys[middle]:
                continue
            for i in range(left, middle):
                spare_keys[i] = keys[i]
                spare_order[i] = order[i]
            i, j, out = left, middle, left
            while i < middle and j < right:
                if spare_keys[i] <= keys[j]:
                    keys[out] = spare_keys[i]
                    order[out] = spare_order[i]
                    i += 1
                else:
                    keys[out] = keys[j]
                    order[out] = order[j]
                    j += 1
                out += 1
            while i < middle:
                keys[out] = spare_keys[i]
                order[out] = spare_order[i]
                i += 1
                out += 1
        width *= 2


@njit(cache=True, nogil=True)
def rank_rows(values: Floats, ranks: Ranks, kinds: Codes) -> None:
    """Rank every row of `values`.

    A bucket sort: as many equal-width buckets as values, so that the near-normal columns met here leave one or two
    values per bucket; crowded buckets (outliers, infinities) are merge-sorted, which bounds the worst case. Values are
    compared as floats, so −0.0 ties with 0.0 and ±inf rank last and first.

    Args:
        values: float64 [T, M].
        ranks: int32 [T, M], written: `2·(average rank) − (M + 1)`, zeros for rows without ranks.
        kinds: uint8 [T], written: DISTINCT, TIED, CONSTANT or NOT_A_NUMBER.
    """
    n_rows, m = values.shape
    keys = np.empty(m)
    order = np.empty(m, np.int32)
    spare_keys = np.empty(m)
    spare_order = np.empty(m, np.int32)
    bucket = np.empty(m, np.int32)
    ends = np.empty(m + 1, np.int32)
    for row in range(n_rows):
        x = values[row]
        low = x[0]
        high = x[0]
        nan = False
        for i in range(m):
            if np.isnan(x[i]):
                nan = True
            low = min(low, x[i])
            high = max(high, x[i])
        if nan or low == high:
            kinds[row] = NOT_A_NUMBER if nan else CONSTANT
            ranks[row, :] = 0
            continue

        span = high - low
        scale = (m - 1) / span
        if not (np.isfinite(span) and np.isfinite(scale)):
            # Infinite or subnormal ranges cannot be divided evenly: one bucket holds all, and is merge-sorted.
            for i in range(m):
                keys[i] = x[i]
                order[i] = i
            _merge_sort(keys, order, 0, m, spare_keys, spare_order)
        else:
            ends[:] = 0
            for i in range(m):
                b = int((x[i] - low) * scale)
                bucket[i] = b
                ends[b + 1] += 1
            for b in range(m):
                ends[b + 1] += ends[b]
            for i in range(m):
                b = int(bucket[i])
                place = int(ends[b])
                ends[b] = place + 1
                keys[place] = x[i]
                order[place] = i
            start = 0
            for b in range(m):
                stop = int(ends[b])
                if stop - start > _RUN:
                    _merge_sort(keys, order, start, stop, spare_keys, spare_order)
                elif stop - start > 1:
                    _insertion_sort(keys, order, start, stop)
                start = stop

        tied = False
        start = 0
        while start < m:
            stop = start + 1
            while stop < m and keys[stop] == keys[start]:
                stop += 1
            if stop > start + 1:
                tied = True
            for i in range(start, stop):
                ranks[row, order[i]] = start + stop - m
            start = stop
        kinds[row] = TIED if tied else DISTINCT


@njit(cache=True, nogil=True)
def _influence_without_ties(
    a: Ranks,
    b: Ranks,
    sum_ab: np.int64,
    root: float,
    cross_x: npt.NDArray[np.int64],
    cross_y: npt.NDArray[np.int64],
    influence: Floats,
) -> None:
    """Where all ranks differ the variances do not depend on the weights: D_k(a; a) = (M² − 1 − a_k²)/2, so dA_k = 0."""
    m = len(a)
    for i in range(m):
        cross_x[(a[i] + m - 1) >> 1] = b[i]
        cross_y[(b[i] + m - 1) >> 1] = a[i]
    above_x = above_y = np.int64(0)
    for at in range(m - 1, -1, -1):
        here_x = cross_x[at]
        here_y = cross_y[at]
        cross_x[at] = 2 * above_x + here_x
        cross_y[at] = 2 * above_y + here_y
        above_x += here_x
        above_y += here_y
    for i in range(m):
        p = np.int64(a[i])
        q = np.int64(b[i])
        dc = m * (p * q + cross_x[(a[i] + m - 1) >> 1] + cross_y[(b[i] + m - 1) >> 1]) - 3 * sum_ab
        influence[i] = dc / root


@njit(cache=True, nogil=True)
def correlate_rows(x: Ranks, y: Ranks, rho: Floats, influence: Floats) -> None:
    """Spearman correlation of every row of `x` with that of `y`, and its derivative in each observation's weight.

    The derivative is that of the tie-aware statistic under weights w on the observations (`bench.stats` states it):
    with centred doubled ranks a and b, ⟨·⟩ the mean over observations and
    D_k(a; b) = Σ_i b_i·(2·[a_i > a_k] + [a_i = a_k]),

        4M²·dC_k = a_k·b_k + D_k(a; b) + D_k(b; a) − 3⟨ab⟩        4M²·dA_k = a_k² + 2·D_k(a; a) − 3⟨a²⟩

    and h_k = dC_k/√(AB) − (ρ/2)·(dA_k/A + dB_k/B). Sums over "greater than" come from one pass over buckets indexed by
    rank, so no sort order has to be kept: O(M) per row.

    Args:
        x: int32 [T, M] as `rank_rows` writes it; rows of zeros have no correlation.
        y: the same for the other variable.
        rho: float64 [T], written; NaN where a row is constant.
        influence: float64 [T, M], written: h_k, which sums to zero over a row; zeros where rho is NaN.
    """
    n_rows, m = x.shape
    # One bucket per doubled rank −(m−1) … m−1; each holds the sums of both variables over the observations there.
    at_x = np.zeros((2 * m, 2), np.int64)
    at_y = np.zeros((2 * m, 2), np.int64)
    cross_x = np.empty(m, np.int64)
    cross_y = np.empty(m, np.int64)
    distinct = (
        np.int64(m) * (np.int64(m) * m - 1) // 3
    )  # the sum of squares of ranks without ties; with them it is less
    for row in range(n_rows):
        a = x[row]
        b = y[row]
        sum_ab = np.int64(0)
        sum_aa = np.int64(0)
        sum_bb = np.int64(0)
        for i in range(m):
            p = np.int64(a[i])
            q = np.int64(b[i])
            sum_ab += p * q
            sum_aa += p * p
            sum_bb += q * q
        if sum_aa == 0 or sum_bb == 0:
            rho[row] = np.nan
            influence[row, :] = 0.0
            continue
        root = np.sqrt(np.float64(sum_aa) * np.float64(sum_bb))
        r = min(1.0, max(-1.0, sum_ab / root))
        rho[row] = r

        if sum_aa == distinct and sum_bb == distinct:
            _influence_without_ties(a, b, sum_ab, root, cross_x, cross_y, influence[row])
            continue
        at_x[:] = 0
        at_y[:] = 0
        for i in range(m):
            p = np.int64(a[i] + m)
            q = np.int64(b[i] + m)
            at_x[p, 0] += a[i]
            at_x[p, 1] += b[i]
            at_y[q, 0] += b[i]
            at_y[q, 1] += a[i]
        above_xx = above_xy = above_yy = above_yx = np.int64(0)
        for at in range(2 * m - 1, -1, -1):
            here = at_x[at, 0]
            at_x[at, 0] = 2 * above_xx + here
            above_xx += here
            here = at_x[at, 1]
            at_x[at, 1] = 2 * above_xy + here
            above_xy += here
            here = at_y[at, 0]
            at_y[at, 0] = 2 * above_yy + here
            above_yy += here
            here = at_y[at, 1]
            at_y[at, 1] = 2 * above_yx + here
            above_yx += here
        for i in range(m):
            p = np.int64(a[i])
            q = np.int64(b[i])
            dc = m * (p * q + at_x[p + m, 1] + at_y[q + m, 1]) - 3 * sum_ab
            da = m * (p * p + 2 * at_x[p + m, 0]) - 3 * sum_aa
            db = m * (q * q + 2 * at_y[q + m, 0]) - 3 * sum_bb
            influence[row, i] = dc / root - 0.5 * r * (da / sum_aa + db / sum_bb)


STRIP = 64
"""Targets that `add_predictions` works on at a time: a strip of every table fits in the first cache."""
_LANES = 4


def pack_masks(masks: npt.NDArray[np.bool_], bits: int) -> Codes:
    """Masks [M, n] as codes of `bits` examples each, [groups, M, 4]: entries of the tables of `add_predictions`."""
    m, n = masks.shape
    codes = np.empty((-(-n // (_LANES * bits)), m, _LANES), np.uint8)
    _pack(masks, bits, codes)
    return codes


@njit(cache=True, nogil=True)
def _pack(masks: npt.NDArray[np.bool_], bits: int, codes: Codes) -> None:
    n = masks.shape[1]
    for i in range(codes.shape[1]):
        for g in range(codes.shape[0]):
            for lane in range(_LANES):
                k = (g * _LANES + lane) * bits
                code = 0
                for b in range(min(bits, n - k)):
                    code |= masks[i, k + b] << b
                codes[g, i, lane] = code


@njit(cache=True, nogil=True)
def add_predictions(
    codes: Codes,
    scores: npt.NDArray[Any],
    bits: int,
    start: int,
    out: npt.NDArray[Any],
    bad: npt.NDArray[np.bool_],
    table: npt.NDArray[Any],
    sums: npt.NDArray[Any],
) -> None:
    """Add the sums of the scores that each mask keeps, for a strip of targets.

    The method of four Russians (Arlazarov et al. 1970): the sums of all 2^bits subsets of `bits` examples are
    tabulated, and a mask adds one entry per table instead of `bits` products. Additions run in an order of their own
    for no mask or target: equal masks get equal sums. It keeps pace with a tuned float32 product on a quiet machine
    and, needing no barrier between threads, overtakes it on a busy one.

    Args:
        codes: uint8 [groups, M, 4] from `pack_masks`.
        scores: float32 or float64 [n, T].
        bits: examples per code, at most 8.
        start: first target of the strip.
        out: [T, M], rows of the strip are added to; its type is the precision of the sums.
        bad: bool [T], set where a score of the strip is not finite.
        table: scratch [4·2^bits, STRIP] of the type of `out`, whose entries 0, 2^bits, … are zero.
        sums: scratch [M, STRIP] of the type of `out`.
    """
    n = scores.shape[0]
    m = codes.shape[1]
    size = 1 << bits
    width = min(STRIP, scores.shape[1] - start)
    sums[:, :] = 0
    for g in range(codes.shape[0]):
        for lane in range(_LANES):
            for b in range(bits):
                k = (g * _LANES + lane) * bits + b
                half = 1 << b
                single = table[lane * size + half]
                if k < n:
                    row = scores[k, start : start + width]
                    for q in range(width):
                        single[q] = row[q]
                    finite = True
                    for q in range(width):
                        finite &= np.isfinite(row[q])
                    if not finite:
                        for q in range(width):
                            bad[start + q] |= not np.isfinite(row[q])
                else:
                    single[:] = 0
                for entry in range(1, half):
                    lower = table[lane * size + entry]
                    upper = table[lane * size + half + entry]
                    for q in range(STRIP):
                        upper[q] = lower[q] + single[q]
        for i in range(m):
            first = table[np.intp(codes[g, i, 0])]
            second = table[size + np.intp(codes[g, i, 1])]
            third = table[2 * size + np.intp(codes[g, i, 2])]
            fourth = table[3 * size + np.intp(codes[g, i, 3])]
            total = sums[i]
            for q in range(STRIP):
                total[q] += (first[q] + second[q]) + (third[q] + fourth[q])
    for q in range(width):
        for i in range(m):
            out[start + q, i] += sums[i, q]


_BLOCK = 64
"""Rows per unit of threaded work: fixed, so that partial sums do not depend on the number of threads."""
_BLOCKS_PER_THREAD = 4


def blocks(n_rows: int, row_length: int) -> list[slice]:
    """Slices of rows to hand to a kernel at once: 64, or fewer where rows are long."""
    step = min(_BLOCK, max(1, _BLOCK * 10_000 // row_length))
    return [slice(start, min(start + step, n_rows)) for start in range(0, n_rows, step)]


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    """Threads that stay: starting them anew for every product and ranking would take as long as a small one."""
    return ThreadPoolExecutor(threads, "bench-kernels")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)  # a fork has the pool, but none of its threads


def map_blocks(work: Callable[[slice], T], parts: list[slice]) -> list[T]:
    """Results of `work` for each block, in order; worked out by as many threads as numba would use."""
    # numba's setting knows NUMBA_NUM_THREADS; its own threads are not started.
    limit = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    # A thread takes as long to start as some blocks to work through.
    extra = min(limit, int(getattr(numba.config, "NUMBA_NUM_THREADS", 1)), len(parts) // _BLOCKS_PER_THREAD) - 1
    results: dict[int, T] = {}
    todo = iter(enumerate(parts))
    lock = threading.Lock()

    def take() -> None:
        while True:
            with lock:
                index, part = next(todo, (-1, slice(0)))
            if index < 0:
                return
            results[index] = work(part)

    if extra < 1:
        take()
    else:
        others = [_pool(limit).submit(take) for _ in range(extra)]
        try:
            take()
        finally:
            wait(others)
        for other in others:
            other.result()
    return [results[index] for index in range(len(parts))]


class Workspace(threading.local):
    """Arrays for one block, one set per thread: fresh ones for every block would cost more page faults than ranking."""

    def __init__(self, parts: list[slice], row_length: int) -> None:
        shape = (max(part.stop - part.start for part in parts), row_length)
        self.values = np.empty(shape)
        self.x = np.empty(shape, np.int32)
        self.y = np.empty(shape, np.int32)
        self.influence = np.empty(shape)


class Tables(threading.local):
    """Scratch of `add_predictions`, one set per thread."""

    def __init__(self, n_masks: int, bits: int, dtype: np.dtype[Any]) -> None:
        self.table = np.zeros((_LANES << bits, STRIP), dtype)
        self.sums = np.empty((n_masks, STRIP), dtype)


def fill_orderable(values: Floats, rows: npt.NDArray[Any]) -> Floats:
    """Rows of any real type as float64 of the same order, in the first rows of `values`."""
    out = values[: len(rows)]
    if rows.itemsize < 8 or (rows.dtype.kind == "f" and rows.itemsize == 8):
        out[...] = rows
        return out
    # Integers of 64 bits and extended floats may differ beyond 53 bits: dense ranks keep their order.
    for row, into in zip(rows, out, strict=True):
        into[...] = np.unique(row, return_inverse=True)[1]
    if rows.dtype.kind == "f":
        out[np.isnan(rows)] = np.nan
    return out
