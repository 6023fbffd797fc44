"""What a recipe says, and what it was seen to do: `python -m bench recipe SETTING [--measure K]`."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np

from bench import launch, subsets
from bench.files import stamp
from bench.recipes import Evidence
from bench.wording import counted

if TYPE_CHECKING:
    from bench.datasets import Data, Setting
    from bench.recipes import Recipe

_VERSIONS = ("python", "torch")


def measure(setting: Setting, data: Data, count: int, device: str, seed: int = 0) -> Evidence:
    """Train `count` models on the full training set, as checkpoints of a root seed are, and count what they get right.

    Raises:
        BenchError: no such device, or not enough memory.
    """
    from bench.recorded import Recorded
    from bench.train import Trainer, one_torch_thread, pick_device

    trainer = Trainer(setting.recipe, data, pick_device(device))
    everything = np.arange(data.n_train)
    seeds = [subsets.checkpoint_seed(seed, number) for number in range(count)]
    with one_torch_thread():
        few = np.arange(min(data.n_train, setting.recipe.batch_size))
        trainer.rows([few], seeds[:1], Recorded())  # what is loaded or compiled at first is not training
        began = time.perf_counter()
        made = trainer.rows([everything] * count, seeds, Recorded())
        seconds = time.perf_counter() - began
    hardware, versions = launch.hardware(trainer.device.type), launch.versions()
    machine = hardware.get("gpu") or f"{counted(int(hardware['cores']), 'core')} of {hardware['processor']}"
    modified = ["other files than the published ones"] if stamp(data.origin) else []
    where = ", ".join([setting.name, *modified, machine, *(f"{name} {versions[name]}" for name in _VERSIONS)])
    return Evidence(round(float(made["correct"].mean()), 4), count, float(f"{seconds / count:.2g}"), where)


def lines(recipe: Recipe) -> list[tuple[str, str]]:
    """What a recipe says, as pairs of a word and a text."""
    architecture, changes = recipe.architecture, recipe.augmentation
    sizes = f" ({', '.join(map(str, architecture.hidden))})" if architecture.hidden else ""
    shapes = {
        "linear": "falling linearly to zero",
        "constant": "constant",
        "triangular": f"rising over the first {recipe.warmup:.0%} of the steps, then falling to zero",
    }
    rate = f"{recipe.lr:g}, {shapes[recipe.schedule]}"
    rate += f"; × {recipe.norm_bias_lr:g} for biases of normalisation" if recipe.norm_bias_lr != 1 else ""
    flips = {"none": [], "random": ["random flips"], "alternating": ["alternating flips"]}[changes.flip]
    shifts = [f"shifts of up to {counted(changes.translate, 'pixel')}"] if changes.translate else []
    holes = [f"cutout of {counted(changes.cutout, 'pixel')}"] if changes.cutout else []
    told = [
        ("model", f"{architecture.name}{sizes}"),
        ("trained", "many at once" if recipe.stacked else "one after another"),
        ("optimiser", f"{recipe.optimiser}, momentum {recipe.momentum:g}, weight decay {recipe.weight_decay:g}"),
        ("learning rate", rate),
        ("epochs", f"{recipe.epochs}, in batches of {recipe.batch_size}"),
        ("labels", f"smoothed by {recipe.label_smoothing:g}" if recipe.label_smoothing else "as they are"),
        ("augmentation", ", ".join([*flips, *shifts, *holes]) or "none"),
        ("at test time", "mean over the image and its mirror image" if recipe.mirror else "as trained"),
    ]
    return [*told, ("evidence", _evidence(recipe.evidence))]


def _evidence(found: Evidence | None) -> str:
    if found is None:
        return "not measured yet: python -m bench recipe SETTING --measure 10"
    return (
        f"{found.accuracy:.1%} of targets right, mean of {counted(found.models, 'model')} trained on the full set, "
        f"{found.seconds:g} s each ({found.where})"
    )
