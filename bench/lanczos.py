"""Eigenpairs of a symmetric matrix from its products with vectors: Lanczos with full reorthogonalisation.

Arnoldi's iteration (1951) on a symmetric matrix, where the small matrix is tridiagonal (Lanczos 1950). Without
reorthogonalisation, rounding brings found eigenvectors back as copies; every vector is made orthogonal to all before
it, twice (Parlett 1998, "The symmetric eigenvalue problem", section 6.9).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Pairs:
    """Approximate eigenpairs, the largest in magnitude first.

    Attributes:
        values: `[k]`; vectors: orthonormal rows `[k, n]`.
        errors: ‖A v − θ v‖ of each, so that an eigenvalue of A lies within it of θ, `[k]`.
    """

    values: Tensor
    vectors: Tensor
    errors: Tensor


def pairs(product: Callable[[Tensor], Tensor], start: Tensor, iterations: int, count: int, seed: int = 0) -> Pairs:
    """The `count` eigenpairs of largest magnitude that the Krylov space of `iterations` products holds.

    Where the space is exhausted before (an eigenvalue of many directions shows up in one only), another direction,
    drawn from `seed`, goes on.

    Args:
        product: A times each row of `[1, n]`.
        start: the first vector `[n]`, not zero.
        iterations: products, and vectors held; at most n are made.
        count: eigenpairs wanted.
        seed: of further directions.
    """
    n, most = len(start), min(iterations, len(start))
    draw = torch.Generator().manual_seed(seed)
    basis = start.new_empty(most, n)
    diagonal, beside = start.new_zeros(most), start.new_zeros(most)
    basis[0] = start / start.norm()
    for k in range(most):
        pushed = product(basis[k : k + 1])[0]
        diagonal[k] = pushed @ basis[k]
        length = pushed.norm()
        for _ in range(2):
            pushed -= (basis[: k + 1] @ pushed) @ basis[: k + 1]
        beside[k] = pushed.norm()
        if k + 1 == most:
            break
        if beside[k] <= 100 * torch.finfo(start.dtype).eps * max(length, diagonal[: k + 1].abs().max()):
            beside[k] = 0
            pushed = torch.randn(n, generator=draw, dtype=start.dtype).to(start.device)
            for _ in range(2):
                pushed -= (basis[: k + 1] @ pushed) @ basis[: k + 1]
        basis[k + 1] = pushed / pushed.norm()
    small = torch.diag(diagonal) + torch.diag(beside[:-1], 1) + torch.diag(beside[:-1], -1)
    values, within = torch.linalg.eigh(small.double())
    order = values.abs().argsort(descending=True)[:count]
    values, within = values[order].to(start.dtype), within[:, order].to(start.dtype)
    last = beside[-1] if most < n else beside.new_zeros(())
    return Pairs(values, within.T @ basis, last * within[-1].abs())
