"""Architectures as torch modules. Their parameters are drawn from one seed a row, on the CPU whatever the device."""

import itertools
import math
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from bench.recipes import Architecture

_DRAWING = threading.Lock()


@contextmanager
def _drawing(seed: int) -> Iterator[None]:
    """Layers draw from torch's one global generator, in whichever thread: one at a time, and it is put back."""
    generator = torch.default_generator
    with _DRAWING:
        before = generator.get_state()
        generator.manual_seed(seed)
        try:
            yield
        finally:
            generator.set_state(before)


class Linear(nn.Linear):
    """nn.Linear computed as (W xᵀ)ᵀ, for inputs `[batch, in]`.

    The same numbers; but where every model of a stack has its own W, the gradient of W is then a product of a shape
    that BLAS does three times faster, and logits come class-major, where a softmax takes a tenth of the time.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Outputs `[batch, out]`."""
        return (self.weight @ x.mT + self.bias[:, None]).mT


def build(architecture: Architecture, input_shape: Sequence[int], n_classes: int) -> nn.Module:
    """The module for inputs `[batch, *input_shape]`, giving logits `[batch, n_classes]`; always the same numbers."""
    sizes = [math.prod(input_shape), *architecture.hidden]
    layers: list[nn.Module] = [nn.Flatten()] if len(input_shape) > 1 else []
    with _drawing(0):
        for n_in, n_out in itertools.pairwise(sizes):
            layers += [Linear(n_in, n_out), nn.ReLU()]
        return nn.Sequential(*layers, Linear(sizes[-1], n_classes))


def initialise(module: nn.Module, seed: int) -> None:
    """Re-draw the parameters of `module` in place, by each layer's own rule, from `seed` alone.

    The global generator is left as it was, and CUDA's are not touched.
    """
    with _drawing(seed):
        for layer in module.modules():
            reset = getattr(layer, "reset_parameters", None)
            if reset is not None:
                reset()


def parameter_count(module: nn.Module) -> int:
    """Number of parameters."""
    return sum(p.numel() for p in module.parameters())


class Flat:
    """A module's parameters as one vector: what batched training and per-example gradients work on.

    The order is that of `module.named_parameters()`.
    """

    def __init__(self, module: nn.Module) -> None:
        self.names = [name for name, _ in module.named_parameters()]
        self.shapes = [p.shape for p in module.parameters()]
        self.sizes = [p.numel() for p in module.parameters()]
        self.module = module

    def vector(self) -> Tensor:
        """The module's present parameters, float32 `[n_parameters]`."""
        return torch.cat([p.detach().reshape(-1) for p in self.module.parameters()])

    def load(self, vector: Tensor) -> nn.Module:
        """Copy `vector` into the module and return it."""
        with torch.no_grad():
            for p, piece in zip(self.module.parameters(), vector.split(self.sizes), strict=True):
                p.copy_(piece.view_as(p))
        return self.module

    def __call__(self, vector: Tensor, x: Tensor) -> Tensor:
        """Logits of `module` with the parameters in `vector`: differentiable in it, and made for torch.func."""
        return self.of_pieces(self.pieces(vector), x)

    def pieces(self, vectors: Tensor) -> list[Tensor]:
        """Views of `[…, n_parameters]` as the parameters' own shapes `[…, *shape]`."""
        parts = vectors.split(self.sizes, -1)
        return [p.view(*vectors.shape[:-1], *s) for p, s in zip(parts, self.shapes, strict=True)]

    def of_pieces(self, pieces: Sequence[Tensor], x: Tensor) -> Tensor:
        """Logits of `module` with the parameters in `pieces`."""
        named = dict(zip(self.names, pieces, strict=True))
        return torch.func.functional_call(self.module, named, (x,))  # type: ignore[no-any-return]
