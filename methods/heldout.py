"""Empirical influence: a target's mean margin over fit subsets that hold an example, minus the mean over the others.

Feldman and Zhang (2020), "What neural networks memorize and why", eq. 2 with subsets of a fixed size; an example that
all fit subsets keep, or none, scores 0.
"""

import numpy as np
from numpy.typing import NDArray

from bench.means import difference_in_means
from bench.methods import Method, Needs
from bench.task import Task


class Heldout(Method):
    needs = Needs(fit_rows=2)
    citation = 'Feldman and Zhang (2020), "What neural networks memorize and why"'
    growth = "fit rows × n_train × n_targets; training the rows"

    def attribute(self, task: Task) -> NDArray[np.float32]:
        rows = task.fit_as_stored
        return difference_in_means(rows.masks, rows.margins)
