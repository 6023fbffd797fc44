"""Control: one score for all examples: predictions for subsets of one size are equal, and nothing correlates."""

import numpy as np
from numpy.typing import NDArray

from bench.methods import Method
from bench.task import Task


class Constant(Method):
    default = False  # in a table of a few methods it says nothing
    growth = "nothing"

    def attribute(self, task: Task) -> NDArray[np.float32]:
        return np.ones((task.data.n_train, task.data.n_targets), np.float32)
