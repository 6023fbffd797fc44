"""Memorization, influence and consistency from models on random subsets, with standard errors.

Feldman and Zhang (2020), "What neural networks memorize and why: discovering the long tail via influence estimation",
eq. 1 and 2: how much likelier a model is to be right on an example when that example, or another, is trained on.
Jiang et al. (2021), "Characterizing structural regularities of labeled data in overparameterized models": how likely a
model is to be right on an example that it was not trained on (consistency; its mean over subset sizes is the C-score).

Outputs may be correctness (0/1, counted exactly in bits) or any real margin (summed in float64, by chunks of runs).
Nothing of size runs × train × targets is ever made, and results come by slabs of training examples.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.errors import InputError
from bench.wording import counted

Array = NDArray[Any]
Floats = NDArray[np.float32]

INFLUENCE, MEMORIZATION = 0.15, 0.25
"""The paper's thresholds: pairs of at least so much influence whose training example is at least so much memorized."""

_SLAB_BYTES = 256 << 20
_CHUNK_BYTES = 64 << 20
_TILE = 32  # targets at a time: their tables stay in the second cache


@dataclass(frozen=True)
class Own:
    """What the runs say of each training example itself.

    Attributes:
        memorization: float32 `[n_train]`, mean output with the example in the subset minus without; NaN where all runs
            keep it, or none.
        memorization_stderr: its standard error; NaN with fewer than two runs on a side.
        consistency: float32 `[n_train]`, mean output of the runs without it; consistency_stderr: its standard error.
        n_with, n_without: int64 `[n_train]`, runs on each side.
    """

    memorization: Floats = field(repr=False)
    memorization_stderr: Floats = field(repr=False)
    consistency: Floats = field(repr=False)
    consistency_stderr: Floats = field(repr=False)
    n_with: NDArray[np.int64] = field(repr=False)
    n_without: NDArray[np.int64] = field(repr=False)


@dataclass(frozen=True)
class Slab:
    """Influence of some training examples on all targets.

    Attributes:
        train: which training examples.
        influence, stderr: float32 `[examples, n_targets]`; NaN as in `Own`.
    """

    train: slice
    influence: Floats = field(repr=False)
    stderr: Floats = field(repr=False)


def own(masks: Any, train_outputs: Any) -> Own:
    """Memorization and consistency of every training example.

    Args:
        masks: bool `[M, n_train]`; an array, or what is sliced like one; read by chunks of rows.
        train_outputs: bool or real `[M, n_train]`, each run's output on every training example, kept or not.

    Raises:
        InputError: shapes that differ, fewer than two runs, or outputs that are not finite.
    """
    m, n = _sizes(masks, train_outputs, "train_outputs")
    if train_outputs.shape[1] != n:
        raise InputError(
            f"train_outputs has {counted(train_outputs.shape[1], 'column')} and masks {n}; both count train examples"
        )
    count, mean, squares = np.zeros((2, n), np.int64), np.zeros((2, n)), np.zeros((2, n))
    for _, kept, values in _chunks(masks, train_outputs, m):
        for side, where in enumerate((kept, ~kept)):
            # Each chunk about its own means, then put together (Chan, Golub and LeVeque 1983): what a run of an odd
            # size adds to one side must not cost the other its digits.
            more = where.sum(axis=0)
            own_mean = np.where(where, values, 0.0).sum(axis=0) / np.maximum(more, 1)
            own_squares = np.square(np.where(where, values - own_mean, 0.0)).sum(axis=0)
            total = np.maximum(count[side] + more, 1)
            step = own_mean - mean[side]
            mean[side] += step * more / total
            squares[side] += own_squares + np.square(step) * count[side] * more / total
            count[side] += more
    with np.errstate(all="ignore"):
        mean[count == 0] = np.nan
        variance = np.where(count > 1, squares / (count - 1) / count, np.nan)
    return Own(
        memorization=(mean[0] - mean[1]).astype(np.float32),
        memorization_stderr=np.sqrt(variance[0] + variance[1]).astype(np.float32),
        consistency=mean[1].astype(np.float32),
        consistency_stderr=np.sqrt(variance[1]).astype(np.float32),
        n_with=count[0],
        n_without=count[1],
    )


