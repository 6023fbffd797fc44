"""Influence function by conjugate gradient, from curvature–vector products alone, mean over checkpoints.

Koh and Liang (2017), section 3; the conjugate gradient is Martens's (2010), "Deep learning via Hessian-free
optimization". It solves the same equations as `influence`, without a matrix of parameters × parameters. `damping` is a
ridge in units of the Gauss–Newton matrix's mean diagonal, or `early-stopping` (`Recipe.early_stopping_ridge`), or
`tune`: the best of `bench.influence.DAMPINGS` by LDS on the tune rows, of the mean over all checkpoints; all of them
come out of one solve (`bench.conjugate_gradient`). The `deflate` largest eigenpairs, found first by twice as many
products with one vector, are taken out of it: on digits/mlp 9 iterations are left of 38. `hessian` is not positive
definite away from a minimum, and may need more damping.
"""

from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from bench import conjugate_gradient, gradients, halving, influence, lanczos
from bench.curvature import Curvature, Kind
from bench.methods import Method, Needs
from bench.parameters import above, at_least, at_most
from bench.task import Task
from bench.wording import counted

STATE_BYTES = 2**30  # of the vectors of the targets that are solved at a time


class InfluenceCg(Method):
    units = {"damping": "the mean diagonal of the Gauss–Newton matrix"}
    variants = ({}, {"damping": "tune"})
    default = False
    citation = 'Koh and Liang (2017), "Understanding black-box predictions via influence functions"'
    growth = "checkpoints × (2 × deflate + iterations × n_targets) × n_train × parameters"

    def __init__(
        self,
        checkpoints: int = 3,
        damping: influence.Damping | Literal["tune"] = "early-stopping",
        curvature: Kind = "gauss-newton",
        tolerance: float = 5e-5,
        iterations: int = 500,
        deflate: int = 100,
    ) -> None:
        at_least(1, checkpoints=checkpoints, iterations=iterations)
        at_least(0, damping=damping, deflate=deflate)
        at_most(1000, deflate=deflate)
        above(0, tolerance=tolerance)
        self.checkpoints, self.damping, self.curvature = checkpoints, damping, curvature
        self.tolerance, self.iterations, self.deflate = tolerance, iterations, deflate

    @property
    def needs(self) -> Needs:
        return Needs(tune_rows=2 if self.damping == "tune" else 0, checkpoints=self.checkpoints)

    def attribute(self, task: Task) -> NDArray[np.float32]:
        dampings = influence.DAMPINGS if self.damping == "tune" else (self.damping,)
        total = np.zeros((len(dampings), task.data.n_train, task.data.n_targets), np.float32)
        residual, steps = 0.0, 0
        for vector in task.checkpoint_vectors(self.checkpoints):
            for part, (scores, left, done) in self._solved(task, vector, dampings):
                total[:, :, part] += scores / self.checkpoints
                residual, steps = max(residual, left), max(steps, done)
        if residual > 2 * self.tolerance:  # rounding may keep it somewhat above
            after = counted(steps, "iteration")
            task.note(f"not converged: a relative residual of {residual:.1e} is left after {after}")
        best: NDArray[np.float32] = total[0]
        if self.damping == "tune":
            _, best = task.choose(zip(dampings, total, strict=True), "damping")
        return best

    def _solved(
        self, task: Task, vector: torch.Tensor, dampings: Sequence[influence.Damping]
    ) -> Iterator[tuple[slice, tuple[NDArray[np.float32], float, int]]]:
        """Some targets at a time, at one checkpoint: scores for each damping, the residual and iterations."""
        recipe, flat, train, (x, y) = task.setting.recipe, task.flat(), task.inputs("train"), task.inputs("test")
        matrix = Curvature(flat, vector, *train, self.curvature, recipe.label_smoothing)
        unit = matrix.mean_diagonal(task.seed)
        shifts = [recipe.weight_decay + influence.ridge(d, unit, task) for d in dampings]
        start = torch.from_numpy(task.rng.standard_normal(flat.n_parameters)).to(vector)
        top = lanczos.pairs(matrix.product, start, 2 * self.deflate, self.deflate) if self.deflate else None

        def solve(part: slice) -> tuple[NDArray[np.float32], float, int]:
            b = gradients.stacked(flat, vector, x[part], y[part], "margin", task.output)
            found = conjugate_gradient.solve(matrix.product, b, shifts, self.tolerance, self.iterations, top)
            made = influence.effects(flat, vector, train, found.x.flatten(0, 1), recipe.label_smoothing)
            made = made.view(len(made), len(shifts), -1).transpose(0, 1)
            return made.cpu().numpy(), float(found.residual.max()), found.iterations

        held = (3 + 2 * len(shifts)) * flat.n_parameters * vector.element_size()
        return halving.each(solve, len(y), max(1, STATE_BYTES // held), "targets")
