"""EK-FAC influence written out: corrected eigenvalues from the model's expected labels, mean over checkpoints.

George et al. (2018), "Fast approximate natural gradient descent in a Kronecker-factored eigenbasis"; Grosse et al.
(2023), "Studying large language model generalization with influence functions". `damping` is relative to the mean
eigenvalue of each layer, and comes on top of the recipe's weight decay; `tune` takes the best of DAMPINGS by LDS on the
tune rows, at the mean over all checkpoints. `fisher` takes the expectation over all classes (`exact`, a backward pass
each) or one drawn label per example (`sampled`, as the package of `ekfac` does). `trained_on` is what the checkpoints
have seen: `all` examples, or each a random one of `subsets` of the size of those that judge.
"""

from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from bench.kfac import EKFAC
from bench.methods import Method, Needs
from bench.parameters import at_least
from bench.task import Task, TrainedOn

DAMPINGS = (0.0, 0.01, 0.1, 1.0, 10.0)  # 0 is weight decay alone


class DirectEKFAC(Method):
    units = {"damping": "the mean eigenvalue of each layer"}
    variants = ({}, {"damping": "tune"}, {"damping": "tune", "trained_on": "subsets"})
    citation = (
        'George et al. (2018), "Fast approximate natural gradient descent in a Kronecker-factored eigenbasis"; '
        'Grosse et al. (2023), "Studying large language model generalization with influence functions"'
    )
    growth = "checkpoints × (layer widths³ + n_train × (classes + n_targets) × parameters)"

    def __init__(
        self,
        checkpoints: int = 3,
        damping: float | Literal["tune"] = 0.1,
        fisher: Literal["exact", "sampled"] = "exact",
        trained_on: TrainedOn = "all",
    ) -> None:
        at_least(1, checkpoints=checkpoints)
        at_least(0, damping=damping)
        self.checkpoints, self.damping, self.fisher, self.trained_on = checkpoints, damping, fisher, trained_on

    @property
    def needs(self) -> Needs:
        tuned = 2 if self.damping == "tune" else 0
        return Needs(tune_rows=tuned, checkpoints=self.checkpoints, trained_on=self.trained_on)

    def attribute(self, task: Task) -> NDArray[np.float32]:
        recipe = task.setting.recipe
        levels = DAMPINGS if self.damping == "tune" else (self.damping,)
        generator = torch.Generator(task.device).manual_seed(task.seed)
        total = [np.zeros((task.data.n_train, task.data.n_targets), np.float32) for _ in levels]
        for vector in task.checkpoint_vectors(self.checkpoints, self.trained_on):
            one = EKFAC(
                task.flat(),
                vector,
                task.inputs("train"),
                smoothing=recipe.label_smoothing,
                fisher=self.fisher,
                generator=generator,
            )
            added = [one.damping(level) + recipe.weight_decay for level in levels]
            for sums, scores in zip(total, one.scores(task.inputs("test"), task.output, added), strict=True):
                sums += scores.cpu().numpy() / self.checkpoints
        if (left_out := task.flat().n_parameters - sum(one.sizes)) > 0:
            task.note(f"{left_out:,} parameters of other than linear and convolutional layers are left out")
        if self.damping != "tune":
            return total[0]
        return task.choose(zip(levels, total, strict=True))[1]
