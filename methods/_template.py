"""One line that `bench list` shows: similarity of examples to a power, negative where the labels differ.

Authors (year), "Title". Copy this file, then: python -m bench check-method path/to/mine.py
"""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from bench import Method, Needs, Task


class Mine(Method):
    citation = 'Authors (year), "Title"'
    growth = "n_train × n_targets × features"
    variants = ({}, {"power": "tune"})  # the rows of a run of every method; default = False keeps it out of quick runs

    def __init__(self, power: float | Literal["tune"] = 4.0) -> None:  # set as mine.py:power=2
        self.power = power

    @property
    def needs(self) -> Needs:
        return Needs(tune_rows=2 if self.power == "tune" else 0)

    def attribute(self, task: Task) -> NDArray[np.float32]:
        """[n_train, n_targets]; positive where keeping the example raises the target's margin."""
        train, test = (x.reshape(len(x), -1) for x in (task.data.train_x, task.data.test_x))
        train, test = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (train, test))
        sign = np.where(task.data.train_y[:, None] == task.data.test_y[None, :], 1, -1)

        def scores(power: float) -> NDArray[np.float32]:
            return np.asarray(sign * np.abs(train @ test.T) ** power, np.float32)

        if self.power == "tune":
            return task.choose(((power, scores(power)) for power in (1.0, 2.0, 4.0, 8.0)), "power")[1]
        return scores(self.power)
