"""Per-example gradients of a model with its parameters in one vector."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench import factors, halving
from bench.models import Flat
from bench.outputs import margins
from bench.recipes import Output

Quantity = Literal["loss", "margin"]

_CHUNK_BYTES = 256 * 2**20
_LEFT_BYTES = 2**30


@dataclass(frozen=True)
class Examples:
    """Examples, and what is differentiated at each.

    Attributes:
        x: `[n, …]`; y: labels `[n]`.
        quantity: their cross-entropy loss, or their margin.
        output: which margin.
        smoothing: of the labels, for the loss.
    """

    x: Tensor
    y: Tensor
    quantity: Quantity
    output: Output = "logsumexp"
    smoothing: float = 0.0

    def __len__(self) -> int:
        """How many there are."""
        return len(self.y)

    def __getitem__(self, part: slice) -> Examples:
        """Some of them."""
        return replace(self, x=self.x[part], y=self.y[part])

    def values(self, logits: Tensor) -> Tensor:
        """What is differentiated, `[n]`, of the logits `[n, C]`."""
        if self.quantity == "loss":
            return F.cross_entropy(logits, self.y, reduction="none", label_smoothing=self.smoothing)
        return margins(logits, self.y, self.output)


def chunks(
    flat: Flat,
    vector: Tensor,
    x: Tensor,
    y: Tensor,
    quantity: Quantity,
    output: Output = "logsumexp",
    *,
    smoothing: float = 0.0,
    max_bytes: int = _CHUNK_BYTES,
) -> Iterator[tuple[slice, Tensor]]:
    """Gradients of each example's cross-entropy loss, or margin, with respect to the parameters.

    Of a plain stack of layers they are made by one backward pass a chunk (`bench.factors`), of other models by
    torch.func: the same numbers.

    Args:
        flat: the model.
        vector: its state `[n_state]`; only the parameters are differentiated.
        x: examples `[n, …]`.
        y: labels `[n]`.
        quantity: what to differentiate.
        output: which margin.
        smoothing: of the labels, for the loss.
        max_bytes: about what the gradients and what it takes to make them may hold; where memory runs out all the
            same, chunks are halved (`bench.halving`).

    Yields:
        A slice of the examples and their gradients `[len(slice), n_parameters]`.
    """
    examples = Examples(x, y, quantity, output, smoothing)
    layers = factors.stack(flat.module)
    if layers is None:
        yield from _by_vmap(flat, vector, examples, max_bytes)
        return
    pieces = flat.pieces(vector)

    def gradient(part: slice) -> Tensor:
        some = examples[part]
        return factors.dense(factors.parts(layers, pieces, some.x, some.values)[0])

    yield from halving.each(gradient, len(examples), room(flat, vector, examples, max_bytes, dense=4))


def room(flat: Flat, vector: Tensor, examples: Examples, max_bytes: int, *, dense: int, at_most: int = 2**31) -> int:
    """How many examples of a plain stack have factors, and `dense` gradients each, that fit into `max_bytes`."""
    if not len(examples):
        return 1
    layers, one = factors.stack(flat.module), examples[:1]
    assert layers is not None
    each = factors.room(factors.parts(layers, flat.pieces(vector), one.x, one.values)[0])
    fits = max_bytes // (vector.element_size() * max(dense * len(vector), 2 * each))
    return min(at_most, len(examples), max(1, fits))


def _by_vmap(flat: Flat, vector: Tensor, examples: Examples, max_bytes: int) -> Iterator[tuple[slice, Tensor]]:
    vector, buffers = vector.split([flat.n_parameters, len(vector) - flat.n_parameters])

    def value(vector: Tensor, x: Tensor, y: Tensor) -> Tensor:
        logits = flat(torch.cat([vector, buffers]), x.unsqueeze(0))
        return replace(examples, y=y.unsqueeze(0)).values(logits).squeeze(0)

    gradient: Callable[..., Tensor] = torch.func.vmap(torch.func.grad(value), in_dims=(None, 0, 0))

    def of(part: slice) -> Tensor:
        with torch.no_grad():
            return gradient(vector, examples.x[part], examples.y[part])

    yield from halving.each(of, len(examples), max(1, max_bytes // (4 * vector.element_size() * len(vector))))


def stacked(
    flat: Flat, vector: Tensor, x: Tensor, y: Tensor, quantity: Quantity, output: Output = "logsumexp"
) -> Tensor:
    """All of `chunks` in one tensor `[n, n_parameters]`."""
    return torch.cat([g for _, g in chunks(flat, vector, x, y, quantity, output)])


def products(flat: Flat, vector: Tensor, left: Examples, right: Examples) -> Tensor:
    """Dot products of the gradients at two sets of examples, `[len(left), len(right)]`.

    Of a stack of linear layers they come from the layers' inputs and output gradients, Σ_l (a·a′ + 1)(b·b′), and no
    gradient is ever made; otherwise from chunks of gradients, at most 1 GiB of them at a time.
    """
    made = vector.new_empty(len(left), len(right))
    layers = factors.stack(flat.module)
    if layers is not None and not any(isinstance(layer, nn.Conv2d) for layer in layers):
        pieces = flat.pieces(vector)
        wide = room(flat, vector, right, _CHUNK_BYTES, dense=0)

        def rows_of_factors(at: slice) -> None:
            ours, _ = factors.parts(layers, pieces, left[at].x, left[at].values)

            def block(to: slice) -> None:
                theirs, _ = factors.parts(layers, pieces, right[to].x, right[to].values)
                made[at, to] = _of_factors(ours, theirs)

            halving.through(block, len(right), wide)

        halving.through(rows_of_factors, len(left), room(flat, vector, left, _CHUNK_BYTES, dense=0))
        return made

    def rows(at: slice) -> None:
        some = left[at]
        each = chunks(flat, vector, *_arguments(some), smoothing=left.smoothing, max_bytes=_LEFT_BYTES)
        g = torch.cat([g for _, g in each])
        for to, h in chunks(flat, vector, *_arguments(right), smoothing=right.smoothing):
            torch.mm(g, h.T, out=made[at, to])

    # Of a large model not all gradients fit into memory: as many of the left as do, and for them all of the right.
    halving.through(rows, len(left), max(1, _LEFT_BYTES // (4 * vector.element_size() * len(vector))))
    return made


def norms(flat: Flat, vector: Tensor, of: Examples) -> Tensor:
    """Lengths of the gradients, `[len(of)]`."""
    return torch.cat([g.norm(dim=1) for _, g in chunks(flat, vector, *_arguments(of), smoothing=of.smoothing)])


def _arguments(of: Examples) -> tuple[Tensor, Tensor, Quantity, Output]:
    return of.x, of.y, of.quantity, of.output


def _of_factors(ours: list[factors.Part], theirs: list[factors.Part]) -> Tensor:
    total: Tensor | None = None
    for one, other in zip(ours, theirs, strict=True):
        inputs = one.a @ other.a.T
        if one.layer.bias is not None:
            inputs += 1
        product = inputs.mul_(one.b @ other.b.T)
        total = product if total is None else total.add_(product)
    assert total is not None
    return total
