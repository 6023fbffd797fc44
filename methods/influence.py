"""Explicit influence function with a damped Gauss–Newton matrix, mean over checkpoints.

Koh and Liang (2017), "Understanding black-box predictions via influence functions". Exact for a converged logistic
regression with `damping=0` (which needs weight decay: without it the matrix is singular). `damping` is a ridge in
units of the matrix's mean diagonal, or `early-stopping`: the ridge that the recipe's number of steps amounts to
(`Recipe.early_stopping_ridge`), or `tune`: the best of DAMPINGS by LDS on the tune rows, at the first checkpoint.
"""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from bench.influence import Influence
from bench.methods import Method, Needs
from bench.subsets import subset_size
from bench.task import Task

DAMPINGS = (0.01, 0.1, 1.0, 10.0, 100.0)


class ExplicitInfluence(Method):
    variants = ({}, {"damping": "tune"})
    citation = 'Koh and Liang (2017), "Understanding black-box predictions via influence functions"'
    growth = "checkpoints × (parameters³ + (n_train + n_targets) × parameters²)"

    def __init__(
        self, checkpoints: int = 3, damping: float | Literal["early-stopping", "tune"] = "early-stopping"
    ) -> None:
        self.checkpoints, self.damping = checkpoints, damping

    @property
    def needs(self) -> Needs:
        tuned = 2 if self.damping == "tune" else 0
        return Needs(tune_rows=tuned, max_parameters=20_000, checkpoints=self.checkpoints)

    def attribute(self, task: Task) -> NDArray[np.float32]:
        recipe, damping = task.setting.recipe, self.damping
        total = np.zeros((task.data.n_train, task.data.n_targets), np.float32)
        for vector in task.checkpoint_vectors(self.checkpoints):
            train, test = task.inputs("train"), task.inputs("test")
            one = Influence(task.flat(), vector, train, test, recipe.weight_decay, task.output, recipe.label_smoothing)
            unit = one.mean_diagonal
            if damping == "tune":
                damping, scores = task.choose((d, one.scores(d * unit).cpu().numpy()) for d in DAMPINGS)
            elif damping == "early-stopping":
                ridge = recipe.early_stopping_ridge(subset_size(task.data.n_train, task.alpha))
                scores = one.scores(ridge).cpu().numpy()
            else:
                scores = one.scores(damping * unit).cpu().numpy()
            total += scores / self.checkpoints
        return total
