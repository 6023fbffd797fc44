"""EK-FAC influence through its authors' package kronfluence, mean over checkpoints.

George et al. (2018), "Fast approximate natural gradient descent in a Kronecker-factored eigenbasis"; Grosse et al.
(2023), "Studying large language model generalization with influence functions". `damping` is relative to the mean
eigenvalue; `library` is the package's default, 1e-8 absolute; `tune` the best of it and of five more on the tune rows,
at the first checkpoint. `ekfac-direct` is the same estimator written out.
"""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from bench.methods import Method, Needs
from bench.parameters import at_least
from bench.task import Task


class EKFAC(Method):
    units = {"damping": "the mean eigenvalue over all layers"}
    variants = ({}, {"damping": "tune"})
    default = False
    citation = (
        'George et al. (2018), "Fast approximate natural gradient descent in a Kronecker-factored eigenbasis"; '
        'Grosse et al. (2023), "Studying large language model generalization with influence functions"'
    )
    growth = "checkpoints × (layer widths³ + n_train × n_targets × parameters)"

    def __init__(self, checkpoints: int = 3, damping: float | Literal["library", "tune"] = "library") -> None:
        at_least(1, checkpoints=checkpoints)
        at_least(0, damping=damping)
        self.checkpoints, self.damping = checkpoints, damping

    @property
    def needs(self) -> Needs:
        return Needs(
            tune_rows=2 if self.damping == "tune" else 0,
            checkpoints=self.checkpoints,
            packages=("kronfluence>=1.0",),
            extra="kronfluence",
        )

    def attribute(self, task: Task) -> NDArray[np.float32]:
        from bench import through_kronfluence

        return through_kronfluence.attribute(task, "ekfac", self.checkpoints, self.damping)
