"""Representer points: what each training example adds to a target's logits in a refitted last layer.

Yeh, Kim, Yen and Ravikumar (2018), "Representer point selection for explaining deep neural networks", theorem 3.1:
at a stationary point of the mean loss + l2/2 ‖W‖² over the last layer W, with features f,

    logits(t) = W f_t = Σ_i α_i f_iᵀ f_t,    α_i = −∂loss_i/∂logits_i / (l2 · n).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bench import converged, halving
from bench.errors import InputError
from bench.outputs import margins
from bench.recipes import Output

_TOLERANCE = 1e-6
_BATCH = 500


def features(module: nn.Module, x: Tensor) -> Tensor:
    """Inputs of the last linear layer with a 1 for its bias, float64 `[n, d + 1]`.

    Where an example passes the layer more than once (an image and its mirror image), their mean: logits are linear.

    Raises:
        InputError: the model has no linear layer.
    """
    layers = [layer for layer in module.modules() if isinstance(layer, nn.Linear)]
    if not layers:
        raise InputError("the model has no linear layer, and representer points are about the last one")
    seen: list[Tensor] = []
    handle = layers[-1].register_forward_hook(lambda _, given, __: seen.append(given[0].detach()))

    def of(part: slice) -> Tensor:
        seen.clear()
        module(x[part])
        return torch.stack(seen).mean(0)

    try:
        with torch.no_grad():
            made = [found for _, found in halving.each(of, len(x), _BATCH)]
    finally:
        handle.remove()
    return converged.with_one(torch.cat(made))


@dataclass(frozen=True)
class Representers:
    """A last layer refitted to the features of the training examples, and its dual.

    Attributes:
        weights: W, `[d, n_classes]`; alpha: `[n, n_classes]`; features: of the training examples `[n, d]`.
    """

    weights: Tensor
    alpha: Tensor
    features: Tensor

    @classmethod
    def fit(cls, f: Tensor, y: Tensor, n_classes: int, l2: float, smoothing: float = 0.0) -> Representers:
        """Refit from zero by Newton's method in float64 to a gradient of at most 1e-6 (see `bench.converged`).

        Raises:
            BenchError: `l2` is so small that it does not converge.
        """
        labels = converged.soft_labels(y, n_classes, smoothing)
        w = converged.fit(f, labels, l2, tolerance=_TOLERANCE).weights[0]
        return cls(w, (labels - torch.softmax(f @ w, 1)) / (l2 * len(f)), f)

    def scores(self, f: Tensor, y: Tensor, output: Output) -> Tensor:
        """What each example adds to each target's margin `[n, n_targets]`: ∂margin/∂logits · α_i f_iᵀ f_t.

        The margin of a target is linearised at its logits; for its logit alone, the derivative is the one-hot label
        and the score is the paper's.
        """
        logits = (f @ self.weights).requires_grad_()
        (slope,) = torch.autograd.grad(margins(logits, y, output).sum(), logits)
        return (self.alpha @ slope.T) * (self.features @ f.T)
