"""Random projections of per-example gradients with few non-zeros a parameter, made as the gradients are.

Each parameter is added, with a random sign, to `nonzeros` of `dim` sums: a sparse Johnson–Lindenstrauss transform
(Kane and Nelson 2014, "Sparser Johnson-Lindenstrauss transforms"; with one non-zero the count sketch of Charikar, Chen
and Farach-Colton 2002). Inner products are kept on average, and the cost is `nonzeros` additions a parameter instead of
`dim` multiplications.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bench import factors, gradients
from bench.errors import InputError
from bench.gradients import Examples
from bench.kernels.project import scatter, scatter_outer
from bench.models import Flat

_CHUNK = 512  # examples whose factors are made at once
_CHUNK_BYTES = 64 * 2**20


def check(dim: int, nonzeros: int) -> None:
    """Refuse projections that there are not.

    Raises:
        InputError: no dimension, or not between 1 and `dim` non-zeros.
    """
    if not 1 <= dim < 2**30:
        raise InputError(f"proj_dim is {dim}: it is a whole number of at least 1")
    if not 1 <= nonzeros <= dim:
        raise InputError(f"nonzeros is {nonzeros}: it is a whole number from 1 to proj_dim, {dim}")


@dataclass(frozen=True)
class Projection:
    """A matrix `[n_parameters, dim]` of few non-zeros, all ±1/√nonzeros.

    Attributes:
        slots: int32 `[nonzeros, n_parameters]`: the row of each non-zero, plus `dim` where it is negative.
        dim: dimensions that gradients are projected to.
    """

    slots: NDArray[np.int32]
    dim: int

    @classmethod
    def draw(cls, n_parameters: int, dim: int, nonzeros: int, seed: np.random.SeedSequence) -> Projection:
        """A random one. Of several non-zeros, each is in a part of the dimensions of its own.

        Raises:
            InputError: see `check`.
        """
        check(dim, nonzeros)
        rng = np.random.default_rng(seed)
        slots = np.empty((nonzeros, n_parameters), np.int32)
        for r in range(nonzeros):
            slots[r] = rng.integers(r * dim // nonzeros, (r + 1) * dim // nonzeros, n_parameters, np.int32)
            slots[r] += np.int32(dim) * rng.integers(0, 2, n_parameters, np.int32)
        return cls(slots, dim)

    @property
    def scale(self) -> float:
        """Absolute value of the non-zeros."""
        return 1 / math.sqrt(len(self.slots))

    def matrix(self) -> NDArray[np.float64]:
        """The matrix `[n_parameters, dim]`."""
        made = np.zeros((self.slots.shape[1], self.dim))
        columns = np.arange(self.slots.shape[1])
        for slots in self.slots:
            made[columns, slots % self.dim] = np.where(slots < self.dim, self.scale, -self.scale)
        return made

    @cached_property
    def _gathering(self) -> tuple[Tensor, Tensor]:
        """For each dimension its parameters and their signs `[dim, most]`, padded with sign 0."""
        flat, size = self.slots.reshape(-1), self.slots.shape[1]
        order = np.argsort(flat % self.dim, kind="stable")
        counts = np.bincount(flat % self.dim, minlength=self.dim)
        rows = np.repeat(np.arange(self.dim), counts)
        within = np.arange(len(flat)) - np.repeat(np.cumsum(counts) - counts, counts)
        parameters, signs = np.zeros((self.dim, counts.max()), np.int64), np.zeros((self.dim, counts.max()), np.float32)
        parameters[rows, within] = order % size
        signs[rows, within] = np.where(flat[order] < self.dim, self.scale, -self.scale)
        return torch.from_numpy(parameters), torch.from_numpy(signs)

    def __call__(self, g: Tensor) -> Tensor:
        """Gradients `[n, n_parameters]` projected, `[n, dim]`; in a fixed order of summation, on any device."""
        if g.device.type == "cpu" and g.dtype == torch.float32:
            sums = np.zeros((len(g), 2 * self.dim), np.float32)
            with _Threads() as threads:
                threads.dense(g.contiguous(), self, 0, sums)
            return self._folded(sums)
        parameters, signs = (tensor.to(g.device) for tensor in self._gathering)
        signs, made = signs.to(g.dtype), g.new_empty(len(g), self.dim)
        for part in range(0, len(g), max(1, _CHUNK_BYTES // (4 * parameters.numel()))):
            some = slice(part, part + max(1, _CHUNK_BYTES // (4 * parameters.numel())))
            torch.sum(g[some][:, parameters].mul_(signs), -1, out=made[some])
        return made

    def _folded(self, sums: NDArray[np.float32]) -> Tensor:
        both = torch.from_numpy(sums)
        return (both[:, : self.dim] - both[:, self.dim :]).mul_(self.scale)


class _Threads:
    """Runs the compiled kernels on as many threads as torch has, each on examples of its own."""

    def __init__(self) -> None:
        self.count = torch.get_num_threads()
        self.pool = ThreadPoolExecutor(self.count)

    def __enter__(self) -> _Threads:
        return self

    def __exit__(self, *_: object) -> None:
        self.pool.shutdown()

    def _spans(self, n: int) -> Iterator[tuple[int, int]]:
        step = max(1, -(-n // self.count))
        return ((at, min(at + step, n)) for at in range(0, n, step))

    def dense(self, g: Tensor, projection: Projection, start: int, sums: NDArray[np.float32]) -> None:
        array, slots = g.numpy(), projection.slots
        list(self.pool.map(lambda span: scatter(array, slots, start, sums, *span), self._spans(len(array))))

    def outer(self, part: factors.Part, projection: Projection, start: int, sums: NDArray[np.float32]) -> None:
        a, b, slots = part.a.contiguous().numpy(), part.b.contiguous().numpy(), projection.slots
        bias = part.layer.bias is not None
        list(self.pool.map(lambda span: scatter_outer(a, b, bias, slots, start, sums, *span), self._spans(len(a))))


def features(flat: Flat, vector: Tensor, examples: Examples, projection: Projection) -> Tensor:
    """Projected gradients `[n, dim]`, and never more unprojected ones than a chunk.

    Of a plain stack of layers on the CPU, those of linear layers are not made at all: their factors are multiplied and
    added up in one compiled pass.
    """
    made = vector.new_empty(len(examples), projection.dim)
    layers = factors.stack(flat.module)
    if layers is None or vector.device.type != "cpu" or vector.dtype != torch.float32:
        arguments = examples.x, examples.y, examples.quantity, examples.output
        for part, g in gradients.chunks(flat, vector, *arguments, smoothing=examples.smoothing):
            made[part] = projection(g)
        return made
    pieces = flat.pieces(vector)
    with _Threads() as threads:
        for chunk in gradients.slices(flat, vector, examples, _CHUNK_BYTES, dense=1, at_most=_CHUNK):
            some = examples[chunk]
            sums, start = np.zeros((len(some), 2 * projection.dim), np.float32), 0
            for one in factors.parts(layers, pieces, some.x, some.values)[0]:
                if isinstance(one.layer, nn.Linear):
                    threads.outer(one, projection, start, sums)
                else:
                    threads.dense(factors.dense([one]), projection, start, sums)
                start += one.size
            made[chunk] = projection._folded(sums)
    return made
