"""Models trained without groups of training examples: what really happens to the margins when they are removed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from bench import stacks, subsets
from bench.errors import BenchError, InputError
from bench.recorded import Recorded

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bench.explore.subject import Subject
    from bench.progress import Progress
    from bench.recipes import Output
    from bench.train import Trainer

_MODEL, _APART = 7, 15  # streams of the root seed, none of a ground truth's, of checkpoints or of `bench removal`


def models_of(subject: Subject, seeds: int | None, usual: int) -> int:
    """Models per group: `seeds`, else `usual`; of a store of the protocol single-model the one that it has.

    Raises:
        BenchError: less than one, or several of a single one.
    """
    single = subject.truth.meta is not None and subject.truth.meta.identity.protocol == "single-model"
    if seeds is not None and seeds < 1:
        raise BenchError(f"--seeds is {seeds}: it takes at least one model per group")
    if single and seeds not in (None, 1):
        raise BenchError(f"--seeds is {seeds}, and by the protocol single-model all models have one seed: leave it out")
    return 1 if single else seeds or usual


def starts(subject: Subject, seeds: int, root_seed: int) -> list[np.random.SeedSequence]:
    """What models come from: `seeds` seeds of a stream of their own; by the protocol single-model, the store's."""
    meta = subject.truth.meta
    if meta is not None and meta.identity.protocol == "single-model":
        return [subsets.checkpoint_seed(meta.identity.seed, 0)]
    return [np.random.SeedSequence([root_seed, _MODEL, s]) for s in range(seeds)]


def margins_without(
    trainer: Trainer,
    groups: Sequence[NDArray[np.integer]],
    seeds: int | Sequence[np.random.SeedSequence],
    root_seed: int,
    progress: Progress,
    what: str,
    *,
    targets: NDArray[np.integer] | None = None,
    output: Output = "logsumexp",
    apart: bool = False,
) -> NDArray[np.float32]:
    """Margins of models that were trained without each group.

    Seed s of every group has the same initialisation, and the same batch order where groups are of one size, so that
    differences between groups are taken seed by seed. (On digits/mlp the standard deviation of such a difference with
    one example removed is 0.16, of that between models of unlike seeds 0.41.)

    Args:
        trainer: of the setting.
        groups: training examples to remove, each at most once; an empty one is the full training set.
        seeds: models per group, or what they come from (`starts`).
        root_seed: what all seeds come from, where `seeds` is a number, or where they are apart.
        progress: where to say how far it is.
        what: what is trained, for the progress.
        targets: which of them to keep; all by default.
        output: which margin.
        apart: give every model a seed that no other has, as the models of a ground truth have, so that nothing is
            common to two groups; by the protocol single-model there is but one seed all the same.

    Returns:
        float32 `[groups, seeds, targets]`, NaN where a model diverged.

    Raises:
        InputError: a group that leaves nothing to train on, or has an example that is not there.
    """
    columns = np.arange(trainer.data.n_targets) if targets is None else targets
    kept = [_kept(group, trainer.data.n_train, number) for number, group in enumerate(groups)]
    if isinstance(seeds, int):
        seeds = [np.random.SeedSequence([root_seed, _MODEL, s]) for s in range(seeds)]
    apart = apart and trainer.protocol == "expectation"
    count = len(seeds)
    begin = [
        [np.random.SeedSequence([root_seed, _APART, at, s]) for s in range(count)] if apart else seeds
        for at in range(len(groups))
    ]
    # Models of one size one after another: they stack better.
    order = sorted(range(len(kept)), key=lambda at: len(kept[at]))
    todo = [(at, s) for at in order for s in range(count)]
    found = np.full((len(groups), count, len(columns)), np.nan, np.float32)

    def take(mine: slice, made: Mapping[str, NDArray[Any]]) -> None:
        for (at, s), margins in zip(todo[mine], made["margins"], strict=True):
            found[at, s] = margins[columns] if np.isfinite(margins).all() else np.nan

    subsets_of, seeds_of = [kept[at] for at, _ in todo], [begin[at][s] for at, s in todo]
    stacks.train(trainer, subsets_of, seeds_of, Recorded(output), take, progress, what)
    return found


def _kept(group: NDArray[np.integer], n_train: int, number: int) -> NDArray[np.int64]:
    wrong = group[(group < 0) | (group >= n_train)]
    if len(wrong):
        raise InputError(f"group {number} removes training example {wrong[0]}: they are numbered 0 … {n_train - 1}")
    kept = np.delete(np.arange(n_train), group)
    if not len(kept):
        raise InputError(f"group {number} removes all {n_train} training examples: leave at least one")
    return kept
