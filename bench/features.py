"""What a trained network sees in an example: the input of its last layer."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bench import halving
from bench.errors import UnmetError

_AT_ONCE = 2**24  # numbers of a chunk's inputs: 64 MiB, and small multiples of it in the layers


def penultimate(module: nn.Module, x: Tensor) -> Tensor:
    """What enters the last linear layer, `[n, features]`; of a linear model that is the example itself.

    Where a forward pass calls that layer more than once, as for an image and its mirror image, the mean of the calls.

    Args:
        module: the network, in evaluation mode.
        x: examples `[n, …]`.

    Raises:
        UnmetError: there is no linear layer.
    """
    linear = [layer for layer in module.modules() if isinstance(layer, nn.Linear)]
    if not linear:
        raise UnmetError("needs a model with a linear layer, whose input is the representation")
    seen: list[Tensor] = []
    handle = linear[-1].register_forward_pre_hook(lambda _, given: seen.append(given[0].flatten(1)))

    def of(part: slice) -> Tensor:
        seen.clear()
        module(x[part])
        return torch.stack(seen).mean(0)

    try:
        with torch.no_grad():
            made = [found for _, found in halving.each(of, len(x), max(1, _AT_ONCE // max(1, x[:1].numel())))]
    finally:
        handle.remove()
    return torch.cat(made)
