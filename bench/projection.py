"""Random projections of per-example gradients with few non-zeros a parameter, made as the gradients are.

Each parameter is added, with a random sign, to `nonzeros` of `dim` sums: a sparse Johnson–Lindenstrauss transform
(Kane and Nelson 2014, "Sparser Johnson-Lindenstrauss transforms"; with one non-zero the count sketch of Charikar, Chen
and Farach-Colton 2002). Inner products are kept on average, and the cost is `nonzeros` additions a parameter instead of
`dim` multiplications.
"""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bench import factors, gradients, halving
from bench.errors import InputError
from bench.gradients import Examples
from bench.kernels.project import scatter, scatter_outer
from bench.models import Flat
from bench.train import one_torch_thread

_CHUNK = 256  # examples at once: few enough for every thread to have some
_CHUNK_BYTES = 16 * 2**20


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
            sums, array = np.zeros((len(g), 2 * self.dim), np.float32), g.contiguous().numpy()
            step = max(1, -(-len(g) // torch.get_num_threads()))
            with ThreadPoolExecutor(torch.get_num_threads()) as pool:
                parts = [slice(at, at + step) for at in range(0, len(g), step)]
                list(pool.map(lambda part: scatter(array[part], self.slots, 0, sums[part]), parts))
            return self.folded(sums)
        parameters, signs = (tensor.to(g.device) for tensor in self._gathering)
        signs, made = signs.to(g.dtype), g.new_empty(len(g), self.dim)
        step = max(1, _CHUNK_BYTES // (g.element_size() * parameters.numel()))

        def gather(part: slice) -> None:
            torch.sum(g[part][:, parameters].mul_(signs), -1, out=made[part])

        halving.through(gather, len(g), step)
        return made

    def folded(self, sums: NDArray[np.float32]) -> Tensor:
        """From the kernels' sums of both signs `[n, 2 · dim]` to `[n, dim]`."""
        both = torch.from_numpy(sums)
        return (both[:, : self.dim] - both[:, self.dim :]).mul_(self.scale)


def features(flat: Flat, vector: Tensor, examples: Examples, projection: Projection) -> Tensor:
    """Projected gradients `[n, dim]`, and never more unprojected ones than a chunk.

    Of a plain stack of layers on the CPU, those of linear layers are not made at all: their factors are multiplied and
    added up in one compiled pass. There each thread works on chunks of its own.
    """
    made = vector.new_empty(len(examples), projection.dim)
    layers = factors.stack(flat.module)
    if layers is None or vector.device.type != "cpu" or vector.dtype != torch.float32:
        arguments = examples.x, examples.y, examples.quantity, examples.output
        for part, g in gradients.chunks(flat, vector, *arguments, smoothing=examples.smoothing):
            made[part] = projection(g)
        return made
    pieces, threads = flat.pieces(vector), torch.get_num_threads()

    def work(part: slice) -> None:
        some = examples[part]
        sums, start = np.zeros((len(some), 2 * projection.dim), np.float32), 0
        for one in factors.parts(layers, pieces, some.x, some.values)[0]:
            if isinstance(one.layer, nn.Linear):
                a, b = one.a.contiguous().numpy(), one.b.contiguous().numpy()
                scatter_outer(a, b, one.layer.bias is not None, projection.slots, start, sums)
            else:
                scatter(factors.dense([one]).numpy(), projection.slots, start, sums)
            start += one.size
        made[part] = projection.folded(sums)

    step = gradients.room(flat, vector, examples, _CHUNK_BYTES, dense=1, at_most=_CHUNK)

    def chunk(start: int) -> None:
        count = min(step, len(examples) - start)
        halving.through(lambda part: work(slice(start + part.start, start + part.stop)), count, count)

    with one_torch_thread(), ThreadPoolExecutor(threads) as pool:
        list(pool.map(chunk, range(0, len(examples), step)))
    return made
