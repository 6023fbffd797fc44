"""Networks on a GPU: seconds per half-subset model, accuracy of the full training set, and how busy the GPU is.

A record of them comes from this command, on a machine with a CUDA device; all that is asserted is that models learn.
CIFAR-10 is read as `bench train cifar10/… --allow-modified-data` reads it.

    tox -e benchmark -- tests/benchmarks/test_network_speed.py -s
"""

import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from bench import datasets, launch, runner, subsets
from bench.datasets import Data
from bench.files import Files, stamp
from bench.train import Trainer

GPU = torch.device("cuda")
GOALS = {"resnet9": (0.93, 2.0), "airbench": (0.94, 0.6)}  # full-set accuracy, seconds per half-subset model
FULL = 5  # models of the full training set, whose mean accuracy is told
HALF = 10  # models of half subsets, whose median time is told

pytestmark = [
    pytest.mark.benchmark,
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@contextmanager
def usage() -> Iterator[list[int]]:
    """Percentages of time that the GPU was busy, four a second, while the context lasts; none without nvidia-smi."""
    seen: list[int] = []
    over = threading.Event()

    def watch() -> None:
        command = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "-i", "0"]
        while shutil.which("nvidia-smi") and not over.wait(0.25):
            told = subprocess.run(command, capture_output=True, text=True, check=False).stdout.split()
            seen.extend(int(word) for word in told if word.isdigit())

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()


def where() -> str:
    """GPU and versions, in words."""
    versions = f"torch {torch.__version__}, CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}"
    return f"{torch.cuda.get_device_name()}; {versions}, Python {sys.version.split()[0]}"


def timed(work: Callable[..., Any], *arguments: Any) -> tuple[float, Any]:
    """Seconds, the GPU's work included, and what came of it."""
    torch.cuda.synchronize()
    began = time.perf_counter()
    made = work(*arguments)
    torch.cuda.synchronize()
    return time.perf_counter() - began, made


@pytest.mark.parametrize("compiled", ["0", "1"], ids=["as it is", "compiled"])
@pytest.mark.parametrize("name", GOALS)
def test_cifar10(name: str, compiled: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCH_COMPILE", compiled)
    setting = datasets.setting(f"cifar10/{name}")
    data = runner.load(setting, None, allow_modified=True)
    trainer = Trainer(setting.recipe, data, GPU)
    x, y = trainer.inputs("test")
    n = data.n_train

    def one(row: int) -> torch.Tensor:
        return trainer.train([subsets.kept(0, row, n, 0.5)], [subsets.model_seed(0, row)])

    first, _ = timed(one, 0)
    with usage() as busy:
        seconds, states = zip(*(timed(one, row) for row in range(HALF)), strict=True)
    repeated = torch.equal(states[0], one(0))
    evaluation, _ = timed(trainer.logits, states[0], x)
    seeds = [subsets.checkpoint_seed(0, i) for i in range(FULL)]
    full, made = timed(trainer.train, [np.arange(n)] * FULL, seeds)
    right = [(trainer.logits(state[None], x)[0].argmax(1) == y).double().mean().item() for state in made]
    accuracy, goal = float(np.mean(right)), GOALS[name]
    spread = float(np.std(right, ddof=1))
    print(f"\ncifar10/{name} on {where()}", stamp(data.origin) or "", sep="\n  ")
    print(f"  {FULL} models of all {n} images: accuracy {accuracy:.4f} ± {spread:.4f} each (goal {goal[0]})")
    print(f"  seconds: {np.median(seconds):.3f} a half-subset model (goal {goal[1]}), {full / FULL:.3f} a full one")
    print(f"  seconds: {first:.1f} the first model, {evaluation:.3f} to evaluate one on {len(y)} targets")
    print(f"  GPU busy {np.mean(busy):.0f}% of the time" if busy else "  nvidia-smi tells no usage")
    print(f"  the same seed gave the same model, bit for bit: {repeated}")
    assert accuracy > 0.5


def test_digits_mlp() -> None:
    setting = datasets.setting("digits/mlp")
    trainer = Trainer(setting.recipe, setting.dataset.load(Files()), GPU)
    count, n = launch.GPU_ROWS, trainer.data.n_train
    chosen = [subsets.kept(0, row, n, 0.5) for row in range(count)]
    seeds = [subsets.model_seed(0, row) for row in range(count)]
    trainer.train(chosen[:8], seeds[:8])
    with usage() as busy:
        seconds, _ = timed(trainer.train, chosen, seeds)
    print(f"\ndigits/mlp on {where()}\n  {count / seconds:.0f} models a second in a stack of {count}")
    print(f"  GPU busy {np.mean(busy):.0f}% of the time" if busy else "  nvidia-smi tells no usage")


@pytest.mark.parametrize("batch_size", [512, 1024])
@pytest.mark.parametrize("name", GOALS)
def test_examples_a_second(name: str, batch_size: int) -> None:
    """Of steps alone, on images of noise: needs no data."""
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((20_480, 3, 32, 32), np.float32), rng.integers(0, 10, 20_480)
    data = Data(x, y, x[:10], y[:10], 10)
    trainer = Trainer(replace(datasets.setting(f"cifar10/{name}").recipe, epochs=5, batch_size=batch_size), data, GPU)
    for _ in range(2):
        seconds, _ = timed(trainer.train, [np.arange(20_480)], [subsets.checkpoint_seed(0, 0)])
    print(f"\n{name}, batches of {batch_size}, on {where()}: {5 * 20_480 / seconds:.0f} examples a second")
