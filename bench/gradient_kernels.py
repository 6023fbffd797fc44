"""TRAK's estimator on gradients of any kind, projected or not, and what may be varied in it.

Park, Georgiev, Ilyas, Leclerc and Madry (2023), "TRAK: attributing model behavior at scale", eq. 15–17. A model is
replaced by its linearisation: margins are linear in the parameters, with features φ, the margins' gradients. For the
logistic loss ℓ = log(1 + exp(−margin)), one Newton step from the model without example k gives its effect on target j,

    score[k, j] = q_k φ_kᵀ (Φᵀ W Φ + λ I)⁻¹ φ_j,    q = 1 − p,

with p the probability of the true class. The Gauss–Newton matrix of ℓ has W = diag(p (1 − p)); TRAK leaves W out.

With rows √W Φ in place of Φ both cases are one. Where there are more dimensions than examples, the identity
Φ (ΦᵀΦ + λ I)⁻¹ = (ΦΦᵀ + λ I)⁻¹ Φ solves the same with the kernel ΦΦᵀ of all pairs of examples: without any projection
that is exact, and all it takes are dot products. λ then means the same: a ridge on ΦᵀΦ.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench import halving
from bench.errors import InputError
from bench.gradients import Examples
from bench.methods import Needs
from bench.models import Flat
from bench.outputs import margins
from bench.parameters import at_least
from bench.subsets import subset_size

if TYPE_CHECKING:
    from bench.task import Task, TrainedOn

DAMPINGS = (0.01, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 1000.0)
Damping = float | Literal["early-stopping", "tune"]
Weighting = Literal["none", "gauss-newton"]
Ensemble = Literal["trak", "scores"]

_LEAST_WEIGHT = 1e-6
_DOUBLE_BELOW = 0.01  # of the mean diagonal: smaller ridges are solved in float64
# The least ridge, as a share of the trace. Rounded to float32, gradients are known to about 1e-7 of their size: small
# eigenvalues are noise, which the inverse would blow up. Of products in float32 that begins earlier.
_RESOLVED = {torch.float64: 1e-9, torch.float32: 1e-6}
_CHUNK = 1024


class Kernel(ABC):
    """Train and target gradients at one checkpoint, ready to be solved for several ridges.

    Attributes:
        weights: `[n_train]`, W; None where there are none.
        dim: of the features.
        mean_diagonal: of ΦᵀWΦ.
        singular: whether a matrix was singular to working precision but for the least ridge.
    """

    weights: Tensor | None
    dim: int
    mean_diagonal: float
    singular: bool = False

    @abstractmethod
    def scores(self, ridge: float) -> Tensor:
        """φ_kᵀ (ΦᵀWΦ + ridge I)⁻¹ φ_j, `[n_train, n_targets]`; a ridge too small to be resolved is raised."""

    def _solve(self, matrix: Tensor, right: Tensor, ridge: float, known: torch.dtype = torch.float64) -> Tensor:
        """(matrix + ridge I)⁻¹ right; `matrix` is overwritten. `known` is the type of the products in it."""
        least = _RESOLVED[known] * self.mean_diagonal * self.dim
        matrix.diagonal().add_(max(ridge, least))
        factor: Tensor = torch.linalg.cholesky(matrix)
        if ridge < least and float(factor.diagonal().min()) ** 2 < 2 * least:
            self.singular = True
        solved: Tensor = torch.cholesky_solve(right, factor)
        return solved

    def _type(self, ridge: float, given: torch.dtype) -> torch.dtype:
        return torch.float64 if ridge < _DOUBLE_BELOW * self.mean_diagonal else given


class Primal(Kernel):
    """Solved in the features' dimensions.

    Args:
        train: features `[n_train, dim]`; test: `[n_targets, dim]`; weights: W or None.
    """

    def __init__(self, train: Tensor, test: Tensor, weights: Tensor | None) -> None:
        self.train, self.test, self.weights, self.dim = train, test, weights, train.shape[1]
        self._root = None if weights is None else weights.sqrt()[:, None]
        self._matrix: dict[torch.dtype, Tensor] = {}
        weighted = train if self._root is None else train * self._root
        self.mean_diagonal = float(weighted.square().sum(dtype=torch.float64)) / self.dim

    def scores(self, ridge: float) -> Tensor:
        """See `Kernel`."""
        dtype = self._type(ridge, self.train.dtype)
        train = self.train.to(dtype)
        if dtype not in self._matrix:
            weighted = train if self._root is None else train * self._root.to(dtype)
            self._matrix[dtype] = weighted.T @ weighted
        solved = self._solve(self._matrix[dtype].clone(), self.test.T.to(dtype), ridge)
        return (train @ solved).to(self.train.dtype)


class Dual(Kernel):
    """Solved over the training examples.

    Args:
        train: dot products of the features of training examples `[n_train, n_train]`; test: of training examples and
            targets `[n_train, n_targets]`; weights: W or None.
        dim: of the features.
    """

    def __init__(self, train: Tensor, test: Tensor, dim: int, weights: Tensor | None) -> None:
        self.train, self.test, self.weights, self.dim = train, test, weights, dim
        diagonal = train.diagonal() if weights is None else train.diagonal() * weights
        self.mean_diagonal = float(diagonal.sum(dtype=torch.float64)) / dim

    def scores(self, ridge: float) -> Tensor:
        """See `Kernel`. With S = √W: Φ (ΦᵀS²Φ + λ)⁻¹ φ = S⁻¹ (S ΦΦᵀ S + λ)⁻¹ S Φφ."""
        dtype = self._type(ridge, self.train.dtype)
        matrix, right = self.train.to(dtype, copy=True), self.test.to(dtype)
        root = None if self.weights is None else self.weights.to(dtype).sqrt()[:, None]
        if root is not None:
            matrix.mul_(root).mul_(root.T)
            right = right * root
        solved = self._solve(matrix, right, ridge, self.train.dtype)
        return (solved if root is None else solved.div_(root)).to(torch.float32)


def of_features(train: Tensor, test: Tensor, weights: Tensor | None) -> Kernel:
    """The cheaper of the two forms of features `[n_train, dim]` and `[n_targets, dim]`."""
    if train.shape[1] < len(train):
        return Primal(train, test, weights)
    train, test = train.double(), test.double()
    return Dual(train @ train.T, train @ test.T, train.shape[1], weights)


Make = Callable[[int, Flat, Tensor, Examples, Examples, Tensor | None], Kernel]


@dataclass(frozen=True)
class Estimator:
    """What may be varied.

    Attributes:
        checkpoints: how many models.
        damping: λ in units of the mean diagonal of ΦᵀWΦ; `early-stopping`: the ridge that the recipe's number of steps
            amounts to (`Recipe.early_stopping_ridge`); `tune`: the best on the tune rows of `dampings` and, where there
            are weights, of early stopping.
        weighting: W: `none` of TRAK, or `gauss-newton`, where λ also holds the recipe's weight decay.
        ensemble: TRAK averages φᵀ(…)⁻¹φ and q over checkpoints, each apart, and multiplies the means; `scores`
            averages the checkpoints' scores.
        trained_on: the checkpoints' examples: `all`, or random `subsets` of the size of those that judge.
        dampings: what `tune` chooses from; early stopping's comes on top where there are weights.
        tune_at_first: choose by the first checkpoint's scores, instead of by the means over all.
    """

    checkpoints: int
    damping: Damping
    weighting: Weighting
    ensemble: Ensemble
    trained_on: TrainedOn
    dampings: tuple[float, ...] = DAMPINGS
    tune_at_first: bool = False

    def __post_init__(self) -> None:
        """Refuse what makes no sense.

        Raises:
            InputError: no checkpoint, a negative damping, or early stopping without weights.
        """
        at_least(1, checkpoints=self.checkpoints)
        at_least(0, damping=self.damping)
        if self.damping == "early-stopping" and self.weighting == "none":
            raise InputError("damping=early-stopping is a ridge on the Gauss–Newton matrix: add weighting=gauss-newton")

    @property
    def needs(self) -> Needs:
        """Rows and models that it takes."""
        tuned = 2 if self.damping == "tune" else 0
        return Needs(tune_rows=tuned, checkpoints=self.checkpoints, trained_on=self.trained_on)

    def scores(self, task: Task, make: Make) -> NDArray[np.float32]:
        """Scores `[n_train, n_targets]`.

        Of the training examples the logsumexp margin is differentiated, of which the loss is a function (but for label
        smoothing), of the targets the one that is judged.

        Args:
            task: the task.
            make: the kernel at a checkpoint, from its number, a flat model, its state, the training examples and
                the targets with what to differentiate, and W.
        """
        recipe, n = task.setting.recipe, task.data.n_train
        train = Examples(*task.inputs("train"), "margin")
        test = Examples(*task.inputs("test"), "margin", task.output)
        levels: tuple[Damping, ...] = (self.damping,)
        if self.damping == "tune":
            levels = self.dampings if self.weighting == "none" else (*self.dampings, "early-stopping")
        totals: dict[Damping, Tensor] = {}
        slopes, singular = torch.zeros(n, device=task.device), False
        for number, vector in enumerate(task.checkpoint_vectors(self.checkpoints, self.trained_on)):
            flat = task.flat()
            values = _margins(flat, vector, train)
            slope, weights, least = torch.sigmoid(-values), None, 0.0
            if self.weighting == "gauss-newton":
                weights = (slope * torch.sigmoid(values)).clamp_min(_LEAST_WEIGHT)
                least = n * recipe.weight_decay
            kernel = make(number, flat, vector, train, test, weights)
            slopes += slope
            for level in levels:
                if isinstance(level, str):
                    ridge = n * recipe.early_stopping_ridge(subset_size(n, task.alpha))
                else:
                    ridge = level * kernel.mean_diagonal
                made = kernel.scores(ridge + least)
                if self.ensemble == "scores":
                    made *= slope[:, None]
                totals[level] = totals[level].add_(made) if level in totals else made
            singular |= kernel.singular and self.damping != "tune"
            if len(levels) > 1 and (self.tune_at_first or number == self.checkpoints - 1):
                means = ((level, self._mean(totals[level], slopes, number + 1)) for level in levels)
                levels = (task.choose(means, "damping")[0],)
        if singular:
            task.note("a singular kernel, solved with the least ridge that float32 resolves: raise the damping")
        return self._mean(totals[levels[0]], slopes, self.checkpoints)

    def _mean(self, total: Tensor, slopes: Tensor, count: int) -> NDArray[np.float32]:
        mean = total / count
        if self.ensemble == "trak":
            mean *= slopes[:, None] / count
        return mean.cpu().numpy()


def _margins(flat: Flat, vector: Tensor, examples: Examples) -> Tensor:
    def of(part: slice) -> Tensor:
        return margins(flat(vector, examples.x[part]), examples.y[part], examples.output)

    with torch.no_grad():
        return torch.cat([found for _, found in halving.each(of, len(examples), _CHUNK)])
