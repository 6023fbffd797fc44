"""Train many subset models at once: parameters stacked `[models, n_parameters]`, one torch.func computation a step.

Dense models on a CPU go through compiled kernels instead (`bench.fused`), networks that do not stack through
`bench.sequential`. On the CPU each thread trains a stack of its own with one torch thread: two threads that wait for
each other inside every small operation lose to two that never meet, by far so on a busy machine.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench import fused, memory
from bench.datasets import Data
from bench.errors import BenchError
from bench.models import Flat, build, image_shape, initialise, parameter_count
from bench.networks import Mirrored
from bench.outputs import cross_entropy_gradient, margins
from bench.recipes import Recipe
from bench.recorded import Recorded
from bench.subsets import Protocol

if TYPE_CHECKING:
    from bench.sequential import Sequential

_MEASURED = 2**26  # numbers that a forward pass may hold at a time: 256 MiB


def pick_device(name: str) -> torch.device:
    """`auto` (CUDA where there is one), `cpu` or `cuda[:n]`.

    Raises:
        BenchError: an unknown device, CUDA where there is none, or a number that no device has.
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
    if device.type == "cuda" and device.index is not None and device.index >= torch.cuda.device_count():
        last = torch.cuda.device_count() - 1
        raise BenchError(f"--device is {name}, and torch sees none above cuda:{last} here: use --device cuda:{last}")
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


def _initial(flat: Flat, seed: np.random.SeedSequence) -> Tensor:
    """The state `[n_state]` that a model with this seed begins with."""
    initialise(flat.module, int(_child(seed, 0).generate_state(1, np.uint64)[0] >> 1))
    return flat.vector()


def _child(seed: np.random.SeedSequence, number: int) -> np.random.SeedSequence:
    """What the first call of `seed.spawn` gives, without its memory of earlier calls."""
    return np.random.SeedSequence(seed.entropy, spawn_key=(*seed.spawn_key, number))


@dataclass(frozen=True)
class TrainingRun:
    """All that a training on the full set follows from, besides the recipe and the examples.

    Attributes:
        start: float32 `[n_state]`, the initial state (see `Flat`), on the device.
        order: int64 `[steps, batch]`, the examples of each step.
        rates: float32 `[steps]`, the learning rates.
    """

    start: Tensor
    order: NDArray[np.int64]
    rates: NDArray[np.float32]


class Stopped(Exception):  # noqa: N818
    """Training was given up, because another stack failed or the user wants to go."""


