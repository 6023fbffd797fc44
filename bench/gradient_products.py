"""Products of training loss gradients and target margin gradients at one state of a model, by chunks of both."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from bench import gradients

if TYPE_CHECKING:
    from bench.task import Task

_TARGET_BYTES = 2**31
_SMALLEST = 1e-30  # of a norm: an example without gradient has no direction, and scores 0


def products(task: Task, vector: Tensor, *, cosine: bool = False) -> Tensor:
    """Dot products, or cosines, of ∇ℓ_k and ∇m_j: `[n_train, n_targets]`.

    ℓ is the recipe's loss, with its label smoothing, and m the task's margin.

    Args:
        task: what examples, targets and model come from.
        vector: the model's state `[n_state]`.
        cosine: divide by both norms.
    """
    (x, y), test = task.inputs("train"), task.inputs("test")
    smoothing = task.setting.recipe.label_smoothing
    made = vector.new_empty(len(y), len(test[1]))
    # Of a large model not all gradients fit into memory: as many targets as do, and for them all of training.
    for at, targets in gradients.chunks(task.flat(), vector, *test, "margin", task.output, max_bytes=_TARGET_BYTES):
        if cosine:
            targets = targets / targets.norm(dim=1, keepdim=True).clamp_min(_SMALLEST)
        for part, g in gradients.chunks(task.flat(), vector, x, y, "loss", smoothing=smoothing):
            if cosine:
                g = g / g.norm(dim=1, keepdim=True).clamp_min(_SMALLEST)
            made[part, at] = g @ targets.T
    return made
