"""Train one block of rows and put it on disk: what a thread or a worker process does."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bench import blocks, subsets

if TYPE_CHECKING:
    from bench.launch import Request
    from bench.train import Trainer

Span = tuple[int, int]


class Feed:
    """The blocks that are still to do, first to last, handed to whoever asks next."""

    def __init__(self, spans: Sequence[Span]) -> None:
        self._spans = list(spans)
        self._lock = threading.Lock()

    def next(self) -> Span | None:
        """The next block, None when there is none."""
        with self._lock:
            return self._spans.pop(0) if self._spans else None

    def put_back(self, span: Span) -> None:
        """A block that was taken and not done."""
        with self._lock:
            self._spans.insert(0, span)

    def shuffle(self) -> None:
        """Go on in another order: where two runs work on one store, the same order would train every row twice."""
        with self._lock:
            random.Random().shuffle(self._spans)  # not the seeded generator: the other run must differ


@dataclass(frozen=True)
class Done:
    """A block on disk. `by_other`: another run had finished it in the meantime."""

    header: blocks.Header
    by_other: bool = False


@dataclass(frozen=True)
class Work:
    """What it takes to train any block of a ground truth.

    Attributes:
        trainer: recipe and data on a device; request: what is asked for; key: the ground truth's; folder: its own.
    """

    trainer: Trainer
    request: Request
    key: str
    folder: Path

    def block(self, span: Span) -> Done:
        """Train the rows `span` and write their block, unless a good one has appeared since it was planned.

        A model whose margins are not finite is trained once more, alone; if they still are not, its row is flagged.

        Raises:
            BenchError: the block cannot be written, or memory runs out for a single model.
        """
        if (found := self._of_other(span)) is not None:
            return found
        began = time.perf_counter()
        request, rows = self.request, np.arange(*span)
        made = self._train(rows)
        wrong = _not_finite(made)
        for at in np.flatnonzero(wrong):
            for name, again in self._train(rows[at : at + 1]).items():
                made[name][at] = again[0]
        diverged = _not_finite(made)
        about = {
            "accuracy": round(float(made["correct"][~diverged].mean()), 6) if not diverged.all() else 0.0,
            "diverged": tuple(rows[diverged].tolist()),
            "retried": tuple(rows[wrong].tolist()),
        }
        stored = request.recorded.stored({n: a for n, a in made.items() if n in ("margins", *request.keep)})
        if (found := self._of_other(span)) is not None:
            return found  # arrays may have been gathered from it already
        return Done(
            blocks.write(self.folder / "blocks", self.key, span[0], stored, time.perf_counter() - began, **about)
        )

    def _of_other(self, span: Span) -> Done | None:
        """The block, where another run has finished it; one that is torn or foreign is none."""
        path = self.folder / "blocks" / blocks.name(*span)
        if not path.exists():
            return None
        try:
            return Done(blocks.read(path, self.key)[0], by_other=True)
        except blocks.BlockError:
            return None

    def _train(self, rows: Sequence[int] | Any) -> dict[str, Any]:
        request = self.request
        subset_of_row, _ = request.plan.layout()
        n_train = request.data.n_train
        chosen = [
            subsets.kept(request.seed, int(subset_of_row[row]), n_train, request.alpha, request.sampling)
            for row in rows
        ]
        seeds = [subsets.model_seed(request.seed, int(row), request.protocol) for row in rows]
        return self.trainer.rows(chosen, seeds, request.recorded)


def _not_finite(made: dict[str, Any]) -> Any:
    return ~np.isfinite(made["margins"]).all(1)
