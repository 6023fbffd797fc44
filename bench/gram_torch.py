"""Moments of masks and margins on a device, and what is made of them: `bench.gram` in torch.

Everything is padded to N columns, the train examples and after them at least one that no row keeps: whatever is done
to such a column gives zero, so it fills index lists, and matrix units like N, a multiple of 32.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from bench.sources_torch import Source

_WIDE = 4096  # train examples of a block of cross products
_GATHERED = 2**24  # entries gathered at a time: 28 bytes each, their indices included


class tf32:  # noqa: N801 - a context manager, read as a verb
    """Float32 products in TF32 (11 bits, several times as fast) or in full inside; the user's setting again after."""

    def __init__(self, on: bool):
        self.on = on

    def __enter__(self) -> None:
        matmul = torch.backends.cuda.matmul
        # Since torch 2.9; the older flag may not even be read where the user has set this one.
        self.new = hasattr(matmul, "fp32_precision")
        if self.new:
            self.before: str | bool = matmul.fp32_precision
            matmul.fp32_precision = "tf32" if self.on else "ieee"
        else:
            self.before = matmul.allow_tf32
            matmul.allow_tf32 = self.on

    def __exit__(self, *_: object) -> None:
        matmul = torch.backends.cuda.matmul
        if not self.new:
            matmul.allow_tf32 = self.before
            return
        matmul.fp32_precision = "none"  # follows the setting of all of torch
        if matmul.fp32_precision != self.before:
            matmul.fp32_precision = self.before


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
        part = _gathered(self.off, index)
        part.diagonal(dim1=1, dim2=2).copy_(self.diagonal[index])
        return part


def fitted_gram(every: Moments, out: Moments | None, dtype: torch.dtype) -> Gram:
    """Gram of all rows, or of all but some, about their own means: exact integers, divided and rounded once."""
    own = means(every, out)
    m = float(own.rows)
    G = torch.empty(every.count.shape, dtype=dtype, device=every.count.device)
    for block in row_blocks(G):
        count = every.count[block] if out is None else every.count[block] - out.count[block]
        G[block] = (count.double() * m).sub_(own.s[block, None] * own.s).div_(m * m)
    return _apart(G, own.rows)


def held_gram(out: Moments, about: Means, dtype: torch.dtype) -> Gram:
    """Gram of held-out rows about the means of the fitted ones; in the memory of their counts where it fits."""
    m = float(out.rows)
    s, x = out.count.diagonal().double(), about.x
    same = dtype.itemsize == out.count.dtype.itemsize
    G = out.count.view(dtype) if same else torch.empty(out.count.shape, dtype=dtype, device=s.device)
    for block in row_blocks(G):
        sb, xb = s[block, None], x[block, None]
        G[block] = (out.count[block].double() - sb * x - xb * s).add_(m * xb * x).div_(m)
    return _apart(G, out.rows)


