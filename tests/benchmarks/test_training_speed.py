"""Batched training beside one model at a time, on the default settings' half subsets.

The loop is generous: no DataLoader, one fused call per optimiser step, at whichever thread count is faster here. The
batched way is the trainer that makes ground truths, blocks and threads as `bench train` uses them, without the disk.

    tox -e benchmark -- tests/benchmarks/test_training_speed.py
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from bench import datasets, launch, subsets
from bench.files import Files
from bench.models import build, initialise
from bench.outputs import margins
from bench.recorded import Recorded
from bench.train import Trainer, batch_order, cpu_threads, one_torch_thread

ALPHA = 0.5


def trainer(name: str) -> Trainer:
    setting = datasets.setting(name)
    return Trainer(setting.recipe, setting.dataset.load(Files()), torch.device("cpu"))


def one_by_one(made: Trainer, rows: range, threads: int) -> NDArray[np.float32]:
    """What everyone writes: a module and an optimiser per subset."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    recipe, (x, y), (test_x, test_y) = made.recipe, made.inputs("train"), made.inputs("test")
    rates = []
    for row in rows:
        subset = subsets.kept(0, row, len(y), ALPHA)
        for_init, for_batches = subsets.model_seed(0, row).spawn(2)
        model = build(recipe.architecture, x.shape[1:], made.data.n_classes)
        initialise(model, int(for_init.generate_state(1, np.uint64)[0] >> 1))
        optimiser = torch.optim.SGD(
            model.parameters(), lr=recipe.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay, fused=True
        )
        order = torch.from_numpy(subset[batch_order(len(subset), recipe, np.random.default_rng(for_batches))])
        for step, batch in enumerate(order):
            optimiser.param_groups[0]["lr"] = recipe.rate(step, len(order))
            optimiser.zero_grad(set_to_none=True)
            F.cross_entropy(model(x[batch]), y[batch]).backward()
            optimiser.step()
        with torch.no_grad():
            rates.append(margins(model(test_x), test_y))
    torch.set_num_threads(before)
    return torch.stack(rates).numpy()


def batched(made: Trainer, rows: range) -> NDArray[np.float32]:
    """Blocks of models, a thread per core."""
    found: dict[int, NDArray[np.float32]] = {}

    def block(span: tuple[int, int]) -> int:
        chosen = [subsets.kept(0, row, made.data.n_train, ALPHA) for row in range(*span)]
        seeds = [subsets.model_seed(0, row) for row in range(*span)]
        found[span[0]] = made.rows(chosen, seeds, Recorded())["margins"]
        return len(chosen)

    spans = [(at, min(at + launch.BLOCK_ROWS, rows.stop)) for at in range(rows.start, rows.stop, launch.BLOCK_ROWS)]
    with one_torch_thread():
        launch.run_all(block, spans, cpu_threads(), lambda _: None, made.stop)
    return np.concatenate([found[start] for start, _ in spans])


@pytest.mark.benchmark
@pytest.mark.parametrize("way", ["one by one, 1 thread", "one by one, all threads", "batched"])
@pytest.mark.parametrize("name", ["digits/logreg", "digits/mlp"])
def test_training(benchmark: Any, beside: Callable[[str, float], None], name: str, way: str) -> None:
    made = trainer(name)
    rows = range(2 * cpu_threads() * launch.BLOCK_ROWS) if way == "batched" else range(12)
    ways: dict[str, Callable[[], NDArray[np.float32]]] = {
        "one by one, 1 thread": lambda: one_by_one(made, rows, 1),
        "one by one, all threads": lambda: one_by_one(made, rows, cpu_threads()),
        "batched": lambda: batched(made, rows),
    }
    benchmark.group = f"training {name}, half subsets, models"
    result = benchmark.pedantic(ways[way], rounds=5, warmup_rounds=1)
    beside(way, len(rows))
    if way == "batched":
        np.testing.assert_allclose(result[:2], one_by_one(made, range(2), 1), atol=2e-4)
