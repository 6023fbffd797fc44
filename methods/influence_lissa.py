"""Influence function by LiSSA, a stochastic Neumann series of curvature–vector products, mean over checkpoints.

Agarwal et al. (2017); Koh and Liang (2017), section 3; `bench.lissa` says what `scale`, `depth`, `batch` and `repeats`
do. `damping` is a ridge in units of the Gauss–Newton matrix's mean diagonal, or `early-stopping`
(`Recipe.early_stopping_ridge`), or `tune`: the best of DAMPINGS by LDS on the tune rows, at the first checkpoint.
"""

from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from bench import gradients, halving, influence, lanczos, lissa
from bench.curvature import Curvature, Kind
from bench.methods import Method, Needs
from bench.parameters import at_least
from bench.task import Task

DAMPINGS: tuple[influence.Damping, ...] = ("early-stopping", 1.0, 3.0, 10.0)  # more damping takes fewer terms
STATE_BYTES = 2**30  # of the vectors of the targets that are solved at a time
FAR = 0.3


class InfluenceLissa(Method):
    units = {"damping": "the mean diagonal of the Gauss–Newton matrix"}
    variants = ({}, {"damping": "tune"})
    default = False
    citation = (
        'Agarwal, Bullins and Hazan (2017), "Second-order stochastic optimization for machine learning in linear time"'
    )
    growth = "checkpoints × repeats × depth × batch × n_targets × parameters"

    def __init__(
        self,
        checkpoints: int = 3,
        damping: float | Literal["early-stopping", "tune"] = "early-stopping",
        scale: float | Literal["auto"] = "auto",
        depth: int | Literal["auto"] = "auto",
        batch: int = 64,
        repeats: int = 1,
        curvature: Kind = "gauss-newton",
    ) -> None:
        at_least(1, checkpoints=checkpoints)
        at_least(0, damping=damping)
        self.checkpoints, self.damping, self.curvature = checkpoints, damping, curvature
        self.series = lissa.Series(scale, depth, batch, repeats)

    @property
    def needs(self) -> Needs:
        return Needs(tune_rows=2 if self.damping == "tune" else 0, checkpoints=self.checkpoints)

    def attribute(self, task: Task) -> NDArray[np.float32]:
        damping = self.damping
        total = np.zeros((task.data.n_train, task.data.n_targets), np.float32)
        far = 0.0
        for vector in task.checkpoint_vectors(self.checkpoints):
            if damping == "tune":
                tried = {d: self._scores(task, vector, d) for d in DAMPINGS}
                best, scores = task.choose((d, made) for d, (made, _) in tried.items())
                damping, residual = best, tried[best][1]
            else:
                scores, residual = self._scores(task, vector, damping)
            total += scores / self.checkpoints
            far = max(far, residual)
        if far > FAR:
            task.note(
                f"the median target is left with a relative residual of {far:.2f}: more depth, larger batches or more "
                "repeats help"
            )
        return total

    def _scores(
        self, task: Task, vector: torch.Tensor, damping: influence.Damping
    ) -> tuple[NDArray[np.float32], float]:
        """Scores at one checkpoint, and the median target's residual."""
        flat, train, (x, y), recipe = task.flat(), task.inputs("train"), task.inputs("test"), task.setting.recipe
        matrix = Curvature(flat, vector, *train, self.curvature, recipe.label_smoothing)
        ridge = recipe.weight_decay + influence.ridge(damping, matrix.mean_diagonal(task.seed), task)
        start = torch.ones_like(matrix.vector)
        largest = float(lanczos.pairs(matrix.product, start, 20, 1).values[0])
        scores = np.empty((task.data.n_train, task.data.n_targets), np.float32)

        def solved(part: slice) -> torch.Tensor:
            b = gradients.stacked(flat, vector, x[part], y[part], "margin", task.output)
            found = lissa.solve(matrix.product, b, ridge, task.data.n_train, largest, self.series, task.seed)
            scores[:, part] = influence.effects(flat, vector, train, found.x, recipe.label_smoothing).cpu().numpy()
            return found.residual.cpu()

        step = max(1, STATE_BYTES // (4 * start.numel() * start.element_size()))
        residuals = [found for _, found in halving.each(solved, len(y), step, "targets")]
        return scores, float(torch.cat(residuals).median())