def influence_slabs(masks: Any, outputs: Any, *, slab_bytes: int = _SLAB_BYTES) -> Iterator[Slab]:
    """Influence of every training example on every target, by slabs of training examples.

    Args:
        masks: bool `[M, n_train]`; an array, or what is sliced like one.
        outputs: bool or real `[M, n_targets]`, each run's output on the targets; 0/1 of any type is counted in bits.
        slab_bytes: bound on what a slab takes.

    Raises:
        InputError: shapes that differ, fewer than two runs, or outputs that are not finite.
    """
    m, n = _sizes(masks, outputs, "outputs")
    n_targets = outputs.shape[1]
    binary = all(_zero_one(part) for part in _parts(outputs, m))
    step = max(1, min(n, slab_bytes // (n_targets * 24)))
    if binary:
        kept, right = _packed(masks, m), _packed(outputs, m)
        for start in range(0, n, step):
            yield _counted(kept, right, slice(start, min(start + step, n)), m)
        return
    for start in range(0, n, step):
        yield _summed(masks, outputs, slice(start, min(start + step, n)), m)


def influence(masks: Any, outputs: Any) -> tuple[Floats, Floats]:
    """All of `influence_slabs` at once: influence and standard error, float32 `[n_train, n_targets]` each.

    Masks and real outputs are read once, whatever their size; meanwhile each pair takes 24 bytes.
    """
    (slab,) = influence_slabs(masks, outputs, slab_bytes=24 * masks.shape[1] * outputs.shape[1])
    return slab.influence, slab.stderr


def high_pairs(
    slab: Slab, memorization: Floats, *, least: float = INFLUENCE, memorized: float = MEMORIZATION
) -> tuple[NDArray[np.int64], NDArray[np.int64], Floats]:
    """Pairs of a slab with influence and memorization from thresholds on.

    Returns:
        Training examples, targets and influences of the pairs, by training example.
    """
    rows = np.flatnonzero(memorization[slab.train] >= memorized)
    at, targets = np.nonzero(slab.influence[rows] >= least)
    return rows[at] + slab.train.start, targets, slab.influence[rows[at], targets]


def _sizes(masks: Any, outputs: Any, name: str) -> tuple[int, int]:
    if len(masks.shape) != 2 or len(outputs.shape) != 2 or masks.shape[0] != outputs.shape[0]:
        raise InputError(f"masks has shape {masks.shape} and {name} {outputs.shape}; give one row of each per run")
    if masks.shape[0] < 2:
        raise InputError(f"masks has {masks.shape[0]} run(s); estimates take at least two")
    return masks.shape[0], masks.shape[1]


def _parts(array: Any, m: int) -> Iterator[Array]:
    step = max(64, _CHUNK_BYTES // (8 * array.shape[1]) // 64 * 64)
    for start in range(0, m, step):
        yield np.asarray(array[start : start + step])


def _chunks(masks: Any, outputs: Any, m: int) -> Iterator[tuple[int, Array, NDArray[np.float64]]]:
    """First row, masks and float64 outputs of chunks of rows; refuses outputs that are not finite."""
    step = max(1, _CHUNK_BYTES // (8 * max(masks.shape[1], outputs.shape[1])))
    for start in range(0, m, step):
        values = np.array(outputs[start : start + step], np.float64)
        if not np.isfinite(values).all():
            row = start + int(np.flatnonzero(~np.isfinite(values).all(axis=1))[0])
            raise InputError(f"outputs of run {row} are not all finite; leave the run out")
        yield start, np.asarray(masks[start : start + step], bool), values


def _zero_one(part: Array) -> bool:
    return part.dtype == bool or bool(((part == 0) | (part == 1)).all())


def _packed(array: Any, m: int) -> NDArray[np.uint64]:
    """Columns `[n, W]` of a 0/1 array `[M, n]`, their rows in 64-bit words."""
    words = [np.zeros((array.shape[1], 0), np.uint64)]
    for part in _parts(array, m):
        columns = np.zeros((array.shape[1], -(-len(part) // 64) * 8), np.uint8)
        bits = np.packbits(np.ascontiguousarray(part.T != 0), axis=1, bitorder="little")
        columns[:, : bits.shape[1]] = bits
        words.append(columns.view(np.uint64))
    return np.concatenate(words, axis=1)


def _counted(kept: NDArray[np.uint64], right: NDArray[np.uint64], train: slice, m: int) -> Slab:
    from bench.kernels.counts import cross_counts
    from bench.kernels.ranks import map_blocks

    mine = np.ascontiguousarray(kept[train])
    both = np.empty((len(mine), len(right)), np.int32)
    parts = [slice(start, min(start + 32, len(mine))) for start in range(0, len(mine), 32)]
    n_with = np.bitwise_count(mine).sum(axis=1, dtype=np.int64)
    total = np.bitwise_count(right).sum(axis=1, dtype=np.int64)
    out = Slab(train, np.empty(both.shape, np.float32), np.empty(both.shape, np.float32))

    def work(part: slice) -> None:
        cross_counts(mine, right, part.start, part.stop, both)
        n = np.stack([n_with[part], m - n_with[part]])[:, :, None]
        sums = np.stack([both[part], total - both[part]]).astype(np.float64)
        mean, variance = _moments(n, sums, sums)
        out.influence[part] = mean[0] - mean[1]
        out.stderr[part] = np.sqrt(variance[0] + variance[1])

    map_blocks(work, parts)
    return out


def _summed(masks: Any, outputs: Any, train: slice, m: int) -> Slab:
    from bench.kernels.ranks import map_blocks
    from bench.kernels.sums import BYTES, masked_sums

    size, n_targets = train.stop - train.start, outputs.shape[1]
    n_with = np.zeros(size, np.int64)
    sums, total = np.zeros((size, 2 * n_targets)), np.zeros(2 * n_targets)  # of outputs, then of their squares
    tiles = [slice(at, min(at + _TILE, 2 * n_targets)) for at in range(0, 2 * n_targets, _TILE)]
    shift = np.zeros(n_targets)
    for start, kept, values in _chunks(masks, outputs, m):
        if start == 0:
            shift = values.mean(axis=0)  # sums of squares about it keep their digits
        rows = -(-len(values) // (8 * BYTES)) * 8 * BYTES
        both, mine = np.zeros((rows, 2 * n_targets)), np.zeros((rows, size), np.uint8)
        mine[: len(kept)] = kept[:, train]
        np.subtract(values, shift, out=both[: len(values), :n_targets])
        np.square(both[:, :n_targets], out=both[:, n_targets:])
        n_with += mine.sum(axis=0, dtype=np.int64)
        total += both.sum(axis=0)
        bits = mine[::8].copy()
        for bit in range(1, 8):  # numpy.packbits along the first axis takes five times as long
            bits |= mine[bit::8] << bit

        def add(tile: slice, bits: Array = bits, both: Array = both) -> None:
            masked_sums(bits, both, tile.start, tile.stop, sums)

        map_blocks(add, tiles)
    out = Slab(train, np.empty((size, n_targets), np.float32), np.empty((size, n_targets), np.float32))

    def finish(part: slice) -> None:
        inside = sums[part]
        both_sides = np.stack([inside, total - inside])
        n = np.stack([n_with[part], m - n_with[part]])[:, :, None]
        mean, variance = _moments(n, both_sides[..., :n_targets], both_sides[..., n_targets:])
        out.influence[part] = mean[0] - mean[1]
        out.stderr[part] = np.sqrt(variance[0] + variance[1])

    map_blocks(finish, [slice(at, min(at + 32, size)) for at in range(0, size, 32)])
    return out


def _moments(n: Array, sums: Array, squares: Array) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Means, and variances of the means, of samples of sizes n; NaN where there is none, or one."""
    with np.errstate(all="ignore"):
        mean = np.where(n > 0, sums / n, np.nan)
        variance = np.where(n > 1, np.maximum(squares - n * np.square(mean), 0) / (n - 1) / n, np.nan)
    return mean, variance
