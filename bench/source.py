"""SOURCE: the unrolled derivative of a training run, with each of a few segments of the run taken for stationary.

Bae, Lin, Lorraine and Grosse (2024), "Training Data Attribution via Approximate Unrolled Differentiation", sections 3
and D. A step of gradient descent on the objective, mean loss + w/2 ‖θ‖², takes a change of θ to (I − η H) times it,
with H the curvature of the loss + w I; the weight of example k adds −(η/n) ∇ℓ_k(θ), in expectation over batches. In
segment l, let H_l be the mean curvature, g_kl the mean gradient of example k, and t_l the sum of the learning rates,
divided by 1 − momentum. Then all steps of the segment together are

    S_l = exp(−t_l H_l),    r_kl = (1/n) F_l g_kl,    F_l = (I − exp(−t_l H_l)) H_l⁻¹,

and the effect of keeping example k on the margin of target j is

    score[k, j] = −∇m_j(θ)ᵀ Σ_l S_L ⋯ S_{l+1} r_kl.

F_l is t_l in directions without curvature, and H_l⁻¹ where t_l is long: there is no damping. One segment is nearly an
influence function with the ridge 1/t (`Recipe.early_stopping_ridge`); a segment for every step is the derivative
itself (`bench.metagradient`), but for the Gauss–Newton matrix in the Hessian's place and the mean over batches.

Worked out from the end, a_L = ∇m_j, u_l = F_l a_l, a_{l−1} = S_l a_l: a score is −(1/n) Σ_l u_l · g_kl, and of training
examples there are never more gradients than a chunk's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

import torch
from torch import Tensor

from bench import gradients, halving
from bench.errors import InputError
from bench.influence import effects, gauss_newton
from bench.kfac import EKFAC
from bench.models import Flat
from bench.recipes import Output, Recipe

if TYPE_CHECKING:
    from bench.trajectory import Trajectory

Kind = Literal["ekfac", "explicit"]

_TARGET_BYTES = 2**28


class Spectral(Protocol):
    """A symmetric matrix by its eigenvalues, which `bench.kfac.EKFAC` is too."""

    def apply(self, function: Callable[[Tensor], Tensor], vectors: Tensor) -> Tensor:
        """A function of the matrix, given as one of its eigenvalues, times each of `vectors` `[m, n_parameters]`."""


class Explicit:
    """A symmetric matrix `[n_parameters, n_parameters]`, decomposed: it takes n_parameters³ operations."""

    def __init__(self, matrix: Tensor) -> None:
        self._values, self._vectors = torch.linalg.eigh(matrix)

    def apply(self, function: Callable[[Tensor], Tensor], vectors: Tensor) -> Tensor:
        """See `Spectral`."""
        rotated = (vectors.to(self._vectors.dtype) @ self._vectors).mul_(function(self._values))
        made: Tensor = (rotated @ self._vectors.T).to(vectors.dtype)
        return made


@dataclass(frozen=True)
class Segment:
    """A part of a training run.

    Attributes:
        states: `[k, n_state]`, over which gradients are averaged.
        time: t, the learning rates of its steps, summed, and divided by 1 − momentum.
        curvature: of the mean loss, without weight decay.
    """

    states: Tensor
    time: float
    curvature: Spectral


def check(segments: int, states: int) -> None:
    """Refuse less than one of either.

    Raises:
        InputError: there is.
    """
    for name, value in (("segments", segments), ("states", states)):
        if value < 1:
            raise InputError(f"{name} of SOURCE is {value}: it takes at least 1")


def divided(
    flat: Flat, run: Trajectory, train: tuple[Tensor, Tensor], recipe: Recipe, segments: int, kind: Kind
) -> list[Segment]:
    """Segments of equally many steps, in order.

    Args:
        flat: the model.
        run: the training run, in 2 × `segments` × k states. Every other one is used, k in each segment: they are in the
            middle of the steps that they stand for, and a mean over them is one order better than over the ends.
        train: examples and labels that the curvature is of.
        recipe: momentum and label smoothing.
        segments: how many.
        kind: `ekfac`, as in the paper: the eigenvalues of a layer's Kronecker factors, averaged over the states; or
            `explicit`, the whole Gauss–Newton matrix.
    """
    made = []
    times = run.rates.reshape(segments, -1).sum(1) / (1 - recipe.momentum)
    for states, time in zip(run.states[::2].chunk(segments), times.tolist(), strict=True):
        curvature: Spectral
        if kind == "ekfac":
            curvature = EKFAC(flat, states, train, smoothing=recipe.label_smoothing)
        else:
            total = gauss_newton(flat, states[0], train[0])
            for state in states[1:]:
                total += gauss_newton(flat, state, train[0])
            curvature = Explicit(total.div_(len(states)))
        made.append(Segment(states, time, curvature))
    return made


def walked_back(segments: Sequence[Segment], a: Tensor, weight_decay: float) -> Iterator[tuple[Segment, Tensor]]:
    """Every segment, last first, with u `[m, n_parameters]` for the gradients `a` at the end of the run."""
    for one in reversed(segments):
        time = one.time

        def integral(c: Tensor, time: float = time) -> Tensor:
            return integrated(c + weight_decay, time)

        def decay(c: Tensor, time: float = time) -> Tensor:
            return torch.exp(-time * (c + weight_decay))

        yield one, one.curvature.apply(integral, a)
        a = one.curvature.apply(decay, a)


def integrated(c: Tensor, time: float) -> Tensor:
    """(1 − exp(−time c)) / c, which is `time` where c is 0, or too small to matter beside 1/time."""
    x = time * c
    none = x.abs() < torch.finfo(c.dtype).eps
    return torch.where(none, time, -torch.expm1(-x) / torch.where(none, 1, c))


def scores(
    flat: Flat,
    segments: Sequence[Segment],
    end: Tensor,
    train: tuple[Tensor, Tensor],
    test: tuple[Tensor, Tensor],
    recipe: Recipe,
    output: Output,
) -> Tensor:
    """Scores `[n_train, n_targets]`.

    Args:
        flat: the model.
        segments: of its training run, in order.
        end: the trained state `[n_state]`.
        train: examples and labels.
        test: targets and labels.
        recipe: weight decay and label smoothing.
        output: the margin that scores predict.
    """
    made = end.new_empty(len(train[1]), len(test[1]))

    def of_targets(some: slice) -> None:
        a = gradients.stacked(flat, end, test[0][some], test[1][some], "margin", output)
        total = end.new_zeros(len(train[1]), len(a))
        for one, u in walked_back(segments, a, recipe.weight_decay):
            for state in one.states:
                total += effects(flat, state, train, u, recipe.label_smoothing) / len(one.states)
        made[:, some] = total

    step = max(1, _TARGET_BYTES // (end.element_size() * flat.n_parameters))
    halving.through(of_targets, len(test[1]), step, "targets")
    return made
