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

from bench.errors import InputError
from bench.gradients import Examples
from bench.models import Flat
from bench.outputs import margins
from bench.subsets import subset_size

if TYPE_CHECKING:
    from bench.task import Task, TrainedOn

DAMPINGS = (0.01, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 1000.0)
Damping = float | Literal["early-stopping", "tune"]
Weighting = Literal["none", "gauss-newton"]
Ensemble = Literal["trak", "scores"]

_LEAST_WEIGHT = 1e-6
# Of the mean diagonal: smaller ridges are solved in float64. Without any, on digits/mlp, scores are then accurate to
# 1e-4 of their norm, although the products of features are float32; in float32 throughout to 3e-4.
_DOUBLE_BELOW = 0.01
_SINGULAR = 1e-6  # of the largest eigenvalue: what float32 features leave undetermined
_CHUNK = 1024


class Kernel(ABC):
    """Train and target gradients at one checkpoint, ready to be solved for several ridges.

    Attributes:
        weights: `[n_train]`, W; None where there are none.
        mean_diagonal: of ΦᵀWΦ.
        rank: of the damped matrix to working precision, where it has been found to be singular; else None.
    """

    weights: Tensor | None
    mean_diagonal: float
    rank: int | None = None

    @abstractmethod
    def scores(self, ridge: float) -> Tensor:
        """φ_kᵀ (ΦᵀWΦ + ridge I)⁻¹ φ_j, `[n_train, n_targets]`.

        Where the damped matrix is singular to working precision, its pseudo-inverse: the limit of small ridges.
        """

    def _solve(self, matrix: Tensor, right: Tensor, ridge: float) -> Tensor:
        """(matrix + ridge I)⁻¹ right; `matrix` is overwritten."""
        matrix.diagonal().add_(ridge)
        factor, failed = torch.linalg.cholesky_ex(matrix)
        solved: Tensor
        if not failed:
            solved = torch.cholesky_solve(right, factor)
            return solved
        values, vectors = torch.linalg.eigh(matrix.double())
        kept = values > _SINGULAR * values[-1]
        self.rank = int(kept.sum())
        inverse = torch.where(kept, 1 / values, 0)
        solved = (vectors @ (inverse[:, None] * (vectors.T @ right.double()))).to(right.dtype)
        return solved

    def _double(self, ridge: float) -> bool:
        return ridge < _DOUBLE_BELOW * self.mean_diagonal


class Primal(Kernel):
    """Solved in the features' dimensions.

    Args:
        train: features `[n_train, dim]`; test: `[n_targets, dim]`; weights: W or None.
    """

    def __init__(self, train: Tensor, test: Tensor, weights: Tensor | None) -> None:
        self.train, self.test, self.weights = train, test, weights
        rows = train if weights is None else train * weights.sqrt()[:, None]
        self.mean_diagonal = float(rows.square().sum(dtype=torch.float64)) / train.shape[1]
        self._matrix = rows.T @ rows

    def scores(self, ridge: float) -> Tensor:
        """See `Kernel`."""
        dtype = torch.float64 if self._double(ridge) else self.train.dtype
        solved = self._solve(self._matrix.to(dtype, copy=True), self.test.T.to(dtype), ridge)
        return self.train @ solved.to(self.train.dtype)


class Dual(Kernel):
    """Solved over the training examples.

    Args:
        train: dot products of the features of training examples `[n_train, n_train]`; test: of training examples and
            targets `[n_train, n_targets]`; weights: W or None.
        dim: of the features.
    """

    def __init__(self, train: Tensor, test: Tensor, dim: int, weights: Tensor | None) -> None:
        self.train, self.test, self.weights = train, test, weights
        diagonal = train.diagonal() if weights is None else train.diagonal() * weights
        self.mean_diagonal = float(diagonal.sum(dtype=torch.float64)) / dim

    def scores(self, ridge: float) -> Tensor:
        """See `Kernel`. With S = √W: Φ (ΦᵀS²Φ + λ)⁻¹ φ = S⁻¹ (S ΦΦᵀ S + λ)⁻¹ S Φφ."""
        dtype = torch.float64 if self._double(ridge) else self.train.dtype
        matrix, right = self.train.to(dtype, copy=True), self.test.to(dtype)
        root = None if self.weights is None else self.weights.to(dtype).sqrt()[:, None]
        if root is not None:
            matrix.mul_(root).mul_(root.T)
            right = right * root
        solved = self._solve(matrix, right, ridge)
        return (solved if root is None else solved.div_(root)).to(self.train.dtype)


