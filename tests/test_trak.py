"""TRAK through its package against `trak-sjlt`: one estimator, two projections, for either model output."""

from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from numpy.typing import NDArray

from bench import methods
from bench.contract import conformance
from bench.recipes import Output
from bench.workbench import Bench

pytest.importorskip("trak")


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    with conformance.opened("cpu") as opened:
        yield opened


def _scores(bench: Bench, spec: str, output: Output, folder: Path) -> NDArray[np.float32]:
    (one,) = methods.chosen([spec])
    folder.mkdir()
    task = bench.task(one, folder)
    task.output = output
    scores: NDArray[np.float32] = one.method.attribute(task)
    return scores


def test_the_package_follows_the_output_as_our_own_projection_does(bench: Bench, tmp_path: Path) -> None:
    how = "checkpoints=2,proj_dim=256,damping=10.0"
    ours, theirs = (
        {output: _scores(bench, f"{name}:{how}", output, tmp_path / f"{name}-{output}") for output in get_args(Output)}
        for name in ("trak-sjlt", "trak")
    )

    def alike(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
        return float(np.corrcoef(a.ravel(), b.ravel())[0, 1])

    for output in get_args(Output):
        assert alike(ours[output], theirs[output]) > 0.97, output
    change = alike(*(scores["max"] - scores["logsumexp"] for scores in (ours, theirs)))
    assert change > 0.95  # NaN, were one of them the same for both outputs
