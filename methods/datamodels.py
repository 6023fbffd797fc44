"""Datamodels: each target's margin regressed on the subset mask by LASSO, λ chosen per target on held-out fit rows.

Ilyas, Park, Engstrom, Leclerc and Madry (2022), "Datamodels: predicting predictions from training data". Kept beside
the weights: intercepts, penalties, and every target's certificate.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.held_out import check_split
from bench.lasso import check_options, fit_datamodels
from bench.methods import Method, Needs
from bench.task import Task


class Datamodels(Method):
    needs = Needs(fit_rows=20)
    citation = (
        'Ilyas, Park, Engstrom, Leclerc and Madry (2022), "Datamodels: predicting predictions from training data"'
    )
    growth = "fit rows × n_train × (n_train + n_targets), n_targets × penalties × n_train per pass; training the rows"

    def __init__(
        self,
        n_lambdas: int = 100,
        min_ratio: float = 0.01,
        validation: float = 0.2,
        folds: int = 0,
        debias: bool = False,
        tol: float = 1e-4,
    ):
        check_options(n_lambdas, min_ratio, 1, tol)
        check_split(validation, folds, 0)
        self.options: dict[str, Any] = {
            "n_lambdas": n_lambdas,
            "min_ratio": min_ratio,
            "validation": validation,
            "folds": folds,
            "debias": debias,
            "tol": tol,
        }

    def attribute(self, task: Task) -> NDArray[np.float32]:
        rows = task.fit_as_stored
        fitted = fit_datamodels(rows.masks, rows.margins, **self.options, seed=task.seed, device=task.device)
        names = ("bias", "lam", "lam_max", "gap", "kkt", "converged", "loss", "r2", "nonzero")
        task.keep(**{name: getattr(fitted, name) for name in names})
        if fitted.refit_kkt is not None:
            task.keep(refit_kkt=fitted.refit_kkt)
        for many, what in (
            (~fitted.converged, f"targets did not reach a relative duality gap of {fitted.tol:g}"),
            (fitted.constant, "targets are constant over the fit rows: zero datamodels"),
            (fitted.unused, "examples are in all fit subsets or in none: their weights are 0"),
        ):
            if many.any():
                task.note(f"{np.count_nonzero(many)} of {len(many)} {what}")
        return fitted.weight
