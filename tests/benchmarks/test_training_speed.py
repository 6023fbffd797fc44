"""Batched training beside one model at a time, on the default settings' half subsets.

The loop is generous: no DataLoader, one fused call per optimiser step, at whichever thread count is faster here. The
batched way is the stacked computation of torch.func, the fused one a compiled call a model (`bench.fused`), which is
what `bench train` does here; both in its blocks and threads, without the disk. One process per model is the same loop
started anew for each, a process per core at a time. The floor is that every core does nothing but large matrix
products, of as many operations as training cannot do without.

    tox -e benchmark -- tests/benchmarks/test_training_speed.py
"""

import inspect
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from math import prod
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


_IMPORTS = """
import sys
import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F
from bench import datasets, subsets
from bench.files import Files
from bench.models import build, initialise
from bench.outputs import margins
from bench.train import Trainer, batch_order
ALPHA = 0.5
"""


def one_process_each(name: str, rows: range) -> NDArray[np.float32]:
    """A new interpreter per model: imports, data, one model, its margins on stdout."""
    main = f"print(*one_by_one(trainer({name!r}), range(int(sys.argv[1]), int(sys.argv[1]) + 1), 1)[0].tolist())"
    program = "\n".join([_IMPORTS, inspect.getsource(trainer), inspect.getsource(one_by_one), main])

    def process(row: int) -> list[float]:
        done = subprocess.run([sys.executable, "-c", program, str(row)], check=True, capture_output=True, text=True)
        return [float(word) for word in done.stdout.split()]

    with ThreadPoolExecutor(cpu_threads()) as pool:
        return np.array(list(pool.map(process, rows)), np.float32)


def in_blocks(made: Trainer, rows: range, of_block: Callable[[range], NDArray[np.float32]]) -> NDArray[np.float32]:
    """Blocks of models, a thread per core."""
    found: dict[int, NDArray[np.float32]] = {}

    def block(span: tuple[int, int]) -> int:
        found[span[0]] = of_block(range(*span))
        return span[1] - span[0]

    spans = [(at, min(at + launch.BLOCK_ROWS, rows.stop)) for at in range(rows.start, rows.stop, launch.BLOCK_ROWS)]
    with one_torch_thread():
        launch.run_all(block, spans, cpu_threads(), lambda _: None, made.stop)
    return np.concatenate([found[start] for start, _ in spans])


def of_trainer(made: Trainer, rows: range) -> NDArray[np.float32]:
    """What `bench train` does with a block, but for the disk."""
    chosen = [subsets.kept(0, row, made.data.n_train, ALPHA) for row in rows]
    found: NDArray[np.float32] = made.rows(chosen, [subsets.model_seed(0, row) for row in rows], Recorded())["margins"]
    return found


def operations(made: Trainer) -> int:
    """Floating-point operations that training a model takes at least: 6 × parameters × batch × steps.

    Less the gradient by the inputs, which nobody needs.
    """
    data, recipe = made.data, made.recipe
    subset = subsets.subset_size(data.n_train, ALPHA)
    shape = data.train_x.shape[1:]
    first = prod(shape) * (*recipe.architecture.hidden, data.n_classes)[0]
    parameters = recipe.architecture.parameters(shape, data.n_classes)
    return (6 * parameters - 2 * first) * min(recipe.batch_size, subset) * recipe.steps(subset)


def matrix_products(total: float) -> None:
    """So many operations on every core at once."""
    side = 512

    def work(_: int) -> None:
        left = right = torch.full((side, side), 0.5)
        for _ in range(round(total / cpu_threads() / (2 * side**3))):
            torch.mm(left, right)

    with one_torch_thread(), ThreadPoolExecutor(cpu_threads()) as pool:
        list(pool.map(work, range(cpu_threads())))


LOOP, LOOP_ALL, BATCHED, FUSED = "one by one, 1 thread", "one by one, all threads", "batched", "fused"
PROCESSES, FLOOR = "one process per model", "floor"


@pytest.mark.benchmark
@pytest.mark.parametrize("way", [LOOP, LOOP_ALL, BATCHED, FUSED, FLOOR, PROCESSES])
@pytest.mark.parametrize("name", ["digits/logreg", "digits/mlp"])
def test_training(benchmark: Any, beside: Callable[[str, float], None], name: str, way: str) -> None:
    made = trainer(name)
    many = range(2 * cpu_threads() * launch.BLOCK_ROWS)
    rows = {LOOP: range(12), LOOP_ALL: range(12), PROCESSES: range(2 * cpu_threads())}.get(way, many)
    ways: dict[str, Callable[[], NDArray[np.float32] | None]] = {
        LOOP: lambda: one_by_one(made, rows, 1),
        LOOP_ALL: lambda: one_by_one(made, rows, cpu_threads()),
        BATCHED: lambda: in_blocks(made, rows, lambda span: of_trainer(replace(made, fused=False), span)),
        FUSED: lambda: in_blocks(made, rows, lambda span: of_trainer(made, span)),
        PROCESSES: lambda: one_process_each(name, rows),
        FLOOR: lambda: matrix_products(operations(made) * len(rows)),
    }
    benchmark.group = f"training {name}, half subsets, models"
    rounds = 1 if way == PROCESSES else 5
    result = benchmark.pedantic(ways[way], rounds=rounds, warmup_rounds=rounds > 1)
    beside(way, len(rows))
    if result is not None:
        np.testing.assert_allclose(result[:2], one_by_one(made, range(2), 1), atol=2e-4)
