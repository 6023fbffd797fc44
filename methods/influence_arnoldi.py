"""Influence function in the top eigenvectors of the curvature, found by Arnoldi's iteration; mean over checkpoints.

Schioppa, Zablotskaia, Vilar and Sokolov (2022), "Scaling up influence functions": gradients are projected on the
`rank` eigenvectors of largest eigenvalue in the Krylov space of `iterations` products, and divided by eigenvalues.
`rest=drop` leaves all other directions out, as the paper does; `rest=damped` takes their curvature for 0, so that
damping and weight decay are what they are divided by. `damping` is a ridge in units of the Gauss–Newton matrix's mean
diagonal, or `early-stopping` (`Recipe.early_stopping_ridge`), or `tune`: the best of 0 and
`bench.influence.DAMPINGS` by LDS on the tune rows, of the mean over all checkpoints.
"""

from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from bench import gradients, halving, influence, lanczos
from bench.curvature import Curvature, Kind
from bench.errors import InputError
from bench.methods import Method, Needs
from bench.parameters import at_least
from bench.task import Task

STATE_BYTES = 2**30  # of the gradients of the targets that are projected at a time
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
        dampings = self._dampings(task.setting.recipe.weight_decay)
        total = np.zeros((len(dampings), task.data.n_train, task.data.n_targets), np.float32)
        for vector in task.checkpoint_vectors(self.checkpoints):
            for part, found in self._projected(task, vector, dampings):
                for one, scores in zip(total, found, strict=True):
                    one[:, part] += scores / self.checkpoints
        best: NDArray[np.float32] = total[0]
        if self.damping == "tune":
            _, best = task.choose(zip(dampings, total, strict=True), "damping")
        return best

    def _projected(
        self, task: Task, vector: torch.Tensor, dampings: Sequence[influence.Damping]
    ) -> Iterator[tuple[slice, list[NDArray[np.float32]]]]:
        """Some targets at a time, at one checkpoint: scores for each damping."""
        recipe, flat, train, (x, y) = task.setting.recipe, task.flat(), task.inputs("train"), task.inputs("test")
        matrix = Curvature(flat, vector, *train, self.curvature, recipe.label_smoothing)
        start = torch.from_numpy(task.rng.standard_normal(flat.n_parameters)).to(vector)
        top = lanczos.pairs(matrix.product, start, self.iterations, self.rank, task.seed)
        within = influence.effects(flat, vector, train, top.vectors, recipe.label_smoothing)
        unit = matrix.mean_diagonal(task.seed)
        ridges = [recipe.weight_decay + influence.ridge(damping, unit, task) for damping in dampings]
        if self.rest == "damped" and 0 in ridges:
            raise InputError("rest=damped divides by damping plus weight decay, and both are 0: give a damping")

        def scores(part: slice) -> list[NDArray[np.float32]]:
            m, found = gradients.stacked(flat, vector, x[part], y[part], "margin", task.output), []
            projected = m @ top.vectors.T
            for ridge in ridges:
                inverse = 1 / (top.values + ridge)
                inverse[(top.values + ridge).abs() <= FLAT * top.values[0].abs()] = 0
                made = within @ (projected * inverse).T
                if self.rest == "damped":
                    outside = m - projected @ top.vectors
                    made += influence.effects(flat, vector, train, outside, recipe.label_smoothing) / ridge
                found.append(made.cpu().numpy())
            return found

        return halving.each(scores, len(y), max(1, STATE_BYTES // (4 * vector.nbytes)), "targets")
