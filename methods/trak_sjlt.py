"""TRAK with a sparse sign projection that is made together with the gradients: the estimator of `trak`, and faster.

Park, Georgiev, Ilyas, Leclerc and Madry (2023), "TRAK: attributing model behavior at scale". Each entry of a gradient
goes to `nonzeros` of `proj_dim` sums with random signs (`bench.projection`). `damping`, `weighting`, `ensemble` and
`trained_on` are explained at `bench.gradient_kernels.Estimator`.
"""

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from bench.gradient_kernels import DAMPINGS, Damping, Ensemble, Estimator, Kernel, Weighting, of_features
from bench.gradients import Examples
from bench.methods import Method, Needs
from bench.models import Flat
from bench.projection import Projection, check, features
from bench.task import Task, TrainedOn


class TrakSjlt(Method):
    units = {"damping": "the mean diagonal of the kernel of gradients, ΦᵀWΦ"}
    variants = (
        {},
        {"damping": "tune"},
        {"damping": "tune", "trained_on": "subsets", "weighting": "gauss-newton"},
    )
    citation = 'Park, Georgiev, Ilyas, Leclerc and Madry (2023), "TRAK: attributing model behavior at scale"'
    growth = "checkpoints × n_train × (nonzeros × parameters + proj_dim × (proj_dim + n_targets))"

    def __init__(
        self,
        checkpoints: int = 5,
        proj_dim: int = 512,
        damping: Damping = 0.0,
        nonzeros: int = 1,
        weighting: Weighting = "none",
        ensemble: Ensemble = "trak",
        trained_on: TrainedOn = "all",
    ) -> None:
        check(proj_dim, nonzeros)
        self.proj_dim, self.nonzeros = proj_dim, nonzeros
        self.estimator = Estimator(checkpoints, damping, weighting, ensemble, trained_on, (0.0, *DAMPINGS))

    @property
    def needs(self) -> Needs:
        return self.estimator.needs

    def attribute(self, task: Task) -> NDArray[np.float32]:
        def kernel(
            number: int, flat: Flat, vector: Tensor, train: Examples, test: Examples, weights: Tensor | None
        ) -> Kernel:
            seed = np.random.SeedSequence([task.seed, number])
            projection = Projection.draw(flat.n_parameters, self.proj_dim, self.nonzeros, seed)
            ours, theirs = (features(flat, vector, examples, projection) for examples in (train, test))
            return of_features(ours, theirs, weights)

        return self.estimator.scores(task, kernel)
