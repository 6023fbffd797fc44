"""Architectures as torch modules. Their parameters are drawn from one seed a row, on the CPU whatever the device."""

import itertools
import math
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from bench.errors import InputError
from bench.networks import NETWORKS
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
    """The module for inputs `[batch, *input_shape]`, giving logits `[batch, n_classes]`; always the same numbers.

    Raises:
        InputError: the architecture takes images, and the inputs are none, or too small ones.
    """
    with _drawing(0):
        if architecture.name in ("logreg", "mlp"):
            return _dense(architecture, math.prod(input_shape), n_classes, flat=len(input_shape) == 1)
        image = image_shape(architecture, input_shape)
        if architecture.name == "cnn":
            return _convolutional(architecture, *image, n_classes)
        network = NETWORKS[architecture.name](architecture.hidden, image, n_classes).eval()
        return nn.Sequential(nn.Unflatten(1, image), network).eval() if architecture.image else network


def _dense(architecture: Architecture, n_inputs: int, n_classes: int, *, flat: bool) -> nn.Module:
    sizes = [n_inputs, *architecture.hidden]
    layers: list[nn.Module] = [] if flat else [nn.Flatten()]
    for n_in, n_out in itertools.pairwise(sizes):
        layers += [Linear(n_in, n_out), nn.ReLU()]
    return nn.Sequential(*layers, Linear(sizes[-1], n_classes))


def image_shape(architecture: Architecture, input_shape: Sequence[int]) -> tuple[int, int, int]:
    """Channels, height and width of the images that inputs of this shape are.

    Raises:
        InputError: they are none.
    """
    shape = tuple(architecture.image or input_shape)
    if len(shape) != 3 or math.prod(shape) != math.prod(input_shape):
        raise InputError(
            f"the model {architecture.name} takes images [channels, height, width], and the examples are "
            f"{list(input_shape)}" + (f", which {list(shape)} does not hold" if architecture.image else "")
        )
    return shape


def _convolutional(architecture: Architecture, channels: int, height: int, width: int, n_classes: int) -> nn.Module:
    layers: list[nn.Module] = [nn.Unflatten(1, architecture.image)] if architecture.image else []
    for n_in, n_out in itertools.pairwise((channels, *architecture.hidden)):
        layers += [nn.Conv2d(n_in, n_out, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
        height, width = height // 2, width // 2
    if not height or not width:
        raise InputError(f"images are too small for {len(architecture.hidden)} halvings of the model cnn")
    return nn.Sequential(*layers, nn.Flatten(), Linear(architecture.hidden[-1] * height * width, n_classes))


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
    """A module's state as one vector: its parameters, then its buffers of floats (running means, whitening filters).

    What batched training and per-example gradients work on. The order is that of `named_parameters()`, then of
    `named_buffers()`; `n_parameters` says where the buffers begin. Most models have none.
    """

    def __init__(self, module: nn.Module) -> None:
        parameters = list(module.named_parameters())
        buffers = [(name, b) for name, b in module.named_buffers() if b.is_floating_point()]
        self.names = [name for name, _ in (*parameters, *buffers)]
        self.shapes = [tensor.shape for _, tensor in (*parameters, *buffers)]
        self.sizes = [tensor.numel() for _, tensor in (*parameters, *buffers)]
        self.n_parameters = sum(p.numel() for _, p in parameters)
        self.module, self._n_tensors = module, len(parameters)

    def tensors(self) -> list[Tensor]:
        """The module's own parameters and float buffers, in order."""
        buffers = [b for b in self.module.buffers() if b.is_floating_point()]
        return [*self.module.parameters(), *buffers]

    def vector(self) -> Tensor:
        """The module's present state, float32 `[n_state]`."""
        return torch.cat([tensor.detach().reshape(-1) for tensor in self.tensors()])

    def load(self, vector: Tensor) -> nn.Module:
        """Copy `vector` into the module and return it."""
        with torch.no_grad():
            for tensor, piece in zip(self.tensors(), vector.split(self.sizes), strict=True):
                tensor.copy_(piece.view_as(tensor))
        return self.module

    def __call__(self, vector: Tensor, x: Tensor) -> Tensor:
        """Logits of `module` with the state in `vector`: differentiable in its parameters, and made for torch.func."""
        return self.of_pieces(self.pieces(vector), x)

    def pieces(self, vectors: Tensor) -> list[Tensor]:
        """Views of `[…, n_state]` as the tensors' own shapes `[…, *shape]`."""
        parts = vectors.split(self.sizes, -1)
        return [p.view(*vectors.shape[:-1], *s) for p, s in zip(parts, self.shapes, strict=True)]

    def of_pieces(self, pieces: Sequence[Tensor], x: Tensor) -> Tensor:
        """Logits of `module` with the state in `pieces`; the gradient in its buffers is zero."""
        count = self._n_tensors
        named = dict(zip(self.names, [*pieces[:count], *(b.detach() for b in pieces[count:])], strict=True))
        return torch.func.functional_call(self.module, named, (x,))  # type: ignore[no-any-return]

    def of_only(self, pieces: Sequence[Tensor], x: Tensor) -> Tensor:
        """The same of a stack of one model: pieces `[1, *shape]`, inputs `[1, batch, …]`, logits `[1, batch, C]`."""
        return self.of_pieces([piece[0] for piece in pieces], x[0]).unsqueeze(0)
