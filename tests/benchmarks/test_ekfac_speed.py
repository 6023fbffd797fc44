"""EK-FAC scores on digits/mlp, written out, beside those of kronfluence: times, how alike they are, and LDS.

Both work at the same checkpoint with the same absolute damping. The package's files are part of its time, as it has no
way without them; its import is not. `drawn labels` is what both do by default but for the draws; with the examples'
`own labels` nothing is drawn, and the scores must be the same.

    tox -e benchmark -- tests/benchmarks/test_ekfac_speed.py -s
"""

import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from bench import datasets, methods
from bench.files import Files
from bench.judge import Judge
from bench.kfac import EKFAC, Fisher
from bench.launch import Request, make
from bench.progress import Progress
from bench.subsets import Plan
from bench.task import Task
from bench.workbench import Bench

pytest.importorskip("kronfluence")
pytestmark = pytest.mark.benchmark

ROWS = 1000  # of which about 230 are eval rows
SHARE = 0.1  # of the mean eigenvalue: the damping


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    setting = datasets.setting("digits/mlp")
    data = setting.dataset.load(Files())
    with tempfile.TemporaryDirectory() as folder:
        progress, store = Progress(quiet=True, log=Path(folder) / "log.txt"), Path(folder) / "gt"
        make(Request(setting, data, Plan(ROWS, 2), device="cpu"), store, progress)
        yield Bench.open(setting, data, store, Path(folder), "cpu", progress, ROWS)


@pytest.fixture(scope="module")
def task(bench: Bench) -> Task:
    cache = bench.folder / "cache"
    cache.mkdir()
    return bench.task(methods.chosen(["ekfac"])[0], cache)


@pytest.fixture(scope="module")
def damping(task: Task) -> float:
    return SHARE * float(EKFAC(task.flat(), task.checkpoint_vectors(1)[0], task.inputs("train")).eigenvalues.mean())


Scores = Callable[[], NDArray[Any]]


def written_out(task: Task, damping: float, fisher: Fisher) -> Scores:
    def scores() -> NDArray[Any]:
        generator = torch.Generator().manual_seed(0)
        vector = task.checkpoint_vectors(1)[0]
        one = EKFAC(task.flat(), vector, task.inputs("train"), fisher=fisher, generator=generator)
        return one.scores(task.inputs("test"), task.output, [damping])[0].numpy()

    return scores


def package(task: Task, damping: float, *, empirical: bool) -> Scores:
    from bench.through_kronfluence import Analysis

    def scores() -> NDArray[Any]:
        return Analysis(task, task.checkpoints(1)[0], "ekfac", "timed", empirical=empirical).scores(damping)

    return scores


_MADE: dict[str, NDArray[Any]] = {}


@pytest.mark.parametrize(
    ("labels", "way"),
    [
        ("drawn labels", "kronfluence"),
        ("drawn labels", "ekfac-direct, sampled"),
        ("drawn labels", "ekfac-direct, exact"),
        ("own labels", "kronfluence, empirical"),
        ("own labels", "ekfac-direct, empirical"),
    ],
)
def test_ekfac(benchmark: Any, beside: Any, bench: Bench, task: Task, damping: float, labels: str, way: str) -> None:
    benchmark.group = f"EK-FAC at one checkpoint of digits/mlp, {labels}"
    kind = way.partition(", ")[2]
    if way.startswith("kronfluence"):
        scores = package(task, damping, empirical=kind == "empirical")
    else:
        fisher: dict[str, Fisher] = {"sampled": "sampled", "exact": "exact", "empirical": "empirical"}
        scores = written_out(task, damping, fisher[kind])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        made = benchmark.pedantic(scores, rounds=5, warmup_rounds=1)
    beside(way, 1, peer=way.startswith("kronfluence"))
    _MADE[way] = made
    lds = Judge.of(bench.truth.rows(bench.access.eval), 2).score(made)
    first = next(
        m for name, m in _MADE.items() if name.startswith("kronfluence") and ("," in name) == (kind == "empirical")
    )
    alike = float(np.corrcoef(made.ravel(), first.ravel())[0, 1])
    print(f"\n{way}: LDS {lds.mean:.3f} ± {lds.stderr:.3f}, correlation with the package's scores {alike:.6f}")
    if kind == "empirical":
        assert alike > 0.99999
