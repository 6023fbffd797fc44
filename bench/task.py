"""What a method is given: data, models, the rows it may use. What it uses is written down and charged."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np

from bench.absent import Absent
from bench.errors import BenchError, EvalRowError, InputError
from bench.lent import Lent

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    from bench.access import Access
    from bench.checkpoints import Pool
    from bench.datasets import Data, Setting
    from bench.models import Flat
    from bench.recipes import Output
    from bench.rows import Rows
    from bench.subsets import Protocol
    from bench.train import Trainer, TrainingRun
    from bench.trajectory import Trajectory

L = TypeVar("L")
TrainedOn = Literal["all", "subsets"]


@dataclass
class Usage:
    """What a method has used so far.

    Attributes:
        rows: rows of the ground truth it was given.
        checkpoints: full-set models trained for it; on_subsets: models trained for it on random subsets.
        train_seconds: worker-seconds that training all of these took.
        waited: wall-clock seconds that the method waited for checkpoints; not part of attributing.
    """

    rows: set[int] = field(default_factory=set)
    checkpoints: int = 0
    on_subsets: int = 0
    train_seconds: float = 0.0
    waited: float = 0.0

    @property
    def models(self) -> int:
        """Models trained for it."""
        return len(self.rows) + self.checkpoints + self.on_subsets


@dataclass(frozen=True)
class Search:
    """A choice made on the tune rows.

    Attributes:
        what: the parameter; chosen: its value.
        tried: LDS on the tune rows by value; None where the scores were not finite.
    """

    what: str
    chosen: str
    tried: dict[str, float | None]


def _text(label: object) -> str:
    return f"{label:g}" if isinstance(label, float) else str(label)


class Task:
    """The one argument of `Method.attribute`.

    Attributes:
        setting: dataset, model, recipe; data: the examples (`train_x`, `train_y`, `test_x`, `test_y`), as copies that
            must not be written all the same: a method that does so fails.
        output: the model output that scores must predict, `logsumexp` or `max` margin.
        alpha: kept fraction of the subsets that judge.
        device: torch device to work on.
        rng: seeded numpy generator, and `seed`, an int for other libraries: functions of the run's seed and the
            method's name alone.
        cache: an empty folder for files; it is removed afterwards.

    On an imported store there are rows and no examples: `data` has `n_train` and `n_targets` and nothing else, and
    whatever needs a model or an example raises UnmetError, with one sentence.
    """

    def __init__(
        self,
        setting: Setting,
        data: Data,
        access: Access,
        trainer: Trainer,
        pool: Pool,
        output: Output,
        alpha: float,
        seed: np.random.SeedSequence,
        cache: Path,
    ) -> None:
        self.setting, self.output, self.alpha, self.cache = setting, output, alpha, cache
        self._lent = None if isinstance(data, Absent) else Lent.of(data)
        self.data: Data = data if self._lent is None else self._lent
        self.rng = np.random.default_rng(seed)
        self.seed = int(seed.generate_state(1, np.uint32)[0] >> 1)
        self.usage = Usage()
        self.refused: str | None = None
        self.notes: list[str] = []
        self.searches: list[Search] = []
        self.kept: dict[str, NDArray[Any]] = {}
        self._trainer, self._pool = trainer, pool
        self._fit, self._tune, self._read, self._seconds_per_row = access.fit, access.tune, access.reader(), access.cost
        self._given: dict[str, Rows] = {}

    @property
    def device(self) -> torch.device:
        """Torch device to work on."""
        return self._trainer.device

    @property
    def protocol(self) -> Protocol:
        """Whether the subset models have a seed each, `expectation`, or all that of checkpoint 0, `single-model`."""
        return self._trainer.protocol

    def note(self, text: str) -> None:
        """Say something that a reader of the table must know: a fit that did not converge, a damping chosen."""
        self.notes.append(text)

    def keep(self, /, **arrays: Any) -> None:
        """Keep arrays that belong to the scores, such as a fit's intercepts or its duality gaps, in a file beside them.

        `numpy.load` reads it, `scores/<method>.extra.npz` of a run; of two of one name the later stays.

        Raises:
            InputError: a name that is no word, or a value that is not an array of real numbers or truth values.
        """
        from bench.score_files import checked_extra

        self.kept |= {name: checked_extra(name, value) for name, value in arrays.items()}

    @property
    def fit(self) -> Rows:
        """The rows to fit on: `.masks` bool `[m, n_train]`, `.margins` float32 `[m, n_targets]`; read-only."""
        return self._group("fit", self._fit)

    @property
    def fit_as_stored(self) -> Rows:
        """The fit rows for methods that read them by chunks, `rows.masks[a:b]`: nothing is read or converted before."""
        return self._group("fit as stored", self._fit, as_stored=True)

    @property
    def tune(self) -> Rows:
        """The rows to choose hyper-parameters on; disjoint from `fit`, in masks and in models."""
        return self._group("tune", self._tune)

    def rows(self, index: Iterable[int]) -> Rows:
        """Some fit or tune rows by number.

        Raises:
            EvalRowError: a row that judges is among them. The method's scores are then refused, whatever it does.
            InputError: a row that does not exist.
        """
        numbers = np.asarray(list(index))
        if len(numbers) and numbers.dtype.kind not in "iu":
            raise InputError(f"rows are asked for by number, not by {numbers.dtype}")
        return self._charged(numbers.astype(np.int64))

    def checkpoints(self, count: int) -> list[torch.nn.Module]:
        """`count` models trained on the full training set by the setting's recipe, each from a seed of its own."""
        flat = self.flat
        return [flat().load(vector) for vector in self.checkpoint_vectors(count)]

    def checkpoint_vectors(self, count: int, trained_on: TrainedOn = "all") -> torch.Tensor:
        """The same as state vectors, float32 `[count, n_state]` (see `Flat`), for `task.flat()`.

        Args:
            count: how many.
            trained_on: `all` training examples, or each on a random one of `subsets` of the share α that those which
                judge have. The subsets are drawn for the checkpoints alone: none is a row's.
        """
        if count < 1:
            raise InputError(f"{count} checkpoints are asked for: it takes at least 1")
        began = time.perf_counter()
        pool, counted = self._checkpoints(trained_on)
        vectors, seconds = pool.get(count)
        self.usage.waited += time.perf_counter() - began
        self._charge(counted, count, seconds / count)
        return vectors

    def trajectory(self, number: int, states: int, trained_on: TrainedOn = "all") -> Trajectory:
        """States that checkpoint `number` (from 0) passed through in training, the last of them itself.

        It is charged as `checkpoint_vectors(number + 1, trained_on)` is: a model and its past are one model.

        Args:
            number: which checkpoint.
            states: how many states, evenly spread over its steps.
            trained_on: see `checkpoint_vectors`.

        Raises:
            InputError: a number below 0, or fewer than one state, or more than it has steps.
            UnmetError: the recipe is not of plain SGD steps on unaugmented batches, or on `subsets` the protocol is
                `single-model`.
        """
        if number < 0:
            raise InputError(f"checkpoint {number} is asked for: they are numbered from 0")
        began = time.perf_counter()
        pool, counted = self._checkpoints(trained_on)
        run, seconds = pool.trajectory(number, states)
        self.usage.waited += time.perf_counter() - began
        self._charge(counted, number + 1, seconds)
        return run

    def _checkpoints(self, trained_on: TrainedOn) -> tuple[Pool, Literal["checkpoints", "on_subsets"]]:
        return (
            (self._pool.on_subsets(self.alpha), "on_subsets")
            if trained_on == "subsets"
            else (self._pool, "checkpoints")
        )

    def _charge(self, counted: Literal["checkpoints", "on_subsets"], count: int, seconds_each: float) -> None:
        new = count - getattr(self.usage, counted)
        if new > 0:
            setattr(self.usage, counted, count)
            self.usage.train_seconds += seconds_each * new

    def training_run(self, number: int = 0) -> TrainingRun:
        """How checkpoint `number` was trained: initial state, batches, learning rates; it is charged as that is.

        By the protocol `single-model` checkpoint 0 is the run that the subset models leave examples out of.

        Raises:
            BenchError: the setting's recipe is not plain SGD, which a method says that it needs by `Needs.plain_sgd`.
        """
        self.checkpoint_vectors(number + 1)
        return self._pool.run(number)

    def flat(self) -> Flat:
        """A fresh module whose parameters are one vector: `flat(vector, x)` gives logits, `flat.load` a module."""
        return self._trainer.flat()

    def inputs(self, part: str) -> tuple[torch.Tensor, torch.Tensor]:
        """The `train` or `test` examples and labels as tensors on the device, copies of the method's own."""
        x, y = self._trainer.inputs(part)
        return x.clone(), y.clone()

    def choose(self, candidates: Iterable[tuple[L, NDArray[Any]]], what: str = "damping") -> tuple[L, NDArray[Any]]:
        """The candidate `(label, scores)` with the best LDS on the tune rows; the first of equals.

        Every label and its LDS are written into the result, as the search for `what`.
        """
        from bench.scorer import MarginRanks, lds

        rows = self.tune
        ranks = MarginRanks.of(rows.margins)
        best: tuple[float, L, NDArray[Any]] | None = None
        tried: dict[str, float | None] = {}
        for label, scores in candidates:
            if not np.isfinite(scores).any():
                tried[_text(label)] = None
                continue
            mean = lds(scores, rows.masks, rows.margins, ranks=ranks, undefined="zero").mean
            tried[_text(label)] = mean
            if best is None or mean > best[0]:
                best = mean, label, scores
        if best is None:
            raise BenchError("there is no candidate with finite scores to choose from")
        self.searches.append(Search(what, _text(best[1]), tried))
        return best[1], best[2]

    def changed(self) -> list[str]:
        """Which arrays of `data` were written to."""
        return [] if self._lent is None else self._lent.changed()

    def _group(self, name: str, index: NDArray[np.int64], *, as_stored: bool = False) -> Rows:
        if name not in self._given:
            self._given[name] = self._charged(index, as_stored=as_stored)
        return self._given[name]

    def _charged(self, index: NDArray[np.int64], *, as_stored: bool = False) -> Rows:
        try:
            rows = self._read(index, as_stored)
        except EvalRowError as error:
            self.refused = str(error)
            raise
        new = set(index.tolist()) - self.usage.rows
        self.usage.rows |= new
        self.usage.train_seconds += self._seconds_per_row * len(new)
        return rows
