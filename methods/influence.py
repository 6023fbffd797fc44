"""Explicit influence function with a damped Gauss–Newton matrix, mean over checkpoints; exact for logistic regression.

Koh and Liang (2017), "Understanding black-box predictions via influence functions". `damping` is relative to the
matrix's mean diagonal; `tune` takes the best of DAMPINGS by LDS on the tune rows, judged at the first checkpoint.
"""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from bench.influence import Influence
from bench.methods import Method, Needs
from bench.task import Task

DAMPINGS = (0.01, 0.1, 1.0, 10.0, 100.0)


class ExplicitInfluence(Method):
    variants = ({}, {"damping": "tune"})

    def __init__(self, checkpoints: int = 3, damping: float | Literal["tune"] = 0.0) -> None:
        self.checkpoints, self.damping = checkpoints, damping

    @property
    def needs(self) -> Needs:
        return Needs(tune_rows=2 if self.damping == "tune" else 0, max_parameters=20_000)

    def attribute(self, task: Task) -> NDArray[np.float32]:
        damping = self.damping
        total = np.zeros((task.data.n_train, task.data.n_targets), np.float32)
        for vector in task.checkpoint_vectors(self.checkpoints):
            decay = task.setting.recipe.weight_decay
            one = Influence(task.flat(), vector, task.inputs("train"), task.inputs("test"), decay, task.output)
            if damping == "tune":
                damping, scores = task.choose((d, one.scores(d).cpu().numpy()) for d in DAMPINGS)
                task.note(f"damping {damping:g} was best on the tune rows")
            else:
                scores = one.scores(damping).cpu().numpy()
            total += scores / self.checkpoints
        return total
