"""Metagradients: exact derivatives of a training's final margins with respect to the training examples' weights.

A run of plain SGD is a function of the weights w: with the batch B, the state (θ, v) and the learning rate η of a step,

    g = (1/|B|) Σ_{i ∈ B} w_i ∇ℓ_i(θ),    s = g + λ θ,    v' = μ v + s,    θ' = θ − η v',

or θ' = θ − η (s + μ v') with Nesterov's momentum. Its derivative at w = 1 is taken from the last step to the first:
from the adjoints (a, b) of (θ', v'), which at the end are (∇m_j(θ), 0) for target j,

    b ← b − η a,  c = b    (Nesterov: b ← b − η μ a,  c = b − η a),
    ∂m_j/∂w_i += c · ∇ℓ_i(θ) / |B|  for every i in B,    a ← a + (∇²L_B(θ) + λ) c,    b ← μ b.

This is MAGIC (Ilyas and Engstrom 2025, "MAGIC: Near-optimal data attribution for deep learning"); to replay states in
place of keeping them all: Engstrom et al. 2025, "Optimizing ML training with metagradient descent".

All targets go backwards together: the vector-Jacobian products of g with respect to (θ, w) are both the Hessian-vector
products and the losses' derivatives along all c. The states are replayed from √steps kept ones, √steps at a time.

With ReLUs the gradient jumps where an activation crosses zero, and so do the final margins as functions of w. The
derivative is that of the smooth pieces: it knows nothing of the jumps, which are a large part of what leaving examples
out does. With `kinks` h, derivatives (not the replayed states) are taken as if each ReLU were a softplus, rounded over
h times the root mean square of its inputs in the batch: the jumps that are near then count by their mean.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench import halving
from bench.outputs import margins
from bench.train import cpu_threads, one_torch_thread

if TYPE_CHECKING:
    from bench.models import Flat
    from bench.recipes import Output, Recipe
    from bench.train import TrainingRun

_MAX_BYTES = 2**30
_VECTORS = 8  # of n_parameters numbers that a target takes: adjoints, directions, products and what makes them
_LAYERS = 12  # the same of a batch's activations


class Replay:
    """A training that has been run, and can be walked through backwards.

    Args:
        flat: the model.
        recipe: plain SGD (`Recipe.not_plain`).
        run: initial state, batches and rates.
        train: all training examples and their labels.
        dtype: to compute in.
        weights: of the examples, `[n_train]`; all 1 by default.
        kinks: over what share of their inputs' size ReLUs are rounded for derivatives; 0 gives exact ones.

    Attributes:
        end: the final parameters `[n_parameters]`; batch: examples a step.
    """

    def __init__(
        self,
        flat: Flat,
        recipe: Recipe,
        run: TrainingRun,
        train: tuple[Tensor, Tensor],
        dtype: torch.dtype = torch.float32,
        weights: Tensor | None = None,
        kinks: float = 0.0,
    ) -> None:
        self.flat, self.recipe, self.rates = flat, recipe, run.rates.tolist()
        self.x, self.y = train[0].to(dtype), train[1]
        self._order = torch.from_numpy(run.order).to(self.y.device)
        self.batch = run.order.shape[1]
        self._rounded = _rounded(flat, kinks) if kinks else flat
        self.weights = self.x.new_ones(len(self.y)) if weights is None else weights.to(self.x)
        self._stride = math.isqrt(len(self.rates) - 1) + 1
        self._kept: list[tuple[Tensor, Tensor]] = []  # θ and v before the steps 0, stride, 2 stride, …
        theta = run.start.to(dtype)
        v = torch.zeros_like(theta)
        for step in range(len(self.rates)):
            if step % self._stride == 0:
                self._kept.append((theta, v))
            theta, v = self._after(step, theta, v)
        self.end = theta

    def twin(self) -> Replay:
        """The same for another thread: two must not call one module, since each puts its own parameters in."""
        twin = copy.copy(self)
        twin.flat, twin._rounded = copy.deepcopy((self.flat, self._rounded))
        return twin

    def _slope(self, flat: Flat, step: int, theta: Tensor, weights: Tensor) -> Tensor:
        """The gradient g of `step` at `theta`, with the weights `[batch]` of its examples."""
        x, y = self.x[self._order[step]], self.y[self._order[step]]

        def loss(vector: Tensor) -> Tensor:
            logits = flat(vector, x)
            each = F.cross_entropy(logits, y, reduction="none", label_smoothing=self.recipe.label_smoothing)
            mean: Tensor = each @ weights / self.batch
            return mean

        slope: Tensor = torch.func.grad(loss)(theta)
        return slope

    def _after(self, step: int, theta: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """θ' and v'."""
        recipe = self.recipe
        slope = self._slope(self.flat, step, theta, self.weights[self._order[step]]) + recipe.weight_decay * theta
        v = recipe.momentum * v + slope
        move = slope + recipe.momentum * v if recipe.optimiser == "nesterov" else v
        return theta - self.rates[step] * move, v

    def _backwards(self) -> Iterator[tuple[int, Tensor]]:
        """Every step, last first, with the parameters before it."""
        for number in reversed(range(len(self._kept))):
            first = number * self._stride
            (theta, v), segment = self._kept[number], []
            for step in range(first, min(first + self._stride, len(self.rates))):
                segment.append(theta)
                theta, v = self._after(step, theta, v)
            while segment:
                yield first + len(segment) - 1, segment.pop()

    def by_weights(self, a: Tensor) -> Tensor:
        """Derivatives `[n, n_train]`, with respect to the weights, of what has the gradients `a` at the end.

        Args:
            a: `[n, n_parameters]`; overwritten.
        """
        recipe = self.recipe
        b, made = torch.zeros_like(a), a.new_zeros(len(a), len(self.y))
        for step, theta in self._backwards():
            rate, c = self.rates[step], b
            if recipe.optimiser == "nesterov":
                b.sub_(a, alpha=rate * recipe.momentum)
                c = b.sub(a, alpha=rate)
            else:
                b.sub_(a, alpha=rate)
            batch = self._order[step]
            pull = torch.func.vjp(partial(self._slope, self._rounded, step), theta, self.weights[batch])[1]
            curved, slopes = torch.func.vmap(pull)(c)
            made.index_add_(1, batch, slopes)
            a.add_(curved).add_(c, alpha=recipe.weight_decay)
            b.mul_(recipe.momentum)
        return made


class _Softplus(nn.Module):
    """ReLU, rounded over `width` times the root mean square of its inputs."""

    def __init__(self, width: float) -> None:
        super().__init__()
        self.width = width

    def forward(self, x: Tensor) -> Tensor:
        size = self.width * x.detach().square().mean().sqrt() + torch.finfo(x.dtype).tiny
        return torch.relu(x) + size * torch.exp(-x.abs() / size).log1p()


def _rounded(flat: Flat, width: float) -> Flat:
    flat = copy.deepcopy(flat)
    for parent in list(flat.module.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.ReLU):
                setattr(parent, name, _Softplus(width))
    return flat


def _at_the_end(replay: Replay, x: Tensor, y: Tensor, output: Output) -> Tensor:
    """Gradients `[n, n_parameters]` of the final margins of `x`, in the replay's dtype."""

    def margin(theta: Tensor, x: Tensor, y: Tensor) -> Tensor:
        return margins(replay.flat(theta, x.unsqueeze(0)), y.unsqueeze(0), output).squeeze(0)

    made: Tensor = torch.func.vmap(torch.func.grad(margin), in_dims=(None, 0, 0))(replay.end, x, y)
    return made


