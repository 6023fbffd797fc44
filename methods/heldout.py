"""Empirical influence: a target's mean margin over fit subsets that hold an example, minus the mean over the others.

Feldman and Zhang (2020), "What neural networks memorize and why", eq. 2 with subsets of a fixed size; an example that
all fit subsets keep, or none, scores 0. Kept beside the scores: their standard errors, `stderr`, and where the fit rows
have outputs on the training examples, each example's effect on itself with its standard error: `memorization` of
correctness (eq. 1), `self_influence` of margins. NaN is what cannot be told.
"""

import numpy as np
from numpy.typing import NDArray

from bench.memorization import influence, own
from bench.methods import Method, Needs
from bench.task import Task
from bench.wording import either

KEPT = {"train_correct": "memorization", "train_margins": "self_influence"}


class Heldout(Method):
    needs = Needs(fit_rows=2)
    citation = 'Feldman and Zhang (2020), "What neural networks memorize and why"'
    growth = "fit rows × n_train × n_targets; training the rows"

    def attribute(self, task: Task) -> NDArray[np.float32]:
        rows = task.fit_as_stored
        scores, stderr = influence(rows.masks, rows.margins)
        task.keep(stderr=stderr)
        for outputs, name in KEPT.items():
            if outputs in rows.train:
                found = own(rows.masks, rows.train[outputs])
                task.keep(**{name: found.memorization, f"{name}_stderr": found.memorization_stderr})
        unknown = np.isnan(scores[:, 0])
        if unknown.any():
            task.note(
                f"{unknown.sum()} of {len(unknown)} examples {either(unknown.sum(), 'is', 'are')} in all fit subsets "
                "or in none: they score 0"
            )
        return np.nan_to_num(scores, copy=False)
