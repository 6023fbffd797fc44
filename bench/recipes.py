"""How a model is trained: plain data, hashed into the ground truth that it makes."""

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, get_args

Output = Literal["logsumexp", "max"]
OUTPUTS: tuple[str, ...] = get_args(Output)


@dataclass(frozen=True)
class Architecture:
    """A model by name with its sizes; `bench.models.build` makes the torch module."""

    name: Literal["logreg", "mlp"]
    hidden: tuple[int, ...] = ()

    def parameters(self, n_inputs: int, n_classes: int) -> int:
        """Number of parameters, weights and biases."""
        sizes = [n_inputs, *self.hidden, n_classes]
        return sum((n_in + 1) * n_out for n_in, n_out in pairwise(sizes))


@dataclass(frozen=True)
class Recipe:
    """SGD with momentum, the learning rate falling linearly to zero or constant.

    A row's steps come from its subset alone: `epochs` shuffles of it, one after another, cut into batches; the
    last batch is dropped where it is not full.

    Attributes:
        architecture: the model.
        epochs: passes over the subset.
        batch_size: examples a step.
        lr: learning rate of the first step, per mean loss of a batch.
        momentum: heavy-ball momentum (torch.optim.SGD's, no dampening).
        weight_decay: L2 penalty in torch.optim.SGD's scaling: the objective is mean loss + weight_decay/2 ‖θ‖².
        schedule: `linear` multiplies `lr` by 1 − step/steps.
    """

    architecture: Architecture
    epochs: int
    batch_size: int
    lr: float
    momentum: float = 0.9
    weight_decay: float = 0.0
    schedule: Literal["linear", "constant"] = "linear"

    def rate(self, step: int, steps: int) -> float:
        """Learning rate of step `step` (from 0) of `steps`."""
        return self.lr * (1 - step / steps) if self.schedule == "linear" else self.lr

    def steps(self, n: int) -> int:
        """Optimiser steps of a model trained on `n` examples (at least one: a small subset is one smaller batch)."""
        return max(1, self.epochs * n // min(self.batch_size, n))

    def early_stopping_ridge(self, n: int) -> float:
        """The ridge λ that stopping after this recipe's steps on `n` examples amounts to: (1 − momentum) / Σ_t lr_t.

        Gradient flow for a time t shrinks a direction of curvature c by 1 − exp(−ct), a ridge λ by c/(c + λ): alike
        for λ = 1/t (Ali, Kolter and Tibshirani 2019, "A continuous-time view of early stopping", theorem 1).
        """
        steps = self.steps(n)
        return (1 - self.momentum) / sum(self.rate(step, steps) for step in range(steps))
