"""Logistic regression with an L2 penalty, fitted to convergence in float64, for many weightings of its examples at once.

What recipes train stops early; the theory of influence functions and of representer points is exact for minimisers.
Newton's method, each step by conjugate gradient; the objective is strictly convex, so that there is one minimiser.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from bench.errors import BenchError

_DENSE_UP_TO = 2_000  # parameters: a preconditioner of more takes longer to make than it saves
_CHUNK_BYTES = 64 * 2**20
_INNER = (0.1, 1e-3)  # relative residual of a Newton step: far from the minimum, and near it
_STALE = 10  # iterations of conjugate gradient after which the preconditioner is made anew
_HALVINGS = 30


@dataclass(frozen=True)
class Fit:
    """Minimisers.

    Attributes:
        weights: W of each weighting, `[m, d, n_classes]` float64; logits are x W.
        gradient: largest entry of the objective's gradient there, `[m]`.
        steps: Newton steps that the slowest took.
    """

    weights: Tensor
    gradient: Tensor
    steps: int


def with_one(x: Tensor) -> Tensor:
    """Flattened examples with a 1 for the bias, float64 `[n, d + 1]`."""
    flat = x.reshape(len(x), -1).double()
    return torch.cat([flat, torch.ones_like(flat[:, :1])], 1)


def soft_labels(y: Tensor, n_classes: int, smoothing: float = 0.0) -> Tensor:
    """Labels as probabilities, float64 `[n, n_classes]`, smoothed as in training."""
    return F.one_hot(y, n_classes).double() * (1 - smoothing) + smoothing / n_classes


def fit(
    x: Tensor, labels: Tensor, decay: float, weights: Tensor | None = None, tolerance: float = 1e-10, most: int = 60
) -> Fit:
    """Minimise (1/n) Σ_i w_i CE(x_i W, labels_i) + decay/2 ‖W‖² for each row w of `weights`.

    Leaving example k out is w_k = 0 with n as it is, which is a retraining without it at a decay of n/(n − 1).

    Args:
        x: float64 `[n, d]` (see `with_one`: the penalty holds for the bias too, as weight decay does).
        labels: float64 `[n, n_classes]` (see `soft_labels`).
        decay: above 0.
        weights: `[m, n]`, not negative; all ones if None.
        tolerance: of the gradient's largest entry.
        most: Newton steps.

    Raises:
        BenchError: the gradient does not come below `tolerance`.
    """
    problem = _Problem(x, labels, decay)
    whole = problem.newton(x.new_zeros(1, *problem.shape), x.new_ones(1, len(x)), tolerance, most)
    if weights is None:
        return whole
    problem.precondition(whole.weights[0])
    step = max(1, _CHUNK_BYTES // (8 * labels.numel()))
    parts = [
        problem.newton(whole.weights.expand(len(some), -1, -1).clone(), some.to(x), tolerance, most, fixed=True)
        for some in weights.split(step)
    ]
    return Fit(
        torch.cat([p.weights for p in parts]), torch.cat([p.gradient for p in parts]), max(p.steps for p in parts)
    )


class _Problem:
    def __init__(self, x: Tensor, labels: Tensor, decay: float) -> None:
        self.x, self.labels, self.decay = x, labels, decay
        self.shape = x.shape[1], labels.shape[1]
        self.factors = x.new_empty(0)

    def newton(self, at: Tensor, weights: Tensor, tolerance: float, most: int, *, fixed: bool = False) -> Fit:
        """From `at` `[m, d, C]`; with `fixed`, the preconditioner stays as it is."""
        value, stale = self.value(at, weights), not fixed
        for step in range(most):
            p = torch.softmax(self.x @ at, 2)
            gradient = self.back(weights[:, :, None] * (p - self.labels)) + self.decay * at
            largest = gradient.abs().amax((1, 2))
            if bool((largest <= tolerance).all()):
                return Fit(at, largest, step)
            if stale:
                self.precondition(at[0])
            move, iterations = self.solve(p, weights, gradient)
            stale, size = not fixed and iterations > _STALE, at.new_ones(len(at), 1, 1)
            for _ in range(_HALVINGS):
                after = self.value(at - size * move, weights)
                worse = after > value + 1e-14 * value.abs()
                if not bool(worse.any()):
                    break
                size[worse] /= 2
            at, value = at - size * move, after
        raise BenchError(
            f"logistic regression has a gradient of {float(largest.max()):.1e} after {most} steps, above "
            f"{tolerance:g}: give it a larger L2 penalty than {self.decay:g}"
        )

    def value(self, at: Tensor, weights: Tensor) -> Tensor:
        losses = -(self.labels * torch.log_softmax(self.x @ at, 2)).sum(2)
        return (weights * losses).sum(1) / len(self.x) + self.decay / 2 * at.square().sum((1, 2))

    def back(self, slopes: Tensor) -> Tensor:
        """From derivatives in logits `[m, n, C]` to those of the mean in W."""
        return self.x.T @ slopes / len(self.x)

    def precondition(self, at: Tensor) -> None:
        """Factor the Hessian at one W with all weights 1; of a large one, its diagonal blocks, one for each class."""
        d, classes = self.shape
        p = torch.softmax(self.x @ at, 1)
        blocks = []
        if d * classes > _DENSE_UP_TO:
            blocks = [self.x.T @ ((q * (1 - q))[:, None] * self.x) for q in p.T]
        else:
            whole = self.x.new_empty(d, classes, d, classes)
            for a in range(classes):
                for b in range(classes):
                    whole[:, a, :, b] = self.x.T @ ((p[:, a] * (float(a == b) - p[:, b]))[:, None] * self.x)
            blocks = [whole.view(d * classes, d * classes)]
        eye = torch.eye(len(blocks[0]), dtype=self.x.dtype, device=self.x.device)
        self.factors = torch.linalg.cholesky(torch.stack(blocks) / len(self.x) + self.decay * eye)

    def preconditioned(self, r: Tensor) -> Tensor:
        m, d, classes = r.shape
        if len(self.factors) == classes and self.factors.shape[1] == d:
            return torch.cholesky_solve(r.permute(2, 1, 0), self.factors).permute(2, 1, 0)
        return torch.cholesky_solve(r.reshape(m, -1).T, self.factors[0]).T.view(m, d, classes)

    def solve(self, p: Tensor, weights: Tensor, b: Tensor) -> tuple[Tensor, int]:
        """Each model's Hessian's inverse times its gradient, by preconditioned conjugate gradient; and iterations."""
        made, residual = torch.zeros_like(b), b.clone()
        z = self.preconditioned(residual)
        direction, size = z.clone(), (residual * z).sum((1, 2), keepdim=True)
        size_of_b = b.norm(dim=(1, 2))
        goal = size_of_b * size_of_b.sqrt().clamp(_INNER[1], _INNER[0]) + torch.finfo(b.dtype).tiny
        iterations = 0
        for iterations in range(1, 10 * b[0].numel()):
            u = self.x @ direction
            pushed = self.back(weights[:, :, None] * p * (u - (p * u).sum(2, keepdim=True))) + self.decay * direction
            step = size / (direction * pushed).sum((1, 2), keepdim=True).clamp_min(torch.finfo(b.dtype).tiny)
            made += step * direction
            residual -= step * pushed
            if bool((residual.norm(dim=(1, 2)) <= goal).all()):
                break
            z = self.preconditioned(residual)
            size, before = (residual * z).sum((1, 2), keepdim=True), size
            direction = z + size / before.clamp_min(torch.finfo(b.dtype).tiny) * direction
        return made, iterations
