"""Explicit influence function with a damped Gauss–Newton matrix, mean over checkpoints.

Koh and Liang (2017), "Understanding black-box predictions via influence functions". Exact for a converged logistic
regression with `damping=0` (which needs weight decay: without it the matrix is singular). `damping` is a ridge in
units of the matrix's mean diagonal, or `early-stopping`: the ridge that the recipe's number of steps amounts to
(`Recipe.early_stopping_ridge`), or `tune`: the best of `bench.influence.DAMPINGS` by LDS on the tune rows, at the first
checkpoint. `trained_on` is what the checkpoints have seen: `all` examples, or each a random one of `subsets` of the
size of those that judge; the curvature and the effects are of all examples either way. On digits/mlp
(`bench run digits/mlp`) the LDS is .706, and .780 from models of half subsets.
"""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from bench import influence
from bench.influence import Influence
from bench.methods import Method, Needs
from bench.parameters import at_least
from bench.task import Task, TrainedOn


class ExplicitInfluence(Method):
    units = {"damping": "the mean diagonal of the Gauss–Newton matrix"}
    variants = ({}, {"damping": "tune"}, {"trained_on": "subsets"})
    citation = 'Koh and Liang (2017), "Understanding black-box predictions via influence functions"'
    growth = "checkpoints × (parameters³ + (n_train + n_targets) × parameters²)"

    def __init__(
        self,
        checkpoints: int = 3,
        damping: float | Literal["early-stopping", "tune"] = "early-stopping",
        trained_on: TrainedOn = "all",
    ) -> None:
        at_least(1, checkpoints=checkpoints)
        at_least(0, damping=damping)
        self.checkpoints, self.damping, self.trained_on = checkpoints, damping, trained_on

    @property
    def needs(self) -> Needs:
        tuned = 2 if self.damping == "tune" else 0
        return Needs(tune_rows=tuned, max_parameters=20_000, checkpoints=self.checkpoints, trained_on=self.trained_on)

    def attribute(self, task: Task) -> NDArray[np.float32]:
        recipe, damping = task.setting.recipe, self.damping
        total = np.zeros((task.data.n_train, task.data.n_targets), np.float32)
        for vector in task.checkpoint_vectors(self.checkpoints, self.trained_on):
            train, test = task.inputs("train"), task.inputs("test")
            one = Influence(task.flat(), vector, train, test, recipe.weight_decay, task.output, recipe.label_smoothing)
            candidates = influence.DAMPINGS if damping == "tune" else (damping,)
            ridges = [influence.ridge(d, one.mean_diagonal, task) for d in candidates]
            made = ((d, one.scores(r).cpu().numpy()) for d, r in zip(candidates, ridges, strict=True))
            damping, scores = task.choose(made) if damping == "tune" else next(made)
            total += scores / self.checkpoints
        return total
