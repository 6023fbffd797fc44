"""Train many subset models at once: parameters stacked `[models, n_parameters]`, one torch.func computation a step.

On the CPU each thread trains a stack of its own with one torch thread: two threads that wait for each other inside
every small operation lose to two that never meet, by far so on a busy machine.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench.datasets import Data
from bench.errors import BenchError
from bench.models import Flat, build, initialise, parameter_count
from bench.outputs import cross_entropy_gradient, margins
from bench.recipes import Output, Recipe

if TYPE_CHECKING:
    from bench.sequential import Sequential


def pick_device(name: str) -> torch.device:
    """`auto` (CUDA where there is one), `cpu` or `cuda[:n]`.

    Raises:
        BenchError: an unknown device, or CUDA where there is none.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise BenchError(f"--device is {name!r}: use auto, cpu or cuda") from error
    if device.type not in ("cpu", "cuda"):
        raise BenchError(f"--device is {name!r}: use auto, cpu or cuda")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise BenchError("--device is cuda, and torch sees no CUDA device here: use --device cpu")
    return device


def cpu_threads() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def one_torch_thread() -> Iterator[None]:
    """One torch thread per operation, for code that runs a Python thread per core."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def batch_order(n: int, recipe: Recipe, rng: np.random.Generator) -> NDArray[np.int64]:
    """Positions in a subset of `n` examples, `[steps, batch]`: `epochs` shuffles in a row, cut into batches."""
    steps, batch = recipe.steps(n), min(recipe.batch_size, n)
    shuffles = np.tile(np.arange(n), (-(-steps * batch // n), 1))
    return rng.permuted(shuffles, axis=1).reshape(-1)[: steps * batch].reshape(steps, batch)


def _child(seed: np.random.SeedSequence, number: int) -> np.random.SeedSequence:
    """What the first call of `seed.spawn` gives, without its memory of earlier calls."""
    return np.random.SeedSequence(seed.entropy, spawn_key=(*seed.spawn_key, number))


class Stopped(Exception):  # noqa: N818
    """Training was given up, because another stack failed or the user wants to go."""


@dataclass(frozen=True)
class Trainer:
    """A recipe and its data on a device: subsets and seeds in, parameters and margins out.

    Threads may share it: each call builds its own module. Once `stop` is set, training raises `Stopped`.
    """

    recipe: Recipe
    data: Data
    device: torch.device
    stop: threading.Event = field(default_factory=threading.Event, compare=False)

    def flat(self) -> Flat:
        """A module of the recipe's architecture, its parameters as one vector."""
        shape = self.data.train_x.shape[1:]
        return Flat(build(self.recipe.architecture, shape, self.data.n_classes).to(self.device))

    @property
    def n_parameters(self) -> int:
        """Parameters of one model."""
        return parameter_count(build(self.recipe.architecture, self.data.train_x.shape[1:], self.data.n_classes))

    def inputs(self, part: str) -> tuple[Tensor, Tensor]:
        """`train` or `test` examples and labels, on the device."""
        x, y = (self.data.train_x, self.data.train_y) if part == "train" else (self.data.test_x, self.data.test_y)
        return torch.from_numpy(x).to(self.device), torch.from_numpy(y).to(self.device)

    def train(self, subsets: Sequence[NDArray[np.int64]], seeds: Sequence[np.random.SeedSequence]) -> Tensor:
        """Train one model per subset, all at once.

        Args:
            subsets: indices of the kept examples, one array per model, all of one length.
            seeds: what each model's initialisation and batch order come from.

        Returns:
            The parameters, float32 `[models, n_parameters]`, on the device. Each row depends on its own subset and
            seed alone; the other models in the stack change it by float rounding at most.
        """
        if not self.recipe.stacked:
            return self._sequential.train(subsets, seeds)
        flat, recipe = self.flat(), self.recipe
        start, order = [], []
        for subset, seed in zip(subsets, seeds, strict=True):
            for_init, for_batches = _child(seed, 0), _child(seed, 1)
            module = build(recipe.architecture, self.data.train_x.shape[1:], self.data.n_classes)
            initialise(module, int(for_init.generate_state(1, np.uint64)[0] >> 1))
            start.append(Flat(module).vector())
            order.append(subset[batch_order(len(subset), recipe, np.random.default_rng(for_batches))])
        parameters = torch.stack(start).to(self.device)
        batches = torch.from_numpy(np.stack(order, axis=1)).to(self.device)  # [steps, models, batch]
        x, y = self.inputs("train")

        # Separate tensors: as one, their gradients would have to be copied together at every step.
        pieces = [piece.clone() for piece in flat.pieces(parameters)]
        momenta = [torch.zeros_like(piece) for piece in pieces]
        forward = torch.func.vmap(flat.of_pieces)
        steps = len(batches)
        for step, batch in enumerate(batches):
            if self.stop.is_set():
                raise Stopped
            at = batch.reshape(-1)
            inputs = x.index_select(0, at).view(*batch.shape, *x.shape[1:])
            logits = forward([piece.requires_grad_() for piece in pieces], inputs)
            slope = cross_entropy_gradient(logits.detach(), y.index_select(0, at).view(batch.shape))
            gradients = torch.autograd.grad(logits, pieces, slope)
            with torch.no_grad():
                for piece, momentum, gradient in zip(pieces, momenta, gradients, strict=True):
                    momentum.mul_(recipe.momentum).add_(gradient)
                    if recipe.weight_decay:
                        momentum.add_(piece, alpha=recipe.weight_decay)
                    piece.sub_(momentum, alpha=recipe.rate(step, steps))
        return torch.cat([piece.detach().flatten(1) for piece in pieces], 1)

    def logits(self, parameters: Tensor, x: Tensor) -> Tensor:
        """Logits of every model on every example, `[models, n, n_classes]`."""
        if not self.recipe.stacked:
            return self._sequential.logits(parameters, x)
        forward = torch.func.vmap(self.flat(), in_dims=(0, None))
        with torch.no_grad():
            return forward(parameters, x)

    @cached_property
    def _sequential(self) -> Sequential:
        """Trains what does not stack; it keeps the training set on the device."""
        from bench.sequential import Sequential  # which imports this module

        x, y = torch.from_numpy(self.data.train_x), torch.from_numpy(self.data.train_y)
        return Sequential(self.recipe, x, y, self.data.n_classes, self.device, self.stop)

    def test_margins(self, parameters: Tensor, output: Output) -> NDArray[np.float32]:
        """Margins of every model on every target, float32 `[models, n_targets]`."""
        x, y = self.inputs("test")
        per_model = max(1, 2**26 // max(1, len(y) * self.data.n_classes))  # keeps the logits under 256 MiB
        made = [margins(self.logits(part, x), y, output).cpu() for part in parameters.split(per_model)]
        return torch.cat(made).numpy()
