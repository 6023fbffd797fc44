"""Control: independent normal scores; its LDS shows what chance looks like."""

import numpy as np
from numpy.typing import NDArray

from bench.methods import Method
from bench.task import Task


class Random(Method):
    growth = "n_train × n_targets"

    def attribute(self, task: Task) -> NDArray[np.float32]:
        return task.rng.standard_normal((task.data.n_train, task.data.n_targets), dtype=np.float32)
