"""SOURCE: unrolled differentiation with stationary curvature in each segment of training, mean over checkpoints.

Bae, Lin, Lorraine and Grosse (2024), "Training Data Attribution via Approximate Unrolled Differentiation"; see
`bench.source`. The training run of each checkpoint is cut into `segments`, and in each gradients and curvature are
averaged over `states` states. The curvature is EK-FAC's (`ekfac`, the paper's) or, for models of up to 5,000
parameters, the whole Gauss–Newton matrix (`explicit`: minutes). There is no damping to choose. `trained_on` is what the
checkpoints have seen: `all` examples, or each a random one of `subsets` of the size of those that judge.

On digits/mlp (`bench run digits/mlp --method source`) the LDS is .667, and .651 with one segment; `ekfac-direct` has
.626. EK-FAC limits it: at one checkpoint it has .659, and .700 with the explicit curvature, where
`influence` has .670 and the exact derivative of `magic` .683.
"""

import numpy as np
from numpy.typing import NDArray

from bench import source
from bench.errors import InputError
from bench.methods import Method, Needs
from bench.parameters import at_least
from bench.source import Kind
from bench.task import Task, TrainedOn
from bench.trajectory import Trajectory


class Source(Method):
    default = False
    citation = (
        'Bae, Lin, Lorraine and Grosse (2024), "Training Data Attribution via Approximate Unrolled Differentiation"'
    )
    growth = (
        "checkpoints × segments × (layer widths³ + states × n_train × (classes + n_targets) × parameters); "
        "explicit: parameters³ in place of layer widths³"
    )

    def __init__(
        self,
        checkpoints: int = 3,
        segments: int = 3,
        states: int = 2,
        curvature: Kind = "ekfac",
        trained_on: TrainedOn = "all",
    ) -> None:
        at_least(1, checkpoints=checkpoints)
        source.check(segments, states)
        self.checkpoints, self.segments, self.states = checkpoints, segments, states
        self.curvature, self.trained_on = curvature, trained_on

    @property
    def needs(self) -> Needs:
        most = 5_000 if self.curvature == "explicit" else None
        return Needs(checkpoints=self.checkpoints, trained_on=self.trained_on, plain_sgd=True, max_parameters=most)

    def attribute(self, task: Task) -> NDArray[np.float32]:
        flat, recipe, train, test = task.flat(), task.setting.recipe, task.inputs("train"), task.inputs("test")
        total = np.zeros((task.data.n_train, task.data.n_targets), np.float32)
        for number in range(self.checkpoints):
            run = self._run(task, number)
            segments = source.divided(flat, run, train, recipe, self.segments, self.curvature)
            made = source.scores(flat, segments, run.states[-1], train, test, recipe, task.output)
            total += made.cpu().numpy() / self.checkpoints
        return total

    def _run(self, task: Task, number: int) -> Trajectory:
        used = self.segments * self.states
        try:
            return task.trajectory(number, 2 * used, self.trained_on)
        except InputError as error:
            raise InputError(f"segments × states is {used}, and SOURCE takes twice as many states: {error}") from error
