"""Per-example gradients of plain stacks of layers in factors: one forward and one backward pass for many examples.

With a the input of a linear layer and b the gradient by its output, an example's gradient by the weights is the outer
product b aᵀ, and by the biases b; of a convolution, a sum of those over positions. Products and projections of
gradients can be made from a and b, which are much smaller (Goodfellow 2015, "Efficient per-example gradient
computations").
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.models import Linear

_PLAIN = (nn.Linear, nn.Conv2d, nn.ReLU, nn.Flatten, nn.Unflatten, nn.MaxPool2d)
_KNOWN = (nn.Linear.forward, Linear.forward, nn.Conv2d.forward)  # a class of another forward pass is not what it says
Layer = nn.Linear | nn.Conv2d


def stack(module: nn.Module) -> list[nn.Module] | None:
    """The layers of a module that is a plain stack; None where gradients have to be made in another way.

    Plain is a sequence of linear layers, convolutions of one group that pad with zeros, rectifiers, poolings and
    changes of shape, none used twice: examples do not mix, and every parameter is in a layer whose factors are known.
    """
    if not isinstance(module, nn.Sequential):
        return None
    layers = list(module)
    plain = all(isinstance(layer, _PLAIN) and not getattr(layer, "inplace", False) for layer in layers)
    convolutions = (layer for layer in layers if isinstance(layer, nn.Conv2d))
    sound = all(c.groups == 1 and c.padding_mode == "zeros" and not isinstance(c.padding, str) for c in convolutions)
    known = all(type(layer).forward in _KNOWN for layer in layers if isinstance(layer, Layer))
    return layers if plain and sound and known and len({id(layer) for layer in layers}) == len(layers) else None


@dataclass(frozen=True)
class Part:
    """What one layer contributes to the gradients of `n` examples.

    Attributes:
        layer: a linear layer, or a convolution.
        a: its inputs `[n, in]`, or `[n, channels, height, width]`.
        b: gradients by its outputs, `[n, out]`, or `[n, channels, height, width]`.
    """

    layer: Layer
    a: Tensor
    b: Tensor

    @property
    def size(self) -> int:
        """Parameters of the layer."""
        return self.layer.weight.numel() + (0 if self.layer.bias is None else self.layer.bias.numel())

    def dense(self, out: Tensor) -> None:
        """Write the gradients by all of the layer's parameters, weights and then biases, to `out` `[n, size]`."""
        shape, bias = self.layer.weight.shape, self.layer.bias
        weights = out[:, : shape.numel()].unflatten(1, (shape[0], -1))
        if isinstance(self.layer, nn.Linear):
            torch.mul(self.b[:, :, None], self.a[:, None, :], out=weights)
        else:
            c = self.layer
            patches = F.unfold(self.a, c.kernel_size, c.dilation, c.padding, c.stride)  # type: ignore[arg-type]
            weights.copy_(torch.bmm(self.b.flatten(2), patches.mT))
        if bias is not None:
            out[:, shape.numel() :] = self.b if isinstance(self.layer, nn.Linear) else self.b.sum((2, 3))


def dense(made: Sequence[Part]) -> Tensor:
    """The gradients that factors stand for, `[n, n_parameters]`."""
    sizes = [part.size for part in made]
    out = made[0].a.new_empty(len(made[0].a), sum(sizes))
    for part, columns in zip(made, out.split(sizes, 1), strict=True):
        part.dense(columns)
    return out


def parts(
    layers: Sequence[nn.Module], pieces: Sequence[Tensor], x: Tensor, values: Callable[[Tensor], Tensor]
) -> tuple[list[Part], Tensor]:
    """Factors of the gradients of one value per example, and the logits.

    Args:
        layers: a plain stack.
        pieces: its parameters, in their order.
        x: examples `[n, …]`.
        values: from the logits `[n, C]`, each example's value `[n]`.

    Returns:
        A part for each layer with parameters, in their order, and the logits `[n, C]`, detached.
    """
    seen: list[tuple[Layer, Tensor, Tensor]] = []
    left = iter(pieces)
    h = x
    with torch.enable_grad():
        for layer in layers:
            if not isinstance(layer, Layer):
                h = layer(h)
                continue
            before, h = h, _outputs(layer, h, next(left), None if layer.bias is None else next(left))
            h = h if h.requires_grad else h.requires_grad_()
            seen.append((layer, before.detach(), h))
        found = torch.autograd.grad(values(h).sum(), [out for _, _, out in seen])
    return [Part(layer, a, b) for (layer, a, _), b in zip(seen, found, strict=True)], h.detach()


def _outputs(layer: Layer, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Outputs with other parameters than the layer's; threads may share it, as they may not in `functional_call`."""
    if isinstance(layer, nn.Linear):
        return F.linear(x, weight, bias)
    return F.conv2d(x, weight, bias, layer.stride, layer.padding, layer.dilation)


def room(one: Sequence[Part]) -> int:
    """Numbers that the factors of one example take, with the patches of the convolution that has most of them.

    Args:
        one: parts of one example.
    """
    patches = [part.b[0, 0].numel() * part.layer.weight[0].numel() for part in one if isinstance(part.layer, nn.Conv2d)]
    return sum(part.a.numel() + part.b.numel() for part in one) + max(patches, default=0)
