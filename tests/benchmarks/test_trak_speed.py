"""TRAK through the authors' package and through `trak-sjlt`, in one run: projected gradients alone, and scores.

All have the same five checkpoints, 512 dimensions, and the package's default, no damping. `traker` is timed with its
default projector (blocks of 100 dimensions, drawn anew for every batch; of normal numbers, as is its default on the
CPU, or of signs), and with the fastest of its settings: all dimensions in one block, drawn once a checkpoint (the
`trak` row), in batches of 256 or of all examples. Projected gradients are the package's own gradients and projector,
without the files that it keeps them in. The matrix way is its one block without the package: gradients by torch.func,
times the matrix. LDS is on subsets trained for it, whose number the name of the group tells.

    tox -e benchmark -- -s tests/benchmarks/test_trak_speed.py
"""

import importlib
from collections.abc import Callable
from functools import cache, partial
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
from bench.projection import Projection, features
from bench.subsets import Plan
from bench.task import Task
from bench.workbench import Bench

DIM, CHECKPOINTS, SEEDS = 512, 5, 2
SUBSETS = {"digits/mlp": 400, "digits/cnn": 40}


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


Both = tuple[torch.Tensor, torch.Tensor]


def examples_of(task: Task) -> tuple[Examples, Examples]:
    return Examples(*task.inputs("train"), "margin"), Examples(*task.inputs("test"), "margin")


def projected_by_matrix(task: Task, number: int, vector: torch.Tensor) -> Both:
    """Per-example gradients by torch.func, times a dense matrix of signs that is drawn once."""
    flat, generator = task.flat(), torch.Generator().manual_seed(task.seed + number)
    signs = torch.empty(flat.n_parameters, DIM).bernoulli_(0.5, generator=generator).mul_(2).sub_(1)
    phi, psi = (
        torch.cat([g @ signs for _, g in gradients._by_vmap(flat, vector, examples, 2**26)])
        for examples in examples_of(task)
    )
    return phi, psi


def projected_sparsely(task: Task, number: int, vector: torch.Tensor) -> Both:
    flat = task.flat()
    drawn = Projection.draw(flat.n_parameters, DIM, 1, np.random.SeedSequence([task.seed, number]))
    train, test = (features(flat, vector, examples, drawn) for examples in examples_of(task))
    return train, test


def projected_by_the_package(way: str, task: Task, number: int, vector: torch.Tensor) -> Both:
    """What `TRAKer.featurize` and `TRAKer.score` compute."""
    from trak.gradient_computers import FunctionalGradientComputer
    from trak.modelout_functions import ImageClassificationModelOutput
    from trak.projectors import BasicProjector

    model = task.flat().load(vector)
    size = sum(p.numel() for p in model.parameters())
    kind = "normal" if way == NORMAL else "rademacher"
    more = {} if way in (NORMAL, SIGNS) else {"block_size": DIM}
    projector = BasicProjector(size, DIM, task.seed + number, kind, torch.device("cpu"), **more)
    computer = FunctionalGradientComputer(model, ImageClassificationModelOutput(), size, torch.float32, "cpu")
    batch = 10**6 if way == WHOLE else 256
    found = []
    for part in ("train", "test"):
        x, y = task.inputs(part)
        batches = zip(x.split(batch), y.split(batch), strict=True)
        found.append(torch.cat([projector.project(computer.compute_per_sample_grad(one), 0) for one in batches]))
    return found[0], found[1]


def by_matrix(task: Task) -> NDArray[np.float32]:
    """TRAK in a page."""
    total, slopes = torch.zeros(()), torch.zeros(())
    for number, vector in enumerate(task.checkpoint_vectors(CHECKPOINTS)):
        phi, psi = projected_by_matrix(task, number, vector)
        total = total + phi @ torch.cholesky_solve(psi.T, torch.linalg.cholesky(phi.T @ phi))
        slopes = slopes + torch.sigmoid(-gradient_kernels._margins(task.flat(), vector, examples_of(task)[0]))
    made: NDArray[np.float32] = (total * slopes[:, None]).numpy()
    return made


NORMAL, SIGNS = "traker, default projector (normal)", "traker, default projector (signs)"
BLOCK, WHOLE = "traker, one block, batches of 256", "traker, one block, one batch"
PEERS = (NORMAL, SIGNS, BLOCK, WHOLE)
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
@pytest.mark.parametrize("way", [NORMAL, SIGNS, BLOCK, WHOLE, MATRIX, SJLT])
@pytest.mark.parametrize("name", SUBSETS)
def test_projected_gradients(benchmark: Any, beside: Callable[..., None], name: str, way: str) -> None:
    bench, _ = bench_of(name)
    (one,) = methods.chosen(["trak-sjlt"])
    task = bench.task(one, bench.folder)
    vectors = task.checkpoint_vectors(CHECKPOINTS)
    project = {MATRIX: projected_by_matrix, SJLT: projected_sparsely}.get(way, partial(projected_by_the_package, way))

    def all_of_them() -> list[Both]:
        return [project(task, number, vector) for number, vector in enumerate(vectors)]

    size, n = bench.pool.trainer.n_parameters, CHECKPOINTS * (task.data.n_train + task.data.n_targets)
    benchmark.group = f"projected gradients of {name}, {size:,} parameters to {DIM} dimensions"
    found = benchmark.pedantic(all_of_them, rounds=2 if way in (NORMAL, SIGNS) else 5, warmup_rounds=1)
    beside(way, n, peer=way in PEERS)
    # All are sketches of the same Gram matrix; traker's matrices are not scaled down.
    exact = gradients.products(task.flat(), vectors[0], *[examples_of(task)[0]] * 2).numpy()
    phi = found[0][0].numpy() / (1 if way == SJLT else np.sqrt(DIM))
    assert np.linalg.norm(phi @ phi.T - exact) < 0.2 * np.linalg.norm(exact)


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
    beside(way, 1, peer=way in PEERS)
    low, high = found.ci
    benchmark.extra_info["LDS"] = round(found.mean, 3)
    print(f"\n{name}, {way}: LDS {found.mean:.3f} [{low:.3f}, {high:.3f}]")
