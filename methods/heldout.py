"""Empirical influence: a target's mean margin over fit subsets that hold an example, minus the mean over the others.

Feldman and Zhang (2020), "What neural networks memorize and why", eq. 2 with subsets of a fixed size; an example that
all fit subsets keep, or none, scores 0.
"""

import numpy as np
from numpy.typing import NDArray

from bench.methods import Method, Needs
from bench.task import Task


class Heldout(Method):
    needs = Needs(fit_rows=2)

    def attribute(self, task: Task) -> NDArray[np.float32]:
        margins = task.fit.margins - task.fit.margins.mean(0)
        kept = task.fit.masks.T.astype(np.float32)  # [n_train, m]
        n_with = kept.sum(1, keepdims=True)
        n_without = kept.shape[1] - n_with
        sum_with = kept @ margins
        sum_without = margins.sum(0) - sum_with
        seen_both = (n_with > 0) & (n_without > 0)
        difference = sum_with / np.maximum(n_with, 1) - sum_without / np.maximum(n_without, 1)
        return np.where(seen_both, difference, 0).astype(np.float32)
