"""Moments of masks and margins on a device: `bench.gram` in torch, with the counts from int8 matrix units.

Everything is padded to N columns, the train examples and after them at least one that no row keeps: whatever is done
to such a column gives zero, so it fills index lists, and matrix units like N, a multiple of 32.

Counts are exact: int8 products summed in int32, or float32 products of so few rows that every sum is below 2²⁴. They
are checked by their row sums. Cross products are taken about each chunk's own mean, which float64 puts back, and summed
over chunks in float64. For a float32 solver, margins are split in two terms of 11 bits each, which TF32 multiplies with
0/1 exactly: an entry of Xᵀy/m is off by about 1e-7·sd(y)/√m·√chunks, hundreds of times below what float32 solvers feel.
For a float64 solver the products are float64 too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench.errors import BenchError, InputError
from bench.sources_torch import Source

_BLOCK = 8192  # columns of a block of counts
_WIDE = 4096  # train examples, and targets, of a block of cross products


class tf32:  # noqa: N801 - a context manager, read as a verb
    """Float32 products in TF32 (11 bits, several times as fast) or in full inside; the user's setting again after."""

    def __init__(self, on: bool):
        self.on = on

    def __enter__(self) -> None:
        self.before = torch.backends.cuda.matmul.allow_tf32
        torch.backends.cuda.matmul.allow_tf32 = self.on

    def __exit__(self, *_: object) -> None:
        torch.backends.cuda.matmul.allow_tf32 = self.before


