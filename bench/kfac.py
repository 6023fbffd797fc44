"""Influence functions with the eigenvalue-corrected Kronecker-factored curvature of linear and convolutional layers.

A layer's gradient for one example is b aᵀ: a what enters the layer (with a 1 for the bias), b the slope of what leaves
it. K-FAC (Martens and Grosse 2015; Grosse and Martens 2016 for convolutions) takes the Fisher matrix E[(a⊗b)(a⊗b)ᵀ] for
A⊗B, A = E[aaᵀ], B = E[bbᵀ]; EK-FAC (George et al. 2018) keeps the eigenvectors U_A⊗U_B and measures the eigenvalues,

    Λ[o, i] = E[(U_Bᵀ b)_o² (U_Aᵀ a)_i²],

so the score of example k for target j is, as in Grosse et al. (2023), "Studying large language model generalization
with influence functions",

    score[k, j] = −(1/n) Σ_layers Σ_{o,i} g̃_j[o, i] g̃_k[o, i] / (Λ[o, i] + w + λ),     g̃ = U_Bᵀ (b aᵀ) U_A,

with g_k the gradient of the loss, g_j that of the margin, w the recipe's weight decay and λ the damping. The
expectation is over examples and over the labels that the model itself expects. Parameters outside of linear and
convolutional layers are left out. Gradients exist for a chunk of examples at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench import halving
from bench.errors import InputError, UnmetError
from bench.models import Flat
from bench.outputs import margins
from bench.recipes import Output

T = TypeVar("T")
Fisher = Literal["exact", "sampled", "empirical"]
Directions = Callable[[Tensor, Tensor], Tensor]  # logits [n, C], labels [n] → slopes in the logits [K, n, C]

_CHUNK_BYTES = 64 * 2**20
_FORWARD = 1024  # examples of a forward pass
_TARGET_BYTES = 2**30


@dataclass(frozen=True)
class _Layer:
    """A layer whose gradient is a sum of outer products, over positions of an image and over calls."""

    module: nn.Linear | nn.Conv2d

    def inputs(self, x: Tensor) -> Tensor:
        """What its weights are multiplied with, `[n, positions, i]`, a 1 last where there is a bias."""
        layer = self.module
        if isinstance(layer, nn.Conv2d):
            assert not isinstance(layer.padding, str)
            x = F.unfold(x, layer.kernel_size, layer.dilation, layer.padding, layer.stride).mT
        else:
            x = x.reshape(len(x), -1, x.shape[-1])
        return x if layer.bias is None else F.pad(x, (0, 1), value=1.0)

    def slopes(self, g: Tensor) -> Tensor:
        """Slopes of what leaves it, `[n, positions, o]`."""
        return g.flatten(2).mT if isinstance(self.module, nn.Conv2d) else g.reshape(len(g), -1, g.shape[-1])


def layers(module: nn.Module) -> list[nn.Linear | nn.Conv2d]:
    """The layers that are worked on: linear ones, and convolutions in one group with zero padding."""
    found = [layer for layer in module.modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
    return [layer for layer in found if isinstance(layer, nn.Linear) or _plain(layer)]


def _plain(layer: nn.Conv2d) -> bool:
    return layer.groups == 1 and layer.padding_mode == "zeros" and not isinstance(layer.padding, str)


class EKFAC:
    """The corrected curvature at one set of parameters, or the mean over several, and scores with it.

    Args:
        flat: the model; vector: its state `[n_state]`, or several `[k, n_state]`, of which gradients are of the last.
        train: examples and labels.
        smoothing: of the labels, in training.
        fisher: labels by which the curvature is measured: `exact` takes the expectation over all classes under the
            model's own probabilities, a backward pass each; `sampled` draws one label of each example from them;
            `empirical` takes the examples' own.
        generator: of the sampled labels.

    Attributes:
        eigenvalues: Λ of all layers in a row, float32 `[p]`; p: parameters in these layers.
        sizes: how many of them each layer has.

    Raises:
        InputError: an unknown kind of Fisher matrix.
        UnmetError: the model has no such layer.
    """

    def __init__(
        self,
        flat: Flat,
        vector: Tensor,
        train: tuple[Tensor, Tensor],
        *,
        smoothing: float = 0.0,
        fisher: Fisher = "exact",
        generator: torch.Generator | None = None,
    ) -> None:
        if fisher not in get_args(Fisher):
            raise InputError(f"fisher is {fisher!r}: it is one of {', '.join(get_args(Fisher))}")
        self._flat, self._states = flat, vector.reshape(-1, vector.shape[-1])
        self._module, self._layers = flat.module, [_Layer(layer) for layer in layers(flat.module)]
        if not self._layers:
            raise UnmetError("needs a model with linear or convolutional layers")
        self._train, self._smoothing = train, smoothing
        self.sizes = [sum(p.numel() for p in layer.module.parameters()) for layer in self._layers]
        self._sampled, self._generator = fisher == "sampled", generator
        directions = self._fisher(fisher)
        self._bases = self._eigenbases(directions)
        self.eigenvalues = self._measured(directions)

    def damping(self, level: float) -> Tensor:
        """`level` times the mean eigenvalue of each parameter's layer, `[p]`."""
        means = torch.stack([part.mean() for part in self.eigenvalues.split(self.sizes)])
        return level * means.repeat_interleave(torch.tensor(self.sizes, device=means.device))

    def apply(self, function: Callable[[Tensor], Tensor], vectors: Tensor) -> Tensor:
        """A function of the curvature times each of `vectors` `[m, n_parameters]`; 0 where parameters are left out.

        Args:
            function: of the eigenvalues Λ, `[p]` → `[p]`.
            vectors: in the order of `Flat`.
        """
        made, at, place = torch.zeros_like(vectors), 0, {}
        for tensor, size in zip(self._flat.tensors(), self._flat.sizes, strict=True):
            place[id(tensor)] = slice(at, at + size)
            at += size
        factors = function(self.eigenvalues).split(self.sizes)
        for layer, (basis_b, basis_a), factor in zip(self._layers, self._bases, factors, strict=True):
            parts = [place[id(p)] for p in (layer.module.weight, layer.module.bias) if p is not None]
            shape = (len(vectors), len(basis_b), -1)
            matrix = torch.cat([vectors[:, part].reshape(shape) for part in parts], 2)  # the bias is the last column
            rotated = (basis_b.T @ matrix @ basis_a).mul_(factor.view(len(basis_b), -1))
            matrix = basis_b @ rotated @ basis_a.T
            n_in = matrix.shape[2] - (len(parts) - 1)
            for part, piece in zip(parts, matrix.split([n_in, 1][: len(parts)], 2), strict=True):
                made[:, part] = piece.flatten(1)
        return made

    def scores(self, test: tuple[Tensor, Tensor], output: Output, added: Sequence[Tensor | float]) -> list[Tensor]:
        """Scores `[n_train, n_targets]` for each damping: all from one pass over the examples.

        Args:
            test: targets and their labels.
            output: the margin that scores predict.
            added: what is added to the eigenvalues, each a number or `[p]`.
        """
        n, p = len(self._train[1]), len(self.eigenvalues)
        made = [self.eigenvalues.new_empty(n, len(test[1])) for _ in added]
        inverse = [-1 / n / (self.eigenvalues + one) for one in added]

        def block(some: slice) -> None:
            of_targets = self._rotated(test[0][some], test[1][some], _margin_slope(output), lambda g: g)
            targets = torch.cat([g for _, g in of_targets])

            def products(g: Tensor) -> list[Tensor]:
                return [(g * factor) @ targets.T for factor in inverse]

            for part, found in self._rotated(*self._train, self._loss_slope, products):
                for scores, one in zip(made, found, strict=True):
                    scores[part, some] = one

        halving.through(block, len(test[1]), max(1, _TARGET_BYTES // (4 * p)), "targets")
        return made

    def _loss_slope(self, logits: Tensor, y: Tensor) -> Tensor:
        return _slope(lambda z: F.cross_entropy(z, y, reduction="sum", label_smoothing=self._smoothing), logits)

    def _fisher(self, kind: Fisher) -> Directions:
        """Directions in the logits whose outer products sum up to the Fisher matrix of one example's logits."""

        def exact(logits: Tensor, y: Tensor) -> Tensor:  # noqa: ARG001
            p = torch.softmax(logits, 1)
            eye = torch.eye(p.shape[1], dtype=p.dtype, device=p.device)
            return p.T.sqrt()[:, :, None] * (p - eye[:, None, :])  # Σ_c p_c (p − e_c)(p − e_c)ᵀ = diag(p) − p pᵀ

        def sampled(logits: Tensor, y: Tensor) -> Tensor:  # y is drawn: see `_along`
            p = torch.softmax(logits, 1)
            return p.scatter_add(1, y[:, None], -torch.ones_like(p[:, :1])).unsqueeze(0)

        return {"exact": exact, "sampled": sampled, "empirical": self._loss_slope}[kind]

    def _eigenbases(self, directions: Directions) -> list[tuple[Tensor, Tensor]]:
        """Eigenvectors of B `[o, o]` and of A `[i, i]`, each layer's."""

        def of(inputs: list[Tensor], slopes: list[Tensor]) -> list[tuple[Tensor, Tensor]]:
            flat = [(b.flatten(0, 2), a.flatten(0, 1)) for a, b in zip(inputs, slopes, strict=True)]
            return [(b.T @ b, a.T @ a) for b, a in flat]

        sums: list[tuple[Tensor, Tensor]] = []
        for grams in self._along(directions, of):
            for (of_b, of_a), (b, a) in zip(sums or [], grams, strict=bool(sums)):
                of_b += b
                of_a += a
            sums = sums or grams
        return [(_eigenvectors(b), _eigenvectors(a)) for b, a in sums]

    def _measured(self, directions: Directions) -> Tensor:
        """Λ of all layers in a row: mean squares of gradients in the eigenbases."""

        def squares(inputs: list[Tensor], slopes: list[Tensor]) -> list[Tensor]:
            found = []
            for a, b, (basis_b, basis_a) in zip(inputs, slopes, self._bases, strict=True):
                a, b = a @ basis_a, b @ basis_b
                if a.shape[1] == 1:  # the square of a single outer product is the outer product of squares
                    found.append(b.square().sum((0, 2)).T @ a.squeeze(1).square())
                else:
                    total = a.new_zeros(b.shape[-1], a.shape[-1])
                    for one in b:
                        total += (one.mT @ a).square().sum(0)
                    found.append(total)
            return found

        made = [a.new_zeros(b.shape[0], a.shape[0]) for b, a in self._bases]
        for found in self._along(directions, squares):
            for total, part in zip(made, found, strict=True):
                total += part
        return torch.cat([total.reshape(-1) for total in made]) / (len(self._train[1]) * len(self._states))

    def _along(self, directions: Directions, use: Callable[[list[Tensor], list[Tensor]], T]) -> Iterator[T]:
        """`_recorded` of the training examples at every state; the last stays in the module."""
        x, y = self._train
        for state in self._states:
            self._flat.load(state)
            labels = self._drawn(x) if self._sampled else y
            for _, made in self._recorded(x, labels, directions, use):
                yield made

    def _drawn(self, x: Tensor) -> Tensor:
        """A label of each example from the model; all at once, so that chunks may be of any size."""

        def probabilities(part: slice) -> Tensor:
            return torch.softmax(self._module(x[part]), 1)

        with torch.no_grad():
            p = torch.cat([found for _, found in halving.each(probabilities, len(x), _FORWARD)])
        return torch.multinomial(p, 1, generator=self._generator).squeeze(1)

    def _rotated(
        self, x: Tensor, y: Tensor, direction: Directions, use: Callable[[Tensor], T]
    ) -> Iterator[tuple[slice, T]]:
        """What `use` makes of gradients in the eigenbases, by chunks `[chunk, p]`."""

        def rotate(inputs: list[Tensor], slopes: list[Tensor]) -> T:
            pieces = []
            for a, b, (basis_b, basis_a) in zip(inputs, slopes, self._bases, strict=True):
                pieces.append(((b[0] @ basis_b).mT @ (a @ basis_a)).flatten(1))
            return use(torch.cat(pieces, 1))

        return self._recorded(x, y, direction, rotate)

    def _recorded(
        self, x: Tensor, y: Tensor, directions: Directions, use: Callable[[list[Tensor], list[Tensor]], T]
    ) -> Iterator[tuple[slice, T]]:
        """What `use` makes of each layer's inputs `[n, t, i]` and slopes `[K, n, t, o]`, a chunk of examples at a time.

        t counts positions, of all calls of the layer in a forward pass. `use` is called again with half as many
        examples where memory runs out, so it must not add anything up.
        """
        held = 0

        def work(start: int, stop: int) -> T:
            nonlocal held
            inputs, slopes = self._record(x[start:stop], y[start:stop], directions)
            held = sum(a.numel() + b.numel() for a, b in zip(inputs, slopes, strict=True))
            return use(inputs, slopes)

        if len(y):
            yield slice(0, 1), work(0, 1)  # what one example takes says how many can be held
        step = max(1, _CHUNK_BYTES // (4 * (held + 2 * sum(self.sizes))))
        for part, made in halving.each(lambda part: work(part.start + 1, part.stop + 1), len(y) - 1, step):
            yield slice(part.start + 1, part.stop + 1), made

    def _record(self, x: Tensor, y: Tensor, directions: Directions) -> tuple[list[Tensor], list[Tensor]]:
        calls: list[list[tuple[Tensor, Tensor]]] = [[] for _ in self._layers]

        def keep(number: int) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
            return lambda _, given, out: calls[number].append((given[0].detach(), out))

        handles = [layer.module.register_forward_hook(keep(i)) for i, layer in enumerate(self._layers)]
        try:
            with torch.enable_grad():
                logits = self._module(x)
        finally:
            for handle in handles:
                handle.remove()
        outs = [out for of_layer in calls for _, out in of_layer]
        found: list[Sequence[Tensor]] = []
        for direction in directions(logits.detach(), y):
            found.append(torch.autograd.grad(logits, outs, direction, retain_graph=True))
        inputs, slopes, at = [], [], 0
        for layer, of_layer in zip(self._layers, calls, strict=True):
            inputs.append(torch.cat([layer.inputs(a) for a, _ in of_layer], 1))
            span = range(at, at + len(of_layer))
            slopes.append(torch.stack([torch.cat([layer.slopes(g[i]) for i in span], 1) for g in found]))
            at = span.stop
        return inputs, slopes


def _slope(value: Callable[[Tensor], Tensor], logits: Tensor) -> Tensor:
    """∂ value / ∂ logits, `[1, n, C]`."""
    z = logits.detach().requires_grad_()
    with torch.enable_grad():
        return torch.autograd.grad(value(z), z)[0].unsqueeze(0)


def _margin_slope(output: Output) -> Directions:
    return lambda logits, y: _slope(lambda z: margins(z, y, output).sum(), logits)


def _eigenvectors(gram: Tensor) -> Tensor:
    """In float64: those of small eigenvalues are rounding noise otherwise."""
    vectors: Tensor = torch.linalg.eigh(gram.double())[1]
    return vectors.to(gram.dtype)
