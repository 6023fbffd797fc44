"""Cosine similarity of the pixels, negative where the labels differ."""

import numpy as np
from numpy.typing import NDArray

from bench import Method, Task


class Similarity(Method):
    def __init__(self, power: float = 4.0) -> None:
        self.power = power

    def attribute(self, task: Task) -> NDArray[np.float32]:
        train, test = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (task.data.train_x, task.data.test_x))
        same = task.data.train_y[:, None] == task.data.test_y[None, :]
        scores: NDArray[np.float32] = np.where(same, 1, -1) * (train @ test.T) ** np.float32(self.power)
        return scores