def of_features(train: Tensor, test: Tensor, weights: Tensor | None) -> Kernel:
    """The cheaper of the two forms of features `[n_train, dim]` and `[n_targets, dim]`."""
    if train.shape[1] < len(train):
        return Primal(train, test, weights)
    return Dual(train @ train.T, train @ test.T, train.shape[1], weights)


Make = Callable[[int, Flat, Tensor, Examples, Examples, Tensor | None], Kernel]


@dataclass(frozen=True)
class Estimator:
    """What may be varied.

    Attributes:
        checkpoints: how many models.
        damping: λ in units of the mean diagonal of ΦᵀWΦ; `early-stopping`: the ridge that the recipe's number of steps
            amounts to (`Recipe.early_stopping_ridge`); `tune`: the best on the tune rows of DAMPINGS and, where there
            are weights, of early stopping.
        weighting: W: `none` of TRAK, or `gauss-newton`, where λ also holds the recipe's weight decay.
        ensemble: TRAK averages φᵀ(…)⁻¹φ and q over checkpoints, each apart, and multiplies the means; `scores`
            averages the checkpoints' scores.
        trained_on: the checkpoints' examples: `all`, or random `subsets` of the size of those that judge.
        tune_at_first: choose by the first checkpoint's scores, instead of by the means over all.
    """

    checkpoints: int
    damping: Damping
    weighting: Weighting
    ensemble: Ensemble
    trained_on: TrainedOn
    tune_at_first: bool = False

    def __post_init__(self) -> None:
        """Refuse what makes no sense.

        Raises:
            InputError: no checkpoint, a negative damping, or early stopping without weights.
        """
        if self.checkpoints < 1:
            raise InputError(f"checkpoints is {self.checkpoints}: it takes at least 1")
        if not isinstance(self.damping, str) and not 0 <= self.damping < float("inf"):
            raise InputError(f"damping is {self.damping}: it is a number of at least 0")
        if self.damping == "early-stopping" and self.weighting == "none":
            raise InputError("damping=early-stopping is a ridge on the Gauss–Newton matrix: add weighting=gauss-newton")

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
            levels = DAMPINGS if self.weighting == "none" else (*DAMPINGS, "early-stopping")
        totals: dict[Damping, Tensor] = {}
        slopes, ranks = torch.zeros(n, device=task.device), list[int]()
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
            if kernel.rank is not None:
                ranks.append(kernel.rank)
            if len(levels) > 1 and (self.tune_at_first or number == self.checkpoints - 1):
                means = ((level, self._mean(totals[level], slopes, number + 1)) for level in levels)
                levels = (task.choose(means, "damping")[0],)
        if ranks:
            task.note(f"a singular kernel, solved by its pseudo-inverse of rank {min(ranks)}: raise the damping")
        return self._mean(totals[levels[0]], slopes, self.checkpoints)

    def _mean(self, total: Tensor, slopes: Tensor, count: int) -> NDArray[np.float32]:
        mean = total / count
        if self.ensemble == "trak":
            mean *= slopes[:, None] / count
        return mean.cpu().numpy()


def _margins(flat: Flat, vector: Tensor, examples: Examples) -> Tensor:
    with torch.no_grad():
        chunks = zip(examples.x.split(_CHUNK), examples.y.split(_CHUNK), strict=True)
        return torch.cat([margins(flat(vector, x), y, examples.output) for x, y in chunks])