@dataclass
class Moments:
    """Raw sums over a set of rows, as `bench.gram.Moments`, targets first.

    Attributes:
        rows: number of rows.
        count: int32 `[N, N]`, rows that keep both examples.
        cross: float64 `[T, N]`, (Y − shift)ᵀX.
        total: float64 `[T]`, sum of Y − shift.
        square: float64 `[T]`, sum of (Y − shift)².
        shift: float64 `[T]`, the first row's margins.
    """

    rows: int
    count: Tensor
    cross: Tensor
    total: Tensor
    square: Tensor
    shift: Tensor

    @classmethod
    def zeros(cls, source: Source, shift: Tensor) -> Moments:
        """Sums over no rows."""
        N, device = padded(source.n), shift.device
        return cls(
            0,
            torch.zeros(N, N, dtype=torch.int32, device=device),
            torch.zeros(source.T, N, dtype=torch.float64, device=device),
            torch.zeros_like(shift),
            torch.zeros_like(shift),
            shift,
        )

    def add(self, other: Moments) -> None:
        """Add the sums of other rows, in place."""
        self.rows += other.rows
        for mine, theirs in zip(self.sums(), other.sums(), strict=True):
            mine.add_(theirs)

    def copy(self) -> Moments:
        """The same in memory of its own."""
        count, cross, total, square = (x.clone() for x in self.sums())
        return Moments(self.rows, count, cross, total, square, self.shift)

    def sums(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """What adds up."""
        return self.count, self.cross, self.total, self.square


@dataclass(frozen=True)
class Means:
    """First moments of a set of rows: their number, sums of columns `[N]` and of targets `[T]`, in float64."""

    rows: int
    s: Tensor
    total: Tensor

    @property
    def x(self) -> Tensor:
        """Share of rows that keep each example."""
        return self.s / self.rows

    @property
    def y(self) -> Tensor:
        """Mean of Y − shift."""
        return self.total / self.rows


def means(every: Moments, out: Moments | None = None) -> Means:
    """First moments of all rows, or of all but some (`out`)."""
    s = every.count.diagonal().double()
    if out is None:
        return Means(every.rows, s, every.total)
    return Means(every.rows - out.rows, s - out.count.diagonal(), every.total - out.total)


@dataclass(frozen=True)
class Gram:
    """(X−x̄)ᵀ(X−x̄)/m, `[N, N]`, in two parts.

    Random masks' columns are nearly orthogonal: entries off the diagonal are about √m times smaller. Taken apart,
    what TF32 does to them is √m times smaller too, and the diagonal's share is exact.

    Attributes:
        off: the matrix with a diagonal of zeros.
        diagonal: `[N]`.
        rows: m.
    """

    off: Tensor
    diagonal: Tensor
    rows: int

    def product(self, W: Tensor, fast: bool = False) -> Tensor:
        """`W` `[k, N]` times the matrix; `fast` in TF32."""
        with tf32(fast):
            return (W @ self.off).addcmul_(W, self.diagonal)

    def subtract(self, R: Tensor, D: Tensor, fast: bool = False) -> None:
        """`R −= D` times the matrix, in place, both `[k, N]`."""
        with tf32(fast):
            R.addmm_(D, self.off, alpha=-1).addcmul_(D, self.diagonal, value=-1)

    def gather(self, index: Tensor) -> Tensor:
        """The part of the matrix at each row of `index` `[B, a]`: `[B, a, a]`."""
        part = self.off[index[:, :, None], index[:, None, :]]
        part.diagonal(dim1=1, dim2=2).copy_(self.diagonal[index])
        return part


def fitted_gram(every: Moments, out: Moments | None, dtype: torch.dtype) -> Gram:
    """Gram of all rows, or of all but some, about their own means: exact integers, divided and rounded once."""
    own = means(every, out)
    m = float(own.rows)
    G = torch.empty(every.count.shape, dtype=dtype, device=every.count.device)
    for block in _row_blocks(G):
        count = every.count[block] if out is None else every.count[block] - out.count[block]
        G[block] = (count.double() * m).sub_(own.s[block, None] * own.s).div_(m * m)
    return _apart(G, own.rows)


def held_gram(out: Moments, about: Means, dtype: torch.dtype) -> Gram:
    """Gram of held-out rows about the means of the fitted ones; in the memory of their counts where it fits."""
    m = float(out.rows)
    s, x = out.count.diagonal().double(), about.x
    same = dtype.itemsize == out.count.dtype.itemsize
    G = out.count.view(dtype) if same else torch.empty(out.count.shape, dtype=dtype, device=s.device)
    for block in _row_blocks(G):
        sb, xb = s[block, None], x[block, None]
        G[block] = (out.count[block].double() - sb * x - xb * s).add_(m * xb * x).div_(m)
    return _apart(G, out.rows)


def fitted_cross(
    every: Moments, out: Moments | None, own: Means, rows: slice | Tensor, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor]:
    """(Y−ȳ)ᵀ(X−x̄)/m `[k, N]` and, in float64, ‖Y−ȳ‖²/m `[k]` of some targets, over all rows or all but some.

    Exactly zero for constant columns and constant targets, as `bench.gram.centre_cross`.

    Args:
        every: sums over all rows.
        out: over those to leave out; `own`: the means of the others.
        own: the means of the rows taken.
        rows: targets.
        dtype: of the result; all is computed in float64.
    """
    m, mean = own.rows, own.y[rows]
    yy = variances(every, out, own, rows)
    flat = yy == 0
    C = torch.empty(len(yy), len(own.s), dtype=dtype, device=yy.device)
    constant = (own.s == 0) | (own.s == m)
    for block in slices(len(own.s), _WIDE):
        cross = every.cross[rows, block] if out is None else every.cross[rows, block] - out.cross[rows, block]
        C[:, block] = (cross - mean[:, None] * own.s[block]).div_(m)
    C[flat] = 0
    C[:, constant] = 0
    return C, yy


def variances(every: Moments, out: Moments | None, own: Means, rows: slice | Tensor) -> Tensor:
    """‖Y−ȳ‖²/m of some targets, float64 `[k]`; exactly zero for constant ones. Arguments as of `fitted_cross`."""
    square = (every.square[rows] if out is None else every.square[rows] - out.square[rows]) / own.rows
    yy = (square - own.y[rows] ** 2).clamp_(min=0)
    yy[yy <= 1e-13 * square] = 0
    return yy


def held_cross(out: Moments, s: Tensor, about: Means, rows: slice, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The same of held-out rows (`s`: sums of their columns) about the fitted rows' means."""
    m, y, total = out.rows, about.y[rows], out.total[rows]
    C = torch.empty(len(y), len(s), dtype=dtype, device=s.device)
    for block in slices(len(s), _WIDE):
        cross = out.cross[rows, block] - y[:, None] * s[block]
        C[:, block] = cross.sub_((total - m * y)[:, None] * about.x[block]).div_(m)
    return C, (out.square[rows] - 2 * y * total + m * y * y) / m


def exact_product(every: Moments, W: Tensor) -> Tensor:
    """`W` `[k, N]` times the Gram of all rows, in float64 from the exact counts."""
    s, m = every.count.diagonal().double(), every.rows
    out = torch.empty_like(W)
    for block in _row_blocks(every.count):
        torch.matmul(W, every.count[block].double().T, out=out[:, block])
    return out.sub_((W @ s / m)[:, None] * s).div_(m)


def exact_gather(every: Moments, index: Tensor) -> Tensor:
    """The Gram of all rows at each row of `index` `[B, a]`, float64 `[B, a, a]`, from the exact counts."""
    s, m = every.count.diagonal().double()[index], float(every.rows)
    part = every.count[index[:, :, None], index[:, None, :]].double()
    return part.mul_(m).sub_(s[:, :, None] * s[:, None, :]).div_(m * m)


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
            _add_cross(sums[p], X, margins, index, dtype, checks[p])
    _check_finite(sums.values())
    for p, into in sums.items():
        _mirror(into.count)
        _check_counts(into, checks[p], source.n)
    helds = [sums[i] for i in range(len(wanted))]
    every = sums.pop(-1) if -1 in sums else helds[0].copy()
    for held in helds if label.min() == -1 else helds[1:]:
        every.add(held)
    return every, helds


def padded(n: int) -> int:
    """N: the columns that n train examples are padded to."""
    return 32 * (n // 32 + 1)


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


def _add_cross(into: Moments, X: Tensor, margins: Tensor, index: Tensor, dtype: torch.dtype, check: Tensor) -> None:
    """Add some rows' cross products, sums and squares; and to `check` the sums of columns, and of rows of counts."""
    r, width = len(index), X.shape[1]
    kept = X.sum(0, dtype=torch.int64).double()
    terms = []
    mean = torch.empty_like(into.total)
    for block in slices(len(into.total), _WIDE):
        y = margins[index, block].double() - into.shift[block]
        into.total[block] += y.sum(0)
        into.square[block] += (y * y).sum(0)
        mean[block] = y.mean(0)
        y = torch.nn.functional.pad(y - mean[block], (0, 0, 0, width - r))
        terms.append(_split(y.float()) if dtype == torch.float32 else (y,))
    for columns in slices(len(X), min(_WIDE, 2**26 // width)):
        part = X[columns].to(dtype)
        s = part.sum(1, dtype=torch.float64)
        check[0, columns] += s
        check[1, columns] += part.double() @ kept
        for block, term in zip(slices(len(mean), _WIDE), terms, strict=True):
            with tf32(True):  # 0/1 and both terms fit: no bit is lost
                product = sum(y.T @ part.T for y in term)
            into.cross[block, columns] += product
            into.cross[block, columns] += mean[block, None] * s


def _split(y: Tensor) -> tuple[Tensor, Tensor]:
    """Float32 → its nearest numbers of 11 bits, and what is left."""
    high = ((y.view(torch.int32) + 0x1000) & -0x2000).view(torch.float32)
    return high, y - high


def _check_finite(every: Iterable[Moments]) -> None:
    bad = torch.stack([~torch.isfinite(sums.square) for sums in every]).any(0)
    if bool(bad.any()):
        raise InputError(
            f"margins of {int(bad.sum())} targets are NaN, infinite or too large to square in some row, the first of"
            f" target {int(bad.int().argmax())}; retrain those rows or drop them."
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
    if not torch.equal(sums.count.sum(1, dtype=torch.int64).double(), check[1]):
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


def _apart(G: Tensor, rows: int) -> Gram:
    diagonal = G.diagonal().clone()
    G.fill_diagonal_(0)
    return Gram(G, diagonal, rows)


def _row_blocks(matrix: Tensor) -> Iterator[slice]:
    """Slices of rows that take half a GiB at most in float64; 32 MiB on the host, whose caches are what is scarce."""
    values = 2**26 if matrix.device.type == "cuda" else 2**22
    return slices(len(matrix), values // matrix.shape[1])


def slices(length: int, step: int) -> Iterator[slice]:
    """`length` in steps of at least 1."""
    step = max(1, step)
    return (slice(a, min(a + step, length)) for a in range(0, length, step))
