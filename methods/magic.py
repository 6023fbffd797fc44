"""MAGIC: the derivative of the final margins with respect to each example's weight, through the training run.

Ilyas and Engstrom (2025), "MAGIC: Near-optimal data attribution for deep learning"; see `bench.metagradient`. By the
protocol `single-model` the subset models are the run that is differentiated, with examples left out: one checkpoint,
number 0, is the run itself. By `expectation` they have other seeds, and the mean over several checkpoints stands for
theirs. `checkpoints=auto` is 1 and 3. The derivative is exact with `kinks=0`; other widths round the ReLUs off, and
`tune` takes the best of KINKS by LDS on the tune rows, at the first checkpoint.
"""

from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from bench.metagradient import Replay, margins_by_weights
from bench.methods import Method, Needs
from bench.parameters import at_least
from bench.task import Task

KINKS = (0.0, 0.02, 0.05, 0.1, 0.2)
FLOATS = {"float32": torch.float32, "float64": torch.float64}
FAR = 0.01  # a replay's end from the checkpoint


class Magic(Method):
    variants = ({}, {"kinks": "tune"})
    default = False
    units = {"kinks": "the root mean square of what enters a ReLU"}
    citation = 'Ilyas and Engstrom (2025), "MAGIC: Near-optimal data attribution for deep learning"'
    growth = "checkpoints × steps × batch × parameters × n_targets"

    def __init__(
        self,
        checkpoints: int | Literal["auto"] = "auto",
        kinks: float | Literal["tune"] = 0.0,
        dtype: Literal["float32", "float64"] = "float32",
    ) -> None:
        at_least(1, checkpoints=checkpoints)
        at_least(0, kinks=kinks)
        self.checkpoints, self.kinks, self.dtype = checkpoints, kinks, FLOATS[dtype]

    @property
    def needs(self) -> Needs:
        models, alone = (3, 1) if self.checkpoints == "auto" else (self.checkpoints, None)
        return Needs(
            plain_sgd=True,
            max_parameters=1_000_000,
            tune_rows=2 if self.kinks == "tune" else 0,
            checkpoints=models,
            single_model=alone,
        )

    def attribute(self, task: Task) -> NDArray[np.float32]:
        count, kinks = self.needs.checkpoints, self.kinks
        if task.protocol == "single-model":
            count = self.needs.single_model or count
        total = np.zeros((task.data.n_train, task.data.n_targets), np.float32)
        for number, trained in enumerate(task.checkpoint_vectors(count)):
            if kinks == "tune":
                kinks, scores = task.choose(((k, self._scores(task, number, trained, k)) for k in KINKS), "kinks")
            else:
                scores = self._scores(task, number, trained, kinks)
            total += scores / count
        return total

    def _scores(self, task: Task, number: int, trained: torch.Tensor, kinks: float) -> NDArray[np.float32]:
        run, recipe = task.training_run(number), task.setting.recipe
        replay = Replay(task.flat(), recipe, run, task.inputs("train"), self.dtype, kinks=kinks)
        apart = float((replay.end - trained).norm() / trained.norm())
        if apart > FAR:
            task.note(f"checkpoint {number} replayed ends {apart:.1%} from it: rounding grows in this training")
        found = margins_by_weights(replay, task.inputs("test"), task.output)
        return found.to(torch.float32).cpu().numpy()
