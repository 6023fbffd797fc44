"""Models of many subsets trained outside a ground truth, stack by stack, in as many threads as there are cores."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from bench import launch

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from bench.progress import Progress
    from bench.recorded import Recorded
    from bench.train import Trainer

_PER_WORKER = 4  # so that progress is seen, and workers end together

Take = Callable[[slice, Mapping[str, "NDArray[Any]"]], "float | None"]


def train(
    trainer: Trainer,
    kept: Sequence[NDArray[np.int64]],
    seeds: Sequence[np.random.SeedSequence],
    recorded: Recorded,
    take: Take,
    progress: Progress,
    what: str,
) -> None:
    """Train a model per subset; those of one size stack best where they are neighbours.

    Args:
        trainer: of the setting.
        kept: the examples of each model.
        seeds: what each comes from.
        recorded: what to measure.
        take: called with which models are done, and what was measured of them (`Trainer.rows`); in any order and by
            several threads. It returns their accuracy for the progress, or None.
        progress: where to say how far it is.
        what: what is trained.
    """
    from bench.train import cpu_threads, one_torch_thread

    on_cpu = trainer.device.type == "cpu"
    workers = cpu_threads() if on_cpu else 1
    size = max(1, -(-len(kept) // (workers * _PER_WORKER)))
    spans = [(at, min(at + size, len(kept))) for at in range(0, len(kept), size)]

    def stack(span: tuple[int, int]) -> tuple[int, float | None]:
        mine = slice(*span)
        return span[1] - span[0], take(mine, trainer.rows(kept[mine], seeds[mine], recorded))

    context: Any = one_torch_thread() if on_cpu else nullcontext()
    with context, progress.task(what, len(kept), "models") as advance:
        launch.run_all(stack, spans, workers, lambda done: advance(*done), trainer.stop)