def margins_by_weights(
    replay: Replay, test: tuple[Tensor, Tensor], output: Output = "logsumexp", *, max_bytes: int = _MAX_BYTES
) -> Tensor:
    """Derivative of every target's final margin with respect to every training example's weight.

    On a CPU each thread takes targets of its own. Where memory runs out, fewer go at once (`bench.halving`).

    Args:
        replay: the training.
        test: targets and their labels.
        output: which margin.
        max_bytes: about what the targets that go at once may hold.

    Returns:
        `[n_train, n_targets]`, in the replay's dtype, on its device.
    """
    end, (x, y) = replay.end, test
    x = x.to(end.dtype)
    made = end.new_empty(len(replay.y), len(y))
    on_cpu = end.device.type == "cpu"
    threads = cpu_threads() if on_cpu else 1
    with torch.no_grad():
        n_classes = replay.flat(end, x[:1]).shape[1]
    activations = replay.batch * replay.recipe.architecture.activations(tuple(x.shape[1:]), n_classes)
    each = end.element_size() * (_VECTORS * len(end) + _LAYERS * activations + len(made))
    share = -(-len(y) // threads)
    most = max(1, min(share, max_bytes // (threads * each)))

    def some(first: int) -> None:
        mine, its_x, its_y = replay.twin(), x[first : first + share], y[first : first + share]

        def derivatives(part: slice) -> Tensor:
            return mine.by_weights(_at_the_end(mine, its_x[part], its_y[part], output))

        for part, found in halving.each(derivatives, len(its_y), most, "targets"):
            made[:, first + part.start : first + part.stop] = found.T

    with one_torch_thread() if on_cpu else nullcontext(), ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(some, range(0, len(y), share)):
            pass
    return made
