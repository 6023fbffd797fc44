"""Representation similarity: cosine or dot product of what enters the last layer, mean over checkpoints.

Feature similarity as a baseline: Pezeshkpour, Jain, Wallace and Singh (2021), "An empirical comparison of instance
attribution methods for NLP". With `labels`, examples of another class than the target's count negative: they pull its
margin down.
"""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from bench.features import penultimate
from bench.methods import Method, Needs
from bench.parameters import at_least
from bench.task import Task


class Similarity(Method):
    variants = ({}, {"labels": True})
    default = False
    citation = 'Pezeshkpour, Jain, Wallace and Singh (2021), "An empirical comparison of instance attribution methods"'
    growth = "checkpoints × n_train × n_targets × features"

    def __init__(self, checkpoints: int = 5, metric: Literal["cosine", "dot"] = "cosine", labels: bool = False) -> None:
        at_least(1, checkpoints=checkpoints)
        self.checkpoints, self.metric, self.labels = checkpoints, metric, labels

    @property
    def needs(self) -> Needs:
        return Needs(checkpoints=self.checkpoints)

    def attribute(self, task: Task) -> NDArray[np.float32]:
        (x, _), (targets, _) = task.inputs("train"), task.inputs("test")
        scores = np.zeros((task.data.n_train, task.data.n_targets), np.float32)
        for model in task.checkpoints(self.checkpoints):
            ours, theirs = penultimate(model, x), penultimate(model, targets)
            if self.metric == "cosine":
                ours, theirs = (f / f.norm(dim=1, keepdim=True).clamp_min(1e-12) for f in (ours, theirs))
            scores += (ours @ theirs.T).cpu().numpy() / self.checkpoints
        if self.labels:
            scores[task.data.train_y[:, None] != task.data.test_y[None, :]] *= -1
        return scores
