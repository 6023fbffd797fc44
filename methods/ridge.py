"""Ridge datamodels: each target's margin regressed on the subset mask, λ chosen per target on held-out fit rows.

What the LASSO's sparsity is worth is the difference from `datamodels`: Ilyas, Park, Engstrom, Leclerc and Madry (2022),
"Datamodels: predicting predictions from training data".
"""

import numpy as np
from numpy.typing import NDArray

from bench.held_out import check_split
from bench.methods import Method, Needs
from bench.parameters import at_least
from bench.ridge import fit_ridge
from bench.task import Task


class Ridge(Method):
    citation = (
        'Ilyas, Park, Engstrom, Leclerc and Madry (2022), "Datamodels: predicting predictions from training data"'
    )
    default = False
    growth = "min(fit rows, n_train)³ + fit rows × n_train × n_targets"
    needs = Needs(fit_rows=20)

    def __init__(self, n_lambdas: int = 50, validation: float = 0.2, folds: int = 0) -> None:
        at_least(1, n_lambdas=n_lambdas)
        check_split(validation, folds, 0)
        self.n_lambdas, self.validation, self.folds = n_lambdas, validation, folds

    def attribute(self, task: Task) -> NDArray[np.float32]:
        rows = task.fit_as_stored
        fitted = fit_ridge(
            rows.masks,
            rows.margins,
            n_lambdas=self.n_lambdas,
            validation=self.validation,
            folds=self.folds,
            seed=task.seed,
        )
        task.keep(bias=fitted.bias, lam=fitted.lam, loss=fitted.loss, r2=fitted.r2)
        for many, what in (
            (fitted.constant, "targets are constant over the fit rows: zero datamodels"),
            (fitted.unused, "examples are in all fit subsets or in none: their weights are 0"),
        ):
            if many.any():
                task.note(f"{np.count_nonzero(many)} of {len(many)} {what}")
        return fitted.weight
