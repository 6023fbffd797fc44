"""The states that a checkpoint passed through while it was trained, for methods that look along the training run."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from bench import atomic, hashing
from bench.errors import InputError, UnmetError
from bench.recipes import Recipe
from bench.train import Stopped, Trainer, one_torch_thread
from bench.wording import counted

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bench.checkpoints import Pool


@dataclass(frozen=True)
class Trajectory:
    """States along one training run.

    Attributes:
        states: float32 `[k, n_state]`, on the device (see `Flat`); the last is the trained model.
        rates: float64 `[k]`: the learning rates of the steps since the state before (or the start), summed.
        steps: int `[k]`: after how many steps each state was reached.
    """

    states: Tensor
    rates: NDArray[np.float64]
    steps: NDArray[np.int64]


def stops(recipe: Recipe, n_train: int, count: int) -> NDArray[np.int64]:
    """After which steps to look: `count` of them, evenly spread over the run, the last at its end.

    Raises:
        InputError: fewer than one, or more than there are steps.
    """
    steps = recipe.steps(n_train)
    if not 1 <= count <= steps:
        raise InputError(
            f"{count} states along a training run are asked for: it has {counted(steps, 'step')}, so 1 to {steps}"
        )
    return np.arange(1, count + 1) * steps // count


def of_checkpoint(pool: Pool, number: int, count: int) -> tuple[Trajectory, float]:
    """The run of checkpoint `number` and the seconds that it took; made once, kept beside the checkpoints.

    Raises:
        UnmetError: the recipe augments its images or averages its weights, which this does not retrace; or the pool's
            models are trained on subsets by the protocol `single-model`.
        InputError: more states than steps.
    """
    trainer, recipe = pool.trainer, pool.trainer.recipe
    if not recipe.stacked:
        raise UnmetError("needs a recipe of plain SGD steps on unaugmented batches, to follow its training run")
    if pool.alpha is not None:
        if trainer.protocol != "expectation":
            raise UnmetError("needs the protocol expectation, to follow training runs on subsets")
        data, some = trainer.data, pool.examples(number)
        trainer = replace(trainer, data=replace(data, train_x=data.train_x[some], train_y=data.train_y[some]))
    at = stops(recipe, trainer.data.n_train, count)
    steps = int(at[-1])
    rates = np.add.reduceat([recipe.rate(step, steps) for step in range(steps)], np.r_[0, at[:-1]])
    key = hashing.digest([pool.key, hashing.script(Path(__file__)), number, count, pool.alpha])
    path = pool.folder / f"{number:04d}-along-{key[:16]}.npz"
    kept = _read(path, key)
    if kept is None and path.exists():
        pool.progress.say(f"the training run {path.name} is torn or altered; it is trained anew")
    if kept is None:
        began = time.perf_counter()
        states = train(trainer, pool.model_seed(number), at).cpu().numpy()
        kept = states, time.perf_counter() - began
        checksum = hashing.digest([key, hashing.array(states)])
        seconds = kept[1]
        atomic.write(path, lambda file: np.savez(file, states=states, seconds=seconds, checksum=checksum))
    return Trajectory(torch.from_numpy(kept[0]).to(trainer.device), rates, at), kept[1]


def train(trainer: Trainer, seed: np.random.SeedSequence, at: Sequence[int] | NDArray[np.int64]) -> Tensor:
    """The states `[len(at), n_state]` after so many steps of the run from `seed` on all examples of the trainer.

    One step after another by torch: the same start, batches and rates as `Trainer.train`, up to rounding.
    """
    recipe, run = trainer.recipe, trainer.full_run(seed)
    flat = trainer.flat()
    module = flat.load(run.start)
    order = torch.from_numpy(run.order).to(trainer.device)
    x, y = trainer.inputs("train")
    optimiser = torch.optim.SGD(
        module.parameters(),
        lr=recipe.lr,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
        nesterov=recipe.optimiser == "nesterov" and recipe.momentum > 0,
    )
    made, wanted = [], {int(step) for step in at}
    with one_torch_thread(), torch.enable_grad():
        for step, batch in enumerate(order):
            if trainer.stop.is_set():
                raise Stopped
            optimiser.param_groups[0]["lr"] = float(run.rates[step])
            optimiser.zero_grad(set_to_none=True)
            F.cross_entropy(module(x[batch]), y[batch], label_smoothing=recipe.label_smoothing).backward()
            optimiser.step()
            if step + 1 in wanted:
                made.append(flat.vector().clone())
    return torch.stack(made)


def _read(path: Path, key: str) -> tuple[NDArray[np.float32], float] | None:
    try:
        with np.load(path, allow_pickle=False) as kept:
            states, seconds, checksum = kept["states"], float(kept["seconds"]), str(kept["checksum"])
    except Exception:  # zipfile and numpy have many words for one broken file
        return None
    return (states, seconds) if checksum == hashing.digest([key, hashing.array(states)]) else None
