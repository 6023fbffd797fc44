"""Models trained without groups of training examples: what really happens to the margins when they are removed."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np

from bench import launch
from bench.errors import InputError
from bench.recorded import Recorded

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bench.progress import Progress
    from bench.train import Trainer

_MODEL = 7  # stream of the root seed, none of a ground truth's, of checkpoints or of `bench removal`
_STACKS_PER_WORKER = 4  # so that progress is seen, and workers end together


def margins_without(
    trainer: Trainer,
    groups: Sequence[NDArray[np.integer]],
    seeds: int,
    root_seed: int,
    progress: Progress,
    what: str,
) -> NDArray[np.float32]:
    """Margins of models that were trained without each group.

    Seed s of every group has the same initialisation, and the same batch order where groups are of one size, so that
    differences between groups are taken seed by seed.

    Args:
        trainer: of the setting.
        groups: training examples to remove, each at most once; an empty one is the full training set.
        seeds: models per group.
        root_seed: what all seeds come from.
        progress: where to say how far it is.
        what: what is trained, for the progress.

    Returns:
        float32 `[groups, seeds, n_targets]`, NaN where a model diverged.

    Raises:
        InputError: a group that leaves nothing to train on, or has an example that is not there.
    """
    from bench.train import cpu_threads, one_torch_thread

    n_train, n_targets = trainer.data.n_train, trainer.data.n_targets
    kept = [_kept(group, n_train, number) for number, group in enumerate(groups)]
    starts = [np.random.SeedSequence([root_seed, _MODEL, s]) for s in range(seeds)]
    # Models of one size one after another: they stack better.
    order = sorted(range(len(kept)), key=lambda at: len(kept[at]))
    todo = [(at, s) for at in order for s in range(seeds)]
    on_cpu = trainer.device.type == "cpu"
    workers = cpu_threads() if on_cpu else 1
    size = max(1, -(-len(todo) // (workers * _STACKS_PER_WORKER)))
    spans = [(at, min(at + size, len(todo))) for at in range(0, len(todo), size)]
    found = np.full((len(groups), seeds, n_targets), np.nan, np.float32)

    def stack(span: tuple[int, int]) -> int:
        mine = todo[span[0] : span[1]]
        made = trainer.rows([kept[at] for at, _ in mine], [starts[s] for _, s in mine], Recorded())
        for (at, s), margins in zip(mine, made["margins"], strict=True):
            found[at, s] = margins if np.isfinite(margins).all() else np.nan
        return len(mine)

    context: Any = one_torch_thread() if on_cpu else nullcontext()
    with context, progress.task(what, len(todo), "models") as advance:
        launch.run_all(stack, spans, workers, lambda done: advance(done), trainer.stop)
    return found


def _kept(group: NDArray[np.integer], n_train: int, number: int) -> NDArray[np.int64]:
    wrong = group[(group < 0) | (group >= n_train)]
    if len(wrong):
        raise InputError(f"group {number} removes training example {wrong[0]}: they are numbered 0 … {n_train - 1}")
    kept = np.delete(np.arange(n_train), group)
    if not len(kept):
        raise InputError(f"group {number} removes all {n_train} training examples: leave at least one")
    return kept
