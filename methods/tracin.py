"""TracIn: minus the dot products of loss and margin gradients along a training run, weighted by the learning rates.

Pruthi, Liu, Sundararajan and Kale (2020), "Estimating training data influence by tracing gradient descent", eq. 2:
Σ_t η_t ∇ℓ_k(θ_t)·∇m_j(θ_t), over `states` states spread evenly over the run, each weighted with the learning rates of
the steps since the one before; mean over the runs of `checkpoints` full-set models. `graddot` looks at the last alone.
"""

import numpy as np
from numpy.typing import NDArray

from bench.gradients import Examples, products
from bench.methods import Method, Needs
from bench.parameters import at_least
from bench.task import Task


class TracIn(Method):
    citation = (
        'Pruthi, Liu, Sundararajan and Kale (2020), "Estimating training data influence by tracing gradient descent"'
    )
    growth = "checkpoints × states × n_train × n_targets × parameters"

    def __init__(self, checkpoints: int = 1, states: int = 10) -> None:
        at_least(1, checkpoints=checkpoints, states=states)
        self.checkpoints, self.states = checkpoints, states

    @property
    def needs(self) -> Needs:
        return Needs(checkpoints=self.checkpoints, plain_sgd=True)

    def attribute(self, task: Task) -> NDArray[np.float32]:
        train = Examples(*task.inputs("train"), "loss", smoothing=task.setting.recipe.label_smoothing)
        test = Examples(*task.inputs("test"), "margin", task.output)
        scores = np.zeros((task.data.n_train, task.data.n_targets), np.float32)
        for number in range(self.checkpoints):
            run = task.trajectory(number, self.states)
            for state, rate in zip(run.states, run.rates, strict=True):
                made = products(task.flat(), state, train, test).cpu().numpy()
                scores -= rate / task.data.n_train / self.checkpoints * made
        return scores
