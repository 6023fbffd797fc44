"""Datamodels: each target's margin regressed on the subset mask by LASSO, λ chosen per target on held-out fit rows.

Ilyas, Park, Engstrom, Leclerc and Madry (2022), "Datamodels: predicting predictions from training data". Kept beside
the weights: intercepts, penalties, and every target's certificate.
"""

import numpy as np
from numpy.typing import NDArray

from bench.lasso import fit_datamodels
from bench.methods import Method, Needs
from bench.task import Task


class Datamodels(Method):
    needs = Needs(fit_rows=20)

    def __init__(self, n_lambdas: int = 30, min_ratio: float = 0.01, validation: float = 0.2, tol: float = 1e-4):
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
        task.keep(
            bias=fitted.bias,
            lam=fitted.lam,
            lam_max=fitted.lam_max,
            gap=fitted.gap,
            kkt=fitted.kkt,
            converged=fitted.converged,
            loss=fitted.loss,
            nonzero=np.count_nonzero(fitted.weight, axis=0),
        )
        short = int((~fitted.converged).sum())
        if short:
            task.note(f"{short} of {len(fitted.gap)} targets did not reach a relative duality gap of {self.tol:g}")
        constant = int((fitted.lam_max == 0).sum())
        if constant:
            task.note(f"{constant} of {len(fitted.gap)} targets are constant over the fit rows: zero datamodels")
        kept = task.fit.masks.mean(0)
        unused = int(((kept == 0) | (kept == 1)).sum())
        if unused:
            task.note(f"{unused} of {len(kept)} examples are in all fit subsets or in none: their weights are 0")
        return fitted.weight
