"""Every method that works by chunks, with an allocator that refuses large tensors: the same scores, and one note."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from bench import factors, influence, methods
from bench.contract import conformance
from bench.workbench import Bench


class _Short(TorchDispatchMode):
    """Refuses every tensor of more bytes than `most`, in the thread that it is entered in."""

    def __init__(self, most: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.most, self.refused = most, 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = function(*args, **(kwargs or {}))
        for one in made if isinstance(made, tuple | list) else [made]:
            if isinstance(one, torch.Tensor) and one.nbytes > self.most:
                self.refused += 1
                raise torch.OutOfMemoryError("out of memory, on purpose")
        return made


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    with conformance.opened("cpu") as opened:
        yield opened


# With the most bytes of a tensor: less than what can be cut takes at first, more than what cannot.
CASES = [
    ("gradcos:checkpoints=2", 400_000),
    ("influence-arnoldi:checkpoints=1,iterations=30,rank=10", 400_000),
    ("influence-cg:checkpoints=1,deflate=10", 400_000),
    ("influence-cg:checkpoints=1,deflate=10", 150_000),  # targets are halved too
    ("influence-lissa:checkpoints=1,depth=20", 400_000),
    ("ekfac-direct:checkpoints=1", 400_000),
    ("ekfac-direct:checkpoints=1,fisher=sampled", 400_000),
    ("source:checkpoints=1,segments=2,states=1", 400_000),
    ("trak:checkpoints=1,proj_dim=64,damping=1.0", 400_000),
    pytest.param("kfac:checkpoints=1", 400_000, marks=pytest.mark.slow),
    pytest.param("ekfac:checkpoints=1", 400_000, marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("spec", "most"), CASES)
def test_chunks_are_halved_and_scores_stay(spec: str, most: int, bench: Bench) -> None:
    (one,) = methods.chosen([spec])
    if bench.unmet(one):
        pytest.skip("its package is not installed")
    expected = bench.call(one)[0]
    short = _Short(most)
    with short:
        made, task, *_ = bench.call(one)
    assert short.refused
    np.testing.assert_allclose(made, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())
    assert len([note for note in task.notes if note.startswith("memory ran out with ")]) == 1


def test_threads_that_project_halve_their_chunks(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    (one,) = methods.chosen(["trak-sjlt:checkpoints=2,proj_dim=64,damping=1.0"])
    expected, parts = bench.call(one)[0], factors.parts

    def starved(layers: Any, pieces: Any, x: torch.Tensor, values: Any) -> Any:
        if len(x) > 40:
            raise MemoryError
        return parts(layers, pieces, x, values)

    monkeypatch.setattr(factors, "parts", starved)
    made, task, *_ = bench.call(one)
    np.testing.assert_allclose(made, expected, rtol=1e-3, atol=1e-5 * np.abs(expected).max())
    assert task.notes == ["memory ran out with 256 examples at a time: done 22 at a time"]


def test_the_matrix_of_influence_is_made_of_smaller_chunks(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    (one,) = methods.chosen(["influence:checkpoints=1"])
    expected, whole = bench.call(one)[0], influence.inputs_and_jacobians

    def starved(module: Any, layers: Any, x: torch.Tensor) -> Any:
        if len(x) > 40:
            raise MemoryError
        return whole(module, layers, x)

    monkeypatch.setattr(influence, "inputs_and_jacobians", starved)
    made, task, *_ = bench.call(one)
    np.testing.assert_allclose(made, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())
    assert task.notes == ["memory ran out with 300 examples at a time: done 37 at a time"]
