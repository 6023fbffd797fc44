"""Ground truth and methods on examples in which something was planted, so that it is known what should be found."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bench import atomic, methods, runner
from bench.errors import BenchError
from bench.explore.subject import Scored, Subject
from bench.store import GroundTruth

if TYPE_CHECKING:
    from bench.datasets import Data


@dataclass(frozen=True)
class Planted:
    """A run on planted examples.

    Attributes:
        subject: with the scores of all methods that could run.
        models: trained for it, checkpoints of methods not counted.
        missing: why a method is not among them, by name.
    """

    subject: Subject
    models: int
    missing: dict[str, str]


class NotPlantedError(BenchError):
    """There is nothing to plant, or no method that could be run on it: not a matter of the arguments."""


def check_models(models: int, eval_subsets: int = 200) -> None:
    """Refuse a number of models that `planted` cannot make a ground truth of, before anything is done.

    Raises:
        BenchError: it is too small or too large.
    """
    _ = runner.Options(models=models, eval_subsets=eval_subsets).plan


@contextmanager
def planted(
    subject: Subject,
    what: str,
    data: Data,
    wanted: Sequence[Scored],
    out: Path | None,
    models: int,
    seed: int = 0,
    *,
    needed: bool = True,
    eval_subsets: int = 200,
) -> Iterator[Planted]:
    """Train models on other examples by the subject's recipe, and run methods on them.

    Args:
        subject: whose setting it is.
        what: was planted, in one word: part of the setting's name.
        data: the examples with what was planted.
        wanted: methods by whose names those to run are known.
        out: what `bench explore` writes to; the run lies in it as `planted-WHAT`, of a root seed other than 0 as
            `planted-WHAT-SEED`, and is used again. Without, it is removed afterwards.
        models: rows of the ground truth, as `bench run --models`.
        seed: root seed.
        needed: whether there must be scores of a method; otherwise the models alone may do.
        eval_subsets: as `bench run --eval-subsets`; where no LDS is asked for, few of them leave more rows to fit.

    Raises:
        NotPlantedError: no method could run.
        BenchError: what `bench run` raises.
    """
    assert subject.setting is not None
    setting = replace(subject.setting, dataset_name=f"{subject.setting.dataset_name}+{what}")
    missing: dict[str, str] = {}
    picked = []
    for one in wanted:
        try:
            picked += methods.chosen([one.name])
        except BenchError as error:
            missing[one.name] = f"it cannot be run on other examples ({error})"
    if needed and not picked:
        raise _nothing(what, missing)
    with tempfile.TemporaryDirectory(prefix="bench-") as scratch:
        name = f"planted-{what}-{seed}" if seed else f"planted-{what}"
        folder = (Path(scratch) if out is None else out / name).absolute()
        atomic.writable_folder(folder)
        options = runner.Options(models=models, seed=seed, device=subject.device, eval_subsets=eval_subsets)
        board = runner.run_on(
            setting,
            data,
            methods.distinct(picked),
            options,
            folder,
            subject.progress,
            f"python -m bench explore ({what})",
        )
        truth = GroundTruth.open(folder / runner.STORE)
        made = []
        for row in board.methods:
            if row.scores is None:
                missing[row.name] = row.reason or "it made no scores"
                continue
            made.append(Scored(row.name, np.load(folder / row.scores, mmap_mode="r", allow_pickle=False), row.lds))
        if needed and not made:
            raise _nothing(what, missing)
        opened = Subject(
            folder, True, truth, made, board, setting, data, device=subject.device, progress=subject.progress
        )
        yield Planted(opened, len(truth.masks), missing)


def _nothing(what: str, missing: dict[str, str]) -> NotPlantedError:
    why = "; ".join(f"{name}: {reason}" for name, reason in missing.items())
    return NotPlantedError(f"no method has scores on the examples with {what} planted ({why or 'none was named'})")
