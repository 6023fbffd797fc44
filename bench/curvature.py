"""The curvature of a training loss by its products with vectors: what needs no matrix of parameters × parameters.

The Gauss–Newton matrix of the mean loss is G = (1/n) Σ_i J_iᵀ (diag(p_i) − p_i p_iᵀ) J_i (see `bench.influence`): a
product is a derivative of the logits forwards, a product in logits, and one backwards (Schraudolph 2002). The Hessian
adds the curvature of the logits themselves, which may be negative; in logistic regression both are the same.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench import halving
from bench.influence import inputs_and_jacobians, linear_layers
from bench.models import Flat

Kind = Literal["gauss-newton", "hessian"]

_PAIRS = "pairs of an example and a vector"
_CHUNK_BYTES = 64 * 2**20  # what a product holds at a time, besides vectors and results


class Curvature:
    """The matrix of a mean training loss at one set of parameters, without weight decay.

    Args:
        flat: the model; vector: its state `[n_state]`, whose type everything is computed in.
        x, y: the training examples and labels.
        kind: which matrix.
        smoothing: of the labels, in training (the Gauss–Newton matrix does not depend on it).
    """

    def __init__(
        self,
        flat: Flat,
        vector: Tensor,
        x: Tensor,
        y: Tensor,
        kind: Kind = "gauss-newton",
        smoothing: float = 0.0,
    ) -> None:
        self.flat, self.x, self.y, self.kind, self.smoothing = flat, x, y, kind, smoothing
        self.vector, self.buffers = vector.split([flat.n_parameters, len(vector) - flat.n_parameters])
        self._room = max(1, _CHUNK_BYTES // (vector.element_size() * _width(flat, vector, x[:1])))

    def product(self, vectors: Tensor, batch: Tensor | None = None) -> Tensor:
        """The matrix times each of `vectors` `[k, n_parameters]`; over the examples `batch` (indices) if given.

        Chunks of examples and vectors hold as many activations as fit into 64 MiB, and half as many for this and all
        later products where memory runs out.
        """
        x, y = (self.x, self.y) if batch is None else (self.x[batch], self.y[batch])
        room = min(self._room, len(y) * len(vectors))
        made, used = halving.whole(lambda room: self._product(vectors, x, y, room), room, _PAIRS)
        if used < room:
            self._room = used
        return made

    def _product(self, vectors: Tensor, x: Tensor, y: Tensor, room: int) -> Tensor:
        """`product` with the examples `x`, of so many pairs of an example and a vector at a time."""
        made = torch.zeros_like(vectors)
        examples = max(1, min(len(y), room // min(len(vectors), 64)))
        step = max(1, room // examples)
        one = self._gauss_newton if self.kind == "gauss-newton" else self._hessian
        for part, labels in zip(x.split(examples), y.split(examples), strict=True):
            apply = one(part, labels)
            for some, into in zip(vectors.split(step), made.split(step), strict=True):
                into += apply(some)
        return made.div_(len(y))

    def _logits(self, x: Tensor) -> Callable[[Tensor], Tensor]:
        return lambda parameters: self.flat(torch.cat([parameters, self.buffers]), x)

    def _gauss_newton(self, x: Tensor, y: Tensor) -> Callable[[Tensor], Tensor]:  # noqa: ARG002
        logits = self._logits(x)
        at, back = torch.func.vjp(logits, self.vector)[:2]
        p = torch.softmax(at, 1)

        def one(v: Tensor) -> Tensor:
            u = p * torch.func.jvp(logits, (self.vector,), (v,))[1]
            return back(u - p * u.sum(1, keepdim=True))[0]  # type: ignore[no-any-return]

        return torch.func.vmap(one)

    def _hessian(self, x: Tensor, y: Tensor) -> Callable[[Tensor], Tensor]:
        logits = self._logits(x)

        def loss(parameters: Tensor) -> Tensor:
            return F.cross_entropy(logits(parameters), y, reduction="sum", label_smoothing=self.smoothing)

        slope = torch.func.grad(loss)
        return torch.func.vmap(lambda v: torch.func.jvp(slope, (self.vector,), (v,))[1])

    def mean_diagonal(self, seed: int = 0) -> float:
        """Mean diagonal of the Gauss–Newton matrix, of either kind's: the unit of dampings.

        Exact where all parameters are in a plain stack of linear layers, from the layers' inputs and Jacobians.
        Otherwise Hutchinson's estimate with one random vector of signs z per example: ‖J_iᵀ R_i z‖² has the trace of
        example i's matrix J_iᵀ R_i R_iᵀ J_i as its mean, so that its mean over examples is good to a few percent.
        """
        layers = linear_layers(self.flat.module)
        total = self._estimated_trace(seed) if layers is None else self._exact_trace(layers)
        return total / (len(self.y) * self.flat.n_parameters)

    def _exact_trace(self, layers: list[nn.Linear]) -> float:
        """Σ_i Σ_layers ‖a_i‖² tr(M_i), with M_i = B_iᵀ (diag(p_i) − p_i p_iᵀ) B_i."""
        module = self.flat.load(torch.cat([self.vector, self.buffers]))

        def trace(part: slice) -> float:
            total = 0.0
            inputs, jacobians, p = inputs_and_jacobians(module, layers, self.x[part])
            for a, j in zip(inputs, jacobians, strict=True):
                mean = torch.einsum("nc,nco->no", p, j)
                of_each = torch.einsum("nc,nco->n", p, j.square()) - mean.square().sum(1)
                total += float((a.square().sum(1) * of_each).sum())
            return total

        return sum(found for _, found in halving.each(trace, len(self.x), max(1, self._room // 4)))

    def _estimated_trace(self, seed: int) -> float:
        draw = torch.Generator().manual_seed(seed)

        def along(parameters: Tensor, x: Tensor, direction: Tensor) -> Tensor:
            return (self._logits(x.unsqueeze(0))(parameters).squeeze(0) * direction).sum()

        gradient = torch.func.vmap(torch.func.grad(along), in_dims=(None, 0, 0))
        step = max(1, _CHUNK_BYTES // (4 * self.vector.element_size() * self.flat.n_parameters))

        def trace(part: slice) -> float:
            x = self.x[part]
            root = torch.softmax(self._logits(x)(self.vector), 1).sqrt()
            z = signs[part].to(root).mul_(2).sub_(1)
            direction = root * (z - root * (root * z).sum(1, keepdim=True))  # R z: see influence.curvature_root
            return float(gradient(self.vector, x, direction).square().sum())

        with torch.no_grad():
            classes = self._logits(self.x[:1])(self.vector).shape[1]
            signs = torch.randint(0, 2, (len(self.x), classes), generator=draw)
            return sum(found for _, found in halving.each(trace, len(self.x), step))


def _width(flat: Flat, vector: Tensor, x: Tensor) -> int:
    """Numbers that the layers of the model put out for one example."""
    sizes = [x[0].numel()]
    leaves = [layer for layer in flat.module.modules() if not list(layer.children())]

    def count(_: nn.Module, __: tuple[Tensor, ...], out: Tensor) -> None:
        sizes.append(out.numel())

    handles = [layer.register_forward_hook(count) for layer in leaves]
    try:
        with torch.no_grad():
            flat(vector, x)
    finally:
        for handle in handles:
            handle.remove()
    return sum(sizes)
