"""Per-example gradients of a model with its parameters in one vector."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from bench.models import Flat
from bench.outputs import margins
from bench.recipes import Output

Quantity = Literal["loss", "margin"]


def _scalar(
    flat: Flat, buffers: Tensor, quantity: Quantity, output: Output, smoothing: float
) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    def value(vector: Tensor, x: Tensor, y: Tensor) -> Tensor:
        logits = flat(torch.cat([vector, buffers]), x.unsqueeze(0))
        if quantity == "loss":
            return F.cross_entropy(logits, y.unsqueeze(0), label_smoothing=smoothing)
        return margins(logits, y.unsqueeze(0), output).squeeze(0)

    return value


def chunks(
    flat: Flat,
    vector: Tensor,
    x: Tensor,
    y: Tensor,
    quantity: Quantity,
    output: Output = "logsumexp",
    *,
    smoothing: float = 0.0,
    max_bytes: int = 256 * 2**20,
) -> Iterator[tuple[slice, Tensor]]:
    """Gradients of each example's cross-entropy loss, or margin, with respect to the parameters.

    Args:
        flat: the model.
        vector: its state `[n_state]`; only the parameters are differentiated.
        x: examples `[n, …]`.
        y: labels `[n]`.
        quantity: what to differentiate.
        output: which margin.
        smoothing: of the labels, for the loss.
        max_bytes: about what the gradients and what it takes to make them may hold.

    Yields:
        A slice of the examples and their gradients `[len(slice), n_parameters]`.
    """
    vector, buffers = vector.split([flat.n_parameters, len(vector) - flat.n_parameters])
    value = _scalar(flat, buffers, quantity, output, smoothing)
    gradient = torch.func.vmap(torch.func.grad(value), in_dims=(None, 0, 0))
    step = max(1, max_bytes // (4 * vector.element_size() * len(vector)))
    for at in range(0, len(y), step):
        part = slice(at, min(at + step, len(y)))
        with torch.no_grad():
            yield part, gradient(vector, x[part], y[part])


def stacked(
    flat: Flat, vector: Tensor, x: Tensor, y: Tensor, quantity: Quantity, output: Output = "logsumexp"
) -> Tensor:
    """All of `chunks` in one tensor `[n, n_parameters]`."""
    return torch.cat([g for _, g in chunks(flat, vector, x, y, quantity, output)])
