"""GradDot: minus the dot product of a training loss gradient with a target's margin gradient, mean over checkpoints.

Charpiat et al. (2019), "Input similarity from the neural network perspective".
"""

import numpy as np
from numpy.typing import NDArray

from bench.gradients import Examples, products
from bench.methods import Method, Needs
from bench.parameters import at_least
from bench.task import Task


class GradDot(Method):
    citation = 'Charpiat et al. (2019), "Input similarity from the neural network perspective"'
    growth = "checkpoints × n_train × n_targets × parameters"

    def __init__(self, checkpoints: int = 5) -> None:
        at_least(1, checkpoints=checkpoints)
        self.checkpoints = checkpoints

    @property
    def needs(self) -> Needs:
        return Needs(checkpoints=self.checkpoints)

    def attribute(self, task: Task) -> NDArray[np.float32]:
        train = Examples(*task.inputs("train"), "loss", smoothing=task.setting.recipe.label_smoothing)
        test = Examples(*task.inputs("test"), "margin", task.output)
        scores = np.zeros((task.data.n_train, task.data.n_targets), np.float32)
        for vector in task.checkpoint_vectors(self.checkpoints):
            scores -= products(task.flat(), vector, train, test).cpu().numpy() / self.checkpoints
        return scores