@dataclass(frozen=True)
class Trainer:
    """A recipe and its data on a device: subsets and seeds in, parameters and margins out.

    Threads may share it: each call builds its own module. Once `stop` is set, training raises `Stopped`. Where `fused`
    is False, dense models on a CPU train by torch as well, not in the compiled kernels of `bench.fused`.

    By the protocol `single-model` a model takes the batches of the full training set, and examples that it does not
    keep have weight 0 in them: the loss of a step is (1/|batch|) Σ w_i ℓ_i over the batch, w the mask (Ilyas and
    Engstrom 2025, "MAGIC: Near-optimal data attribution for deep learning").
    """

    recipe: Recipe
    data: Data
    device: torch.device
    stop: threading.Event = field(default_factory=threading.Event, compare=False)
    fused: bool = True
    protocol: Protocol = "expectation"
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False, compare=False)
    _alone: list[Sequential] = field(default_factory=list, init=False, repr=False, compare=False)
    _placed: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict, init=False, repr=False, compare=False)

    def flat(self) -> Flat:
        """A module whose logits are those that are judged, its state as one vector."""
        shape, architecture = self.data.train_x.shape[1:], self.recipe.architecture
        module = build(architecture, shape, self.data.n_classes).to(self.device)
        return Flat(Mirrored(module, image_shape(architecture, shape)) if self.recipe.mirror else module)

    @property
    def n_parameters(self) -> int:
        """Parameters of one model."""
        return parameter_count(build(self.recipe.architecture, self.data.train_x.shape[1:], self.data.n_classes))

    def inputs(self, part: str) -> tuple[Tensor, Tensor]:
        """`train` or `test` examples and labels, on the device, where they stay."""
        if part not in self._placed:
            x, y = (self.data.train_x, self.data.train_y) if part == "train" else (self.data.test_x, self.data.test_y)
            self._placed[part] = torch.from_numpy(x).to(self.device), torch.from_numpy(y).to(self.device)
        return self._placed[part]

    def rows(
        self, subsets: Sequence[NDArray[np.int64]], seeds: Sequence[np.random.SeedSequence], recorded: Recorded
    ) -> dict[str, NDArray[Any]]:
        """Train one model per subset and measure it; as many at once as fit in the free memory.

        Where memory runs out all the same, half as many are tried at once; those that are done are kept.

        Args:
            subsets: indices of the kept examples, one array per model.
            seeds: what each model's initialisation and batch order come from.
            recorded: what to measure.

        Returns:
            Arrays as `measured` makes them, one row per model.

        Raises:
            BenchError: there is not even memory for one model.
        """
        size, parts, at = self.stack_size(), [], 0
        while at < len(subsets):
            size = min(size, len(subsets) - at)
            try:
                state = self.train(subsets[at : at + size], seeds[at : at + size])
                parts.append(self.measured(state, recorded))
                at += size
                continue
            except (RuntimeError, MemoryError) as error:
                if not memory.ran_out(error):
                    raise
                if size == 1:
                    raise BenchError(f"not enough memory on {self.device} to train a single model: {error}") from error
            memory.release()  # here, where the error holds no tensors any more
            size //= 2
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def stack_size(self) -> int:
        """Models that are trained at once: what fits into the free memory that is this thread's share."""
        recipe, shape = self.recipe, self.data.train_x.shape[1:]
        if not self._together:
            return 1
        parameters = recipe.architecture.parameters(shape, self.data.n_classes)
        activations = recipe.architecture.activations(shape, self.data.n_classes)
        each = 4 * (5 * parameters + 3 * min(recipe.batch_size, self.data.n_train) * activations)
        threads = cpu_threads() if self.device.type == "cpu" else 1
        return max(1, memory.free(self.device) // (2 * threads * each))

    @property
    def _together(self) -> bool:
        """Whether a stack is faster than its models one by one: convolutions of several models are not, on a CPU."""
        return self.recipe.stacked and not (self.recipe.architecture.name == "cnn" and self.device.type == "cpu")

    @property
    def _uses_kernels(self) -> bool:
        return self.fused and fused.supports(self.recipe, self.device)

    def train(self, subsets: Sequence[NDArray[np.int64]], seeds: Sequence[np.random.SeedSequence]) -> Tensor:
        """Train one model per subset, all at once.

        Args:
            subsets: indices of the kept examples, one array per model.
            seeds: what each model's initialisation and batch order come from.

        Returns:
            The states, float32 `[models, n_state]` (see `Flat`), on the device. Each row depends on its own subset
            and seed alone; the other models in the stack change it by float rounding at most.
        """
        if not self.recipe.stacked:
            return self._sequential.train(subsets, seeds)
        start, orders = [], []
        flat = Flat(build(self.recipe.architecture, self.data.train_x.shape[1:], self.data.n_classes))
        for subset, seed in zip(subsets, seeds, strict=True):
            start.append(_initial(flat, seed))
            orders.append(self._order(subset, seed))
        made = torch.stack(start).to(self.device)
        if self._uses_kernels:
            data = self.data
            return torch.from_numpy(
                fused.train(self.recipe, data.train_x, data.train_y, data.n_classes, made.numpy(), orders, self.stop)
            )
        widths = np.array([order.shape[1] for order in orders])  # they differ where a subset is less than one batch
        for width in np.unique(widths):
            group = np.flatnonzero(widths == width)
            made[torch.from_numpy(group)] = self._stack(made[torch.from_numpy(group)], [orders[i] for i in group])
        return made

    def _order(self, subset: NDArray[np.int64], seed: np.random.SeedSequence) -> NDArray[np.int64]:
        """The examples of each step, int64 `[steps, batch]`; −1 for a place in the batch that is left empty."""
        rng = np.random.default_rng(_child(seed, 1))
        if self.protocol == "expectation":
            return subset[batch_order(len(subset), self.recipe, rng)]
        order = batch_order(self.data.n_train, self.recipe, rng)
        kept = np.zeros(self.data.n_train, np.bool_)
        kept[subset] = True
        return np.where(kept[order], order, -1)

    def full_run(self, seed: np.random.SeedSequence) -> TrainingRun:
        """The run that `train` takes on the full training set with this seed.

        Raises:
            BenchError: the recipe is not plain SGD, whose steps follow from these arrays.
        """
        if self.recipe.not_plain is not None:
            raise BenchError(f"a training run is asked for, and this recipe is not plain SGD: {self.recipe.not_plain}")
        flat = Flat(build(self.recipe.architecture, self.data.train_x.shape[1:], self.data.n_classes))
        order = self._order(np.arange(self.data.n_train), seed)
        rates = np.array([self.recipe.rate(step, len(order)) for step in range(len(order))], np.float32)
        return TrainingRun(_initial(flat, seed).to(self.device), order, rates)

    def _stack(self, start: Tensor, orders: Sequence[NDArray[np.int64]]) -> Tensor:
        """Train from the states `start` `[models, n_state]` on the batches `orders`, each `[steps, batch]`.

        Where an order has −1, that place of the batch counts in the mean loss with nothing.
        Subsets of different sizes take different numbers of steps: a model that has done its own waits with a
        learning rate of zero.
        """
        flat, recipe = self.flat(), self.recipe
        steps = max(len(order) for order in orders)
        padded = np.zeros((steps, len(orders), orders[0].shape[1]), np.int64)
        rates = np.zeros((steps, len(orders)), np.float32)
        for i, order in enumerate(orders):
            padded[: len(order), i] = order
            rates[: len(order), i] = [recipe.rate(step, len(order)) for step in range(len(order))]
        equal = bool((rates == rates[:, :1]).all())
        empty = padded < 0
        weights = None
        if empty.any():
            padded[empty] = 0  # any example will do
            weights = torch.from_numpy(~empty).to(self.device, start.dtype).unsqueeze(-1)
        batches, rate_of = torch.from_numpy(padded).to(self.device), torch.from_numpy(rates).to(self.device)
        x, y = self.inputs("train")

        # Separate tensors: as one, their gradients would have to be copied together at every step.
        pieces = [piece.clone() for piece in flat.pieces(start)]
        momenta = [torch.zeros_like(piece) for piece in pieces]
        forward = torch.func.vmap(flat.of_pieces) if len(orders) > 1 else flat.of_only
        for step, batch in enumerate(batches):
            if self.stop.is_set():
                raise Stopped
            at = batch.reshape(-1)
            inputs = x.index_select(0, at).view(*batch.shape, *x.shape[1:])
            logits = forward([piece.requires_grad_() for piece in pieces], inputs)
            labels = y.index_select(0, at).view(batch.shape)
            slope = cross_entropy_gradient(logits.detach(), labels, recipe.label_smoothing)
            if weights is not None:
                slope.mul_(weights[step])
            gradients = torch.autograd.grad(logits, pieces, slope)
            with torch.no_grad():
                for piece, momentum, gradient in zip(pieces, momenta, gradients, strict=True):
                    momentum.mul_(recipe.momentum).add_(gradient)
                    if recipe.weight_decay:
                        momentum.add_(piece, alpha=recipe.weight_decay)
                    move = momentum
                    if recipe.optimiser == "nesterov":
                        move = gradient.add(piece, alpha=recipe.weight_decay).add_(momentum, alpha=recipe.momentum)
                    if equal:
                        piece.sub_(move, alpha=float(rates[step, 0]))
                    else:
                        piece.sub_(move * rate_of[step].view(-1, *[1] * (piece.dim() - 1)))
        return torch.cat([piece.detach().flatten(1) for piece in pieces], 1)

    def logits(self, parameters: Tensor, x: Tensor) -> Tensor:
        """Logits of every model on every example, `[models, n, n_classes]`."""
        if not self.recipe.stacked:
            return self._sequential.logits(parameters, x)
        if self._uses_kernels:
            return torch.from_numpy(fused.logits(self.recipe, parameters.numpy(), x.numpy(), self.data.n_classes))
        flat = self.flat()
        with torch.no_grad():
            if len(parameters) == 1:
                return flat(parameters[0], x).unsqueeze(0)
            return torch.func.vmap(flat, in_dims=(0, None))(parameters, x)

    @property
    def _sequential(self) -> Sequential:
        """Trains what does not stack; it keeps the training set on the device, once for all threads."""
        from bench.sequential import Sequential  # which imports this module

        with self._lock:
            if not self._alone:
                x, y = torch.from_numpy(self.data.train_x), torch.from_numpy(self.data.train_y)
                self._alone.append(Sequential(self.recipe, x, y, self.data.n_classes, self.device, self.stop))
            return self._alone[0]

    def measured(self, state: Tensor, recorded: Recorded) -> dict[str, NDArray[Any]]:
        """What is recorded of every model, in float32 and booleans, before it is stored.

        Args:
            state: `[models, n_state]`.
            recorded: which arrays.

        Returns:
            `margins` `[models, n_targets]`, `correct` bool of the same shape, and of the others what `recorded.keep`
            names: `logits`, `train_margins`, `train_correct`.
        """
        found = self._measured(state, "test", recorded)
        if "train_margins" in recorded.keep or "train_correct" in recorded.keep:
            on_train = self._measured(state, "train", recorded)
            found |= {f"train_{name}": on_train[name] for name in ("margins", "correct")}
        return {name: part for name, part in found.items() if name in ("margins", "correct", *recorded.keep)}

    def _measured(self, state: Tensor, part: str, recorded: Recorded) -> dict[str, NDArray[Any]]:
        x, y = self.inputs(part)
        wanted = (
            ("margins", "correct", "logits") if part == "test" and "logits" in recorded.keep else ("margins", "correct")
        )
        made: dict[str, list[Tensor]] = {name: [] for name in wanted}
        shape = self.data.train_x.shape[1:]
        each = (
            self.recipe.architecture.activations(shape, self.data.n_classes)
            if self.recipe.stacked
            else self.data.n_classes
        )
        per_chunk = max(1, _MEASURED // each)  # examples of all models in the chunk
        models = max(1, min(len(state), per_chunk // min(len(y), per_chunk))) if self._together else 1
        examples = max(1, per_chunk // models)
        for some in state.split(models):
            found: dict[str, list[Tensor]] = {name: [] for name in made}
            for inputs, labels in zip(x.split(examples), y.split(examples), strict=True):
                logits = self.logits(some, inputs)
                chunk = {
                    "margins": margins(logits, labels, recorded.output),
                    "correct": logits.argmax(-1) == labels,
                    "logits": logits,
                }
                for name, chunks in found.items():
                    chunks.append(chunk[name].cpu())
            for name, chunks in found.items():
                made[name].append(torch.cat(chunks, 1))
        return {name: torch.cat(chunks).numpy() for name, chunks in made.items()}
