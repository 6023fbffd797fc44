"""TRAK's kernel without a projection, solved over pairs of training examples, with Gauss–Newton weights.

Park, Georgiev, Ilyas, Leclerc and Madry (2023), "TRAK: attributing model behavior at scale", before they project and
leave the weights out. `damping`, `weighting`, `ensemble` and `trained_on` are explained at
`bench.gradient_kernels.Estimator`; the damping is chosen at the first checkpoint. The kernel takes memory for
n_train × n_train numbers, a few times. On digits/mlp (`bench run digits/mlp`) the LDS is .687, and .766 from models of
half subsets, with early stopping's ridge or with the tuned one, which is the same there.
"""

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from bench import memory
from bench.errors import UnmetError
from bench.gradient_kernels import Damping, Dual, Ensemble, Estimator, Kernel, Weighting
from bench.gradients import Examples, products
from bench.methods import Method, Needs
from bench.models import Flat
from bench.task import Task, TrainedOn

COPIES = 5  # of the kernel at once, at most: itself, its temporaries, and float64 to solve with


class GradientKernel(Method):
    units = {"damping": "the mean diagonal of the kernel of gradients, ΦᵀWΦ"}
    variants = (
        {},
        {"damping": "tune"},
        {"trained_on": "subsets"},
        {"damping": "tune", "trained_on": "subsets"},
    )
    citation = 'Park, Georgiev, Ilyas, Leclerc and Madry (2023), "TRAK: attributing model behavior at scale"'
    growth = "checkpoints × n_train² × (n_train + n_targets + parameters, or of linear layers their widths)"

    def __init__(
        self,
        checkpoints: int = 5,
        damping: Damping = "early-stopping",
        weighting: Weighting = "gauss-newton",
        ensemble: Ensemble = "trak",
        trained_on: TrainedOn = "all",
    ) -> None:
        self.estimator = Estimator(checkpoints, damping, weighting, ensemble, trained_on, tune_at_first=True)

    @property
    def needs(self) -> Needs:
        return self.estimator.needs

    def attribute(self, task: Task) -> NDArray[np.float32]:
        n = task.data.n_train
        need, have = COPIES * 4 * n * n / 1e9, memory.free(task.device) / 1e9
        if need > have:
            raise UnmetError(f"needs {need:.1f} GB for the kernel of {n:,} training examples, and {have:.1f} are free")

        def kernel(
            _: int, flat: Flat, vector: Tensor, train: Examples, test: Examples, weights: Tensor | None
        ) -> Kernel:
            of_train, of_test = (products(flat, vector, train, other) for other in (train, test))
            return Dual(of_train, of_test, flat.n_parameters, weights)

        return self.estimator.scores(task, kernel)
