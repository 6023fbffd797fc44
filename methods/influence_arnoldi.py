"""Influence function in the top eigenvectors of the curvature, found by Arnoldi's iteration; mean over checkpoints.

Schioppa, Zablotskaia, Vilar and Sokolov (2022), "Scaling up influence functions": gradients are projected on the
`rank` eigenvectors of largest eigenvalue in the Krylov space of `iterations` products, and divided by eigenvalues.
`rest=drop` leaves all other directions out, as the paper does; `rest=damped` takes their curvature for 0, so that
damping and weight decay are what they are divided by. `damping` is a ridge in units of the Gauss–Newton matrix's mean
diagonal, or `early-stopping` (`Recipe.early_stopping_ridge`), or `tune`: the best of 0 and
`bench.influence.DAMPINGS` by LDS on the tune rows, of the mean over all checkpoints.
"""

from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from bench import gradients, influence, lanczos
from bench.curvature import Curvature, Kind
from bench.errors import InputError
from bench.methods import Method, Needs
from bench.parameters import at_least
from bench.task import Task

FLAT = 1e-6  # eigenvalues below this share of the largest are rounding errors


class InfluenceArnoldi(Method):
    units = {"damping": "the mean diagonal of the Gauss–Newton matrix"}
    variants = ({}, {"damping": "tune"}, {"damping": "tune", "rest": "damped"})
    default = False
    citation = 'Schioppa, Zablotskaia, Vilar and Sokolov (2022), "Scaling up influence functions"'
    growth = "checkpoints × (iterations + rank) × n_train × parameters; memory iterations × parameters"

    def __init__(
        self,
        checkpoints: int = 3,
        rank: int = 100,
        iterations: int = 200,
        damping: influence.Damping | Literal["tune"] = 0.0,
        rest: Literal["drop", "damped"] = "drop",
        curvature: Kind = "gauss-newton",
    ) -> None:
        at_least(1, checkpoints=checkpoints, rank=rank, iterations=iterations)
        at_least(0, damping=damping)
        self.checkpoints, self.rank, self.iterations = checkpoints, rank, iterations
        self.damping, self.rest, self.curvature = damping, rest, curvature

    @property
    def needs(self) -> Needs:
        return Needs(tune_rows=2 if self.damping == "tune" else 0, checkpoints=self.checkpoints)

    def _dampings(self, weight_decay: float) -> tuple[influence.Damping, ...]:
        if self.damping != "tune":
            return (self.damping,)
        undamped = self.rest == "drop" or weight_decay > 0  # else it would be a division by 0
        return (0.0, *influence.DAMPINGS) if undamped else influence.DAMPINGS

    def attribute(self, task: Task) -> NDArray[np.float32]:
        recipe, train, test = task.setting.recipe, task.inputs("train"), task.inputs("test")
        n, dampings = task.data.n_train, self._dampings(recipe.weight_decay)
        total = np.zeros((len(dampings), n, task.data.n_targets), np.float32)
        for vector in task.checkpoint_vectors(self.checkpoints):
            flat = task.flat()
            matrix = Curvature(flat, vector, *train, self.curvature, recipe.label_smoothing)
            start = torch.from_numpy(task.rng.standard_normal(flat.n_parameters)).to(vector)
            top = lanczos.pairs(matrix.product, start, self.iterations, self.rank, task.seed)
            within = influence.effects(flat, vector, train, top.vectors, recipe.label_smoothing)
            unit = matrix.mean_diagonal(task.seed)
            for part, m in gradients.chunks(flat, vector, *test, "margin", task.output, max_bytes=2**30):
                projected = m @ top.vectors.T
                for one, damping in zip(total, dampings, strict=True):
                    ridge = recipe.weight_decay + influence.ridge(damping, unit, task)
                    inverse = 1 / (top.values + ridge)
                    inverse[(top.values + ridge).abs() <= FLAT * top.values[0].abs()] = 0
                    made = within @ (projected * inverse).T
                    if self.rest == "damped":
                        if ridge == 0:
                            raise InputError(
                                "rest=damped divides by damping plus weight decay, and both are 0: give a damping"
                            )
                        outside = m - projected @ top.vectors
                        made += influence.effects(flat, vector, train, outside, recipe.label_smoothing) / ridge
                    one[:, part] += made.cpu().numpy() / self.checkpoints
        best: NDArray[np.float32] = total[0]
        if self.damping == "tune":
            _, best = task.choose(zip(dampings, total, strict=True), "damping")
        return best
