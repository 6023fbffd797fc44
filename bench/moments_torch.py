"""Moments of masks and margins on a device, from one pass over the rows, with the counts from int8 matrix units.

Counts are exact: int8 products summed in int32, or float32 products of so few rows that every sum is below 2²⁴. They
are checked by their row sums.

Cross products are taken about each chunk's own mean, which float64 puts back, and summed over chunks in float64. For a
float32 solver, with int8 units: a target's margins are rounded to multiples of 2⁻²³ of the chunk's largest, written as
three digits to the base 256, and multiplied exactly. The rounding is off by 6e-8·max|y − ȳ| at most in a row, so an
entry of Xᵀy/m by no more, and by about 3e-8·max|y − ȳ|/√m where it is independent of the masks. Without such units:
float32 products, not in TF32, over at most 4096 rows. Rounding to nearest errs at random there, which takes about 1e-6
of such a sum: 2e-8·sd(y)/√blocks of an entry of Xᵀy/m, and 6e-7·sd(y)/√blocks where one example explains a target,
whose sums grow steadily. (TF32's tensor cores round toward zero, which errs in one direction: 1e-4 of such an entry.)
For a float64 solver the products are float64 too.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench.errors import BenchError, InputError
from bench.gram_torch import Moments, padded, row_blocks, slices, tf32
from bench.sources_torch import Source
from bench.wording import counted

_BLOCK = 8192  # columns of a block of counts
_WIDE = 4096  # train examples, and targets, of a block of cross products
_ENTRIES = 2**24  # numbers converted at a time: 128 MiB in float64
_ROWS = 4096  # of a float32 product: more would gather rounding
_LARGEST = 127 * (2**16 + 2**8 + 1)  # that three digits from −127 to 127 to the base 256 can hold


def moments(
    source: Source, part: NDArray[np.int64], wanted: Sequence[int], dtype: torch.dtype, step: int
) -> tuple[Moments, list[Moments]]:
    """Sums over all rows, and over those of each wanted part, from one pass over the rows.

    Args:
        source: the rows.
        part: `[m]`, the part that each row belongs to.
        wanted: parts; each has a row.
        dtype: of the solver.
        step: rows of a chunk.

    Raises:
        InputError: margins that are not finite, masks other than 0/1.
        BenchError: the device's integer products are wrong.
    """
    sums: dict[int, Moments] = {}
    checks: dict[int, Tensor] = {}
    label = np.full(len(part), -1)
    for i, p in enumerate(wanted):
        label[part == p] = i
    shift: Tensor | None = None
    integers = False
    for rows, masks, margins in source.chunks(step):
        if shift is None:
            # One origin for all: it keeps squares small, and makes constant targets exactly zero.
            shift = margins[0].double()
            integers = _multiplies_integers(shift.device)
        for p in range(-1, len(wanted)):
            mine = np.flatnonzero(label[rows] == p)
            if not len(mine):
                continue
            if p not in sums:
                sums[p] = Moments.zeros(source, shift)
                checks[p] = torch.zeros(2, padded(source.n), dtype=torch.float64, device=shift.device)
            index = torch.from_numpy(mine).to(shift.device)
            X = _columns(masks, index)
            sums[p].rows += len(mine)
            _add_counts(sums[p].count, X, integers)
            _add_cross(sums[p], X, margins, index, dtype, integers, checks[p])
    _check_finite(sums.values())
    for p, into in sums.items():
        _mirror(into.count)
        _check_counts(into, checks[p], source.n)
    helds = [sums[i] for i in range(len(wanted))]
    every = sums.pop(-1) if -1 in sums else helds[0].copy()
    for held in helds if label.min() == -1 else helds[1:]:
        every.add(held)
    return every, helds


def _columns(masks: Tensor, index: Tensor) -> Tensor:
    """Some rows' columns, int8 `[N, r]`, with r padded by empty rows to a multiple of 16."""
    rows = masks.view(torch.uint8)[index]
    X = torch.zeros(padded(rows.shape[1]), -(-len(rows) // 16) * 16, dtype=torch.int8, device=masks.device)
    X[: rows.shape[1], : len(rows)] = rows.T
    return X


def _add_counts(count: Tensor, X: Tensor, integers: bool) -> None:
    """Add XXᵀ to the blocks of `count` on and above the diagonal."""
    N = len(X)
    for i in range(0, N, _BLOCK):
        left = X[i : i + _BLOCK]
        left = left if integers else left.float()
        for j in range(i, N, _BLOCK):
            right = X[j : j + _BLOCK]
            # Row-major times column-major is the one layout that all int8 units take.
            product = torch._int_mm(left, right.t()) if integers else (left @ right.float().T).to(torch.int32)
            count[i : i + _BLOCK, j : j + _BLOCK] += product


def _mirror(count: Tensor) -> None:
    N = len(count)
    for i in range(0, N, _BLOCK):
        for j in range(i + _BLOCK, N, _BLOCK):
            count[j : j + _BLOCK, i : i + _BLOCK] = count[i : i + _BLOCK, j : j + _BLOCK].T


def _add_cross(
    into: Moments, X: Tensor, margins: Tensor, index: Tensor, dtype: torch.dtype, integers: bool, check: Tensor
) -> None:
    """Add some rows' cross products, sums and squares; and to `check` the sums of columns, and of rows of counts."""
    r, width = len(index), X.shape[1]
    T = len(into.total)
    integers &= dtype == torch.float32
    kept = torch.zeros(width, dtype=torch.int64, device=X.device)
    for columns in slices(len(X), _ENTRIES // width):
        kept += X[columns].sum(0, dtype=torch.int64)
    weights = torch.stack([torch.ones_like(kept), kept], 1).double()
    s = torch.empty_like(check[0])
    for columns in slices(len(X), _ENTRIES // width):
        s[columns], both = (X[columns].double() @ weights).T
        check[1, columns] += both
    check[0] += s
    # Margins about the chunk's mean, each target's in a unit of its own; 32 targets at least for integer units.
    shape = (3, padded(T), width) if integers else (1, T, width)
    terms = torch.zeros(shape, dtype=torch.int8 if integers else dtype, device=X.device)
    mean, unit = torch.empty_like(into.total), torch.empty_like(into.total)
    for block in slices(T, _ENTRIES // width):
        y = margins[index, block].double() - into.shift[block]
        into.total[block] += y.sum(0)
        into.square[block] += (y * y).sum(0)
        mean[block] = y.mean(0)
        y -= mean[block]
        largest = y.abs().amax(0)
        unit[block] = torch.where(largest > 0, largest, 1.0) / _LARGEST
        y /= unit[block]
        terms[:, block, :r] = _digits(y.T) if integers else y.T
    for columns in slices(len(X), _WIDE):
        for block in slices(T, _WIDE):
            term = terms[:, block.start : block.start + _WIDE]
            product = (_integer_product if integers else _float_product)(term, X[columns])
            product = product[: block.stop - block.start].mul_(unit[block, None])
            into.cross[block, columns] += product.addcmul_(mean[block, None], s[columns])


def _digits(y: Tensor) -> Tensor:
    """Numbers up to ±`_LARGEST` `[k, r]`, rounded to integers → three digits to the base 256, int8 `[3, k, r]`."""
    left = y.round().to(torch.int32)
    digits = []
    for _ in range(2):
        digit = ((left + 128) & 255) - 128
        left = (left - digit) >> 8
        digits.append(digit.to(torch.int8))
    return torch.stack([left.to(torch.int8), *digits[::-1]])


def _integer_product(digits: Tensor, X: Tensor) -> Tensor:
    """Numbers by their digits `[3, k, r]` times Xᵀ `[r, c]`, exact: float64 `[k, c]`."""
    high, middle, low = (torch._int_mm(digit, X.t()) for digit in digits)
    return high.double().mul_(256).add_(middle).mul_(256).add_(low)


def _float_product(y: Tensor, X: Tensor) -> Tensor:
    """Numbers `[1, k, r]` times Xᵀ `[r, c]` without TF32, blocks of rows summed in float64: `[k, c]`."""
    out = torch.zeros(y.shape[1], len(X), dtype=torch.float64, device=y.device)
    with tf32(False):
        for rows in slices(y.shape[2], _ROWS):
            out += y[0, :, rows] @ X[:, rows].to(y.dtype).T
    return out


def _check_finite(every: Iterable[Moments]) -> None:
    bad = torch.stack([~torch.isfinite(sums.square) for sums in every]).any(0)
    if bool(bad.any()):
        raise InputError(
            f"margins of {counted(int(bad.sum()), 'target')} are NaN, infinite or too large to square in some row, the "
            f"first of target {int(bad.int().argmax())}; retrain those rows or drop them."
        )


def _check_counts(sums: Moments, check: Tensor, n: int) -> None:
    s = sums.count.diagonal()
    # A square equals its number for 0 and 1 only.
    wrong = (s != check[0])[:n]
    if bool(wrong.any()):
        raise InputError(
            f"masks hold values other than 0/1, first in column {int(wrong.int().argmax())}; give bool or 0/1."
        )
    # Sums of integers below 2⁵³: any wrong count shows, but for two that cancel.
    total = torch.cat([sums.count[block].sum(1, dtype=torch.int64) for block in row_blocks(sums.count)])
    if not torch.equal(total.double(), check[1]):
        raise BenchError(f"integer products on {s.device} are wrong (row sums differ); use another torch or device.")


def _multiplies_integers(device: torch.device) -> bool:
    """Whether int8 products are to be had on the device, and right."""
    if device.type != "cuda":
        return False
    a = torch.randint(0, 2, (64, 48), dtype=torch.int8, generator=torch.Generator().manual_seed(0)).to(device)
    try:
        product = torch._int_mm(a[:32], a[32:].t())
    except RuntimeError:
        return False
    return torch.equal(product, (a[:32].float() @ a[32:].float().T).to(torch.int32))
