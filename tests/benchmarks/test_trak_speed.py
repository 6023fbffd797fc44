"""TRAK through the authors' package and through `trak-sjlt`, from five checkpoints to scores, in one run.

All have the same checkpoints, 512 dimensions, and no damping, which is the package's default. `traker` is timed with its
default projector (blocks of 100 dimensions, drawn anew for every batch; of normal numbers, as is its default on the
CPU, or of signs), and with the fastest of its settings: all dimensions in one block, drawn once a checkpoint (the
`trak` row), in batches of 256 or of all examples. The matrix way is that block without the package: gradients by
torch.func, times the matrix. LDS is on subsets trained for it, whose number the name of the group tells.

    tox -e benchmark -- -s tests/benchmarks/test_trak_speed.py
"""

import importlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from bench import datasets, gradient_kernels, gradients, methods
from bench.datasets import Architecture, Recipe, Setting
from bench.files import Files
from bench.gradients import Examples
from bench.judge import Judge
from bench.launch import Request, make
from bench.progress import Progress
from bench.subsets import Plan
from bench.task import Task
from bench.workbench import Bench

DIM, CHECKPOINTS, SEEDS = 512, 5, 2
SUBSETS = {"digits/mlp": 400, "digits/cnn": 60}


@cache
def bench_of(name: str) -> tuple[Bench, Judge]:
    setting = datasets.setting("digits/mlp")
    if name == "digits/cnn":
        recipe = Recipe(Architecture("cnn", (32, 64), (1, 8, 8)), epochs=15, batch_size=64, lr=0.05, weight_decay=5e-4)
        setting = Setting("digits", "cnn", setting.dataset, {}, recipe)
    data, folder = setting.dataset.load(Files(())), Path(mkdtemp())
    quiet, rows = Progress(quiet=True, log=folder / "log.txt"), SEEDS * SUBSETS[name]
    make(Request(setting, data, Plan(rows, SEEDS, SUBSETS[name], judge_only=True), device="cpu"), folder / "gt", quiet)
    bench = Bench.open(setting, data, folder / "gt", folder, "cpu", quiet, rows)
    return bench, Judge.of(bench.truth.rows(bench.access.eval), SEEDS)


def by_matrix(task: Task) -> NDArray[np.float32]:
    """TRAK in a page: per-example gradients by torch.func, a dense matrix of signs, drawn once a checkpoint."""
    train, test = (Examples(*task.inputs(part), "margin") for part in ("train", "test"))
    total, slopes = torch.zeros(()), torch.zeros(())
    for number, vector in enumerate(task.checkpoint_vectors(CHECKPOINTS)):
        flat, generator = task.flat(), torch.Generator().manual_seed(task.seed + number)
        signs = torch.empty(flat.n_parameters, DIM).bernoulli_(0.5, generator=generator).mul_(2).sub_(1)
        phi, psi = (
            torch.cat([g @ signs for _, g in gradients._by_vmap(flat, vector, examples, 2**26)])
            for examples in (train, test)
        )
        solved = torch.cholesky_solve(psi.T, torch.linalg.cholesky(phi.T @ phi))
        total = total + phi @ solved
        slopes = slopes + torch.sigmoid(-gradient_kernels._margins(flat, vector, train))
    made: NDArray[np.float32] = (total * slopes[:, None]).numpy()
    return made


NORMAL, SIGNS = "traker, default projector (normal)", "traker, default projector (signs)"
BLOCK, WHOLE = "traker, one block, batches of 256", "traker, one block, one batch"
MATRIX, SJLT, EXACT = "torch.func and a matrix", "trak-sjlt", "gradient-kernel (no projection)"


def way_of(way: str, monkeypatch: pytest.MonkeyPatch) -> Callable[[Task], NDArray[Any]]:
    """The call that is timed."""
    if way == MATRIX:
        return by_matrix
    shared = f"checkpoints={CHECKPOINTS},damping=0.0"
    spec = {SJLT: f"trak-sjlt:{shared},proj_dim={DIM}", EXACT: f"gradient-kernel:{shared},weighting=none"}
    (one,) = methods.chosen([spec.get(way, f"trak:{shared},proj_dim={DIM}")])
    projectors = importlib.import_module("trak.projectors")
    original = projectors.BasicProjector
    if way in (NORMAL, SIGNS):
        kind = "normal" if way == NORMAL else "rademacher"

        def default(*arguments: Any, block_size: int, proj_type: Any, **more: Any) -> Any:  # noqa: ARG001
            return original(*arguments, proj_type=kind, **more)

        monkeypatch.setattr(projectors, "BasicProjector", default)
    if way == WHOLE:
        monkeypatch.setattr("bench.methods.trak.BATCH", 10**6)
    return one.method.attribute


@pytest.mark.benchmark
@pytest.mark.parametrize("way", [NORMAL, SIGNS, BLOCK, WHOLE, MATRIX, SJLT, EXACT])
@pytest.mark.parametrize("name", SUBSETS)
def test_trak(
    benchmark: Any, beside: Callable[..., None], monkeypatch: pytest.MonkeyPatch, name: str, way: str
) -> None:
    bench, judge = bench_of(name)
    (one,) = methods.chosen(["trak-sjlt"])
    call = way_of(way, monkeypatch)
    bench.task(one, bench.folder).checkpoint_vectors(CHECKPOINTS)  # trained before the clock starts

    def attribute() -> NDArray[Any]:
        return call(bench.task(one, Path(mkdtemp(dir=bench.folder))))

    size = bench.pool.trainer.n_parameters
    benchmark.group = f"TRAK on {name}, {size:,} parameters, {len(judge.masks)} subsets; attributions"
    rounds = 2 if way in (NORMAL, SIGNS) else 5
    found = judge.score(benchmark.pedantic(attribute, rounds=rounds, warmup_rounds=1))
    beside(way, 1, peer=way in (NORMAL, SIGNS, BLOCK, WHOLE))
    low, high = found.ci
    benchmark.extra_info["LDS"] = round(found.mean, 3)
    print(f"\n{name}, {way}: LDS {found.mean:.3f} [{low:.3f}, {high:.3f}]")
