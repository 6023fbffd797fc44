"""Every method that works by chunks, with an allocator that refuses large tensors: the same scores, and one note."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from bench import methods
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


# With the most bytes of a tensor: more than what cannot be cut takes, less than what can be does at first.
CASES = {
    "gradcos:checkpoints=2": 300_000,
}


@pytest.mark.parametrize("spec", CASES)
def test_chunks_are_halved_and_scores_stay(spec: str, bench: Bench) -> None:
    (one,) = methods.chosen([spec])
    expected = bench.call(one)[0]
    short = _Short(CASES[spec])
    with short:
        made, task, *_ = bench.call(one)
    assert short.refused
    np.testing.assert_allclose(made, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())
    assert len([note for note in task.notes if note.startswith("memory ran out with ")]) == 1
