"""Representer points of the last layer, refitted to convergence with an L2 penalty; mean over checkpoints.

Yeh, Kim, Yen and Ravikumar (2018), "Representer point selection for explaining deep neural networks". The theorem needs
a last layer at a stationary point with an L2 penalty, and recipes stop before: it is refitted to each checkpoint's
features, with the penalty l2/2 ‖W‖² (the paper's λ is half of l2), and scores are what examples add to the refitted
margin. `l2=recipe` is the recipe's weight decay plus the ridge that its number of steps amounts to
(`Recipe.early_stopping_ridge`); `tune` takes the best of it and PENALTIES by LDS on the tune rows, of the mean over
all checkpoints.
"""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from bench import influence
from bench.methods import Method, Needs
from bench.parameters import above, at_least
from bench.representer import Representers, features
from bench.task import Task

PENALTIES = (1e-3, 1e-2, 1e-1, 1.0)


class Representer(Method):
    variants = ({}, {"l2": "tune"})
    default = False
    citation = 'Yeh, Kim, Yen and Ravikumar (2018), "Representer point selection for explaining deep neural networks"'
    growth = "checkpoints × (n_train × features of the last layer × Newton steps + n_train × n_targets × features)"

    def __init__(self, checkpoints: int = 5, l2: float | Literal["recipe", "tune"] = "recipe") -> None:
        at_least(1, checkpoints=checkpoints)
        above(0, l2=l2)
        self.checkpoints, self.l2 = checkpoints, l2

    @property
    def needs(self) -> Needs:
        return Needs(tune_rows=2 if self.l2 == "tune" else 0, checkpoints=self.checkpoints)

    def attribute(self, task: Task) -> NDArray[np.float32]:
        recipe, (x, y), (test_x, test_y) = task.setting.recipe, task.inputs("train"), task.inputs("test")
        stopped = recipe.weight_decay + influence.ridge("early-stopping", 1.0, task)
        names = ("recipe", *PENALTIES) if self.l2 == "tune" else (self.l2,)
        penalties = [stopped if name == "recipe" else float(name) for name in names]
        total = np.zeros((len(penalties), len(y), len(test_y)), np.float32)
        for module in task.checkpoints(self.checkpoints):
            train, test = features(module, x), features(module, test_x)
            for into, l2 in zip(total, penalties, strict=True):
                fitted = Representers.fit(train, y, task.data.n_classes, l2, recipe.label_smoothing)
                into += fitted.scores(test, test_y, task.output).cpu().numpy().astype(np.float32) / self.checkpoints
        best: NDArray[np.float32] = total[0]
        if self.l2 == "tune":
            _, best = task.choose(zip(names, total, strict=True), "l2")
        return best