def fitted_cross(
    every: Moments,
    out: Moments | None,
    own: Means,
    rows: slice | Tensor,
    dtype: torch.dtype = torch.float64,
    unit: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """(Y−ȳ)ᵀ(X−x̄)/m `[k, N]` and, in float64, ‖Y−ȳ‖²/m `[k]` of some targets, over all rows or all but some.

    Exactly zero for constant columns and constant targets, as `bench.gram.centre_cross`.

    Args:
        every: sums over all rows.
        out: over those to leave out; `own`: the means of the others.
        own: the means of the rows taken.
        rows: targets.
        dtype: of the result; all is computed in float64.
        unit: float64 `[k]`, of the margins; by default 1.
    """
    m, mean = own.rows, own.y[rows]
    yy = variances(every, out, own, rows)
    unit = torch.ones_like(yy) if unit is None else unit
    flat = yy == 0
    C = torch.empty(len(yy), len(own.s), dtype=dtype, device=yy.device)
    constant = (own.s == 0) | (own.s == m)
    for block in slices(len(own.s), _WIDE):
        cross = every.cross[rows, block] if out is None else every.cross[rows, block] - out.cross[rows, block]
        C[:, block] = (cross - mean[:, None] * own.s[block]).div_(m * unit[:, None])
    C[flat] = 0
    C[:, constant] = 0
    return C, yy / unit**2


def variances(every: Moments, out: Moments | None, own: Means, rows: slice | Tensor) -> Tensor:
    """‖Y−ȳ‖²/m of some targets, float64 `[k]`; exactly zero for constant ones. Arguments as of `fitted_cross`."""
    square = (every.square[rows] if out is None else every.square[rows] - out.square[rows]) / own.rows
    yy = (square - own.y[rows] ** 2).clamp_(min=0)
    yy[yy <= 1e-13 * square] = 0
    return yy


def units(every: Moments, out: Moments | None, own: Means, rows: slice | Tensor) -> Tensor:
    """A power of two near each target's standard deviation, float64 `[k]`; arguments as of `fitted_cross`.

    Float32 has no room for margins of any scale. A power of two is taken out and put back without rounding.
    """
    yy = variances(every, out, own, rows)
    return torch.where(yy > 0, torch.exp2((0.5 * yy.log2()).round()), 1.0)


def held_cross(
    out: Moments, s: Tensor, about: Means, rows: slice, dtype: torch.dtype, unit: Tensor
) -> tuple[Tensor, Tensor]:
    """The same of held-out rows (`s`: sums of their columns) about the fitted rows' means."""
    m, y, total = out.rows, about.y[rows], out.total[rows]
    C = torch.empty(len(y), len(s), dtype=dtype, device=s.device)
    for block in slices(len(s), _WIDE):
        cross = out.cross[rows, block] - y[:, None] * s[block]
        C[:, block] = cross.sub_((total - m * y)[:, None] * about.x[block]).div_(m * unit[:, None])
    return C, (out.square[rows] - 2 * y * total + m * y * y) / (m * unit**2)


def exact_product(every: Moments, W: Tensor) -> Tensor:
    """`W` `[k, N]` times the Gram of all rows, in float64 from the exact counts."""
    s, m = every.count.diagonal().double(), every.rows
    out = torch.empty_like(W)
    for block in row_blocks(every.count):
        torch.matmul(W, every.count[block].double().T, out=out[:, block])
    return out.sub_((W @ s / m)[:, None] * s).div_(m)


def exact_gather(every: Moments, index: Tensor) -> Tensor:
    """The Gram of all rows at each row of `index` `[B, a]`, float64 `[B, a, a]`, from the exact counts."""
    s, m = every.count.diagonal().double()[index], float(every.rows)
    part = _gathered(every.count, index).double()
    return part.mul_(m).sub_(s[:, :, None] * s[:, None, :]).div_(m * m)


def padded(n: int) -> int:
    """N: the columns that n train examples are padded to."""
    return 32 * (n // 32 + 1)


def _gathered(matrix: Tensor, index: Tensor) -> Tensor:
    """The parts of a matrix at each row of `index` `[B, a]`: `[B, a, a]`.

    Some rows at a time: CUDA expands the indices, two int64 per entry.
    """
    B, a = index.shape
    rows, which = index.flatten(), torch.arange(B, device=index.device).repeat_interleave(a)
    part = torch.empty(B * a, a, dtype=matrix.dtype, device=matrix.device)
    for some in slices(B * a, _GATHERED // max(a, 1)):
        part[some] = matrix[rows[some, None], index[which[some]]]
    return part.view(B, a, a)


def _apart(G: Tensor, rows: int) -> Gram:
    diagonal = G.diagonal().clone()
    G.fill_diagonal_(0)
    return Gram(G, diagonal, rows)


def row_blocks(matrix: Tensor) -> Iterator[slice]:
    """Slices of rows that take half a GiB at most in float64; 32 MiB on the host, whose caches are what is scarce."""
    values = 2**26 if matrix.device.type == "cuda" else 2**22
    return slices(len(matrix), values // matrix.shape[1])


def slices(length: int, step: int) -> Iterator[slice]:
    """`length` in steps of at least 1."""
    step = max(1, step)
    return (slice(a, min(a + step, length)) for a in range(0, length, step))
