"""Datamodels: each target's margin regressed on the subset mask by LASSO, λ chosen per target on held-out fit rows.

Ilyas, Park, Engstrom, Leclerc and Madry (2022), "Datamodels: predicting predictions from training data".
"""

import numpy as np
from numpy.typing import NDArray

from bench.lasso import fit_datamodels
from bench.methods import Method, Needs
from bench.task import Task


class Datamodels(Method):
    needs = Needs(fit_rows=20)

    def __init__(self, n_lambdas: int = 100, min_ratio: float = 0.01, validation: float = 0.2, tol: float = 1e-4):
        self.n_lambdas, self.min_ratio, self.validation, self.tol = n_lambdas, min_ratio, validation, tol

    def attribute(self, task: Task) -> NDArray[np.float32]:
        fitted = fit_datamodels(
            task.fit.masks,
            task.fit.margins,
            n_lambdas=self.n_lambdas,
            min_ratio=self.min_ratio,
            validation=self.validation,
            tol=self.tol,
            seed=task.seed,
        )
        if not fitted.converged.all():
            short = int((~fitted.converged).sum())
            task.note(
                f"{short} of {len(fitted.converged)} targets did not reach a relative duality gap of {self.tol:g}"
            )
        return fitted.weight
