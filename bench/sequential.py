"""Train models one after another, each as fast as the device can: convolutional networks on augmented images.

Everything that a model's training needs is decided before its first step and lies on the device: examples, the order
of the batches, the draws of the augmentation. So a step is only launched, never waited for, and the host stays ahead
of a GPU. There, networks run channels last, in bfloat16 by autocast, compiled where there is a compiler; what is
compiled serves every model of a process. On a CPU all is plain float32.

The same seed gives the same model on the same hardware and versions: cuDNN is asked for deterministic algorithms and
does not time them against each other, and the compiler tunes nothing. The price is what faster ones would have saved.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from bench import augment, networks
from bench.augment import Draws
from bench.errors import BenchError
from bench.models import Flat, build, image_shape, initialise
from bench.recipes import Architecture, Recipe
from bench.train import Stopped, _child, batch_order

COMPILE = "BENCH_COMPILE"
"""Environment variable: `0` keeps networks from being compiled on CUDA. Other roundings, the same distribution."""

_PIXELS = 2**20  # of all images in a forward pass of an evaluation: what bounds its memory
_LOOKAHEAD_DECAY = 0.95
Loss = Callable[[Tensor, Tensor], Tensor]


class Network:
    """A module on a device, its state as a vector, and its training loss, compiled where that is wanted and works.

    Models are copied into the same parameters one after another, so nothing is compiled twice.
    """

    def __init__(
        self,
        architecture: Architecture,
        shape: tuple[int, ...],
        n_classes: int,
        smoothing: float,
        device: torch.device,
        *,
        compiled: bool,
    ) -> None:
        cuda = device.type == "cuda"
        half = cuda and torch.cuda.get_device_capability(device) >= (8, 0)
        self.drawn = build(architecture, shape, n_classes)  # parameters are drawn on the CPU, whatever the device
        module = build(architecture, shape, n_classes).to(device) if cuda else self.drawn
        if cuda:
            module.to(memory_format=torch.channels_last)

        def loss(x: Tensor, y: Tensor) -> Tensor:
            # Each weight is cast once a step: a cache of casts would only keep memory.
            with torch.autocast(device.type, torch.bfloat16, enabled=half, cache_enabled=False):
                logits = module(x)
            return F.cross_entropy(logits.float(), y, label_smoothing=smoothing)

        self.module, self.flat, self.device = module, Flat(module), device
        self.loss: Loss = loss
        self._plain, self._compiled = loss, compiled
        self._tried: set[torch.Size] = set()
        self.lock = threading.Lock()

    def start(self, seed: int) -> None:
        """Put an untrained model into the module, drawn from `seed`."""
        initialise(self.drawn, seed)
        if self.drawn is not self.module:
            self.flat.load(Flat(self.drawn).vector().to(self.device))

    def compile(self, x: Tensor, y: Tensor) -> None:
        """Compile for batches of this shape, by trying one. The module's state and gradients are left altered.

        Raises:
            BenchError: it does not compile. To do without silently would mix models of other roundings into one store.
        """
        if not self._compiled or x.shape in self._tried:
            return
        self._tried.add(x.shape)
        try:
            if self.loss is self._plain:
                self.loss = torch.compile(self._plain, dynamic=False, fullgraph=True, options=_compile_options())
            self.loss(x, y).backward()
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # no compiler, no Triton, an unsupported operation: of many kinds
            reason = str(error).strip().partition("\n")[0]
            raise BenchError(
                f"networks do not compile here ({type(error).__name__}: {reason}): set {COMPILE}=0 in the environment "
                "to train them as they are, in a store of their own"
            ) from error


def _compile_options() -> dict[str, bool | str | int | Callable[..., object]]:
    """Inductor picks no kernel by timing it: two processes would pick different ones, and train different models."""
    from torch._inductor import config

    options: dict[str, bool | str | int | Callable[..., object]] = {"shape_padding": False}
    if hasattr(config, "deterministic"):  # since torch 2.10
        options["deterministic"] = True
    return options


@cache
def _shared(
    architecture: Architecture, shape: tuple[int, ...], n_classes: int, smoothing: float, device: torch.device, on: bool
) -> Network:
    return Network(architecture, shape, n_classes, smoothing, device, compiled=on)


class Sequential:
    """A recipe and its training set on a device: subsets and seeds in, state vectors out.

    Threads may share it. On CUDA they take turns with one network; on a CPU each call has its own.
    """

    def __init__(
        self, recipe: Recipe, x: Tensor, y: Tensor, n_classes: int, device: torch.device, stop: threading.Event
    ) -> None:
        """Lay the examples out, once.

        Args:
            recipe: how to train.
            x: training examples `[n, …]`.
            y: int64 labels `[n]`.
            n_classes: number of classes.
            device: where to train.
            stop: once set, training raises `Stopped`.

        Raises:
            InputError: the examples are no images.
        """
        self.recipe, self.n_classes, self.device, self.stop = recipe, n_classes, device, stop
        self.shape = tuple(x.shape[1:])
        self.image = image_shape(recipe.architecture, self.shape)
        images = x.reshape(-1, *self.image).to(device).permute(0, 2, 3, 1).contiguous()
        if device.type == "cuda" and _half_will_do(images):
            images = images.half()  # its 11 bits tell the 256 values of a pixel apart
        self._images, self._labels = images, y.to(device)

    @contextmanager
    def _network(self) -> Iterator[Network]:
        key = self.recipe.architecture, self.shape, self.n_classes, self.recipe.label_smoothing, self.device
        if self.device.type == "cuda":
            network = _shared(*key, os.environ.get(COMPILE, "1") != "0")
            with network.lock:
                yield network
        else:
            yield Network(*key, compiled=False)

    def train(self, subsets: Sequence[NDArray[np.int64]], seeds: Sequence[np.random.SeedSequence]) -> Tensor:
        """One model per subset: states, float32 `[models, n_state]` (see `Flat`), on the device."""
        with self._network() as network, _deterministic(self.device):
            return torch.stack([self._one(network, *row) for row in zip(subsets, seeds, strict=True)])

    def _one(self, network: Network, subset: NDArray[np.int64], seed: np.random.SeedSequence) -> Tensor:
        for_init, for_batches, for_draws = (_child(seed, i) for i in range(3))
        # Drawn on the CPU, so that models on every device come from the same numbers, and moved before the first step.
        order = torch.from_numpy(batch_order(len(subset), self.recipe, np.random.default_rng(for_batches)))
        generator = torch.Generator().manual_seed(_number(for_draws))
        draws = augment.draw(self.recipe.augmentation, order, len(subset), self.image, generator).to(self.device)
        kept = torch.from_numpy(subset).to(self.device)
        index = kept[order.to(self.device)]
        module = network.module
        try:
            module.train()
            network.compile(*self._batch(index[0], draws[0]))
            network.start(_number(for_init))
            for layer in networks.whitenings(module):
                layer.fit(self._images.index_select(0, kept[: networks.FIT_IMAGES]).permute(0, 3, 1, 2))
            self._steps(network, index, draws)
            return network.flat.vector()
        finally:
            module.eval()
            module.zero_grad(set_to_none=True)

    def _batch(self, index: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        """Augmented inputs `[batch, …]` and labels `[batch]`."""
        x = augment.batch(self._images, index, draws, self.recipe.augmentation.cutout).float()
        return x.reshape(-1, *self.shape), self._labels.index_select(0, index)

    def _steps(self, network: Network, index: Tensor, draws: Draws) -> None:
        """All of a model's steps. The host waits for the device in none of them."""
        recipe, steps = self.recipe, len(index)
        optimiser = _optimiser(recipe, network.module, fast=self.device.type == "cuda")
        faster = [group["lr"] / recipe.lr for group in optimiser.param_groups]
        slow = [t.detach().clone() for t in network.flat.tensors()] if recipe.lookahead else []
        for step in range(steps):
            if self.stop.is_set():
                raise Stopped
            for group, factor in zip(optimiser.param_groups, faster, strict=True):
                group["lr"] = recipe.rate(step, steps) * factor
            optimiser.zero_grad(set_to_none=True)
            network.loss(*self._batch(index[step], draws[step])).backward()
            optimiser.step()
            last = step == steps - 1
            if slow and (step + 1) % recipe.lookahead == 0:
                decay = _LOOKAHEAD_DECAY**recipe.lookahead * ((step + 1) / steps) ** 3
                _look_ahead(slow, network.flat.tensors(), decay)
            if slow and last:
                _look_ahead(slow, network.flat.tensors(), 1.0)

    def logits(self, states: Tensor, x: Tensor) -> Tensor:
        """Logits of every model on every example, `[models, n, n_classes]`, in float32 and evaluation mode.

        Args:
            states: `[models, n_state]`.
            x: examples `[n, …]`, on the device.
        """
        with self._network() as network, _deterministic(self.device), torch.no_grad():
            made = [self._logits(network.flat.load(state), x) for state in states]
            return torch.stack(made) if made else x.new_zeros(0, len(x), self.n_classes)

    def _logits(self, module: nn.Module, x: Tensor) -> Tensor:
        parts = []
        for part in x.split(max(1, _PIXELS // (self.image[1] * self.image[2]))):
            logits = module(part)
            if self.recipe.mirror:
                mirrored = part.reshape(-1, *self.image).flip(-1).reshape(part.shape)
                logits = (logits + module(mirrored)) / 2
            parts.append(logits)
        return torch.cat(parts)


def _half_will_do(images: Tensor) -> bool:
    """Whether float16 holds the images to a thousandth of their spread: pixels yes, any number no."""
    spread = images.std()
    return bool((images.half().float() - images).abs().amax() <= 2e-3 * spread)


def _number(seed: np.random.SeedSequence) -> int:
    return int(seed.generate_state(1, np.uint64)[0] >> 1)


def _optimiser(recipe: Recipe, module: nn.Module, *, fast: bool) -> torch.optim.SGD:
    """SGD in two groups: shifts of normalisation layers learn `norm_bias_lr` times faster.

    Their weight decay is divided by as much, so that a step decays every parameter by one share, lr · weight decay.
    """
    shifts = networks.norm_biases(module) if recipe.norm_bias_lr != 1 else []
    known = {id(p) for p in shifts}
    groups: list[dict[str, Any]] = [{"params": [p for p in module.parameters() if id(p) not in known]}]
    if shifts:
        faster, decay = recipe.lr * recipe.norm_bias_lr, recipe.weight_decay / recipe.norm_bias_lr
        groups.append({"params": shifts, "lr": faster, "weight_decay": decay})
    return torch.optim.SGD(
        groups,
        lr=recipe.lr,
        momentum=recipe.momentum,
        nesterov=recipe.optimiser == "nesterov",
        weight_decay=recipe.weight_decay,
        foreach=fast,
    )


def _look_ahead(slow: Sequence[Tensor], fast: Sequence[Tensor], decay: float) -> None:
    """Move the slow weights towards the fast ones, and the fast ones there (Zhang et al. 2019).

    The share that the slow ones keep grows with training, as in Jordan (2024), section 3.4; the end keeps them alone.
    """
    with torch.no_grad():
        for old, new in zip(slow, fast, strict=True):
            old.lerp_(new, 1 - decay)
            new.copy_(old)


@contextmanager
def _deterministic(device: torch.device) -> Iterator[None]:
    """Let cuDNN give the same numbers every time; how it was set is put back."""
    if device.type != "cuda":
        yield
        return
    cudnn = torch.backends.cudnn
    before = cudnn.deterministic, cudnn.benchmark
    cudnn.deterministic, cudnn.benchmark = True, False
    try:
        yield
    finally:
        cudnn.deterministic, cudnn.benchmark = before
